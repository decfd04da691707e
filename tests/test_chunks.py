from __future__ import annotations

import h5py
import numpy as np
import pytest

from data.chunks import fletcher32, pack, unpack_into


@pytest.fixture
def file():
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        yield file


@pytest.mark.parametrize("size", [1, 2, 3, 719, 720, 721, 2**17, 2**17 + 1, 2**18 + 7])
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
def test_checksum_is_that_of_hdf5(file, size, kind):
    values = {"zeros": 0, "ones": 255}.get(kind, np.random.default_rng(size).integers(0, 256, size))
    data = np.broadcast_to(values, size).astype(np.uint8)
    written = file.create_dataset("data", data=data, chunks=(size,), fletcher32=True)
    assert written.id.read_direct_chunk((0,))[1] == data.tobytes() + fletcher32(data.tobytes())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shuffle", [False, True])
def test_hdf5_reads_what_is_packed(file, dtype, shuffle):
    images = np.random.default_rng(0).integers(0, 1000, (2, 9, 7)).astype(dtype)
    filters = dict(compression="gzip", compression_opts=1, shuffle=shuffle, fletcher32=True)
    stored = file.create_dataset("images", (1, *images.shape), dtype, chunks=(1, *images.shape), **filters)
    chunk = pack(images, shuffle)
    stored.id.write_direct_chunk((0, 0, 0, 0), chunk)
    np.testing.assert_array_equal(stored[0], images)

    damaged = bytearray(chunk)
    damaged[len(chunk) // 2] ^= 1
    stored.id.write_direct_chunk((0, 0, 0, 0), bytes(damaged))
    with pytest.raises(OSError):
        stored[0]


def test_what_hdf5_packed_is_unpacked(file):
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 4)).astype(np.uint8)
    filters = dict(compression="gzip", compression_opts=4, fletcher32=True)
    chunk = file.create_dataset("images", data=images, chunks=images.shape, **filters).id.read_direct_chunk((0,) * 4)[1]
    target = np.empty_like(images)
    unpack_into(target, chunk)
    np.testing.assert_array_equal(target, images)


def test_a_damaged_chunk_is_refused():
    """Whichever bit it is: the Adler-32 of images of few colours would miss one in a thousand."""
    images = np.random.default_rng(0).integers(0, 4, 500).astype(np.uint8)
    chunk, target = pack(images, shuffle=False), np.empty_like(images)
    for bit in range(8 * len(chunk)):
        damaged = bytearray(chunk)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="damaged"):
            unpack_into(target, bytes(damaged))


@pytest.mark.parametrize("size", [499, 501])
def test_a_chunk_of_another_size_is_refused(size):
    chunk = pack(np.zeros(500, np.uint8), shuffle=False)
    with pytest.raises(ValueError):
        unpack_into(np.empty(size, np.uint8), chunk)
