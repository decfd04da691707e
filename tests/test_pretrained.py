"""The shipped weights: they find the pose of shapes of their own category, and of no other."""

import numpy as np
import pytest

from data.schema import relative_motion
from render.backends import open_backend
from render.doctor import resolve
from render.shapes import CATEGORIES, generate
from render.views import ViewSettings, sample_pair
from train.detector import Detector
from train.eval import metrics


@pytest.fixture(scope="module")
def views():
    """Category -> images, poses and intrinsics of 20 pairs of views of ten shapes."""
    backend, rng, settings = open_backend(resolve("auto")), np.random.default_rng(0), ViewSettings()

    def pair(mesh):
        poses, cameras = sample_pair(rng, settings)
        return backend.render(mesh, poses, cameras, settings.image_size)[0], poses, cameras

    def pairs(category):
        return [pair(mesh) for mesh in [generate(category, 7, i) for i in range(10)] for _ in range(2)]

    return {category: [np.stack(parts) for parts in zip(*pairs(category))] for category in CATEGORIES}


@pytest.mark.parametrize("category", CATEGORIES)
def test_shipped_weights_know_their_category(category, views):
    detector, medians = Detector.load(category), {}
    for shown, (images, poses, cameras) in views.items():
        found = detector.detect(images)
        rotation = metrics.recover_rotation(found.keypoints, cameras, found.sigma)
        medians[shown] = np.median(metrics.angular_error(rotation, relative_motion(poses)[0]))
    assert medians.pop(category) < 10 and min(medians.values()) > 30
