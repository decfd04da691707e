import math

import numpy as np
import pytest

from train.eval.semantics import correct_keypoints, dual_alignment_score, mean_iou, predict_semantic


def line(*xs):
    return np.array([[x, 0, 0] for x in xs], float)


def test_dual_alignment_by_hand():
    semantic = np.stack([line(0, 1, 2)] * 2)
    learned = np.stack([line(0.1, 1.1, 2.1), line(-0.1, 0.9, 1.9)])
    assert dual_alignment_score(learned, semantic) == 1
    # exchanged on the second model: keypoints 0 and 1 change names, points 0 and 1 change their nearest keypoints
    learned[1] = learned[1][[1, 0, 2]]
    assert dual_alignment_score(learned, semantic) == pytest.approx(1 / 3)


def test_dual_alignment_forward_and_backward_differ():
    # both keypoints of the second model at point 0: forward, keypoint 1 changes its name (1/2); backward, points 0 and
    # 1 both take the nearer keypoint 1 (0 had keypoint 0): 1/2
    semantic = np.stack([line(0, 1)] * 2)
    learned = np.stack([line(0, 1), line(-0.2, 0.1)])
    assert dual_alignment_score(learned, semantic) == pytest.approx(1 / 2)


def test_dual_alignment_leaves_out_missing_parts():
    semantic = np.stack([line(0, 1, 2), line(0, math.nan, 2)])
    learned = np.stack([line(0, 1.2, 2), line(0, 1.8, 2)])
    assert dual_alignment_score(learned, semantic) == 1
    assert math.isnan(dual_alignment_score(learned[:1], semantic[:1]))
    assert math.isnan(dual_alignment_score(learned, np.full((2, 3, 3), math.nan)))


def test_dual_alignment_is_the_mean_over_all_ordered_pairs_of_models():
    rng = np.random.default_rng(0)
    learned, semantic = rng.normal(size=(7, 5, 3)), rng.normal(size=(7, 6, 3))
    semantic[rng.random((7, 6)) < 0.4] = math.nan
    pairs = [[i, j] for i in range(7) for j in range(7) if i != j]
    scores = [dual_alignment_score(learned[pair], semantic[pair]) for pair in pairs]  # of two models: both orders
    assert dual_alignment_score(learned, semantic) == pytest.approx(np.nanmean(scores))


def test_mean_iou_by_hand():
    # radius 0.1 of 2: points 0 and 1 found (1 by two keypoints), 2 missed, keypoint at 5 false: 2 / (2 + 1 + 1)
    semantic = np.stack([line(0, 1, 2)])
    learned = np.stack([line(0.2, 0.9, 1.1, 5)])
    assert mean_iou(learned, semantic) == pytest.approx(2 / 4)
    assert mean_iou(learned / 0.9, semantic / 0.9) == pytest.approx(1 / 5)  # one at 0.1 is now farther than that
    semantic[0, 2] = math.nan
    assert mean_iou(learned, semantic) == pytest.approx(2 / 3)
    assert math.isnan(mean_iou(learned, np.full((1, 3, 3), math.nan)))


def linear_world(models=12, views=3, noise=0.0):
    """Models whose semantic points are affine functions of their learned ones."""
    rng = np.random.default_rng(0)
    learned = rng.uniform(-1, 1, (models, 4, 3))
    semantic = np.einsum("mnd,sn->msd", learned, rng.uniform(-0.5, 0.5, (2, 4))) + [0.1, -0.2, 0.3]
    index = np.repeat(np.arange(models), views) + 5  # indices need not start at 0
    points = learned[index - 5] + noise * rng.normal(size=(len(index), 4, 3))
    return points, np.concatenate([np.full((5, 2, 3), np.nan), semantic]), index


def test_a_linear_relation_is_found_on_unseen_models():
    points, semantic, index = linear_world(models=60)
    predicted = predict_semantic(points, semantic, index)
    assert np.abs(predicted - semantic[index]).max() < 0.05
    assert correct_keypoints(predicted, semantic[index], 0.05) == 1


def test_the_map_is_never_fitted_on_the_model_it_is_applied_to():
    points, semantic, index = linear_world(models=10)
    before = predict_semantic(points, semantic, index)
    semantic[5 + 3] += 100  # of model 3
    after = predict_semantic(points, semantic, index)
    own = index == 5 + 3
    assert np.array_equal(before[own], after[own]) and not np.allclose(before[~own], after[~own])
    semantic[:, 1] = np.nan
    assert np.isnan(predict_semantic(points, semantic, index)[:, 1]).all()


def test_correct_keypoints_by_hand():
    truth = np.stack([line(0, 1, 2, math.nan)])
    predicted = np.stack([line(0.09, 1.11, 2.3, 0)])
    assert correct_keypoints(predicted, truth, 0.05) == pytest.approx(1 / 3)
    assert correct_keypoints(predicted, truth, 0.1) == pytest.approx(2 / 3)
    assert math.isnan(correct_keypoints(predicted, truth * math.nan, 0.1))
