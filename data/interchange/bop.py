"""The BOP format (bop.felk.cvut.cz): one scene per model, two images per pair."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np

from data.atomic import temporary_path, write_bytes
from data.errors import UserError
from data.interchange.common import encode_png, export_folder, locate_models, read_parts
from data.manifest import Manifest, load_manifest
from data.shard import ShardReader

MM_PER_UNIT = 1000.0  # BOP measures in millimetres: an object unit is taken for a metre
_FOLDERS = ("rgb", "depth", "mask", "mask_visib")


def export_bop(dataset: Path, out: Path) -> None:
    """``SPLIT/SCENE/`` with ``rgb``, ``depth``, ``mask``, ``mask_visib``, ``scene_camera.json``, ``scene_gt.json``
    and ``scene_gt_info.json``; scene and object id number the models from 1, images 2p and 2p + 1 are pair p.
    ``objects.json`` maps object ids to models.

    Raises:
        UserError: the pairs show deformed models, for which the format has no place.
    """
    _refuse_deformed(dataset)
    with export_folder(dataset, out, "bop") as work:
        if work is None:
            return
        manifest, bar = work
        places = locate_models(dataset, manifest)
        scale = _depth_scale(dataset, manifest)
        objects = {}
        for number, entry in enumerate(manifest.models, start=1):
            objects[number] = {"model_id": entry.model_id, "split": entry.split, "source": entry.source}
            scene = out / entry.split / f"{number:06d}"
            if not scene.exists():
                _write_scene(scene, places[entry.model_id], number, scale)
            bar.update()
        write_bytes(out / "objects.json", _encode_json(objects))


def _refuse_deformed(dataset: Path) -> None:
    for entry in load_manifest(dataset).shards:
        with ShardReader(dataset / entry.file) as reader:
            if reader.header.deforms:
                raise UserError(
                    f"{dataset}: its pairs are deformed, each in a way of its own, and BOP has one rigid model for all "
                    "images of an object: render without --stretch and --warp, or export to webdataset"
                )


def _depth_scale(dataset: Path, manifest: Manifest) -> float:
    """Millimetres per step of the 16-bit depth images: the finest of whole hundredths that spans every shard."""
    farthest = 0.0
    for entry in manifest.shards:
        with ShardReader(dataset / entry.file) as reader:
            farthest = max(farthest, reader.header.depth_offset + 65535 * reader.header.depth_scale)
    return max(1, math.ceil(farthest * MM_PER_UNIT / 65535 * 100)) / 100


def _write_scene(scene: Path, places: list[tuple[Path, int]], number: int, scale: float) -> None:
    temporary = temporary_path(scene)
    for folder in _FOLDERS:
        (temporary / folder).mkdir(parents=True)
    cameras, poses, infos = {}, {}, {}
    for header, model in read_parts(places):
        for row, view in itertools.product(range(len(model.rgba)), range(2)):
            image = len(cameras)
            coded, pose = model.depth[row, view], model.object_to_camera[row, view]
            mask = coded > 0
            millimetres = (header.depth_offset + coded * header.depth_scale) * mask * MM_PER_UNIT
            _write_pictures(temporary, image, model.rgba[row, view, ..., :3], millimetres / scale, mask)
            cameras[image] = {"cam_K": _camera_matrix(model.intrinsics[row, view]), "depth_scale": scale}
            rotation, translation = pose[:3, :3].ravel().tolist(), (pose[:3, 3] * MM_PER_UNIT).tolist()
            poses[image] = [{"cam_R_m2c": rotation, "cam_t_m2c": translation, "obj_id": number}]
            infos[image] = [_describe_mask(mask)]
    (temporary / "scene_camera.json").write_bytes(_encode_json(cameras))
    (temporary / "scene_gt.json").write_bytes(_encode_json(poses))
    (temporary / "scene_gt_info.json").write_bytes(_encode_json(infos))
    os.replace(temporary, scene)


def _write_pictures(scene: Path, image: int, rgb: np.ndarray, depth: np.ndarray, mask: np.ndarray) -> None:
    silhouette = encode_png(mask.astype(np.uint8) * 255)
    (scene / "rgb" / f"{image:06d}.png").write_bytes(encode_png(rgb))
    (scene / "depth" / f"{image:06d}.png").write_bytes(encode_png(depth.round().astype(np.uint16)))
    (scene / "mask" / f"{image:06d}_000000.png").write_bytes(silhouette)
    (scene / "mask_visib" / f"{image:06d}_000000.png").write_bytes(silhouette)


def _camera_matrix(intrinsics: np.ndarray) -> list[float]:
    # BOP's (0, 0) is the centre of the top-left pixel, ours its corner.
    shifted = intrinsics.copy()
    shifted[:2, 2] -= 0.5
    return shifted.ravel().tolist()


def _describe_mask(mask: np.ndarray) -> dict:
    """An entry of ``scene_gt_info.json``; there is no mesh here, so it tells of the part within the image alone."""
    count = int(mask.sum())
    box = [-1, -1, -1, -1]
    if count:
        rows, columns = np.nonzero(mask)
        low, high = (columns.min(), rows.min()), (columns.max(), rows.max())
        box = [int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])]
    return {
        "bbox_obj": box,
        "bbox_visib": box,
        "px_count_all": count,
        "px_count_valid": count,
        "px_count_visib": count,
        "visib_fract": 1.0 if count else 0.0,
    }


def _encode_json(entries: dict[int, object]) -> bytes:
    """One entry per line, as the BOP toolkit writes it."""
    lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in entries.items())
    return f"{{\n{lines}\n}}\n".encode()
