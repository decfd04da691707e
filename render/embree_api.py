"""Embree 4's C interface, as far as it is needed: triangles in a scene, and packets of 16 rays.

The library is the one that the embreex wheel brings; embreex itself casts one ray at a time. Names are Embree's own
(https://github.com/RenderKit/embree, include/embree4).
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import NamedTuple

import embreex.rtcore_scene
import llvmlite.binding
import numpy as np
from numba import types

PACKET = 16  # rays
MISS = np.uint32(0xFFFFFFFF)  # RTC_INVALID_GEOMETRY_ID
# Rows of RTCRayHit16, each of one number per ray.
ORIGIN, NEAR, DIRECTION, FAR, MASK = 0, 3, 4, 8, 9
NORMAL, U, V, PRIMITIVE, GEOMETRY = 12, 15, 16, 17, 18
_ROWS = 24  # rounded up: how many rows of instances follow differs between releases
_TRIANGLES, _INDICES, _VERTICES, _UINT3, _FLOAT3 = 0, 0, 1, 0x5003, 0x9003
_COHERENT = 1 << 16  # RTC_RAY_QUERY_FLAG_COHERENT
_OUT_OF_MEMORY = 4
_PADDING = 16  # bytes that Embree may read past the last vertex

# embreex's extension is linked against the library, wherever that lies: symbols are found through it.
_library = ctypes.CDLL(embreex.rtcore_scene.__file__)


def _function(name: str, result, *arguments):
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


_new_device = _function("rtcNewDevice", c_void_p, c_char_p)
_device_error = _function("rtcGetDeviceError", c_int, c_void_p)
_new_scene = _function("rtcNewScene", c_void_p, c_void_p)
_commit_scene = _function("rtcCommitScene", None, c_void_p)
_release_scene = _function("rtcReleaseScene", None, c_void_p)
_new_geometry = _function("rtcNewGeometry", c_void_p, c_void_p, c_int)
_set_buffer = _function(
    "rtcSetSharedGeometryBuffer", None, c_void_p, c_int, c_uint, c_int, c_void_p, c_size_t, c_size_t, c_size_t
)
_commit_geometry = _function("rtcCommitGeometry", None, c_void_p)
_attach_geometry = _function("rtcAttachGeometry", c_uint, c_void_p, c_void_p)
_release_geometry = _function("rtcReleaseGeometry", None, c_void_p)

llvmlite.binding.add_symbol("rtcIntersect16", ctypes.cast(_library.rtcIntersect16, c_void_p).value)
# For compiled code; arguments are the addresses of the active lanes, the scene, the packet and the query.
intersect16 = types.ExternalFunction("rtcIntersect16", types.void(*[types.uintp] * 4))

# One thread: `render` has a process per core.
_device = _new_device(b"threads=1")


class Packet(NamedTuple):
    """16 rays and what they hit (RTCRayHit16), in memory aligned as Embree asks."""

    numbers: np.ndarray  # float32 (24, 16), a row per property
    words: np.ndarray  # uint32, the same memory
    active: np.ndarray  # int32 (16,): -1 casts a ray, 0 leaves it out
    query: np.ndarray  # RTCIntersectArguments


def new_packet() -> Packet:
    """Rays whose origins, directions and ends are to be filled in."""
    words, active, query = _aligned(_ROWS), _aligned(1)[0].view(np.int32), _aligned(1)[0]
    words[MASK] = MISS
    query[:2] = _COHERENT, 0xFFFFFFFF  # flags, and all features; no callbacks
    return Packet(words.view(np.float32), words, active, query)


def _aligned(rows: int) -> np.ndarray:
    """uint32 (rows, 16) of zeros on a cache line."""
    memory = np.zeros((rows + 1) * 16, np.uint32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + rows * 16].reshape(rows, 16)


class Scene:
    """Triangles and Embree's acceleration structure over them; ``address`` is what Embree knows it by.

    Raises:
        MemoryError: there is not enough memory.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        # Embree reads both where they are: they must live as long as the scene.
        self._vertices = np.zeros(vertices.size + _PADDING // 4, np.float32)
        self._vertices[: vertices.size] = vertices.ravel()
        self._faces = np.ascontiguousarray(faces, np.uint32)
        self.address = _new_scene(_device)
        weakref.finalize(self, _release_scene, self.address)
        geometry = _new_geometry(_device, _TRIANGLES)
        _set_buffer(geometry, _INDICES, 0, _UINT3, self._faces.ctypes.data, 0, 12, len(faces))
        _set_buffer(geometry, _VERTICES, 0, _FLOAT3, self._vertices.ctypes.data, 0, 12, len(vertices))
        _commit_geometry(geometry)
        _attach_geometry(self.address, geometry)
        _release_geometry(geometry)
        _commit_scene(self.address)
        error = _device_error(_device)
        if error:
            raise MemoryError if error == _OUT_OF_MEMORY else RuntimeError(f"Embree: error {error}")
