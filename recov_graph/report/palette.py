"""Colours and marks of a report's figures, as plain data: the page and the pictures share them.

Derived from Okabe and Ito's colours, moved until the names below can be told apart with protanopia
and deuteranopia too, and until each stands out from its paper by 3:1 or more.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from recov_graph.report.content import NOT_ROUTED, STOP

THEMES = ("light", "dark")
PAPER = {"light": "#ffffff", "dark": "#14171a"}
INK = {"light": "#1b1f24", "dark": "#e9ebee"}  # text
SOFT = {"light": "#565d66", "dark": "#a3abb5"}  # text that comes second
LINE = {"light": "#d3d7dc", "dark": "#3a4047"}  # grids and frames
ACCENT = {"light": "#016fc3", "dark": "#77a7fb"}  # the one hue of shades
OPERATORS = {
    "light": {
        "retry": "#016fc3",
        "dense_steer": "#e74d05",
        "sparse_steer": "#178250",
        "sparse_steer_random": "#749b40",
        "local_temp": "#9c861f",
        "temp_lift": "#743c10",
        "replan": "#a13f82",
        "extend": "#0b9ac6",
        "escalate": "#581072",
        STOP: "#20252b",
        NOT_ROUTED: "#8a8f96",
    },
    "dark": {
        "retry": "#77a7fb",
        "dense_steer": "#e46215",
        "sparse_steer": "#11b777",
        "sparse_steer_random": "#dae778",
        "local_temp": "#f3ba00",
        "temp_lift": "#a45c34",
        "replan": "#ff88cb",
        "extend": "#67e0ff",
        "escalate": "#6c62d7",
        STOP: "#f2f3f4",
        NOT_ROUTED: "#7d848c",
    },
}
# For names that are not above, such as the operators of users.
SPARE = {
    "light": ("#00857f", "#c2185b", "#5f6caf", "#8d6e63", "#3f6212", "#b0308f"),
    "dark": ("#4dd0c4", "#ff6f91", "#9fa8da", "#bca69c", "#a8d672", "#e07be0"),
}
# For curves, which are policies and baselines and not operators.
SERIES = {
    "light": ("#e74d05", "#178250", "#a13f82", "#9c861f", "#581072", "#0b9ac6"),
    "dark": ("#e46215", "#11b777", "#ff88cb", "#f3ba00", "#8f87ea", "#67e0ff"),
}
SHAPES = {
    "rescued": "circle",
    "stopped": "square",
    "out of budget": "triangle",
    "error": "cross",
    "unfinished": "diamond",
    "recorded": "pentagon",
}


def colours(names: Iterable[str], theme: str) -> dict[str, str]:
    """A colour for each name: its fixed one, or one of the spare ones.

    Which spare one a name gets depends on the name, and on the others only where two would share
    it; with more names than spare colours some do.
    """
    fixed, spare = OPERATORS[theme], SPARE[theme]
    found: dict[str, str] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        if name in fixed:
            found[name] = fixed[name]
            continue
        place = zlib.crc32(name.encode("utf-8", "replace")) % len(spare)
        while place in taken and len(taken) < len(spare):
            place = (place + 1) % len(spare)
        taken.add(place)
        found[name] = spare[place]
    return found
