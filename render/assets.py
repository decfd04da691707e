"""Files that a mesh file refers to: its material libraries, textures and buffers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError
from trimesh.resolvers import Resolver

from render.sources import LAYOUTS, MeshError

MAX_FILE_BYTES = 2 << 30
MAX_TEXTURE_PIXELS = 16384 * 8192


def own_folder(path: Path) -> Path:
    """The folder of a mesh and what belongs to it: of a ShapeNetCore model, the model's."""
    return path.parent.parent if path.match(LAYOUTS[0]) else path.parent


class Assets(Resolver):
    """Gives trimesh the files a mesh refers to, if they lie within ``root``; remembers what it could not give."""

    def __init__(self, path: Path, root: Path):
        # A mesh that a link in the folder leads to may refer to files beside it.
        real = path.resolve()
        self._folders = [path.parent, real.parent]
        self._roots = [root.resolve()]
        self._no_images: set[str] = set()
        self._unseen: set[str] = set()
        self._libraries: list[str] = []
        self._plain: Callable[[bytes], bytes]
        if not real.is_relative_to(self._roots[0]):
            self._roots.append(own_folder(real))
        self._problem: str | None = None

    def expect_data(self, name: str) -> None:
        """A file of this name, whatever its suffix, is no image."""
        self._no_images.add(name)

    def expect_unseen(self, name: str) -> None:
        """An image that gives no colour: it may be missing, or of a kind that cannot be read."""
        self._unseen.add(name)

    def expect_libraries(self, names: list[str], plain: Callable[[bytes], bytes]) -> None:
        """The material libraries of an OBJ file; who asks for the first gets all of them, for trimesh reads one.

        Args:
            plain: puts what a library holds in terms that trimesh reads; may raise :class:`MeshError`.
        """
        self._libraries, self._plain = names, plain
        self._no_images.update(names)

    def get(self, name: str) -> bytes:
        if name in self._libraries[:1]:
            return b"\n".join(map(self._library, self._libraries))
        return self._get(name)

    def _library(self, name: str) -> bytes:
        """One named in an OBJ file, or several that one line names."""
        several = name.split()
        try:
            is_one = len(several) == 1 or self._find(name).is_file()
        except (OSError, ValueError):  # too long for one
            is_one = False
        names = [name] if is_one else several
        self._no_images.update(names)
        contents = [self._get(each) for each in names]
        self._folders += [self._find(each).parent for each in names]  # their textures may lie beside them
        try:
            return b"\n".join(map(self._plain, contents))
        except MeshError as error:  # trimesh would swallow it
            self._fail(str(error))

    def _find(self, name: str) -> Path:
        for folder in self._folders:
            path = (folder / name.replace("\\", "/")).resolve()
            if not path.exists():
                path = (folder / unquote(name)).resolve()  # glTF refers by URI
            if not path.exists():  # from a system that does not tell capitals from small letters
                path = _in_any_letters(folder, name.replace("\\", "/")).resolve()
            if path.exists():
                break
        return path

    def _get(self, name: str) -> bytes:
        is_unseen = name in self._unseen
        is_image = not is_unseen and name not in self._no_images and Path(name).suffix.lower() not in (".mtl", ".bin")
        name = name.strip().strip('"')  # some exporters quote it
        shown = repr(name if len(name) <= 100 else name[:100] + "…")
        try:
            path = self._find(name)
            is_file = path.is_file()
        except (OSError, ValueError):  # too long, or holds a zero byte
            self._fail(f"refers to {shown}, which is no name of a file")
        if not any(path.is_relative_to(root) for root in self._roots):
            self._fail(f"refers to {shown}, outside the folder that was given")
        if not is_file and is_unseen:
            return b""
        if not is_file:
            self._fail(f"refers to {shown}, which is missing")
        if path.stat().st_size > MAX_FILE_BYTES:
            self._fail(f"refers to {shown}, which is larger than {MAX_FILE_BYTES >> 30} GiB")
        try:
            content = path.read_bytes()
        except OSError as error:
            self._fail(f"refers to {shown}, which cannot be read ({error.strerror})")
        if is_image:
            self.check_image(content, shown)
        return content

    def check_image(self, content: bytes, name: str) -> None:
        """Note a problem if an image cannot be decoded or would take too much memory; only its header is read."""
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if image.format == "EPS":
                    raise ValueError("a program")
        except Image.DecompressionBombError:
            width = height = MAX_TEXTURE_PIXELS
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            self._fail(f"texture {name} is not an image that can be read")
        if width * height > MAX_TEXTURE_PIXELS:
            self._fail(f"texture {name} has more than {MAX_TEXTURE_PIXELS >> 20} million pixels")

    def _fail(self, problem: str) -> None:
        # trimesh swallows exceptions of its resolver: the first problem is kept and raised after loading.
        self._problem = self._problem or problem
        raise FileNotFoundError(problem)

    def raise_problem(self) -> None:
        if self._problem:
            raise MeshError(self._problem)

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> Assets:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise PermissionError("mesh files are only read")


def _in_any_letters(folder: Path, name: str) -> Path:
    """``folder / name``, each part as it is spelled on the disk if only capitals and small letters differ."""
    path = folder
    for part in Path(name).parts:
        spelled = sorted(p.name for p in path.glob("*") if p.name.lower() == part.lower()) if path.is_dir() else []
        path = path / (part if part in spelled or not spelled else spelled[0])
    return path
