"""A tiny made-up dataset of coloured balls, and a detector that knows the truth about it;
for the evaluation's tests."""

from types import SimpleNamespace

import numpy as np

from data.manifest import Manifest, ShardEntry, file_sha256, save_manifest, shard_name
from data.schema import ModelPairs
from data.shard import ModelEntry, write_shard
from train.detector import Detections

SIZE = 32
DISTANCE = 30.0
# no symmetry, so that the rotation is determined
BALLS = np.array([[0.0, 0.0, -0.9], [0.8, 0.1, 0.2], [-0.8, 0.1, 0.2], [0.0, 0.5, 0.8], [0.1, -0.4, 0.4]])
NAMES = ("nose", "right", "left", "fin", "belly")
COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 220], [230, 200, 40], [180, 60, 200]])


def look_at(azimuth: float, elevation: float) -> np.ndarray:
    """Pose of a camera at an azimuth (0 = in front, 90 = at the object's right) and elevation, degrees."""
    a, e = np.radians([azimuth, elevation])
    position = DISTANCE * np.array([np.sin(a) * np.cos(e), np.sin(e), -np.cos(a) * np.cos(e)])
    forward = -position / DISTANCE
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ position
    return pose


def intrinsics(size: int = SIZE) -> np.ndarray:
    focal = size / 2 / np.tan(np.radians(2.5))
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def render_balls(balls: np.ndarray, pose: np.ndarray, size: int = SIZE, radius: float = 0.25):
    """Orthographic-enough picture of balls: rgba uint8 (size, size, 4) and z-depth (size, size), 0 = background."""
    k = intrinsics(size)
    rgba, depth = np.zeros((size, size, 4), np.uint8), np.zeros((size, size))
    y, x = np.mgrid[:size, :size] + 0.5
    camera = balls @ pose[:3, :3].T + pose[:3, 3]
    for i in np.argsort(-camera[:, 2]):
        px, py, z = camera[i]
        scale = k[0, 0] / z
        inside = 1 - ((x - k[0, 2] - px * scale) ** 2 + (y - k[1, 2] - py * scale) ** 2) / (radius * scale) ** 2
        hit = inside > 0
        depth[hit] = z - radius * np.sqrt(inside[hit])
        rgba[hit] = [*COLORS[i % len(COLORS)], 255]
    return rgba, depth


def make_dataset(folder, models: int = 3, pairs: int = 4, seed: int = 0, category: str = "airplane"):
    """Write a dataset whose test split has ``models`` models of slightly different shapes."""
    rng = np.random.default_rng(seed)
    offset, scale = DISTANCE - 2, 4 / 65535
    records = []
    for m in range(models):
        balls = BALLS * rng.uniform(0.9, 1.1, 3)
        poses = np.stack(
            [[look_at(rng.uniform(-180, 180), rng.uniform(5, 70)) for _ in range(2)] for _ in range(pairs)]
        )
        drawn = [[render_balls(balls, pose) for pose in pair] for pair in poses]
        depth = np.array([[d for _, d in pair] for pair in drawn])
        coded = np.where(depth > 0, np.round((depth - offset) / scale), 0).astype(np.uint16)
        rgba = np.array([[image for image, _ in pair] for pair in drawn])
        k = np.broadcast_to(intrinsics(), (pairs, 2, 3, 3)).copy()
        records.append(ModelPairs(f"balls-{m}", "test", "made up", 1, rgba, coded, poses, k, balls.astype(np.float32)))
    folder.mkdir(parents=True)
    shard = folder / shard_name("test", 0)
    write_shard(shard, "test", records, {"seed": seed}, NAMES, offset, scale)
    entry = ShardEntry(shard.name, "test", models * pairs, models, shard.stat().st_size, file_sha256(shard))
    entries = [ModelEntry(r.model_id, "test", r.source, r.faces) for r in records]
    save_manifest(folder, Manifest(category, seed, {"seed": seed}, [entry], entries))
    return folder


class Oracle:
    """A detector that looks the pose of an image up and returns the balls' centres, with noise per image.

    Args:
        dataset: the PairDataset it knows. noise: pixels and object units. axes: flags it gives.
    """

    def __init__(self, dataset, noise: float = 0.0, axes=("x", "z")):
        self.config = SimpleNamespace(axes=axes)
        self.noise = noise
        self.poses = {}
        self.calls = 0
        for i in range(len(dataset)):
            item = dataset[i]
            balls = dataset.semantic_keypoints[item["shape_index"]].numpy().astype(float)
            for view in range(2):
                self.poses[item["rgba"][view].numpy().tobytes()] = (balls, item["object_to_camera"][view].numpy())

    def detect(self, rgba) -> Detections:
        self.calls += 1
        leading, size, side = rgba.shape[:-3], rgba.shape[-2], rgba.shape[-2] // 2
        keypoints, ends, flags, maps = [], [], [], []
        grid = np.stack(np.meshgrid(*[np.arange(side) * 2 + 1.0] * 2), -1)
        for image in np.asarray(rgba).reshape(-1, size, size, 4):
            balls, pose = self.poses[image.tobytes()]
            rng = np.random.default_rng(image.astype(np.uint64).sum())
            camera = balls @ pose[:3, :3].T + pose[:3, 3]
            uv = camera[:, :2] / camera[:, 2:] * intrinsics(size)[0, 0] + size / 2
            points = np.concatenate([uv, camera[:, 2:]], 1)
            points = points + self.noise * rng.normal(size=points.shape)
            keypoints.append(points)
            columns = [{"x": 0, "z": 2}[axis] for axis in self.config.axes]
            flags.append(pose[0, columns] > 0)
            ends.append(np.zeros((len(columns), 2, 2)))
            bumps = np.exp(-0.1 * np.square(grid[None] - points[:, None, None, :2]).sum(-1))
            maps.append(bumps / bumps.sum((1, 2), keepdims=True))
        found = (np.float32(keypoints), np.float32(maps), np.float32(ends), np.array(flags))
        return Detections(*(values.reshape(*leading, *values.shape[1:]) for values in found))
