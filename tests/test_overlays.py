import numpy as np
import pytest

from train.eval import overlays


def view(height=64, width=64):
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[height // 4 : -height // 4, width // 4 : -width // 4] = (60, 70, 80, 255)
    return rgba


def near(picture, u, v, color):
    """Whether a pixel close to (u, v) has the colour (the number may cover the very centre)."""
    patch = np.asarray(picture)[int(v) - 5 : int(v) + 6, int(u) - 5 : int(u) + 6].reshape(-1, 3).astype(int)
    return (abs(patch - color).max(1) <= 2).any()


def test_colors_are_distinct():
    colors = [overlays.keypoint_color(i) for i in range(40)]
    assert len(set(colors)) == 40


def test_points_land_where_they_should_in_their_color():
    keypoints = np.array([[10.0, 50.0], [40.0, 20.0]])
    picture = overlays.draw_view(view(), keypoints, scale=5)
    assert picture.size == (320, 320)
    assert near(picture, 50, 250, overlays.keypoint_color(0))
    assert near(picture, 200, 100, overlays.keypoint_color(1))
    assert not near(picture, 250, 50, overlays.keypoint_color(0))
    assert np.asarray(picture)[2, 2].tolist() == [255, 255, 255]
    assert np.asarray(picture)[160, 160].tolist() == [60, 70, 80]


def test_a_background_of_the_view_is_kept():
    rgba = view()
    rgba[rgba[..., 3] == 0, :3] = 30, 90, 160
    assert np.asarray(overlays.on_white(rgba))[2, 2].tolist() == [30, 90, 160]


def test_small_views_are_enlarged_and_large_ones_kept():
    assert overlays.draw_view(view(), np.zeros((0, 2))).size == (320, 320)
    assert overlays.draw_view(view(500, 700), np.zeros((0, 2))).size == (700, 500)


def test_nearer_points_are_drawn_over_farther_ones():
    keypoints = np.array([[32.0, 32.0, 29.0], [32.0, 32.0, 31.0]])
    picture = overlays.draw_view(view(), keypoints, scale=5)
    assert near(picture, 160, 160, overlays.keypoint_color(0))
    assert not near(picture, 160, 160, overlays.keypoint_color(1))


def test_a_close_up_shows_the_object_and_its_keypoints():
    rgba = np.zeros((60, 80, 4), np.uint8)
    rgba[20:30, 50:70] = (60, 70, 80, 255)
    keypoints = np.array([[55.0, 25.0, 30.0], [60.0, 10.0, 30.0], [900.0, 25.0, 30.0]])
    view, moved = overlays.close_up(rgba, keypoints)
    # from u = 50 to the border, where the farthest keypoint is last seen: 30 wide, and a margin on each side
    assert view.shape == (38, 38, 4) and (view[..., 3] > 0).sum() == 200
    row, column = np.argwhere(view[..., 3] > 0)[0]
    assert np.allclose(moved[:, :2] - keypoints[:, :2], [column - 50, row - 20]) and (moved[:, 2] == 30).all()
    assert (moved[:2, :2] > 0).all() and (moved[:2, :2] < 38).all() and moved[2, 0] > 38


def test_points_outside_or_unknown_do_no_harm():
    keypoints = np.array([[-40.0, 3.0], [0.0, 0.0], [64.0, 64.0], [500.0, 10.0], [np.nan, 5.0]])
    picture = overlays.draw_view(view(), keypoints)
    assert near(picture, 5, 5, overlays.keypoint_color(1))


def test_premultiplied_partial_coverage_is_composited_on_white():
    rgba = np.full((8, 8, 4), (50, 0, 0, 128), np.uint8)
    assert np.asarray(overlays.on_white(rgba))[4, 4].tolist() == [177, 127, 127]


def test_pair_and_grid_sizes():
    rgba, keypoints = np.stack([view()] * 5), np.zeros((5, 3, 3))
    pair = overlays.draw_pair(rgba[:2], keypoints[:2], "error 3.1 degrees")
    assert pair.width > 640 and 320 < pair.height < 400
    grid = overlays.draw_grid(rgba, keypoints, columns=2, captions=["a name " * 30] * 5)
    assert grid.width < 680 and grid.height > 3 * 320
    with pytest.raises(ValueError):
        overlays.tile([], 2)
