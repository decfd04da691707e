"""The pairs of a dataset in formats that other programs read. FORMAT.md says how each looks."""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError

FORMATS = ("tfrecord", "webdataset", "bop")


def export(dataset: Path, out: Path, to: str) -> None:
    """Write all pairs of a dataset folder into a new folder ``out``, in one of ``FORMATS``.

    Killed and called again, it goes on; the bytes depend on the dataset alone.

    Raises:
        UserError: an unknown format, a damaged dataset, one that the format cannot hold, or ``out`` holds other files.
    """
    if to == "tfrecord":
        from data.interchange.tfrecord import export_tfrecord as write
    elif to == "webdataset":
        from data.interchange.webdataset import export_webdataset as write
    elif to == "bop":
        from data.interchange.bop import export_bop as write
    else:
        raise UserError(f"--to {to}: no such format: choose one of {', '.join(FORMATS)}")
    write(Path(dataset), Path(out))
