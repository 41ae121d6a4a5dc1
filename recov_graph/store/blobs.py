"""Token arrays as compact bytes: a small header, then the array, compressed."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import StoreError
from recov_graph.rollout import TopK


def pack(*arrays: NDArray[Any]) -> bytes:
    """Arrays as .npy files one after the other, compressed."""
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    return zlib.compress(buffer.getvalue(), level=1)


def unpack(blob: bytes) -> list[NDArray[Any]]:
    """The arrays that `pack` was given.

    Raises:
        StoreError: the bytes are damaged.
    """
    arrays = []
    try:
        buffer = io.BytesIO(zlib.decompress(blob))
        while buffer.tell() < len(buffer.getbuffer()):
            arrays.append(np.load(buffer, allow_pickle=False))
    except (zlib.error, ValueError, EOFError, OSError) as error:
        raise StoreError(f"a token array is damaged ({error}); check the database file") from None
    return arrays


def pack_topk(topk: TopK | None) -> bytes | None:
    """Ids as int32 and log-probabilities as float32, or None for none."""
    if topk is None:
        return None
    return pack(topk.ids.astype(np.int32), topk.logprobs.astype(np.float32))


def unpack_topk(blob: bytes | None) -> TopK | None:
    """The lists that `pack_topk` was given."""
    return None if blob is None else TopK(*unpack(blob))
