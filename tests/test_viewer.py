"""The on-screen window, on a screen of Xvfb."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageGrab, features

from data.errors import UserError
from tests.test_turntable import BOX_FACES

ROOT = Path(__file__).parents[1]
POINTS = np.array([[0.9, 0.9, -0.9], [-0.9, 0.9, 0.9], [0.9, -0.9, 0.9]])
COLORS = [(230, 25, 75), (60, 160, 60), (67, 99, 216)]
SHOW = f"""
import sys
import numpy as np
from render.mesh import build_mesh
from render.viewer import view
corners = np.array([[x, y, z] for x in (-0.7, 0.7) for y in (-0.2, 0.2) for z in (-1, 1)])
mesh = build_mesh(corners, np.array({BOX_FACES.tolist()}), np.full((12, 3), 120, np.uint8))
view(mesh, np.array({POINTS.tolist()}), {COLORS}, "a box")
"""


def test_it_needs_a_screen(monkeypatch):
    viewer = pytest.importorskip("render.viewer")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match="no screen"):
        viewer.check_screen()


def test_a_screen_that_is_not_there_is_named():
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=ROOT, env={**os.environ, "DISPLAY": ":987"}, capture_output=True, text=True
    )
    assert shown.returncode and "UserError: view: no window can be opened on :987" in shown.stderr


@pytest.fixture
def screen():
    """An X server of our own; yields the display's name."""
    reader, writer = os.pipe()  # tells the number it chose
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1100x800x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as server:
        os.close(writer)
        with os.fdopen(reader) as told:
            display = f":{told.readline().strip()}"
        yield display
        server.terminate()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb here")
@pytest.mark.skipif(not features.check("xcb"), reason="Pillow cannot read the screen")
def test_a_window_shows_the_mesh_and_its_keypoints(screen):
    environment = {**os.environ, "DISPLAY": screen}
    environment.pop("PYOPENGL_PLATFORM", None)  # tests of the EGL backend set it in this process
    with subprocess.Popen([sys.executable, "-c", SHOW], cwd=ROOT, env=environment) as shown:
        try:
            until = time.monotonic() + 120
            while (seen := _seen(ImageGrab.grab(xdisplay=screen))) != [True] * 4 and shown.poll() is None:
                assert time.monotonic() < until, seen
                time.sleep(0.2)
            assert shown.poll() is None
        finally:
            shown.kill()


def _seen(picture) -> list[bool]:
    """Whether there is grey on the bright ground, and whether there is each keypoint's hue."""
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(float)
    saturated = pixels[np.ptp(pixels, axis=1) > 60]
    saturated = (saturated - saturated.min(1, keepdims=True)) / np.ptp(saturated, axis=1)[:, None]
    hues = (np.array(COLORS) - np.min(COLORS, axis=1, keepdims=True)) / np.ptp(COLORS, axis=1)[:, None]
    grey = (np.ptp(pixels, axis=1) < 30) & (pixels.min(1) > 20) & (pixels.max(1) < 210)
    return [grey.sum() > 1000, *((np.abs(saturated - hue).max(1) < 0.25).sum() > 30 for hue in hues)]
