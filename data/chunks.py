"""Chunks of image pairs, as HDF5's filters write and read them, but faster.

HDF5 deflates with zlib; libdeflate writes the same format, which every HDF5 reads. (ISA-L would be five times as fast as
zlib, but now and then, one image in ten thousand, it writes other bytes for the same image.)
"""

from __future__ import annotations

import deflate
import numpy as np


def pack(images: np.ndarray, shuffle: bool) -> bytes:
    """A chunk with the filters shuffle (if asked for), deflate and Fletcher-32.

    Args:
        images: contiguous, in the byte order of the file.
    """
    values = images.view(np.uint8)
    if shuffle:  # all first bytes, then all second ones, and so on
        values = np.ascontiguousarray(values.reshape(-1, images.itemsize).T)
    deflated = bytes(deflate.zlib_compress(values, 1))
    return deflated + fletcher32(deflated)


def unpack_into(target: np.ndarray, chunk: bytes) -> None:
    """The inverse of :func:`pack` without shuffle.

    Args:
        target: contiguous, of the chunk's shape and type.

    Raises:
        ValueError: the chunk is damaged.
    """
    deflated, checksum = chunk[:-4], chunk[-4:]
    if fletcher32(deflated) != checksum:
        raise ValueError("a chunk is damaged")
    try:
        values = deflate.zlib_decompress(deflated, target.nbytes)
    except deflate.DeflateError as error:
        raise ValueError("a chunk is damaged") from error
    target.reshape(-1)[:] = np.frombuffer(values, target.dtype)


def fletcher32(data: bytes) -> bytes:
    """The checksum that HDF5's filter appends: of big-endian 16-bit words, the last one filled up with a zero."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    total = weighted = 0
    for start in range(0, len(words), len(_WEIGHTS)):
        block = words[start : start + len(_WEIGHTS)]
        weighted += len(block) * total + int(block @ _WEIGHTS[-len(block) :])
        total += int(block.sum())
    # HDF5 folds the sums in place of dividing them: a multiple of 65535 becomes that, unless it is zero.
    low, high = (value and (value - 1) % 65535 + 1 for value in (total, weighted))
    return (high << 16 | low).to_bytes(4, "little")


_WEIGHTS = np.arange(2**16, 0, -1, dtype=np.uint64)  # of a block's words in the sum of its running sums
