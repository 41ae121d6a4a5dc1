"""Bringing shards together: fetched from other machines, and merged into the store."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from recov_graph.distributed.cluster import Actor
from recov_graph.distributed.worker import PATIENCE, SHARDS, lock_of
from recov_graph.errors import RecovGraphError, StoreError
from recov_graph.merging import merge
from recov_graph.store import TraceStore
from recov_graph.store.holding import held_in_time
from recov_graph.store.location import Address, is_server, shown

PIECE = 8 << 20  # bytes of a shard fetched at a time


def default_shards(store: Address) -> Path | None:
    """Where the shards of a store's runs are when nobody says: beside it."""
    return None if is_server(store) else Path(f"{store}.shards")


def take_in(store: TraceStore, folder: Path, *, keep: bool = False) -> bool:
    """Merge all shards of a folder into a store, and remove them; whether all of them were whole.

    Args:
        store: what is merged into.
        folder: of one run.
        keep: whether they are kept, in a folder named "...merged" beside this one, as they are
            where one was damaged: what could not be read of it is worked out again.

    Raises:
        StoreError: one cannot be read, or the store cannot be written; all are still there.
    """
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        return True
    try:
        with ExitStack() as holding:
            for shard in shards:
                if not holding.enter_context(held_in_time(lock_of(shard), PATIENCE)):
                    raise StoreError(f"a worker still writes to {shard}; see `ray status`")
            merged = merge(shards, store.address)
    except (RecovGraphError, OSError) as error:
        raise StoreError(
            f"the shards could not be merged: {error}; they are in {folder}: `recov-graph merge "
            f"{folder}/{SHARDS} --db {shown(store.address)}` tries again"
        ) from error
    whole = all(shard.salvaged is None for shard in merged.shards)
    if keep or not whole:
        folder.rename(_free(folder))
    else:
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return whole


def fetch(actor: Actor, path: str, to: Path, seconds: float) -> None:
    """Bring a shard here that another machine has and nobody writes to.

    Raises:
        DeadWorkerError: the worker there is no more.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    whole = to.with_suffix(".part")
    size = actor.told(actor.ask("size", path), seconds)
    with whole.open("wb") as file:
        for at in range(0, size, PIECE):
            file.write(actor.told(actor.ask("piece", path, at, PIECE), seconds))
    whole.replace(to)


def _free(folder: Path) -> Path:
    """A name beside the folder's that is not taken."""
    number, name = 1, folder.with_name(f"{folder.name}.merged")
    while name.exists():
        number += 1
        name = folder.with_name(f"{folder.name}.merged{number}")
    return name
