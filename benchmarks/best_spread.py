"""The least 3D-SE that any detector can reach with the default cameras.

    python benchmarks/best_spread.py

The official data, and ours, move the camera by up to 0.2 object units along each object axis after it was aimed. From
30 units away, what that does to an object's depth changes its size in the image by less than a pixel, so the depth of
the object as a whole cannot be seen. Here a detector knows all else, and takes the middle of the depths that remain
possible: how far the camera was moved to the side is seen, and bounds how far it can have been moved forward.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from render.views import ViewSettings, sample_pair
from train.eval.metrics import keypoint_spread

VIEWS = 100_000


def main() -> None:
    settings = ViewSettings()
    rng = np.random.default_rng(0)
    poses = np.concatenate([sample_pair(rng, settings)[0] for _ in range(VIEWS // 2)])
    forward = poses[:, 2, :3]  # the camera's z axis in the object frame
    shift = settings.distance[0] * forward - np.einsum("vij,vi->vj", poses[:, :3, :3], poses[:, :3, 3])
    along = (shift * forward).sum(1)
    across, limits = shift - along[:, None] * forward, settings.shift * np.sign(forward)
    least, most = ((-limits - across) / forward).max(1), ((limits - across) / forward).min(1)
    points = (along - (least + most) / 2)[:, None, None] * forward[:, None]
    print(f"3D-SE of a detector that knows all but the depth of the whole: {keypoint_spread(points)[0]:.3f}")


if __name__ == "__main__":
    main()
