"""What can be seen of a problem token by token: its measured failures, and repairs beside them.

Plain data for whoever draws it. Texts are those of models: nothing in them may be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recov_graph.errors import StoreError
from recov_graph.signals import TokenSignals
from recov_graph.store import TraceStore
from recov_graph.store.blobs import unpack
from recov_graph.store.following import measured_samples, rollouts_and_repairs

Row = dict[str, Any]


@dataclass(frozen=True)
class Strip:
    """One measured failed rollout, token by token.

    Attributes:
        rollout: its id.
        position: which attempt of the problem it was.
        junction: index of the token with the highest demotion pressure.
        pressure: demotion pressure J [L], nats.
        path: path deformation [L], nats.
        coverage: coverage deformation [L], nats.
        entropy: entropy of the specialist [L], nats.
        pieces: text of each of the L tokens; None where it was not stored. See `Rollout.pieces`.
    """

    rollout: str
    position: int
    junction: int
    pressure: tuple[float, ...]
    path: tuple[float, ...]
    coverage: tuple[float, ...]
    entropy: tuple[float, ...]
    pieces: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.pressure)


@dataclass(frozen=True)
class Repair:
    """An intervention beside the failed rollout that it started from.

    Attributes:
        attempt: its id.
        position: which attempt of the problem it was.
        operator: what was carried out.
        outcome: "rescued", "failed" or "unscored".
        tokens: what it cost, all passes counted.
        base: id of the measured rollout that it went on from; None where it went on from none.
        at: the token from which on it acted; None where it acts throughout or afresh.
        kept: text that it has in common with the base, up to `at`.
        failed: how the base went on from there.
        repaired: how the intervention went on from there; its whole text where there is no base.
    """

    attempt: str
    position: int
    operator: str
    outcome: str
    tokens: int
    base: str | None
    at: int | None
    kept: str | None
    failed: str | None
    repaired: str | None


def problem_strips(store: TraceStore, problem_id: str) -> list[Strip]:
    """The measured failed samples of a problem by the store's id of it, in order.

    Raises:
        StoreError: what is stored of a rollout is damaged.
    """
    return [_strip(row) for row in measured_samples(store, problem_id)]


def problem_repairs(store: TraceStore, problem_id: str) -> list[Repair]:
    """The interventions on a problem by the store's id of it, in order.

    Raises:
        StoreError: what is stored of a rollout is damaged.
    """
    rows = rollouts_and_repairs(store, problem_id)
    bases = [row for row in rows if row["outcome"] is None]
    return [_repair(row, bases) for row in rows if row["outcome"] is not None]


def _strip(row: Row) -> Strip:
    arrays = unpack(row["signals"])
    length, junction = row["length"], row["junction"]
    shape = (len(TokenSignals._fields), length)
    if len(arrays) != 1 or arrays[0].shape != shape or not 0 <= junction < length:
        raise _damaged(row, f"signals of shape {shape} with a junction among them")
    if not np.isfinite(arrays[0]).all():
        raise _damaged(row, "signals that are finite")
    signals = TokenSignals(*arrays[0].astype(np.float64))
    return Strip(
        rollout=row["id"],
        position=row["position"],
        junction=junction,
        pressure=tuple(signals.j.tolist()),
        path=tuple(signals.delta_path.tolist()),
        coverage=tuple(signals.g_cov.tolist()),
        entropy=tuple(signals.entropy.tolist()),
        pieces=_pieces(row),
    )


def _repair(row: Row, bases: Sequence[Row]) -> Repair:
    details = _details(row)
    at = details.get("position")
    if not isinstance(at, int) or isinstance(at, bool) or at < 0:
        at = None
    text, base, kept = _text(row), None, None
    if details.get("anchor") == "replay" and at is not None:
        base = _base(row, bases, at)
        kept = None if base is None else _kept(base, at, text)
    whole = None if base is None else _text(base)
    start = len(kept or "")
    return Repair(
        attempt=row["id"],
        position=row["position"],
        operator=row["operator"],
        outcome=row["outcome"],
        tokens=row["tokens"],
        base=None if base is None else base["id"],
        at=at,
        kept=kept,
        failed=None if whole is None else whole[start:],
        repaired=None if text is None else text[start:],
    )


def _base(row: Row, bases: Sequence[Row], at: int) -> Row | None:
    """The measured rollout that a replay kept the first tokens of.

    It takes them in turn, decision by decision; what was measured is stored, and whose turn it
    was, but not which one it took. Texts tell where that is not so.
    """
    if not bases:
        return None
    turn = (row["step"] or 0) % len(bases)
    text = _text(row)
    for base in (*bases[turn:], *bases[:turn]):
        if 0 <= at < base["length"] and _may_start(text, base, at):
            return base
    return None


def _may_start(text: str | None, base: Row, at: int) -> bool:
    """Whether nothing tells that a text does not start with the first tokens of a base."""
    return text is None or text.startswith(_spelled(base, at)[0])


def _kept(base: Row, at: int, text: str | None) -> str | None:
    """The text of the first tokens of a base or, where that is not known, what both texts share."""
    whole = _text(base)
    if whole is None or text is None:
        return None
    spelled, exactly = _spelled(base, at)
    return spelled if exactly else _shared(whole, text)


def _spelled(base: Row, at: int) -> tuple[str, bool]:
    """How the first tokens of a base start, as far as is known, and whether that is all of it.

    Pieces need not spell the text: a character may span tokens, and special tokens have none.
    """
    pieces, whole = _pieces(base), _text(base)
    if pieces is None or whole is None:
        return "", at == 0
    spelled = "".join(pieces[:at])
    start = _shared(spelled, whole)
    return start, start == spelled


def _shared(one: str, other: str) -> str:
    """How both texts start."""
    pairs = enumerate(zip(one, other, strict=False))
    end = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[:end]


def _text(row: Row) -> str | None:
    """The text, where it is one: a hash is none."""
    text = row["text"] if row["store_text"] == "full" else None
    return None if text is None else str(text)


def _pieces(row: Row) -> tuple[str, ...] | None:
    if row["pieces"] is None or row["store_text"] != "full":
        return None
    pieces = _json(row, "pieces")
    if not (isinstance(pieces, list) and len(pieces) == row["length"]):
        raise _damaged(row, f"{row['length']} pieces of text")
    return tuple(map(str, pieces))


def _details(row: Row) -> Row:
    details = {} if row["details"] is None else _json(row, "details")
    return details if isinstance(details, dict) else {}


def _json(row: Row, column: str) -> Any:
    try:
        return json.loads(row[column])
    except (ValueError, RecursionError):
        raise _damaged(row, f"JSON in {column!r}") from None


def _damaged(row: Row, expected: str) -> StoreError:
    return StoreError(
        f"what is stored of rollout {row['id']} is damaged: there should be {expected}; "
        "check the database file"
    )
