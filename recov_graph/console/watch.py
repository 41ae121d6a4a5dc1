"""Following a run from another terminal: how it stands, and what happened last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recov_graph.console.runs import say_run
from recov_graph.console.tables import STYLES
from recov_graph.console.text import console, number, plain, say, watched
from recov_graph.errors import StoreError
from recov_graph.store import TraceStore
from recov_graph.store.following import Follower, Standing
from recov_graph.store.location import Address, shown

Row = dict[str, Any]
EVENTS = 8
TOLD = ("operator", "regime", "outcome", "expected_rescue", "tokens")  # of an event, if known
QUIET = 3.0  # seconds without a change that are worth telling
UNITS = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))
WORDS = (
    ("solved_first", "solved first"),
    ("rescued", "rescued"),
    ("out_of_reach", "stopped"),
    ("budget_exhausted", "out of budget"),
    ("model_error", "model errors"),
    ("verifier_error", "verifier errors"),
    ("unjudged", "not judged"),
)


def watch(
    path: Address, run_id: str | None, *, interval: float, bare: bool = False, once: bool = False
) -> None:
    """Follow a run until interrupted; the database and the run may come later.

    Args:
        path: the trace store.
        run_id: the run, or None for the latest, also one that begins meanwhile.
        interval: seconds between looks.
        bare: as ``--plain`` says.
        once: look once and come back.

    Raises:
        StoreError: the file is no trace store; with `once`, also where there is no such run.
    """
    live = watched(bare)
    looks = _looks(path, run_id, interval, live=live, once=once)
    if once:
        _look_once(looks, live=live)
    elif live:
        _draw(looks)
    else:
        _append(looks)


class Look:
    """What was seen at a time.

    Args:
        standing: how the run stands; None where there is none yet.
        rate: problems that end in a minute, where that can be said.
        waits_for: what is not there yet.
    """

    def __init__(
        self,
        standing: Standing | None = None,
        rate: float | None = None,
        waits_for: str = "",
    ) -> None:
        self.standing, self.rate, self.waits_for = standing, rate, waits_for
        self.over = False  # nobody looks any more

    @property
    def quiet(self) -> float:
        """Seconds since something was stored, by the clock that stamped it."""
        if self.standing is None or not self.standing.changed_at:
            return 0.0
        try:
            changed = datetime.fromisoformat(self.standing.changed_at)
            return max(0.0, (datetime.now(UTC) - changed).total_seconds())
        except (ValueError, TypeError, OverflowError):  # whoever wrote the file wrote no time
            return 0.0


def _looks(
    path: Address, run_id: str | None, interval: float, *, live: bool, once: bool
) -> Iterator[Look]:
    """One look after the other, with a pause between; also at a file that takes another's place."""
    missing = "a run" if run_id is None else f"run {run_id}"
    while True:
        while (file := _file(path)) is None:
            yield Look(waits_for=f"a trace store at {shown(path)}")
            time.sleep(interval)
        with closing(TraceStore(path)) as store:
            follower = Follower(store, run_id, first=EVENTS, later=EVENTS if live or once else -1)
            while _file(path) == file:
                standing = follower.look()
                rate = None if standing is None else follower.rate()
                yield Look(standing, rate, "" if standing else f"{missing} in {shown(path)}")
                time.sleep(interval)


def _file(path: Address) -> int | None:
    """Which file it is, once there is something in it: an empty one is about to become a store."""
    if isinstance(path, str):
        return 0  # a server's database stays the one it is
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino if found.st_size else None


def _look_once(looks: Iterator[Look], *, live: bool) -> None:
    look = next(looks)
    if look.standing is None:
        raise StoreError(f"there is not yet {look.waits_for}; leave out --once to wait for it")
    if live:
        look.over = True
        console().print(_picture(look, 0, list(look.standing.events)))
        return
    _say_run(look.standing)
    _say_events(look.standing)
    _say_standing(look)


def _append(looks: Iterator[Look]) -> None:
    """A line for each thing that happens."""
    look, told = Look(), None
    try:
        for look in looks:
            if look.standing is None:
                if told != look.waits_for:
                    say("waiting", what=look.waits_for)
                told = look.waits_for
                continue
            if told != look.standing.run["id"]:
                told = look.standing.run["id"]
                _say_run(look.standing)
            _say_events(look.standing)
    except KeyboardInterrupt:
        if look.standing is not None:
            _say_standing(look)


def _say_run(standing: Standing) -> None:
    say_run(standing.run)


def _say_events(standing: Standing) -> None:
    for event in standing.events:
        given = {name: event[name] for name in TOLD if event[name] is not None}
        say(event["kind"], time=event["time"], problem=event["key"], **given)


def _say_standing(look: Look) -> None:
    standing = look.standing
    assert standing is not None
    for operator, counts in sorted(standing.operators.items()):
        say("operator", name=operator, **counts)
    say(
        "standing",
        run=standing.run["id"],
        begun=standing.begun,
        ended=standing.ended.total(),
        failed=standing.failed,
        **{name: standing.ended[name] for name, _ in WORDS},
        tokens=standing.tokens,
        per_minute=look.rate,
        unchanged_seconds=round(look.quiet),
    )


def _draw(looks: Iterator[Look]) -> None:
    """A picture that is drawn again and again, and stays when it is ended."""
    out = console()
    events: list[Row] = []
    shown: str | None = None
    look = Look(waits_for="the first look")
    with Live(console=out, auto_refresh=False) as live:
        try:
            for look in looks:
                if look.standing is not None:
                    if shown != look.standing.run["id"]:
                        shown, events = look.standing.run["id"], []
                    events = [*events, *look.standing.events][-EVENTS:]
                live.update(_picture(look, out.height, events), refresh=True)
        except KeyboardInterrupt:
            look.over = True
            live.update(_picture(look, out.height, events), refresh=True)


def _picture(look: Look, height: int, events: list[Row]) -> Group:
    """The state in as many lines as there are, or no more than `height` where that is above 0."""
    standing = look.standing
    if standing is None:
        ends = "" if look.over else "; Ctrl-C ends"
        return Group(_line(f"waiting for {plain(look.waits_for)}{ends}", style="dim"))
    head = [*_head(standing), *_counts(look, standing)]
    tail = [_line(_quiet(look), style="dim")]
    room = EVENTS if not height else height - len(head) - len(standing.operators) - len(tail) - 4
    last = [_event(event) for event in events[-room:]] if room > 0 else []
    table = [_operators(standing)] if standing.operators else []
    return Group(*head, *table, *last, *tail)


def _head(standing: Standing) -> Iterator[Text]:
    run = standing.run
    line = _line(f"run {plain(run['id'])}", style="bold")
    line.append(f"  {plain(run['kind'])}, {plain(run['model'])}, {plain(run['policy'])}, ")
    yield line.append(f"since {_clock(run['started_at'])}")


def _counts(look: Look, standing: Standing) -> Iterator[Text]:
    ended = standing.ended
    line = _line(f"{number(standing.begun)} begun, {number(ended.total())} ended")
    under_way = standing.begun - ended.total()
    if under_way:
        line.append(f", {number(under_way)} under way")
    yield line
    rate = "" if look.rate is None else f"{look.rate:,.0f} a minute, "
    yield _line(f"{rate}{number(standing.tokens)} tokens")
    line = _line(f"{number(ended['solved_first'])} solved first", style=STYLES["solved_first"])
    yield line.append(f", {number(standing.failed)} failed", style="default")
    line = _line("")
    for name, words in WORDS[1:]:
        if ended[name] or name in ("rescued", "out_of_reach", "budget_exhausted"):
            line.append(", " if len(line) else "")
            line.append(f"{number(ended[name])} {words}", style=STYLES[name] if ended[name] else "")
    yield line


def _operators(standing: Standing) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(_line("operator"))  # of all columns this one gives way
    for heading in ("attempts", "rescued", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for operator, counts in sorted(standing.operators.items()):
        rescued = Text(number(counts["rescued"]), style="green" if counts["rescued"] else "")
        cells = (number(counts["attempts"]), rescued, number(counts["tokens"]))
        table.add_row(_line(plain(operator), style="bold"), *cells)
    return table


def _event(event: Row) -> Text:
    line = _line(f"{_clock(event['time'])} ", style="dim")
    line.append(plain(event["key"]), style="default not dim")
    if event["kind"] == "decision":
        chosen = plain(event["operator"])
        return line.append(f" -> {chosen} ({event['expected_rescue']:.0%} expected)")
    words = plain(dict(WORDS).get(event["outcome"], event["outcome"]))
    style = f"default not dim {STYLES.get(event['outcome'], '')}"
    if event["operator"] is not None:
        line.append(f" {plain(event['operator'])}:")
    return line.append(f" {words}", style=style.strip())


def _quiet(look: Look) -> str:
    seconds = look.quiet
    told = []
    if seconds >= QUIET:
        unit, size = next(one for one in UNITS if seconds >= 2 * one[1] or one[1] == 1)
        told.append(f"no change for {seconds / size:.0f} {unit}")
    if not look.over:
        told.append("Ctrl-C ends")
    return "; ".join(told)


def _line(text: str, style: str = "") -> Text:
    """A line that is cut rather than wrapped: what is drawn again must stay as high as it was."""
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(text, style=style)


def _clock(time_stored: str) -> str:
    """The time of day here."""
    try:
        return datetime.fromisoformat(time_stored).astimezone().strftime("%H:%M:%S")
    except (ValueError, TypeError, OverflowError):  # whoever wrote the file wrote no time
        return "--:--:--"
