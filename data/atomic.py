"""Files that appear under their name only when complete, whatever kills the process meanwhile; and locks."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data.errors import UserError

TEMPORARY_SUFFIX = ".tmp"


def take_lock(file: IO, busy: str) -> None:
    """Hold the only lock on an open file. It goes with the process, however that ends.

    Raises:
        UserError: another process holds it; the message is ``busy``.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(busy) from None


@contextmanager
def holding(path: Path, busy: str) -> Iterator[IO]:
    """Hold the only lock on a file, made with its folder where it is not there; whoever holds it may remove both.

    Yields:
        The open file.

    Raises:
        UserError: another process holds it; the message is ``busy``.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(path, "w")
        except FileNotFoundError:  # its folder was removed just now
            continue
        with lock:
            take_lock(lock, busy)
            if is_at(lock, path):  # else it was removed just now, and another process may hold a new one
                yield lock
                return


def is_at(file: IO, path: Path) -> bool:
    """Whether an open file still is the one under this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is renamed to ``path``: the same folder, so that the rename is atomic."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def publish(path: Path, durable: bool = True) -> None:
    """Rename ``temporary_path(path)`` to ``path``.

    Args:
        durable: force it to the disk first, so that it is whole even if the machine crashes; that takes a while.
    """
    temporary = temporary_path(path)
    if not durable:
        os.replace(temporary, path)
        return
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Give the system's errors ``path`` for their name, where they have none or that of the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary_path(path))):
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Where to write a file that appears under its name at the end of the block; nothing stays of one that fails.

    A link is followed. See :func:`publish` for ``durable``.

    Raises:
        UserError: there is something else than a file. OSError: see :func:`errors_named`.
    """
    system = path.parts[:2] in (("/", "dev"), ("/", "proc")) and path.parts[:3] != ("/", "dev", "shm")
    if path.exists() and not path.is_file() or system:
        raise UserError(f"{path}: a folder, a pipe or a device: name a file")
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = temporary_path(path)
    with errors_named(path):
        try:
            yield temporary
            publish(path, durable)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class DeferredErrorFile(io.FileIO):
    """A file for HDF5 that keeps the first failed write in ``error`` and lets the library carry on.

    HDF5 cannot close a file whose last writes fail (disk full) and leaks it, or worse; this way it closes it
    normally and the caller raises ``error`` and deletes the file. The same goes for Ctrl-C, which would get lost
    between HDF5 and Python.
    """

    error: BaseException | None = None

    def write(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        written = 0
        while self.error is None and written < len(view):
            try:
                written += super().write(view[written:])
            except BaseException as error:
                self.error = error
        if self.error is not None:
            self.seek(len(view) - written, os.SEEK_CUR)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except BaseException as error:
            self.error = self.error or error
            return size or 0
