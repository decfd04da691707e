"""Compiled code (numba), kept on disk so that only the first process on a machine waits for the compiler."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from numba import njit


def compiled(function: Callable) -> Callable:
    """numba's njit, with what it compiled kept on disk; where there is no place for that, it compiles every time."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:
        return njit(function)


def compile_once(function: Callable, use: Callable[[], object]) -> None:
    """Compile, or load what was compiled before; of several processes one compiles and the others wait.

    Args:
        function: what :func:`compiled` returned. use: calls it with arguments of the right types.
    """
    folder = function.stats.cache_path
    with ExitStack() as stack:
        if folder:
            with suppress(OSError):  # without a lock every process compiles
                lock = stack.enter_context(open(Path(folder, "compiling"), "w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):  # the disk is full: what is compiled is not kept
            try:
                use()
            except OSError:
                raise
            except Exception:  # what is kept is damaged, as after a power cut: compile anew
                if not folder:
                    raise
                for index in Path(folder).glob(f"*.{function.__name__}-*.nbi"):
                    index.unlink()
                use()
