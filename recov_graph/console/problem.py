"""One stored problem: what was asked, decided and tried, and where its failures went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from recov_graph.console.runs import say_run
from recov_graph.console.strip import drawn, legend, shades
from recov_graph.console.tables import STYLES, how_ended
from recov_graph.console.text import NOT_STORED, console, draws, number, plain, say
from recov_graph.errors import StoreError
from recov_graph.store import TraceStore
from recov_graph.store.following import find_run, latest_run_of, retry_alone, same_problems
from recov_graph.strips import Repair, Strip, problem_repairs, problem_strips
from recov_graph.words import count

Row = dict[str, Any]
INDENT = 4
BARS = "bars: J by token beside the highest of the rollout; tokens are counted from 0"
LONGEST_TEXT = 2_000  # characters of one text on a terminal; into a pipe nothing is cut
CANDIDATES = 6


@dataclass(frozen=True)
class Story:
    """All that is shown of a problem: rows of the store by the names they have there."""

    run: Row
    problem: Row
    attempts: Sequence[Row]
    decisions: Sequence[Row]
    strips: dict[str, Strip]
    repairs: dict[str, Repair]
    retry: Row | None

    def text(self, value: str | None) -> str:
        """A text of the problem as one line; a hash is none."""
        return plain(value) if self.run["store_text"] == "full" else NOT_STORED

    @property
    def expected(self) -> str:
        """The answer; where nothing was kept, nobody knows whether there is one."""
        none = self.problem["answer"] is None and self.run["store_text"] != "none"
        return "none" if none else self.text(self.problem["answer"])

    @property
    def ended(self) -> str:
        """How it ended."""
        reason = self.problem["stop_reason"]
        return str(reason) if reason else how_ended(self.problem, self.run)

    def steps(self) -> Iterator[tuple[Row | None, Row | None]]:
        """Decisions and attempts, one of them each, as they followed one another."""
        left = list(self.decisions)
        for attempt in self.attempts:
            while left and attempt["decision_id"] in {one["id"] for one in left}:
                yield left.pop(0), None
            yield None, attempt
        for decision in left:
            yield decision, None


def print_problem(store: TraceStore, run_id: str | None, key: str, *, bare: bool = False) -> None:
    """One stored problem: its attempts and decisions in order; all that have the id in a run.

    Without a run it is looked for in all of them, the latest first.

    Raises:
        StoreError: there is no such run or problem, or what is stored of it is damaged.
    """
    run = find_run(store, run_id or latest_run_of(store, key))
    problems = same_problems(store, run["id"], key)
    if not problems:
        where = f"run {run['id']}" if run_id else store.path
        raise StoreError(
            f"{where} has no problem {key!r}; `recov-graph show {run['id']} --db {store.path}` "
            "lists those of a run"
        )
    out = console()
    for place, problem in enumerate(problems, start=1):
        story = _story(store, run, problem)
        if not draws(bare):
            _say_story(story, key, place)
            continue
        if place > 1:
            out.print()
        again = f" ({place} of {len(problems)} with this id)" if len(problems) > 1 else ""
        out.print(Text(f"problem {plain(key)}{again}", style="bold"), soft_wrap=True)
        for line in _told(story, out):
            for part in _folded(line, out):
                out.print(part, soft_wrap=True)


def _folded(line: Text, out: Console) -> Iterator[Text]:
    """A line as lines that fit a terminal, all with its indent; whole into a pipe."""
    indent = len(line.plain) - len(line.plain.lstrip(" "))
    if not out.is_terminal or line.no_wrap or not line.plain.strip():
        yield line
        return
    for part in line[indent:].wrap(out, max(8, out.width - indent)):
        yield Text(" " * indent).append_text(part)


def _story(store: TraceStore, run: Row, problem: Row) -> Story:
    identity = problem["id"]
    return Story(
        run=run,
        problem=problem,
        attempts=store.problem_attempts(identity),
        decisions=store.problem_decisions(identity),
        strips={one.rollout: one for one in problem_strips(store, identity)},
        repairs={one.attempt: one for one in problem_repairs(store, identity)},
        retry=retry_alone(store, identity),
    )


def _told(story: Story, out: Console) -> Iterator[Text]:
    yield _named("prompt", _short(story.text(story.problem["prompt"]), out), 0)
    yield _named("expected", _short(story.expected, out), 0)
    if story.strips:
        yield legend(out) if shades(out) else Text(BARS, style="dim")
    for decision, attempt in story.steps():
        if decision is not None:
            yield Text("")
            yield from _decision(story, decision)
        elif attempt is not None:
            yield from _attempt(story, attempt, out)
    yield Text("")
    if story.retry is not None:
        yield Text(
            f"retry alone, with as many tokens over the batch: "
            f"{'rescued' if story.retry['rescued'] else 'not rescued'} in "
            f"{count(story.retry['attempts'], 'attempt')}, {number(story.retry['tokens'])} tokens"
        )
    ended = Text(story.ended, style=STYLES.get(how_ended(story.problem, story.run), ""))
    yield ended.append(f", {number(story.problem['tokens'] or 0)} tokens", style="default not bold")


def _decision(story: Story, decision: Row) -> Iterator[Text]:
    chosen = decision["operator"] or "stop"
    line = Text(f"decision {decision['step']}  ", style="dim")
    line.append(plain(chosen), style="bold" if decision["operator"] else "yellow")
    line.append(f"  {plain(decision['regime'])}, expected rescue ", style="dim")
    yield line.append(f"{decision['expected_rescue']:.0%}", style="dim")
    yield _indented(Text(story.text(decision["reason"]), style="dim"))
    told = [f"{name} {worth:.0%}" for name, worth in _candidates(decision)]
    if told:
        yield _indented(Text(f"expected rescue: {', '.join(told[:CANDIDATES])}", style="dim"))


def _candidates(decision: Row) -> Iterator[tuple[str, float]]:
    """Name and expected rescue of what was chosen from; a router may store anything."""
    try:
        candidates = json.loads(decision["candidates"])
    except (ValueError, RecursionError):
        return
    for one in candidates if isinstance(candidates, list) else ():
        worth = one.get("expected_rescue") if isinstance(one, dict) else None
        if isinstance(worth, int | float):
            yield plain(str(one.get("operator"))), float(worth)


def _attempt(story: Story, attempt: Row, out: Console) -> Iterator[Text]:
    repair, strip = story.repairs.get(attempt["id"]), story.strips.get(attempt["id"])
    value = attempt["value"] or "not judged"
    shown = "rescued" if attempt["outcome"] == "rescued" else value
    line = Text(f"{attempt['position']:>3} ")
    line.append(plain(attempt["operator"]), style="bold")
    line.append(f"  {value}", style=STYLES.get(shown, ""))
    line.append(f"  {count(attempt['tokens'], 'token')}")
    explanation = attempt["explanation"]
    if explanation and story.run["store_text"] == "full":
        line.append(f"  {_short(plain(explanation), out)}", style="dim")
    if repair is not None and repair.base is not None:
        position = next(a["position"] for a in story.attempts if a["id"] == repair.base)
        line.append(f"  went on from attempt {position}, token {repair.at}", style="cyan")
    yield line
    if repair is not None and repair.kept is not None:
        yield from _compared(repair, out)
        return
    if strip is None or strip.pieces is None or not shades(out):
        yield _indented(Text(_short(story.text(attempt["text"]), out)))
    if strip is not None:
        yield from drawn(strip, out, INDENT)


def _compared(repair: Repair, out: Console) -> Iterator[Text]:
    """A repair beside what it repaired, from where they part."""
    won = "green" if repair.outcome == "rescued" else ""
    yield _named("kept", _short(plain(repair.kept), out, end=True), style="dim")
    yield _named("failed", _short(plain(repair.failed), out), style="red")
    yield _named("repaired", _short(plain(repair.repaired), out), style=won)


def _named(name: str, value: str, indent: int = INDENT, style: str = "") -> Text:
    width = 10 if indent else 0
    line = Text(" " * indent)
    line.append(f"{name}: ".ljust(width), style="dim")
    return line.append(value, style=style)


def _indented(text: Text) -> Text:
    return Text(" " * INDENT).append_text(text)


def _short(text: str, out: Console, *, end: bool = False) -> str:
    """The start of a text, or its end, where it would fill a terminal."""
    if not out.is_terminal or len(text) <= LONGEST_TEXT:
        return text
    more = f"… {number(len(text) - LONGEST_TEXT)} more characters"
    return f"{more} …{text[-LONGEST_TEXT:]}" if end else f"{text[:LONGEST_TEXT]}{more}"


def _say_story(story: Story, key: str, place: int) -> None:
    problem = story.problem
    if place == 1:
        say_run(story.run)
    say(
        "problem",
        id=key,
        task=problem["task"],
        prompt=_kept(story, problem["prompt"]),
        expected=story.expected if problem["answer"] is None else _kept(story, problem["answer"]),
    )
    for decision, attempt in story.steps():
        if decision is not None:
            _say_decision(story, decision)
        elif attempt is not None:
            _say_attempt(story, attempt)
    if story.retry is not None:
        measured = {name: story.retry[name] for name in ("attempts", "tokens")}
        say("retry_alone", rescued=bool(story.retry["rescued"]), **measured)
    say(
        "ended",
        how=how_ended(problem, story.run),
        attempts=problem["attempts"] or 0,
        tokens=problem["tokens"] or 0,
    )


def _kept(story: Story, value: str | None) -> str | None:
    """A text of the problem as it is: facts are escaped when they are printed."""
    return value if story.run["store_text"] == "full" else NOT_STORED


def _say_decision(story: Story, decision: Row) -> None:
    step = decision["step"]
    say(
        "decision",
        step=step,
        operator=decision["operator"],
        regime=decision["regime"],
        expected_rescue=decision["expected_rescue"],
        reason=_kept(story, decision["reason"]),
    )
    for name, worth in _candidates(decision):
        say("candidate", step=step, operator=name, expected_rescue=worth)


def _say_attempt(story: Story, attempt: Row) -> None:
    place = attempt["position"]
    say(
        "attempt",
        attempt=place,
        operator=attempt["operator"],
        verdict=attempt["value"],
        tokens=attempt["tokens"],
        explanation=_kept(story, attempt["explanation"]),
        text=_kept(story, attempt["text"]),
    )
    strip, repair = story.strips.get(attempt["id"]), story.repairs.get(attempt["id"])
    if strip is not None:
        at = strip.junction
        say(
            "junction",
            attempt=place,
            token=at,
            pressure=strip.pressure[at],
            path=strip.path[at],
            coverage=strip.coverage[at],
            entropy=strip.entropy[at],
            piece=None if strip.pieces is None else strip.pieces[at],
        )
    if repair is not None and repair.base is not None:
        base = next(a["position"] for a in story.attempts if a["id"] == repair.base)
        texts = {name: getattr(repair, name) for name in ("kept", "failed", "repaired")}
        say("repair", attempt=place, base=base, token=repair.at, **texts)
