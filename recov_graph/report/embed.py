"""What the page's script works on: points, and tokens of cases, as small as they get.

The longer and the more the cases, the less of each: `case_data` keeps all of them in a budget.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recov_graph.report.content import Case, FailureMap
from recov_graph.report.wording import finite, short, shortened, visible
from recov_graph.strips import Repair, Strip

Data = dict[str, Any]
MOST_BYTES = 1_000_000  # of all cases together
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Limits:
    """How much of a case is shown.

    Attributes:
        whole: tokens up to which a trace is shown in whole.
        window: tokens shown around a point of a longer one.
        points: points of repairs that a window is shown around.
        bins: of the overview.
        strips: traces.
        repairs: repairs beside what they started from.
        attempts: in the timeline.
        text: characters of a text.
    """

    whole: int
    window: int
    points: int
    bins: int
    strips: int
    repairs: int
    attempts: int
    text: int


# From all that is worth reading to what is left where there is too much of it.
LIMITS = (
    Limits(600, 300, 6, 400, 8, 24, 60, 4000),
    Limits(450, 240, 3, 300, 6, 16, 40, 2000),
    Limits(300, 160, 2, 240, 4, 12, 30, 1000),
    Limits(160, 100, 1, 160, 3, 8, 20, 500),
    Limits(80, 60, 0, 100, 2, 4, 12, 200),
    Limits(40, 40, 0, 60, 1, 2, 8, 80),
)


def as_json(data: Any) -> str:
    """JSON that may stand in a script element: no text in it can end that or start a comment."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)


def cleaned(data: Any) -> Any:
    """The data with every text in it made `visible` and every number short; keys are ours."""
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, float):
        return short(data)
    if isinstance(data, dict):
        return {key: cleaned(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [cleaned(value) for value in data]
    return data


def map_data(found: FailureMap, cases: Sequence[Case]) -> Data:
    """The columns of a map; of its columns of names, the names and each one's place among them."""
    places = {case.problem: index for index, case in enumerate(cases)}
    columns = {name: getattr(found, name) for name in ("route", "outcome", "regime")}
    columns |= {"task": found.task, "model": found.model, "key": found.key}
    points = {str(i): places[id] for i, id in enumerate(found.problem) if id in places}
    return {
        "features": list(found.features),
        "z": [finite(round(z, 2) for z in column) for column in found.z],
        "raw": [finite(column) for column in found.raw],
        "named": {name: _coded(column) for name, column in columns.items()},
        "cases": points,
    }


def _coded(column: Iterable[str]) -> Data:
    names: dict[str, int] = {}
    at = [names.setdefault(name, len(names)) for name in column]
    return {"names": list(names), "at": at}


def case_data(cases: Sequence[Case]) -> tuple[list[Data], Limits]:
    """Tokens and repairs of each case, and the limits that all that is shown of it is cut to."""
    for limits in LIMITS:
        found = [cleaned(_case(case, limits)) for case in cases]
        size = sum(len(as_json(data).encode()) for data in found)
        if size + sum(_said(case, limits) for case in cases) <= MOST_BYTES:
            break
    return found, limits


def _case(case: Case, limits: Limits) -> Data:
    strips = case.strips[: limits.strips]
    return {
        "strips": [_strip(strip, case.repairs, limits) for strip in strips],
        "moreStrips": len(case.strips) - len(strips),
        "repairs": [_repair(repair, case, limits) for repair in case.repairs[: limits.repairs]],
        "moreRepairs": max(0, len(case.repairs) - limits.repairs),
    }


def _said(case: Case, limits: Limits) -> int:
    """About how many bytes the rest of a case takes."""
    texts = [case.prompt, case.expected]
    for attempt in case.attempts[: limits.attempts]:
        texts += [attempt.explanation, attempt.answer, attempt.text]
    texts += [decision.reason for decision in case.decisions]
    written = sum(len(text[: limits.text].encode(errors="replace")) for text in texts if text)
    return 1000 + 400 * min(len(case.attempts), limits.attempts) + int(1.1 * written)


def _strip(strip: Strip, repairs: Sequence[Repair], limits: Limits) -> Data:
    here = [repair for repair in repairs if repair.base == strip.rollout and repair.at is not None]
    marks = [[_inside(r.at, strip), r.position, r.operator, r.outcome] for r in here]
    return {
        "position": strip.position,
        "length": len(strip),
        "junction": strip.junction,
        "peak": short(strip.pressure[strip.junction]) if len(strip) else None,
        "marks": marks[: limits.repairs],
        "parts": [_part(strip, *span) for span in _spans(strip, [m[0] for m in marks], limits)],
        "overview": _overview(strip.pressure, limits.bins),
        "text": strip.pieces is not None,
    }


def _inside(at: int | None, strip: Strip) -> int:
    return min(max(at or 0, 0), max(len(strip) - 1, 0))


def _spans(strip: Strip, points: Sequence[Any], limits: Limits) -> list[tuple[int, int]]:
    """The spans of tokens that are shown: all, or windows around the junction and some points."""
    length = len(strip)
    if length <= limits.whole:
        return [(0, length)] if length else []
    others = [point for point in dict.fromkeys(points) if point != strip.junction][: limits.points]
    windows = [_window(strip.junction, limits.window, length)]
    windows += [_window(point, limits.window // 3, length) for point in others]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if merged and start <= merged[-1][1] + 10:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _window(point: int, size: int, length: int) -> tuple[int, int]:
    start = max(0, min(point - size // 2, length - size))
    return start, min(length, start + size)


def _part(strip: Strip, start: int, end: int) -> Data:
    part: Data = {
        "start": start,
        "J": finite(strip.pressure[start:end]),
        "path": finite(strip.path[start:end]),
        "coverage": finite(strip.coverage[start:end]),
        "entropy": finite(strip.entropy[start:end]),
    }
    if strip.pieces is not None:
        part["pieces"] = [_piece(piece) for piece in strip.pieces[start:end]]
    return part


def _piece(piece: str) -> str:
    start, more = shortened(piece, 200)
    return f"{start}\u2026 {more:,} more characters" if more else start


def _overview(pressure: Sequence[float], bins: int) -> Data:
    """The highest J of each of at most `bins` stretches of as many tokens."""
    size = max(1, -(-len(pressure) // bins))
    stretches = [pressure[i : i + size] for i in range(0, len(pressure), size)]
    return {"size": size, "J": finite(max(stretch) for stretch in stretches)}


def _repair(repair: Repair, case: Case, limits: Limits) -> Data:
    bases = {strip.rollout: strip.position for strip in case.strips}
    base = None if repair.base is None else bases.get(repair.base)
    return {
        "position": repair.position,
        "operator": repair.operator,
        "outcome": repair.outcome,
        "tokens": repair.tokens,
        "based": repair.base is not None,
        "base": base,
        "at": repair.at,
        "kept": _end(repair.kept, min(limits.text, 300)),
        "failed": _start(repair.failed, limits.text),
        "repaired": _start(repair.repaired, limits.text),
    }


def _start(text: str | None, limit: int) -> list[Any] | None:
    """A text's start with the number of characters left out after it."""
    return None if text is None else list(shortened(text, limit))


def _end(text: str | None, limit: int) -> list[Any] | None:
    """A text's end with the number of characters left out before it."""
    return None if text is None else [text[-limit:], max(0, len(text) - limit)]
