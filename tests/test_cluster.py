"""Rendering on a Ray cluster: one is started here for real."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import render.pipeline
from data.errors import UserError
from render import cluster
from render.cluster import connected, run_tasks_on_ray
from render.pipeline import Job, _open_sender, render_dataset
from render.workers import WorkerDied
from tests.test_pipeline import (  # noqa: F401  meshes and reference are fixtures
    ROOT,
    Diaries,
    Diary,
    command,
    config,
    contents,
    meshes,
    reference,
    set_up,
    set_up_for_many,
    wait_for_a_part,
)  # fmt: skip


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Of one cluster: from within, and from outside. Its nodes know this project's tests, but not the project."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "tests").symlink_to(ROOT / "tests")
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short,  # for sockets
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")  # Ray would use a token that another cluster has left in ~/.ray
        process, ports = start_cluster(folder, short)
        try:
            yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        finally:
            end(process)


def start_cluster(folder, temporary):
    environment = os.environ | {"PYTHONPATH": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    for _ in range(2):  # Ray gives up where a machine is too busy to start its many processes in time
        ports = free_ports(2)
        command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--num-cpus=2"]
        command += ["--include-dashboard=false", f"--temp-dir={temporary}"]
        with open(log, "w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process, ports
            time.sleep(0.1)
        end(process)
    pytest.skip(f"no Ray cluster can be started here: {log.read_text()[-500:]}")


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kind", [0, 1], ids=["within", "outside"])
def test_the_same_bytes_as_here(addresses, reference, meshes, tmp_path, monkeypatch, kind):  # noqa: F811
    monkeypatch.setattr(render.pipeline, "_RAY_WORKERS", 1 if kind else 128)  # parts of several models, or of one
    monkeypatch.setattr(render.pipeline, "_GROUPS_PER_WORKER", 1)
    summary = render_dataset(config(tmp_path / "data", meshes, ray=addresses[kind], workers=None))
    assert (summary.models, len(summary.failures)) == (8, 2)
    assert contents(tmp_path / "data") == contents(reference)


def test_a_worker_that_dies_is_retried_once_and_the_rest_goes_on(addresses, tmp_path):
    tasks = [Diary(tmp_path / what, what) for what in ("fine", "die", "die once", "raise", "also fine")]
    with connected(addresses[0]):
        outcomes = {task.what: outcome for task, outcome in run_tasks_on_ray(set_up, tasks)}
    assert outcomes["fine"] == "FINE" and outcomes["also fine"] == "ALSO FINE" and outcomes["die once"] == "DIE ONCE"
    assert isinstance(outcomes["raise"], ValueError)
    assert isinstance(outcomes["die"], WorkerDied) and "died 2 times" in str(outcomes["die"])
    assert (tmp_path / "die").read_text() == "die\n" * 2


def test_when_a_worker_dies_its_task_is_divided(addresses, tmp_path):
    task = Diaries([Diary(tmp_path / what, what) for what in ("fine", "die", "also fine")])
    with connected(addresses[0]):
        outcomes = {
            piece.diaries[0].what: outcome
            for piece, outcome in run_tasks_on_ray(set_up_for_many, [task], divide=Diaries.divide)
        }
    assert (outcomes["fine"], outcomes["also fine"]) == (["FINE"], ["ALSO FINE"])
    assert isinstance(outcomes["die"], WorkerDied)
    assert (tmp_path / "die").read_text() == "die\n" * 3


def test_ctrl_c(addresses, meshes, tmp_path):  # noqa: F811
    out = tmp_path / "data"
    process = command(out, meshes, ray=addresses[0], pairs_per_model=200)
    wait_for_a_part(out, process)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate()[1]
    assert time.monotonic() - start < 5  # 0.6 s on a machine at rest; letting go takes many of Ray's processes
    assert "of 10 models are done and kept: run the same command again" in errors and "Traceback" not in errors


def test_a_node_that_cannot_do_the_work(addresses):
    with connected(addresses[0]), pytest.raises(UserError, match="'nowhere'.*install the same") as error:
        list(run_tasks_on_ray(NotThere(), [1]))
    assert "\n" not in str(error.value)


class NotThere:
    """Cannot be unpickled."""

    def __reduce__(self):
        return __import__, ("nowhere",)


def test_a_node_without_the_meshes(tmp_path):
    with pytest.raises(UserError, match="is not there on node"):
        _open_sender(Job(config(tmp_path / "out", tmp_path / "absent"), {}, {}, {}))


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "no cluster answers"), ("ray://127.0.0.1:1", "no cluster answers"), ("garbage", "no address")],
)
def test_bad_address_before_any_work(tmp_path, monkeypatch, address, reason):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(UserError, match=reason) as error:
        render_dataset(config(tmp_path / "out", None, category="car", ray=address))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_ray_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install '\.\[ray\]'"), connected("127.0.0.1:6379"):
        pass
