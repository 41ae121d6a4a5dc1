"""Token arrays as compact bytes: a small header, then the array, compressed.

Bytes of a file may be anybody's. What they unpack to is bounded, and nothing but numbers.
"""

from __future__ import annotations

import io
import zlib
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from recov_graph.errors import StoreError
from recov_graph.rollout import TopK
from recov_graph.words import cut

MOST_BYTES = 1 << 29  # of what was packed together: 3 million tokens with 20 candidates
MOST_ARRAYS = 16
DAMAGE = (zlib.error, TokenError)  # the header is Python, of which numpy lets this through
KINDS = "iuf"  # whole and other numbers: neither objects nor texts


def pack(*arrays: NDArray[Any]) -> bytes:
    """Arrays as .npy files one after the other, compressed.

    Raises:
        StoreError: they are too large to be unpacked again.
    """
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    if buffer.tell() > MOST_BYTES:
        raise StoreError(f"token arrays of {buffer.tell():,} bytes are too large to be stored")
    return zlib.compress(buffer.getvalue(), level=1)


def unpack(blob: bytes) -> list[NDArray[Any]]:
    """The arrays that `pack` was given, at least one.

    Raises:
        StoreError: the bytes are damaged, or unpack to more than `pack` makes.
    """
    arrays: list[NDArray[Any]] = []
    try:
        buffer = io.BytesIO(_inflated(blob))
        size = len(buffer.getbuffer())
        while buffer.tell() < size:
            if len(arrays) == MOST_ARRAYS:
                raise ValueError(f"more than {MOST_ARRAYS} arrays")
            _check_header(buffer, size)
            arrays.append(np.load(buffer, allow_pickle=False))
        if not arrays:
            raise ValueError("it is empty")
    except (*DAMAGE, ValueError, EOFError, OSError, TypeError, OverflowError) as error:
        why = cut(" ".join(str(error).split()), 200)
        raise StoreError(f"a token array is damaged ({why}); check the database file") from None
    return arrays


def _inflated(blob: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(blob, MOST_BYTES)
    if not inflater.eof:
        much = f"more than {MOST_BYTES:,} bytes" if inflater.unconsumed_tail else "cut short"
        raise ValueError(much)
    return data


def _check_header(buffer: io.BytesIO, size: int) -> None:
    """Refuse an array that says to be larger than what is there, before room is made for it."""
    start = buffer.tell()
    if npy.read_magic(buffer) != (1, 0):
        raise ValueError("an array of another format")
    shape, _, dtype = npy.read_array_header_1_0(buffer)
    count = 1
    for length in shape:
        count *= length
    if dtype.kind not in KINDS or dtype.hasobject:
        raise ValueError(f"an array of {dtype}")
    if count * dtype.itemsize > size - buffer.tell() or min(shape, default=0) < 0:
        raise ValueError(f"an array that says to have the shape {shape}")
    buffer.seek(start)


def pack_topk(topk: TopK | None) -> bytes | None:
    """Ids as int32 and log-probabilities as float32, or None for none."""
    if topk is None:
        return None
    return pack(topk.ids.astype(np.int32), topk.logprobs.astype(np.float32))


def unpack_topk(blob: bytes | None) -> TopK | None:
    """The lists that `pack_topk` was given.

    Raises:
        StoreError: the bytes are damaged, or no such lists.
    """
    if blob is None:
        return None
    arrays = unpack(blob)
    shapes = {array.shape for array in arrays}
    kinds = "".join(array.dtype.kind for array in arrays)
    if kinds != "if" or len(shapes) != 1 or arrays[0].ndim != 2:
        raise StoreError(f"a token array is damaged (lists of {shapes}); check the database file")
    return TopK(*arrays)
