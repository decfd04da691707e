from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data.schema import FIELDS, relative_motion, split_of
from tests.made_up_pairs import DEPTH_OFFSET, DEPTH_SCALE, make_dataset, make_model


def test_split_depends_only_on_seed_and_id():
    # Written down on purpose: a change would move models between the splits of datasets that exist.
    ids = ["airplane-s0-000000", "02691156-a", "x", "y", "z", "w"]
    assert [split_of(0, name, (0.5, 0.25, 0.25)) for name in ids] == ["train", "train", "test", "train", "val", "val"]


@pytest.mark.parametrize(
    "fractions, only",
    [((1, 0, 0), "train"), ((0, 1, 0), "val"), ((0, 0, 1), "test"), ((0, 0, 7.5), "test"), ((0.3, 0, 0), "train")],
)
def test_a_split_with_every_share_gets_every_model(fractions, only):
    assert {split_of(3, f"m{i}", fractions) for i in range(500)} == {only}


@pytest.mark.parametrize("fractions", [(0.7, 0.3, 0), (0.9, 0.1, 0), (0.1, 0.2, 0)])
def test_a_split_without_a_share_stays_empty(fractions):
    assert "test" not in {split_of(1, f"m{i}", fractions) for i in range(3000)}


def test_split_shares():
    splits = [split_of(7, f"m{i}", (0.8, 0.1, 0.1)) for i in range(20_000)]
    shares = [splits.count(name) / len(splits) for name in ("train", "val", "test")]
    assert np.allclose(shares, (0.8, 0.1, 0.1), atol=0.01)


def test_relative_motion_takes_view_0_to_view_1():
    pose = make_model(0).object_to_camera
    rotation, translation = relative_motion(pose)
    point = np.array([0.3, -0.2, 0.9])
    first, second = ((pose[:, view, :3, :3] @ point) + pose[:, view, :3, 3] for view in range(2))
    assert np.allclose((rotation @ first[..., None])[..., 0] + translation, second, atol=1e-12)


def test_the_reader_in_the_documentation_works(tmp_path):
    folder = make_dataset(tmp_path / "set", range(3), split="train")
    text = (Path(__file__).parents[1] / "data" / "FORMAT.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 5
    names = {"path": folder / "train-00000.h5", "pair": 4}
    exec(code, names)
    model = make_model(1, split="train")
    np.testing.assert_array_equal(names["rgba"], model.rgba[1])
    np.testing.assert_array_equal(names["K"], model.intrinsics[1])
    np.testing.assert_allclose(names["z"], DEPTH_OFFSET + model.depth[1] * DEPTH_SCALE)
    moved = names["R"] @ model.object_to_camera[1, 0, :3, 3] + names["t"]
    np.testing.assert_allclose(moved, model.object_to_camera[1, 1, :3, 3])


def test_the_documentation_lists_every_array():
    text = (Path(__file__).parents[1] / "data" / "FORMAT.md").read_text()
    assert all(f"`{name}`" in text for name in FIELDS)
