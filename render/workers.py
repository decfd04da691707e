"""A pool of worker processes that survives the death of any of them and dies with its owner."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

ATTEMPTS = 2  # how often a task is given to a fresh worker before it is given up
# Python answers Ctrl-C between two steps of its own. If the signal comes just before it begins to wait, or to another
# thread, the wait goes on: it has to end by itself now and then.
LONGEST_WAIT = 0.2  # seconds


class WorkerDied(Exception):
    """A task was given up: every worker that tried it died, or it took too long; the message says how."""


def undivided(task: Any) -> list[Any]:
    """The pieces of a task that has none."""
    return [task]


def run_tasks(
    setup: Callable[[], Callable[[Any], Any]],
    tasks: Iterable[Any],
    workers: int,
    divide: Callable[[Any], list[Any]] = undivided,
) -> Iterator[tuple[Any, Any]]:
    """Run tasks in processes of their own and yield ``(task, outcome)`` in the order they finish.

    Args:
        setup: picklable; called once in each worker, returns the function of one task that does the work.
        tasks: picklable.
        workers: number of processes.
        divide: gives the pieces of a task. Where there are several, and the worker dies or lacks memory, each becomes a
            task, for it is not known which one is to blame.

    Yields:
        The task, or a piece of one, and what the function returned, or the exception that it raised, or
        :class:`WorkerDied`.
    """
    queue = deque((task, 1) for task in tasks)
    pool: list[_Worker] = []
    try:
        while queue or any(worker.job for worker in pool):
            for worker in [w for w in pool if not w.job]:
                if queue:
                    worker.give(queue.popleft())
            while queue and len(pool) < workers:
                pool.append(_Worker(setup))
                pool[-1].give(queue.popleft())
            ready = wait([worker.pipe for worker in pool if worker.job], LONGEST_WAIT)
            for worker in [w for w in pool if w.pipe in ready]:
                task, attempt = worker.job
                try:
                    outcome = worker.take()
                except (EOFError, ConnectionResetError):
                    pool.remove(worker)
                    status = worker.bury()
                    if status == -signal.SIGPROF:
                        outcome, attempt = WorkerDied("reading it took longer than --time-limit allows"), ATTEMPTS
                    else:
                        outcome = WorkerDied(f"the worker process died {attempt} times on it ({_death(status)})")
                if tries := further_tries(task, attempt, outcome, divide):
                    queue.extendleft(reversed(tries))
                else:
                    yield task, outcome
    finally:
        for worker in pool:
            worker.kill()
        for worker in pool:
            worker.bury()


def further_tries(task: Any, attempt: int, outcome: Any, divide: Callable[[Any], list[Any]]) -> list[tuple[Any, int]]:
    """What to try, as (task, attempt), after this outcome of an attempt; nothing if it stands."""
    if not isinstance(outcome, (WorkerDied, MemoryError)):
        return []
    pieces = divide(task)
    if len(pieces) > 1:
        return [(piece, 1) for piece in pieces]
    return [(task, attempt + 1)] if isinstance(outcome, WorkerDied) and attempt < ATTEMPTS else []


class _Worker:
    """One process and the pipe to it. ``job`` is the (task, attempt) it is at, None when idle."""

    def __init__(self, setup: Callable[[], Callable[[Any], Any]]):
        # Spawned, not forked: neither ray tracers nor GL contexts nor threads survive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup), daemon=True)
        with _environment_of_workers():
            self._process.start()
        theirs.close()
        self.job: tuple[Any, int] | None = None

    def give(self, job: tuple[Any, int]) -> None:
        self.job = job
        try:
            self.pipe.send(job[0])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died while idle; reading from it will tell

    def take(self) -> Any:
        outcome = self.pipe.recv()
        self.job = None
        return outcome

    def bury(self) -> int:
        """Wait for its end, free what it held, and give its exit status: −N if signal N ended it."""
        self._process.join()
        self.pipe.close()
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _death(status: int) -> str:
    return f"{signal.Signals(-status).name}, out of memory or a crash" if status < 0 else f"exit status {status}"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """In a worker: its process ends, by SIGPROF, unless the block ends in time. A hanging library hears nothing else.

    Args:
        seconds: of processor time, so that neither a busy machine nor a stopped process counts; 0 for no limit.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent's parent may have ignored or blocked it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def _environment_of_workers() -> Iterator[None]:
    """What a process started within inherits: one thread for linear algebra, and deafness to Ctrl-C.

    The terminal sends Ctrl-C to every process; only the owner of the pool answers it, at the latest when this ends.
    """
    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update({name: "1" for name in before})
    resource_tracker.ensure_running()  # multiprocessing would start it within, and let signals through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(pipe, setup: Callable[[], Callable[[Any], Any]]) -> None:
    """Main function of a worker."""
    threading.Thread(target=_die_with_owner, daemon=True).start()
    work = None
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            work = work or setup()
            outcome = work(task)
        except Exception as error:  # handed to the owner, who knows what is to be done
            outcome = error
        pipe.send(outcome)


def _die_with_owner() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
