"""Files that appear whole under their name, or not at all."""

import os
import tempfile
from pathlib import Path

import pytest

from data.atomic import write_bytes
from data.errors import UserError


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.html"
    link.symlink_to("real/page.html")
    write_bytes(link, b"page")
    assert link.is_symlink() and (tmp_path / "real" / "page.html").read_bytes() == b"page"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link.html", "page.html", "real"]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="has no memory to write files in")
def test_files_in_memory_are_files():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        write_bytes(Path(folder) / "a", b"x")
        assert (Path(folder) / "a").read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a pipe", "working folder"])
def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "it" if kind != "working folder" else tmp_path.__class__("")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    with pytest.raises(UserError, match="name a file"):
        write_bytes(path, b"x")
    assert not path.is_file() and not list(tmp_path.rglob("*.tmp"))
