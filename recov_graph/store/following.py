"""Reading for those who look on: a problem token by token, and runs while they go on.

A run is followed by the numbers that rows are given as they come: what came since the last look is
a range at the end of each table, so that looking again costs next to nothing however much is
stored. Where several write at a time, as PostgreSQL lets them, a row may be seen before one with a
lower number: while somebody is in the midst of writing nothing is taken for complete. Nothing here
writes.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from recov_graph.errors import StoreError
from recov_graph.store.traces import HOW, PROBLEMS, Row, TraceStore

# Those whose new rows tell how a run stands, with the range of them that is looked at: an abandoned
# timeline takes rows away again, and outcomes are written anew, so all is counted anew at times.
TABLES = ("problems", "outcomes", "calls", "interventions", "decisions")
RECOUNT_SECONDS = 30.0
DOUBT_SECONDS = 1.0  # until all is counted anew where rows may have been passed over
MOST_TOLD = 20_000  # events that are kept in mind meanwhile
TOPS = "SELECT " + ", ".join(
    f"(SELECT coalesce(max(rowid), 0) FROM {table}) AS {table}" for table in TABLES
)
# CROSS JOIN is SQLite's way to say which table is read first: the one with the range.
_OF_RUN = "CROSS JOIN problems ON problems.id = {of} WHERE run_id = ?1 AND {table}.rowid {range}"
_RANGE = "BETWEEN ?2 + 1 AND ?3"
_LAST = "ORDER BY {table}.rowid DESC LIMIT ?4"


def _of_run(table: str, of: str) -> str:
    return _OF_RUN.format(table=table, of=of, range=_RANGE)


BEGUN = f"SELECT count(*), max(started_at) FROM problems WHERE run_id = ?1 AND rowid {_RANGE}"
ENDED = (
    f"SELECT {HOW}, count(*), max(finished_at) FROM outcomes "
    f"{_of_run('outcomes', 'outcomes.id')} GROUP BY 1"
)
SPENT = (
    "SELECT coalesce(sum(prompt_tokens + completion_tokens + scored_tokens), 0) FROM calls "
    f"{_of_run('calls', 'problem_id')}"
)
TRIED = (
    "SELECT interventions.operator, count(*), sum(outcome = 'rescued'), sum(tokens) "
    "FROM interventions CROSS JOIN decisions ON decisions.id = decision_id "
    f"{_of_run('interventions', 'problem_id')} GROUP BY 1"
)
DECIDED = (
    "SELECT created_at AS time, 'decision' AS kind, key, "
    "coalesce(decisions.operator, 'stop') AS operator, regime, NULL AS outcome, expected_rescue, "
    "NULL AS tokens, decisions.rowid AS number "
    f"FROM decisions {_of_run('decisions', 'problem_id')} {_LAST.format(table='decisions')}"
)
ATTEMPTED = (
    "SELECT created_at AS time, 'attempt' AS kind, key, interventions.operator, "
    "NULL AS regime, outcome, "
    "NULL AS expected_rescue, interventions.tokens, interventions.rowid AS number "
    "FROM interventions "
    "CROSS JOIN rollouts ON rollouts.id = interventions.id "
    f"{_of_run('interventions', 'problem_id')} {_LAST.format(table='interventions')}"
)
FINISHED = (
    "SELECT finished_at AS time, 'end' AS kind, key, NULL AS operator, NULL AS regime, "
    f"{HOW} AS outcome, "
    "NULL AS expected_rescue, prompt_tokens + completion_tokens + scored_tokens AS tokens, "
    "outcomes.rowid AS number "
    f"FROM outcomes {_of_run('outcomes', 'outcomes.id')} {_LAST.format(table='outcomes')}"
)
RECENT = (
    "SELECT finished_at FROM problems CROSS JOIN outcomes USING (id) WHERE run_id = ? "
    "ORDER BY problems.rowid DESC LIMIT 200"
)
RUNS = (
    "SELECT runs.*, count(problems.id) AS problems, "
    f"coalesce(sum({HOW} NOT IN ('solved_first', 'unjudged')), 0) AS failed, "
    f"coalesce(sum({HOW} = 'rescued'), 0) AS rescued, "
    "coalesce(sum(prompt_tokens + completion_tokens + scored_tokens), 0) AS tokens "
    "FROM runs LEFT JOIN problems ON run_id = runs.id "
    "LEFT JOIN outcomes ON outcomes.id = problems.id "
    "GROUP BY runs.id ORDER BY runs.started_at, runs.rowid"
)


def measured_samples(store: TraceStore, problem_id: str) -> list[Row]:
    """The measured failed samples of a problem, in the order they were drawn."""
    return store.query(
        "SELECT rollouts.id, position, junction, length, signals, pieces, store_text "
        "FROM rollouts JOIN token_arrays USING (id) JOIN features USING (id) "
        "JOIN problems ON problems.id = problem_id JOIN runs ON runs.id = run_id "
        "WHERE problem_id = ? AND rollouts.operator = 'sample' ORDER BY position",
        [problem_id],
    )


def rollouts_and_repairs(store: TraceStore, problem_id: str) -> list[Row]:
    """The measured samples and the interventions of a problem; `outcome` is NULL for the former."""
    return store.query(
        "SELECT rollouts.id, position, rollouts.operator, rollouts.text, store_text, pieces, "
        "length, interventions.outcome, interventions.tokens, details, step "
        "FROM rollouts LEFT JOIN interventions USING (id) LEFT JOIN token_arrays USING (id) "
        "LEFT JOIN decisions ON decisions.id = decision_id "
        "JOIN problems ON problems.id = rollouts.problem_id JOIN runs ON runs.id = run_id "
        "WHERE rollouts.problem_id = ? AND (outcome IS NOT NULL "
        "OR (rollouts.operator = 'sample' AND length IS NOT NULL)) ORDER BY position",
        [problem_id],
    )


def find_run(store: TraceStore, run_id: str | None) -> Row:
    """A run by its id, or the latest.

    Raises:
        StoreError: there is none.
    """
    run = store.run(run_id)
    if run is None:
        if run_id is None:
            raise StoreError(f"{store.path} has no run; run `recov-graph demo` first")
        latest = store.run()
        known = f"the latest is {latest['id']}" if latest else "it has none at all"
        raise StoreError(f"{store.path} has no run {run_id!r}; {known}")
    return run


def all_runs(store: TraceStore) -> list[Row]:
    """Every run with its numbers of problems, failed and rescued ones, and tokens, oldest first."""
    return store.query(RUNS)


def same_problems(store: TraceStore, run_id: str, key: str) -> list[Row]:
    """The problems of a run that have the user's own id in common, in order."""
    sql = f"{PROBLEMS} WHERE run_id = ? AND key IN (?, ?) ORDER BY problems.rowid"
    return store.query(sql, [run_id, *store.keys(key)])


def latest_run_of(store: TraceStore, key: str) -> str | None:
    """The id of the latest run with a problem that has the user's own id."""
    sql = (
        "SELECT runs.id FROM problems JOIN runs ON runs.id = run_id WHERE key IN (?, ?) "
        "ORDER BY runs.started_at DESC LIMIT 1"
    )
    rows = store.rows(sql, store.keys(key))
    return str(rows[0][0]) if rows else None


def retry_alone(store: TraceStore, problem_id: str) -> Row | None:
    """What retry alone did for a problem (rescued, attempts, tokens), where that was measured."""
    rows = store.query("SELECT * FROM retries WHERE id = ?", [problem_id])
    return rows[0] if rows else None


@dataclass
class Standing:
    """How a run stands.

    Attributes:
        run: the run.
        begun: problems taken up.
        ended: how many ended how: solved_first, rescued, unjudged or, of the failed, a stop reason.
        operators: attempts, rescues and tokens of each operator.
        tokens: spent, all calls counted.
        changed_at: when the last thing was stored that has a time, ISO 8601 in UTC.
        events: what was decided, tried and ended since the last look, the oldest first.
    """

    run: Row
    begun: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    operators: dict[str, Counter[str]] = field(default_factory=dict)
    tokens: int = 0
    changed_at: str = ""
    events: list[Row] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Problems that ended and whose first samples had failed."""
        return self.ended.total() - self.ended["solved_first"] - self.ended["unjudged"]


class Follower:
    """A run as it goes on, by default the latest of a store, also one that begins meanwhile.

    Args:
        store: where it is stored; only read.
        run_id: the run, or None for whichever began last.
        first: events of before that the first look tells of.
        later: events that each other look tells of at most; -1 for all.
    """

    def __init__(
        self, store: TraceStore, run_id: str | None = None, *, first: int = 8, later: int = -1
    ) -> None:
        self._store, self._run_id = store, run_id
        self._first, self._later = first, later
        self._version: int | None = None
        self._low = dict.fromkeys(TABLES, 0)
        self._looked = False
        self._again = 0.0
        self._soon = DOUBT_SECONDS
        self._doubtful = False
        self._sure = dict(self._low)  # up to where nothing can have been passed over
        self._told: set[tuple[str, int]] = set()  # events after that, by table and number
        self._standing: Standing | None = None

    def look(self) -> Standing | None:
        """How the run stands now; None where there is none yet.

        Raises:
            StoreError: the store cannot be read.
        """
        version = self._store.version()
        if version == self._version and not (self._doubtful and time.monotonic() > self._again):
            if self._standing is not None:
                self._standing.events = []
            return self._standing
        self._version = version
        run = self._store.run(self._run_id)
        top: dict[str, int] = self._store.query(TOPS)[0]
        unsettled = self._store.unsettled()
        anew = run is not None and self._catch_up(run, top)
        self._doubtful = unsettled or (self._doubtful and not anew)
        if self._doubtful:
            self._again = min(self._again, time.monotonic() + self._soon)
        if not (unsettled and self._looked) or len(self._told) > MOST_TOLD:
            self._sure = top
            self._told.clear()
        self._looked, self._low = True, top
        return self._standing

    def rate(self) -> float | None:
        """Problems that end in a minute, by the last 200 of them; None where too few have."""
        if self._standing is None:
            return None
        times = [row[0] for row in self._store.rows(RECENT, [self._standing.run["id"]])]
        seconds = _seconds(min(times), max(times)) if times else 0.0
        return 60 * (len(times) - 1) / seconds if seconds > 0 else None

    def _catch_up(self, run: Row, top: dict[str, int]) -> bool:
        """Count what came since the last look; true where all was counted anew."""
        began = time.monotonic()
        gone = any(top[table] < self._low[table] for table in TABLES)
        same = self._standing is not None and self._standing.run["id"] == run["id"]
        anew = gone or not same or began > self._again
        if self._standing is None or anew:
            self._standing = Standing(run)
        low = dict.fromkeys(TABLES, 0) if anew else self._low
        self._count(self._standing, low, top)
        self._standing.events = self._events(run["id"], top)
        if anew:  # at most one percent of the time is spent on counting all of it
            now = time.monotonic()
            self._again = now + max(RECOUNT_SECONDS, 100 * (now - began))
            self._soon = max(DOUBT_SECONDS, 20 * (now - began))
        return anew

    def _count(self, standing: Standing, low: dict[str, int], top: dict[str, int]) -> None:
        def rows(sql: str, table: str) -> list[tuple[Any, ...]]:
            return self._store.rows(sql, [standing.run["id"], low[table], top[table]])

        ((begun, began_at),) = rows(BEGUN, "problems")
        standing.begun += begun
        times = [standing.changed_at, began_at or ""]
        for how, count, ended_at in rows(ENDED, "outcomes"):
            standing.ended[how] += count
            times.append(ended_at)
        standing.tokens += rows(SPENT, "calls")[0][0]
        for operator, attempts, rescued, tokens in rows(TRIED, "interventions"):
            counts = Counter(attempts=attempts, rescued=rescued, tokens=tokens)
            standing.operators.setdefault(operator, Counter()).update(counts)
        standing.changed_at = max(times)

    def _events(self, run_id: str, top: dict[str, int]) -> list[Row]:
        limit = self._later if self._looked else self._first
        found: list[Row] = []
        for sql, table in (
            (DECIDED, "decisions"),
            (ATTEMPTED, "interventions"),
            (FINISHED, "outcomes"),
        ):
            rows = self._store.query(sql, [run_id, self._sure[table], top[table], limit])
            for row in reversed(rows):
                event = (table, row.pop("number"))
                if event not in self._told:
                    found.append(row)
                    self._told.add(event)
        found.sort(key=lambda event: str(event["time"]))
        return found if limit < 0 else found[-limit:]


def _seconds(start: str, end: str) -> float:
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # whoever wrote the file wrote no time
        return 0.0
