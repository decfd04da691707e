import sys

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from train.detector import Detections
from train.eval import metrics
from train.eval.turntable import frame_size, locate, write_animation

POINTS = np.array([[0.5, 0.1, -0.8], [-0.5, 0.1, 0.6]])
BOX_FACES = np.array([
    [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
    [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
])  # fmt: skip


class KnowingDetector:
    """Projects two points of the object with the poses it was told."""

    def __init__(self, poses, intrinsics):
        camera = np.einsum("vij,nj->vni", poses[:, :3, :3], POINTS) + poses[:, None, :3, 3]
        projected = camera @ intrinsics.transpose(0, 2, 1)
        self.keypoints = np.concatenate([projected[..., :2] / projected[..., 2:], camera[..., 2:]], -1)

    def detect(self, rgba):
        n = len(rgba)
        return Detections(
            np.float32(self.keypoints[:n]), np.ones((n, 2, 4, 4)), np.zeros((n, 1, 2, 2)), np.ones((n, 1)) > 0
        )


@pytest.fixture(scope="module")
def views():
    pytest.importorskip("embreex")
    from render.mesh import build_mesh
    from render.turntable import turntable

    corners = np.array([[x, y, z] for x in (-0.6, 0.6) for y in (-0.3, 0.3) for z in (-1, 1)])
    mesh = build_mesh(corners, BOX_FACES, np.full((12, 3), 200, np.uint8))
    return turntable(mesh, 8, distance=30.0, focal_length=11.4519, image_size=48)


def test_views_go_around_from_the_front(views):
    rgba, poses, intrinsics = views
    assert rgba.shape == (8, 48, 48, 4) and (rgba[..., 3] > 0).mean() > 0.1
    centers = -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])
    assert np.allclose(np.linalg.norm(centers, axis=1), 30)
    assert centers[0, 2] < -27 and abs(centers[0, 0]) < 1e-9 and centers[2, 0] > 27  # front, then the object's right
    # the origin is in the middle of the picture
    assert np.allclose(metrics.object_points(np.array([[[24, 24, 30.0]]] * 8), intrinsics, poses), 0, atol=1e-9)


def test_views_from_straight_above_turn_too():
    pytest.importorskip("embreex")
    from render.mesh import build_mesh
    from render.turntable import turntable

    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1.0]])
    mesh = build_mesh(corners, np.array([[0, 1, 2]]), np.full((1, 3), 200, np.uint8))
    _, poses, _ = turntable(mesh, 4, 30.0, 11.4519, 16, elevation_degrees=90)
    np.testing.assert_allclose(poses[0, 0, :3], -poses[2, 0, :3], atol=1e-9)
    assert abs(poses[:, 2, 1]).min() > 0.999


def test_keypoints_are_located_in_the_objects_frame(views):
    rgba, poses, intrinsics = views
    assert np.allclose(locate(KnowingDetector(poses, intrinsics), rgba, poses, intrinsics), POINTS, atol=1e-4)


def test_an_animation_has_a_frame_a_view(views, tmp_path):
    rgba, poses, intrinsics = views
    detector = KnowingDetector(poses, intrinsics)
    times = frame_size(rgba.shape[1]) // rgba.shape[1]
    write_animation(detector, rgba.repeat(times, axis=1).repeat(times, axis=2), tmp_path / "new" / "spin.gif")
    with Image.open(tmp_path / "new" / "spin.gif") as animation:
        assert animation.n_frames == 8 and animation.size == (384, 384) and animation.info["loop"] == 0
    with pytest.raises(UserError, match=r"ends in \.gif or \.mp4"):
        write_animation(detector, rgba, tmp_path / "spin.webp")


def test_an_animation_as_mp4_shows_the_same(views, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    rgba, poses, intrinsics = views
    detector = KnowingDetector(poses, intrinsics)
    for name in ("spin.gif", "spin.mp4"):
        write_animation(detector, rgba, tmp_path / name)
    with av.open(str(tmp_path / "spin.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert float(frames and container.duration / av.time_base) == pytest.approx(8 * 0.06, abs=0.01)
    with Image.open(tmp_path / "spin.gif") as animation:
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert np.abs(frame - np.asarray(animation.convert("RGB"))).mean() < 6
    assert len(frames) == 8
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        write_animation(detector, rgba, tmp_path / "other.mp4")
