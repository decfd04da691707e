"""GPU backend: OpenGL, many views at a time.

A mesh is uploaded once, its corners in colours lit beforehand by :mod:`render.shading`. Each view is drawn into a layer
of its own of one framebuffer. In layers, unlike in tiles side by side, all views have the same window coordinates, so
the bytes of a view do not depend on which others are drawn with it.

A pass with 4x multisampling gives colour and coverage. Its depth would be that of one of the four samples, so a second,
without multisampling, gives the depth at the pixel's centre. A last one resolves the samples and puts all layers one
below the other, to be read back at once. Row 0 is the image's top throughout: the projection points v, not -v, along
GL's y.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_void_p

import numpy as np
from OpenGL import GL
from OpenGL.error import Error

from data.errors import UserError
from render.mesh import Mesh
from render.shading import Light, lit_corners

_SAMPLES = 4
_FRAMEBUFFER_BYTES = 128 << 20  # of all layers together, or what one layer takes
_BYTES_PER_PIXEL = _SAMPLES * (4 + 4) + (4 + 4) + (4 + 4)  # colour and depth: samples, centre, read-back
_NEAREST = 0.01  # object units
_CORNER = np.dtype([("position", "f4", 3), ("front", "u1", 3), ("back", "u1", 3), ("padding", "u1", 2)])

_DRAW_VERTEX = """#version 410 core
uniform vec4 view[5];  // rows: clip coordinates of a point, and its depth
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 front;
layout(location = 2) in vec3 back;
out Corner { centroid vec3 front, back; centroid float depth; } corner;
void main() {
    vec4 point = vec4(position, 1);
    gl_Position = vec4(dot(view[0], point), dot(view[1], point), dot(view[2], point), dot(view[3], point));
    corner.front = front;
    corner.back = back;
    corner.depth = dot(view[4], point);
}"""
_DRAW_FRAGMENT = """#version 410 core
in Corner { centroid vec3 front, back; centroid float depth; } corner;
layout(location = 0) out vec4 color;
layout(location = 1) out float depth;
void main() {
    color = vec4(gl_FrontFacing ? corner.front : corner.back, 1);
    depth = corner.depth;
}"""
_GATHER_VERTEX = """#version 410 core
void main() {  // one triangle that covers everything
    gl_Position = vec4(4 * (gl_VertexID % 2) - 1, 4 * (gl_VertexID / 2) - 1, 0, 1);
}"""
_GATHER_FRAGMENT = f"""#version 410 core
uniform sampler2DMSArray samples;
uniform sampler2DArray depths;
layout(location = 0) out vec4 color;
layout(location = 1) out float depth;
void main() {{
    int size = textureSize(samples).x, row = int(gl_FragCoord.y);
    ivec3 place = ivec3(int(gl_FragCoord.x), row % size, row / size);
    vec4 sum = vec4({_SAMPLES // 2});  // rounds the mean, in whole numbers: the same on every GPU
    for (int i = 0; i < {_SAMPLES}; i++)
        sum += round(255 * texelFetch(samples, place, i));
    color = floor(sum / {_SAMPLES}) / 255;
    depth = texelFetch(depths, place, 0).r;
}}"""


class GlBackend:
    """Renders with OpenGL. See :class:`render.backends.Backend` for the interface."""

    def __init__(self, name: str, context):
        """``context``: one of pyrender's platforms, its context current and OpenGL 4.1 core."""
        self.name = name
        self._context = context
        offered = min(map(GL.glGetIntegerv, (GL.GL_MAX_COLOR_TEXTURE_SAMPLES, GL.GL_MAX_DEPTH_TEXTURE_SAMPLES)))
        if offered < _SAMPLES:
            raise RuntimeError(f"the driver has only {offered}x multisampling")
        self._draw = _program(_DRAW_VERTEX, _DRAW_FRAGMENT)
        self._view = GL.glGetUniformLocation(self._draw, "view")
        self._gather = _program(_GATHER_VERTEX, _GATHER_FRAGMENT)
        GL.glUseProgram(self._gather)
        GL.glUniform1i(GL.glGetUniformLocation(self._gather, "samples"), 0)
        GL.glUniform1i(GL.glGetUniformLocation(self._gather, "depths"), 1)
        GL.glEnable(GL.GL_DEPTH_TEST)
        GL.glDisable(GL.GL_DITHER)
        GL.glFrontFace(GL.GL_CW)  # v points along GL's y, which mirrors the image
        GL.glPixelStorei(GL.GL_PACK_ALIGNMENT, 1)
        self._layers: _Layers | None = None

    def render(
        self,
        mesh: Mesh,
        object_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        image_size: int,
        light: Light = Light(),
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`render.backends.Backend`."""
        views, start = _view_rows(mesh, object_to_camera, intrinsics, image_size)
        rgba = np.empty((len(views), image_size, image_size, 4), np.uint8)
        depth = np.empty(rgba.shape[:3], np.float32)
        with self._driver_errors_named():
            self._context.make_current()
            batches = _batches(len(views), image_size)
            layers = self._layers_for(image_size, max(map(len, batches), default=1))
            with _uploaded(mesh, light) as corners:
                for batch in batches:
                    self._draw_layers(layers, views[batch], corners)
                    self._read_layers(layers, rgba[batch.start : batch.stop], depth[batch.start : batch.stop])
        return rgba, np.where(depth > 0, depth + start[:, None, None], np.float32(0))

    def _layers_for(self, image_size: int, count: int) -> _Layers:
        if self._layers is None or self._layers.size != image_size or self._layers.count < count:
            if self._layers is not None:
                self._layers.delete()
                self._layers = None
            self._layers = _Layers(image_size, count)
        return self._layers

    def _draw_layers(self, layers: _Layers, views: np.ndarray, corners: int) -> None:
        GL.glUseProgram(self._draw)
        GL.glViewport(0, 0, layers.size, layers.size)
        for every, each in (layers.samples, layers.centers):
            GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, every)
            GL.glClear(GL.GL_COLOR_BUFFER_BIT | GL.GL_DEPTH_BUFFER_BIT)
            for framebuffer, view in zip(each, views):
                GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, framebuffer)
                GL.glUniform4fv(self._view, len(view), view)
                GL.glDrawArrays(GL.GL_TRIANGLES, 0, corners)

    def _read_layers(self, layers: _Layers, rgba: np.ndarray, depth: np.ndarray) -> None:
        """Read as many layers as ``rgba`` (n, H, W, 4) and ``depth`` (n, H, W) have, into them."""
        rows = len(rgba) * layers.size
        GL.glUseProgram(self._gather)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, layers.gathered)
        GL.glViewport(0, 0, layers.size, rows)
        GL.glDrawArrays(GL.GL_TRIANGLES, 0, 3)
        GL.glReadBuffer(GL.GL_COLOR_ATTACHMENT0)
        GL.glReadPixels(0, 0, layers.size, rows, GL.GL_RGBA, GL.GL_UNSIGNED_BYTE, rgba)
        GL.glReadBuffer(GL.GL_COLOR_ATTACHMENT1)
        GL.glReadPixels(0, 0, layers.size, rows, GL.GL_RED, GL.GL_FLOAT, depth)

    @contextmanager
    def _driver_errors_named(self) -> Iterator[None]:
        try:
            yield
        except Error as error:
            call = getattr(getattr(error, "baseOperation", None), "__name__", "a call")
            why = getattr(error, "description", None) or getattr(error, "err", None) or type(error).__name__
            raise UserError(
                f"backend: {self.name}: the graphics driver failed in {call} "
                f"({why.decode() if isinstance(why, bytes) else why}): run the same command again to go on, with fewer "
                "--workers if it was out of memory"
            ) from error


class _Layers:
    """Framebuffers for ``count`` views of ``size`` pixels, height and width.

    Attributes:
        samples, centers: (framebuffer of all layers, to clear them; framebuffer of each, to draw in it). The first has
            the multisampled colours, the second the depth at the pixels' centres.
        gathered: all layers one below the other: resolved colours, and depth.
    """

    def __init__(self, size: int, count: int):
        self.size, self.count = size, count
        self._textures: list[int] = []
        self._framebuffers: list[int] = []
        many, plain = GL.GL_TEXTURE_2D_MULTISAMPLE_ARRAY, GL.GL_TEXTURE_2D_ARRAY
        color, samples_depth = self._texture(many, GL.GL_RGBA8), self._texture(many, GL.GL_DEPTH_COMPONENT24)
        depth, centers_depth = self._texture(plain, GL.GL_R32F), self._texture(plain, GL.GL_DEPTH_COMPONENT24)
        self.samples = self._layered([color, 0], samples_depth)
        self.centers = self._layered([0, depth], centers_depth)
        rgba8, r32f = self._texture(GL.GL_TEXTURE_2D, GL.GL_RGBA8), self._texture(GL.GL_TEXTURE_2D, GL.GL_R32F)
        self.gathered = self._framebuffer([rgba8, r32f])
        for unit, target, texture in ((GL.GL_TEXTURE0, many, color), (GL.GL_TEXTURE1, plain, depth)):
            GL.glActiveTexture(unit)
            GL.glBindTexture(target, texture)

    def delete(self) -> None:
        GL.glDeleteFramebuffers(len(self._framebuffers), self._framebuffers)
        GL.glDeleteTextures(self._textures)

    def _texture(self, target: int, kind: int) -> int:
        size, count = self.size, self.count
        texture = GL.glGenTextures(1)
        self._textures.append(texture)
        GL.glBindTexture(target, texture)
        if target == GL.GL_TEXTURE_2D_MULTISAMPLE_ARRAY:
            GL.glTexImage3DMultisample(target, _SAMPLES, kind, size, size, count, True)
            return texture
        shape, values = {
            GL.GL_RGBA8: (GL.GL_RGBA, GL.GL_UNSIGNED_BYTE),
            GL.GL_R32F: (GL.GL_RED, GL.GL_FLOAT),
            GL.GL_DEPTH_COMPONENT24: (GL.GL_DEPTH_COMPONENT, GL.GL_UNSIGNED_INT),
        }[kind]
        if target == GL.GL_TEXTURE_2D_ARRAY:
            GL.glTexImage3D(target, 0, kind, size, size, count, 0, shape, values, None)
        else:
            GL.glTexImage2D(target, 0, kind, size, size * count, 0, shape, values, None)
        GL.glTexParameteri(target, GL.GL_TEXTURE_MIN_FILTER, GL.GL_NEAREST)  # else it waits for smaller levels
        GL.glTexParameteri(target, GL.GL_TEXTURE_MAG_FILTER, GL.GL_NEAREST)
        return texture

    def _layered(self, colors: list[int], depth: int) -> tuple[int, list[int]]:
        return self._framebuffer(colors, depth), [self._framebuffer(colors, depth, i) for i in range(self.count)]

    def _framebuffer(self, colors: list[int], depth: int = 0, layer: int | None = None) -> int:
        """A framebuffer of textures (0: none), or of one layer of each."""
        framebuffer = GL.glGenFramebuffers(1)
        self._framebuffers.append(framebuffer)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, framebuffer)
        points = [GL.GL_COLOR_ATTACHMENT0, GL.GL_COLOR_ATTACHMENT1]
        for point, texture in zip([*points, GL.GL_DEPTH_ATTACHMENT], [*colors, depth]):
            if texture and layer is None:
                GL.glFramebufferTexture(GL.GL_FRAMEBUFFER, point, texture, 0)
            elif texture:
                GL.glFramebufferTextureLayer(GL.GL_FRAMEBUFFER, point, texture, 0, layer)
        drawn = [point if texture else GL.GL_NONE for point, texture in zip(points, colors)]
        GL.glDrawBuffers(len(drawn), drawn)
        status = GL.glCheckFramebufferStatus(GL.GL_FRAMEBUFFER)
        if status != GL.GL_FRAMEBUFFER_COMPLETE:
            raise Error(f"framebuffer status {status:#x}")
        return framebuffer


def _batches(views: int, image_size: int) -> list[range]:
    """Views to draw at a time: about equally many, as the framebuffers can hold."""
    sides = GL.glGetIntegerv(GL.GL_MAX_TEXTURE_SIZE), *GL.glGetIntegerv(GL.GL_MAX_VIEWPORT_DIMS)
    most = min(
        _FRAMEBUFFER_BYTES // (_BYTES_PER_PIXEL * image_size**2),
        GL.glGetIntegerv(GL.GL_MAX_ARRAY_TEXTURE_LAYERS),
        min(sides) // image_size,
    )
    edges = np.linspace(0, views, -(-views // max(1, most)) + 1).astype(int)
    return [range(start, stop) for start, stop in zip(edges, edges[1:])]


def _view_rows(mesh: Mesh, poses: np.ndarray, intrinsics: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the vertex program knows of each view.

    Returns:
        float32 (n, 5, 4): rows that map a point of the object to clip coordinates and to its depth beyond ``start``,
        which is at least 1 where anything is drawn; and ``start``, float32 (n,). Measured from there, not from the
        camera, depth keeps the precision of single floats for the object.
    """
    radius = 1.001 * np.linalg.norm(mesh.vertices, axis=1).max()
    near = np.maximum(_NEAREST, poses[:, 2, 3] - radius)
    far = np.maximum(2 * _NEAREST, poses[:, 2, 3] + radius)
    projection = np.zeros((len(poses), 5, 4))
    projection[:, :2, :3] = 2 / image_size * intrinsics[:, :2]
    projection[:, :2, 2] -= 1
    projection[:, 2, 2] = (far + near) / (far - near)
    projection[:, 2, 3] = -2 * far * near / (far - near)
    projection[:, 3:, 2] = 1
    start = (near - 1).astype(np.float32)
    projection[:, 4, 3] = -start
    return (projection @ poses).astype(np.float32), start


@contextmanager
def _uploaded(mesh: Mesh, light: Light) -> Iterator[int]:
    """The mesh on the GPU, bound for drawing; gives the number of its corners."""
    corners = np.empty(mesh.faces.size, _CORNER)
    corners["position"] = mesh.vertices[mesh.faces].reshape(-1, 3)
    for side, colors in zip(("front", "back"), lit_corners(mesh, light)):
        corners[side] = (colors + 0.5).reshape(-1, 3)
    array, buffer = GL.glGenVertexArrays(1), GL.glGenBuffers(1)
    try:
        GL.glBindVertexArray(array)
        GL.glBindBuffer(GL.GL_ARRAY_BUFFER, buffer)
        GL.glBufferData(GL.GL_ARRAY_BUFFER, corners.nbytes, corners, GL.GL_STATIC_DRAW)
        for index, name in enumerate(("position", "front", "back")):
            kind, offset = _CORNER.fields[name]
            values = GL.GL_FLOAT if kind.base == np.float32 else GL.GL_UNSIGNED_BYTE
            GL.glVertexAttribPointer(index, 3, values, True, _CORNER.itemsize, c_void_p(offset))
            GL.glEnableVertexAttribArray(index)
        yield len(corners)
    finally:
        GL.glDeleteBuffers(1, [buffer])
        GL.glDeleteVertexArrays(1, [array])


def _program(vertex: str, fragment: str) -> int:
    program = GL.glCreateProgram()
    for kind, source in ((GL.GL_VERTEX_SHADER, vertex), (GL.GL_FRAGMENT_SHADER, fragment)):
        shader = GL.glCreateShader(kind)
        GL.glShaderSource(shader, source)
        GL.glCompileShader(shader)
        if not GL.glGetShaderiv(shader, GL.GL_COMPILE_STATUS):
            raise RuntimeError(f"GLSL: {GL.glGetShaderInfoLog(shader)}")
        GL.glAttachShader(program, shader)
    GL.glLinkProgram(program)
    if not GL.glGetProgramiv(program, GL.GL_LINK_STATUS):
        raise RuntimeError(f"GLSL: {GL.glGetProgramInfoLog(program)}")
    return program
