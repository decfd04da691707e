"""From stored pairs to network input."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.geometry import normalize_intrinsics, pair_transforms, project, transform_points
from tests.test_geometry import random_rotation, rigid
from train.batches import (
    crop,
    decode_images,
    find_mates,
    jitter_colors,
    make_batch,
    object_squares,
    resize_images,
    uncrop,
)


def stored_pairs(count: int = 4, size: int = 16):
    torch.manual_seed(0)
    alpha = (torch.rand(count, 2, size, size, 1) > 0.5) * 255
    rgb = (torch.rand(count, 2, size, size, 3) * alpha).round()
    rgba = torch.cat([rgb, alpha], dim=-1).to(torch.uint8)
    poses = rigid(random_rotation(count, 2), [0.1, 0.2, 30])
    focal = 180.0
    intrinsics = (
        torch.tensor([[focal, 0, size / 2 + 1], [0, focal, size / 2], [0, 0, 1]]).double().expand(count, 2, 3, 3)
    )
    return rgba, poses, intrinsics


def test_resize_by_area_is_the_mean():
    rgba = (torch.rand(2, 8, 8, 4) * 255).to(torch.uint8)
    small = resize_images(decode_images(rgba), 4)
    expected = rgba.float().reshape(2, 4, 2, 4, 2, 4).mean((2, 4)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(small, expected)


@pytest.mark.parametrize("height, width, size", [(160, 160, 128), (144, 144, 128), (256, 256, 192), (100, 70, 32)])
def test_resize_is_pillows_box_filter(height, width, size):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    reduced = resize_images(images, size)
    for image, expected in zip(reduced.flatten(0, 1), images.flatten(0, 1)):
        box = Image.fromarray(expected.numpy()).resize((size, size), Image.Resampling.BOX)
        np.testing.assert_allclose(image.numpy(), np.asarray(box), atol=1e-6)


def test_batch_geometry_is_that_of_the_stored_pairs():
    rgba, poses, intrinsics = stored_pairs()
    batch = make_batch(rgba, poses, intrinsics, image_size=16)
    points = torch.rand(4, 5, 3, dtype=torch.double) - 0.5
    pixels = project(intrinsics[:, 0], transform_points(poses[:, 0], points))[..., :2]
    normalized = project(batch.intrinsics[:, 0], transform_points(batch.object_to_camera[:, 0], points.float()))[
        ..., :2
    ]
    torch.testing.assert_close(normalized, (pixels / 8 - 1).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.transforms, pair_transforms(poses).float())
    assert torch.equal(batch.mask, (rgba[..., 3] > 0).float())


def test_the_square_around_an_object():
    alpha = torch.zeros(3, 16, 32)
    alpha[0, 4:8, 10:20] = 1
    alpha[1, 2:14, 5] = 0.5
    alpha[2, :, :] = 0.05  # too faint to count
    squares = object_squares(alpha, margin=1.5)
    expected = [[-0.0625, -0.25, 1.5 * 10 / 32], [-0.65625, 0.0, 1.5 * 12 / 16], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(squares, torch.tensor(expected))


def test_a_crop_shows_its_square_and_goes_back_there():
    images = torch.zeros(2, 1, 32, 32)
    images[0, 0, 8:16, 4:12] = images[1, 0, 20:28, 22:30] = torch.rand(8, 8)
    squares = torch.tensor([[-0.5, -0.25, 0.25], [0.625, 0.5, 0.25]])
    crops = crop(images, squares, 8)
    torch.testing.assert_close(crops[0, 0], images[0, 0, 8:16, 4:12])
    torch.testing.assert_close(crops[1, 0], images[1, 0, 20:28, 22:30])
    torch.testing.assert_close(uncrop(crops, squares, 32), images)
    assert (crop(images, torch.tensor([[-3.0, 0, 0.5]] * 2), 8) == 0).all()


@pytest.mark.parametrize("size", [16, 64])
def test_geometry_of_a_batch_of_objects(size):
    """What is seen in a pixel of the framed images is what the intrinsics and the zoom say."""
    rgba, poses, intrinsics = stored_pairs(size=32)
    rgba[:, :, :, :20] = rgba[:, :, 25:] = 0
    batch = make_batch(rgba, poses, intrinsics, size, margin=1.25)
    points = torch.rand(4, 2, 5, 3) - 0.5
    whole = project(normalize_intrinsics(intrinsics, 32, 32).float(), transform_points(poses.float(), points))[..., :2]
    framed = project(batch.intrinsics, transform_points(batch.object_to_camera, points))[..., :2]
    squares = object_squares(rgba[..., 3].flatten(0, 1) / 255, 1.25).unflatten(0, (4, 2))
    torch.testing.assert_close(framed, whole - squares[:, :, None, :2], atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.zoom, squares[..., 2])
    assert batch.images.shape == (4, 2, 4, size, size)
    covered = batch.images[:, :, 3].flatten(0, 1) > 0.1
    outline = object_squares(covered.float(), 1.0)
    torch.testing.assert_close(outline[:, :2], torch.zeros(8, 2), atol=3 / size, rtol=0)
    torch.testing.assert_close(outline[:, 2], torch.full((8,), 1 / 1.25), atol=3 / size, rtol=0)


def test_objects_of_large_images_are_averaged_not_sampled():
    rgba, poses, intrinsics = stored_pairs(size=128)
    rgba[:] = 255
    checkered = (torch.arange(128)[:, None] + torch.arange(128)) % 2 == 0
    rgba[..., :3] *= checkered[:, :, None]
    images = make_batch(rgba, poses, intrinsics, 16, margin=1.25).images
    torch.testing.assert_close(images[:, :, :3, 6:10, 6:10], torch.full((4, 2, 3, 4, 4), 0.5), atol=0.02, rtol=0)


def test_color_jitter_leaves_silhouette_and_background():
    rgba, poses, intrinsics = stored_pairs()
    images = make_batch(rgba, poses, intrinsics, image_size=16).images
    torch.manual_seed(1)
    jittered = jitter_colors(images, 0.3)
    assert torch.equal(jittered[:, :, 3], images[:, :, 3])
    outside = images[:, :, 3:].expand(-1, -1, 3, -1, -1) == 0
    assert (jittered[:, :, :3][outside] == 0).all()
    assert not torch.allclose(jittered[:, :, :3], images[:, :, :3])
    assert (jittered >= 0).all() and (jittered <= 1).all()


def test_a_background_is_jittered_like_the_object():
    images = torch.rand(2, 2, 4, 8, 8)
    images[:, :, 3] = (torch.rand(2, 2, 8, 8) > 0.5).float()
    images[:, 1, :3] *= images[:, 1, 3:]  # the second views are on black
    jittered = jitter_colors(images, 0.3)
    outside = (images[:, :, 3:] == 0).expand(-1, -1, 3, -1, -1)
    assert (jittered[:, 0, :3][outside[:, 0]] > 0).float().mean() > 0.8
    assert (jittered[:, 1, :3][outside[:, 1]] == 0).all()


def test_mates_are_couples_of_one_shape():
    assert find_mates(torch.tensor([7, 7, 3, 5, 5, 5, 5])).tolist() == [1, 0, 2, 3, 5, 4, 6]
    assert find_mates(torch.tensor([7, 7, 3, 5, 5, 5, 5]), start=15).tolist() == [0, 1, 2, 4, 3, 6, 5]
    assert find_mates(torch.tensor([7])).tolist() == [0]
