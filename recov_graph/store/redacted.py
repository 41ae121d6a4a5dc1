"""Which columns hold texts: what `store_text` decides about."""

from __future__ import annotations

# Columns that hold what a user or a model wrote: kept, hashed or dropped.
TEXT_COLUMNS = {
    "problems": ("prompt", "answer"),
    "rollouts": ("text",),
    "verdicts": ("answer", "explanation"),
}
# Columns in which code of the user's may put such text: kept or dropped.
FREE_COLUMNS = {"decisions": ("reason",), "interventions": ("details",)}
