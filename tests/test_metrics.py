import math

import numpy as np
import pytest

from train.eval import metrics


def rotation(axis, degrees):
    """Rodrigues' formula, independent of the code under test."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = math.radians(degrees)
    return np.eye(3) + math.sin(a) * cross + (1 - math.cos(a)) * cross @ cross


@pytest.mark.parametrize("degrees", [0, 0.01, 5, 90, 135, 179.9])
def test_angular_error_is_the_angle_of_the_rotation_between(degrees):
    truth = rotation([1, 2, 3], 40)
    estimated = rotation([-1, 0.3, 2], degrees) @ truth
    assert metrics.angular_error(estimated, truth) == pytest.approx(degrees, abs=1e-6)


def test_angular_error_of_opposite_rotations_is_180():
    assert metrics.angular_error(rotation([0, 1, 0], 180), np.eye(3)) == pytest.approx(180, abs=1e-5)


def test_camera_points_by_hand():
    k = np.array([[100, 0, 32], [0, 100, 32], [0, 0, 1.0]])
    # 50 px right of the centre, 25 px above it, at depth 4: x = 50/100*4, y = -25/100*4
    point = metrics.camera_points(np.array([[82, 7, 4.0]]), k)
    assert np.allclose(point, [[2, -1, 4]])


def test_object_points_undo_the_pose():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (6, 3))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation([1, 1, 0], 70), [0.1, -0.2, 30]
    k = np.array([[733, 0, 32], [0, 733, 32], [0, 0, 1.0]])
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    uv = camera[:, :2] / camera[:, 2:] * 733 + 32
    keypoints = np.concatenate([uv, camera[:, 2:]], 1)
    assert np.allclose(metrics.object_points(keypoints, k, pose), points, atol=1e-10)


def test_relative_rotation_is_from_view_0_to_view_1():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(7, 3)) + [0, 0, 30]
    motion = rotation([0.2, 1, -0.4], 63)
    second = first @ motion.T + [1, -2, 3]
    assert np.allclose(metrics.relative_rotation(np.stack([first, second])), motion)


def test_relative_rotation_never_reflects():
    first = np.random.default_rng(2).normal(size=(5, 3))
    mirrored = first * [-1, 1, 1]
    assert np.linalg.det(metrics.relative_rotation(np.stack([first, mirrored]))) == pytest.approx(1)


def test_summary_by_hand():
    # thresholds include their ends; 90 itself is no flip
    summary = metrics.summarize_errors([1, 5, 8, 10, 30, 90, 90.1, 180])
    assert summary == {
        "angular_error_mean_deg": pytest.approx(414.1 / 8),
        "angular_error_median_deg": 20,
        "accuracy_at_5_deg": 2 / 8,
        "accuracy_at_10_deg": 4 / 8,
        "accuracy_at_30_deg": 5 / 8,
        "flip_rate": 2 / 8,
    }
    with pytest.raises(ValueError):
        metrics.summarize_errors([])


def test_intervals_come_from_drawing_whole_models():
    errors, models = np.array([1.0, 1, 1, 9, 9, 9]), np.array([3, 3, 3, 7, 7, 7])
    seen = []

    def figures(pairs, counted_to):
        seen.append((tuple(pairs), tuple(counted_to)))
        return {"mean": errors[pairs].mean(), "models": len(set(counted_to))}

    intervals = metrics.bootstrap_over_models(figures, models, samples=200)
    # the only draws there are; a model that is drawn twice counts as two
    rows = {3: (0, 1, 2), 7: (3, 4, 5)}
    assert set(seen) == {(rows[a] + rows[b], (0,) * 3 + (1,) * 3) for a in rows for b in rows}
    assert intervals == {"mean": [1, 9], "models": [2, 2]}
    assert metrics.bootstrap_over_models(figures, models, samples=200) == intervals
    alone = metrics.bootstrap_over_models(figures, np.full(6, 3), samples=200)
    assert np.isnan([alone["mean"], alone["models"]]).all(), "one model says nothing about others"
    # a wide sample: the interval of a mean is close to 1.96 standard errors
    values = np.random.default_rng(0).normal(size=400)
    low, high = metrics.bootstrap_over_models(lambda p, _: {"m": values[p].mean()}, np.arange(400), 1000)["m"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_spread_by_hand():
    # keypoint 0 stands still; keypoint 1 is 3 left or right and 4 up or down of its mean: distance 5 in every view
    points = np.array([[[1, 1, 1], [3, 4, 0]], [[1, 1, 1], [-3, -4, 0]]], float)
    assert np.allclose(metrics.keypoint_spread(points), [0, 5])


def test_3d_se_leaves_flips_out_and_averages_over_keypoints():
    still, left, right = [0, 0, 0], [-1, 0, 0], [1, 0, 0]
    pair = [[still, left], [still, right]]
    flipped = [[still, [500, 0, 0]], [still, [-500, 0, 0]]]
    points = np.array([pair, flipped], float)
    assert metrics.keypoint_3d_se(points, [10, 90.5]) == pytest.approx((0 + 1) / 2)
    assert metrics.keypoint_3d_se(points, [10, 90.0]) > 100
    assert math.isnan(metrics.keypoint_3d_se(points, [91, 91]))


def test_distinct_keypoints_counts_those_on_each_other_once():
    places = np.array([[0, 0, 0], [0.04, 0, 0], [0.08, 0, 0], [0.5, 0, 0], [0, 0.06, 0]])  # the first three are a chain
    wobble = np.array([-1, 1])[:, None, None] * [0.3, 0, 0]  # from view to view, about the same places
    flipped = places + wobble + 100 * np.arange(5)[:, None]
    points = np.stack([places + wobble, places - wobble, flipped])
    assert metrics.distinct_keypoints(points, [0, 90, 91], 0.05) == 3
    assert metrics.distinct_keypoints(points, [0, 90, 91], 0.03) == 5
    assert metrics.distinct_keypoints(points, [91, 91, 91], 0.05) == 0


def test_3d_se_within_model_ignores_differences_between_models_but_not_flips():
    def at(x):
        return [[[x - 1, 0, 0]], [[x + 1, 0, 0]]]

    points = np.array([at(0), at(0), at(100)], float)
    assert metrics.keypoint_3d_se_within_model(points, [4, 4, 9]) == pytest.approx(1)
    assert metrics.keypoint_3d_se(points, [0, 0, 0]) > 40
    # models count equally, however many pairs they have
    points[2] = [[[94, 0, 0]], [[106, 0, 0]]]
    assert metrics.keypoint_3d_se_within_model(points, [4, 4, 9]) == pytest.approx((1 + 6) / 2)


def test_spread_within_models_is_the_mean_spread_of_each_models_views():
    rng = np.random.default_rng(0)
    points, index = rng.normal(size=(9, 2, 4, 3)), np.array([5, 2, 2, 5, 9, 2, 9, 9, 9])
    expected = np.mean([metrics.keypoint_spread(points[index == m].reshape(-1, 4, 3)) for m in (2, 5, 9)], axis=0)
    assert np.allclose(metrics.spread_within_models(points, index), expected)


def test_orientation_is_right_only_when_every_flag_is():
    truth = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], bool)
    flags = np.array([[1, 0], [0, 0], [1, 0], [1, 1]], bool)
    assert metrics.orientation_accuracy(flags, truth) == 1 / 4
    assert metrics.orientation_accuracy(flags[:, :1], truth[:, :1]) == 2 / 4


def test_silhouette_hits_by_hand():
    alpha = np.zeros((1, 4, 6), np.uint8)
    alpha[0, 1, 5] = 1  # row 1, column 5: u in [5, 6), v in [1, 2)
    keypoints = np.array([[[5.0, 1.0], [5.99, 1.99], [4.99, 1.5], [5.5, 2.0], [6.0, 1.5], [-0.5, 1.5], [1.5, 5.5]]])
    assert metrics.inside_mask(keypoints, alpha).tolist() == [[True, True, False, False, False, False, False]]


def test_repeatability_wants_the_same_keypoint_back():
    first = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]], float)
    second = np.array([[0.1, 0, 0], [1.11, 0, 0], [0, 0, 0]], float)
    assert metrics.repeatability(np.stack([first, second])[None], 0.1) == pytest.approx(1 / 3)


def test_relative_translation_goes_with_the_rotation():
    first = np.random.default_rng(3).normal(size=(4, 7, 3)) + [0, 0, 30]
    turn, shift = rotation([0.2, 1, -0.4], 63), np.array([1, -2, 3.0])
    points = np.stack([first, first @ turn.T + shift], axis=1)
    assert np.allclose(metrics.relative_translation(points, turn), shift)
    points[:, 1, 2] += 1  # one is off, and known to be
    sigma = np.full((4, 2, 7), 1e-3)
    sigma[:, 1, 2] = 1
    assert np.allclose(metrics.relative_translation(points, turn, sigma), shift, atol=1e-5)
    assert not np.allclose(metrics.relative_translation(points, turn), shift, atol=0.1)


def claimed(sigma, seed=0, pairs=2000):
    """What is claimed, and distances between views whose keypoints err ``sigma`` times as much."""
    claim = 1 / np.random.default_rng(seed).uniform(5, 50, (pairs, 2, 3))
    errors = np.random.default_rng(seed + 1).normal(size=(pairs, 2, 3, 3)) * sigma * claim[..., None]
    return claim, np.linalg.norm(errors[:, 0] - errors[:, 1], axis=-1)


def test_a_true_confidence_is_calibrated_and_a_boastful_one_is_not():
    expected, observed = metrics.reliability_curve(*claimed(1))
    assert expected[0] == 0 and expected[-1] == 1 and np.abs(observed - expected).max() < 0.02
    assert metrics.calibration_error(*claimed(1)) < 0.01
    expected, observed = metrics.reliability_curve(*claimed(2))  # errs twice as much as it says
    assert (observed < expected)[1:-1].all() and metrics.calibration_error(*claimed(2)) > 0.25
    # by hand: σ = 3 and 4 make 5; P(length <= 5 σ') of a Maxwell distribution at 1 is 0.199
    _, observed = metrics.reliability_curve(np.array([[[3.0], [4.0]]]), np.array([[5.0]]))
    assert observed.tolist() == [0] * 4 + [1] * 17


def test_sparsification_by_hand():
    error = np.array([1.0, 2, 3])
    assert metrics.sparsification_curve([3, 2, 1], error).tolist() == [1, 0.75, 0.5]
    assert metrics.sparsification_curve([1, 2, 3], error).tolist() == [1, 1.25, 1.5]
    assert metrics.sparsification_error(-error, error) == 0
    assert metrics.sparsification_error([1, 2, 3], error) == pytest.approx((0 + 0.5 + 1) / 3)
    assert metrics.sparsification_error(1 / np.array([10, 20, 30]), error) == 0  # any scale


def test_rank_correlation_by_hand():
    assert metrics.rank_correlation([1, 20, 300], [0.1, 0.2, 0.9]) == pytest.approx(1)
    assert metrics.rank_correlation([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert metrics.rank_correlation([1, 2, 2, 9], [1, 3, 2, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert math.isnan(metrics.rank_correlation([1, 1], [1, 2]))


def poses(*rotations):
    result = np.tile(np.eye(4), (len(rotations), 1, 1))
    result[:, :3, :3] = rotations
    return result


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_symmetric_objects_may_be_turned_by_their_group(axis):
    first, second = rotation([1, 2, 3], 40), rotation([-2, 1, 0.5], 110)
    about = np.eye(3)["xyz".index(axis)]
    truth = poses(first, second)

    def error(symmetry, degrees):
        return metrics.Symmetry(symmetry).angular_error(second @ rotation(about, degrees) @ first.T, truth)

    for degrees in (0, 90, 180, -90):
        assert error(f"{axis}:4", degrees) == pytest.approx(0, abs=1e-4)
    assert error(f"{axis}:1", 90) == pytest.approx(90)
    assert error(f"{axis}:2", 90) == pytest.approx(90)
    assert error(f"{axis}:2", 170) == pytest.approx(10)
    assert error(f"{axis}:3", -130) == pytest.approx(10)
    assert error(f"{axis}:inf", 77) == pytest.approx(0, abs=1e-4)


def test_symmetry_does_not_hide_other_errors():
    first, second = rotation([1, 2, 3], 40), rotation([-2, 1, 0.5], 110)
    tilted = second @ rotation([1, 0, 0], 25) @ first.T
    for symmetry in ("y:1", "y:2", "y:inf"):
        assert metrics.Symmetry(symmetry).angular_error(tilted, poses(first, second)) == pytest.approx(25)
    # with no symmetry, it is the plain error, over any leading shape
    estimated = np.stack([tilted, second @ first.T])
    truth = np.stack([poses(first, second)] * 2)
    plain = metrics.angular_error(estimated, second @ first.T)
    assert np.allclose(metrics.Symmetry("z:1").angular_error(estimated, truth), plain, atol=1e-4)
    for text in ("y", "y:0", "w:2", "y:-1", "y:x"):
        with pytest.raises(ValueError):
            metrics.Symmetry(text)


def test_relative_rotation_listens_to_certain_keypoints():
    generator = np.random.default_rng(3)
    first = generator.normal(size=(6, 3))
    motion = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    second = first @ motion.T
    second[0] += 1
    sigma = np.full((2, 6), 0.1)
    sigma[0, 0] = 1e4
    assert not np.allclose(metrics.relative_rotation(np.stack([first, second])), motion, atol=1e-2)
    assert np.allclose(metrics.relative_rotation(np.stack([first, second]), sigma), motion, atol=1e-4)
