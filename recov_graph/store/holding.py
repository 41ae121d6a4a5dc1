"""A name that one process holds at a time: gone with the process, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows; there nobody is kept out
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a file of that name, removed afterwards; false where somebody else holds it."""
    if fcntl is None:
        yield True
        return
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_there(path, file.fileno()):
                continue  # who held it before has just removed it
            try:
                yield True
            finally:
                if _is_there(path, file.fileno()):
                    path.unlink(missing_ok=True)
            return


@contextmanager
def held_in_time(path: Path, seconds: float) -> Iterator[bool]:
    """As `held`, after waiting for so long at most."""
    ends = time.monotonic() + seconds
    while True:
        with held(path) as mine:
            if mine or time.monotonic() > ends:
                yield mine
                return
        time.sleep(0.1)


def _is_there(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
