"""From stored pairs to network input."""

import torch

from data.geometry import pair_transforms, project, transform_points
from tests.test_geometry import random_rotation, rigid
from train.batches import jitter_colors, make_batch, mirror_pairs, resize_images


def stored_pairs(count: int = 4, size: int = 16):
    torch.manual_seed(0)
    alpha = (torch.rand(count, 2, size, size, 1) > 0.5) * 255
    rgb = (torch.rand(count, 2, size, size, 3) * alpha).round()
    rgba = torch.cat([rgb, alpha], dim=-1).to(torch.uint8)
    poses = rigid(random_rotation(count, 2), [0.1, 0.2, 30])
    focal = 180.0
    intrinsics = torch.tensor([[focal, 0, size / 2 + 1], [0, focal, size / 2], [0, 0, 1]]).double().expand(count, 2, 3, 3)
    return rgba, poses, intrinsics


def test_resize_by_area_is_the_mean():
    rgba = (torch.rand(2, 8, 8, 4) * 255).to(torch.uint8)
    small = resize_images(rgba, 4)
    expected = rgba.float().reshape(2, 4, 2, 4, 2, 4).mean((2, 4)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(small, expected)


def test_batch_geometry_is_that_of_the_stored_pairs():
    rgba, poses, intrinsics = stored_pairs()
    batch = make_batch(rgba, poses, intrinsics, image_size=16)
    points = torch.rand(4, 5, 3, dtype=torch.double) - 0.5
    pixels = project(intrinsics[:, 0], transform_points(poses[:, 0], points))[..., :2]
    normalized = project(batch.intrinsics[:, 0], transform_points(batch.object_to_camera[:, 0], points.float()))[..., :2]
    torch.testing.assert_close(normalized, (pixels / 8 - 1).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.transforms, pair_transforms(poses).float())
    assert torch.equal(batch.mask, (rgba[..., 3] > 0).float())


def test_mirrored_pairs_show_the_mirrored_object():
    rgba, poses, intrinsics = stored_pairs()
    batch = make_batch(rgba, poses, intrinsics, image_size=16)
    chosen = torch.tensor([True, False, True, False])
    mirrored = mirror_pairs(batch, chosen)
    for name in vars(batch).keys() - {"labels"}:
        assert torch.equal(getattr(mirrored, name)[1], getattr(batch, name)[1]), name
    assert torch.equal(mirrored.images[0], batch.images[0].flip(-1))

    points = torch.rand(4, 5, 3) - 0.5
    seen = [project(b.intrinsics, transform_points(b.object_to_camera, p.unsqueeze(1).expand(-1, 2, -1, -1)))
            for b, p in ((batch, points), (mirrored, points * torch.tensor([-1.0, 1, 1])))]  # fmt: skip
    torch.testing.assert_close(seen[1][0], seen[0][0] * torch.tensor([-1.0, 1, 1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.det(mirrored.object_to_camera[0, 0, :3, :3]), torch.tensor(1.0))
    moved = transform_points(mirrored.transforms[:, 0], transform_points(mirrored.object_to_camera[:, 0], points))
    torch.testing.assert_close(moved, transform_points(mirrored.object_to_camera[:, 1], points), atol=1e-4, rtol=0)


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
