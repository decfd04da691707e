"""The one exception that the command line turns into a single clear line, also of errors of the system."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file got too big",
}


class UserError(Exception):
    """Bad input or a refused request. The message says what, where and how to mend it, in one line."""


@contextmanager
def resumable(folder: Path, go_on: str) -> Iterator[None]:
    """Say of errors of the system, as a full disk, what is wrong and how the work that writes to a folder goes on."""
    try:
        yield
    except OSError as error:
        cause = _CAUSES.get(error.errno) or error.strerror
        if cause is None:
            raise
        raise UserError(f"{error.filename or folder}: {cause}: mend that, then {go_on}") from error
