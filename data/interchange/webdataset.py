"""Tar files of pairs for the webdataset package: one per shard, one sample per pair."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from data.atomic import replacing
from data.interchange.common import encode_png, encode_rgba, export_folder
from data.shard import ShardReader


def export_webdataset(dataset: Path, out: Path) -> None:
    """``train-000000.tar`` and so on. A sample is ``view0.png``, ``view1.png`` (RGBA, straight alpha), ``depth0.png``,
    ``depth1.png`` (16 bits, coded as ``depth_offset`` and ``depth_scale`` say) and ``json`` (poses and the rest).
    """
    with export_folder(dataset, out, "webdataset") as work:
        if work is None:
            return
        manifest, bar = work
        for entry in manifest.shards:
            path = out / f"{entry.split}-{int(Path(entry.file).stem.split('-')[1]):06d}.tar"
            if not path.exists():
                _write_tar(path, dataset / entry.file)
            bar.update(entry.models)


def _write_tar(path: Path, shard: Path) -> None:
    with (
        replacing(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
        ShardReader(shard) as reader,
    ):
        model_index = reader.read("model_index")
        for row in range(reader.num_pairs):
            key = f"{path.stem}-{row:06d}"
            for extension, content in _encode_pair(reader, row, reader.models[model_index[row]].model_id).items():
                member = tarfile.TarInfo(f"{key}.{extension}")  # owner and time stay zero
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _encode_pair(reader: ShardReader, row: int, model_id: str) -> dict[str, bytes]:
    rgba, depth = reader.read("rgba", row), reader.read("depth", row)
    files = {}
    for view in range(2):
        files[f"view{view}.png"] = encode_rgba(rgba[view])
        files[f"depth{view}.png"] = encode_png(depth[view])
    numbers = {name: reader.read(name, row) for name in ("object_to_camera", "intrinsics", "R", "t")}
    record = {
        "model_id": model_id,
        "split": reader.header.split,
        "depth_offset": reader.header.depth_offset,
        "depth_scale": reader.header.depth_scale,
        **{name: np.asarray(value).tolist() for name, value in numbers.items()},
    }
    files["json"] = json.dumps(record).encode()
    return files
