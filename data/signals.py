"""Signals that ask a program to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers send


@contextmanager
def handled_by(handler: Callable, *numbers: signal.Signals) -> Iterator[None]:
    """Let ``handler`` answer these signals. Only the main thread can; in another one they go on as they were."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
