"""How many flips of built-in shapes no detector could avoid: python benchmarks/best_flips.py chair

A shape that is the same after half a turn about the y axis has no front: half of the pairs of its views flip, whoever
looks. A shape counts as one if its surface lies as near to the turned one as to other samples of itself, within 30 %.
Colours, which may tell the front all the same, are not looked at: so this is the most that there can be.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from render.shapes import CATEGORIES, generate

SHAPES, SAMPLES = 2000, 4000
TOLERANCE = 1.3
HALF_TURN = np.array([-1, 1, -1])


def distance(points: np.ndarray, others: np.ndarray) -> float:
    """Of all but the farthest twentieth of the points to the nearest of the others."""
    return float(np.quantile(cKDTree(others).query(points)[0], 0.95))


def has_no_front(category: str, index: int) -> bool:
    mesh = generate(category, 0, index)
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, others = (trimesh.sample.sample_surface(surface, SAMPLES, seed=seed)[0] for seed in (0, 1))
    return distance(points * HALF_TURN, others) < TOLERANCE * distance(points, others)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("category", choices=CATEGORIES)
    category = parser.parse_args().category
    share = np.mean([has_no_front(category, index) for index in tqdm(range(SHAPES), disable=None)])
    print(f"{share:.2%} of {SHAPES} shapes have no front: at most {share / 2:.2%} of all pairs flip whoever looks")
