"""The work of :mod:`render.workers` on a Ray cluster: the same tasks, spread over many machines."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.errors import UserError
from render.workers import LONGEST_WAIT, WorkerDied, further_tries, undivided

CONNECT_SECONDS = 10
# Sent to the nodes, so that every one runs this very code; libraries must be installed there.
_PACKAGES = [str(Path(__file__).parent.parent / name) for name in ("render", "data")]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster, for :func:`run_tasks_on_ray`; at the end, what still runs there is stopped.

    Args:
        address: ``HOST:PORT`` of the head node, ``ray://HOST:PORT`` from outside, ``auto`` on a node; None does
            nothing.

    Raises:
        UserError: ray is not installed here, or the cluster cannot be reached.
    """
    if address is None:
        yield
        return
    ray = _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str):
    advice = "give HOST:PORT or ray://HOST:PORT of a running cluster, or auto on one of its nodes"
    if not re.fullmatch(r"auto|(ray://)?[^/]+:\d+", address):
        raise UserError(f"ray: {address!r} is no address: {advice}")
    try:
        import grpc
        import ray
    except ImportError as error:
        advice = "run `pip install '.[ray]'` in a clone of keypointnet"
        raise UserError(f"ray: cannot be imported ({error}): {advice}") from None
    if address != "auto" and os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        # Ray itself would try for minutes.
        with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
            except grpc.FutureTimeoutError:
                raise UserError(f"ray: {address}: no cluster answers there: {advice}") from None
    environment = {"py_modules": _PACKAGES, "excludes": ["__pycache__"]}
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": False}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings would drown our one line
    try:
        try:
            ray.init(address, runtime_env=environment, **quiet)
        except ConnectionAbortedError:  # the process that serves a client now and then fails to start: once more
            ray.init(address, runtime_env=environment, **quiet)
    except Exception as error:  # versions of Ray or Python that differ, a refused token, none running for `auto`
        raise UserError(f"ray: {address}: cannot connect ({_line(error)}): {advice}") from None
    return ray


def run_tasks_on_ray(
    setup: Callable[[], Callable[[Any], Any]],
    tasks: Iterable[Any],
    workers: int | None = None,
    divide: Callable[[Any], list[Any]] = undivided,
) -> Iterator[tuple[Any, Any]]:
    """Like :func:`render.workers.run_tasks`, but on the Ray cluster that is connected.

    Args:
        setup: picklable; called once in each process of a node, returns the function that does the work.
        tasks: picklable.
        workers: how many tasks at a time; by default as many as the cluster has CPUs.
        divide: see :func:`render.workers.run_tasks`.

    Raises:
        UserError: the nodes cannot do this work.
    """
    import ray
    from ray import exceptions as errors

    deaths = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)
    remote = ray.remote(num_cpus=1, max_retries=0)(_serve)
    shared = ray.put(pickle.dumps(setup))
    queue = deque((task, 1) for task in tasks)
    running: dict[ray.ObjectRef, tuple[Any, int]] = {}
    while queue or running:
        limit = workers or _cpus(ray)  # looked up again and again, for a cluster may grow
        while queue and len(running) < limit:
            job = queue.popleft()
            running[remote.remote(shared, job[0])] = job
        for result in ray.wait(list(running), num_returns=1, timeout=LONGEST_WAIT)[0]:
            task, attempt = running.pop(result)
            try:
                outcome = ray.get(result)
            except deaths as error:
                outcome = WorkerDied(f"the worker process died {attempt} times on it ({type(error).__name__})")
            except errors.RayError as error:
                raise UserError(
                    f"ray: a node cannot do the work ({_line(error)}): install the same keypointnet on every node"
                ) from None
            if tries := further_tries(task, attempt, outcome, divide):
                queue.extendleft(reversed(tries))
            else:
                yield task, outcome


def _cpus(ray) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _serve(setup: bytes, task: Any) -> Any:
    """Runs on a node."""
    try:
        return _work(setup)(task)
    except ImportError:  # a library is missing on this node: no fault of the task
        raise
    except Exception as error:  # handed to the owner, who knows what is to be done
        return error


@lru_cache(maxsize=1)
def _work(setup: bytes) -> Callable[[Any], Any]:
    return pickle.loads(setup)()


def _line(error: Exception) -> str:
    """What went wrong, without the remote traceback that Ray puts before it."""
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
