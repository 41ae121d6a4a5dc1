"""Reports that nobody computed: plausible, varied and, where asked for, hostile."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from recov_graph.report.content import (
    NOT_ROUTED,
    OUTCOMES,
    STOP,
    AttemptRow,
    Bin,
    Calibration,
    Case,
    Curve,
    DecisionRow,
    Drift,
    Estimate,
    FailureMap,
    Figure,
    Panel,
    Report,
    RescueRow,
    RunRow,
)
from recov_graph.strips import Repair, Strip

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\x1b[31mred\x1b[0m\x07",
    "\u202eright to left\u2066 mark\u200b",
    "=cmd|' /C calc'!A0 \"quoted\" {{ 7*7 }} ]]> <!-- -->",
    "line\u2028separator & paragraph\u2029",
)
OPERATORS = ("dense_steer", "sparse_steer", "local_temp", "sparse_steer_random", "retry")
REGIMES = ("steerable_hard", "sampling")
FEATURES = ("spread", "concentration", "logit_dispersion")
TRACE = (
    "37+48*2?\n37+48*2\n=(37+48)*2\n=85*2\n=170\n",
    "Let me compute this step by step. First, I add the two numbers and then multiply. ",
)


def sample_report(
    problems: int = 84,
    *,
    cases: int = 8,
    length: int = 90,
    hostile: bool = False,
    stored: bool = True,
    black_box: bool = False,
    seed: int = 0,
) -> Report:
    """A report.

    Args:
        problems: failed ones on the map; 0 for a store in which nothing failed.
        cases: to look at.
        length: tokens of the traces, about.
        hostile: whether texts and names try to break out of the page.
        stored: whether texts were stored.
        black_box: whether there is a second map, of a model that cannot be measured.
        seed: of the random numbers.
    """
    rng = random.Random(seed)
    maps = [_map(rng, problems, hostile)] if problems else []
    if black_box and problems:
        maps.append(_map(rng, max(2, problems // 3), hostile, ("agreement", "length")))
    made = min(cases, problems)
    rescued = round(0.43 * problems)
    return Report(
        database=HOSTILE[0] if hostile else "traces.db",
        made_at="2026-11-24T03:20:11+00:00",
        version="0.4.0",
        runs=_runs(hostile),
        run_count=2,
        problems=problems + 116,
        solved_first=116,
        failed=problems,
        notes=_notes(problems, hostile),
        groups=(),
        headline=_headline(problems, rescued),
        maps=tuple(maps),
        rescue=_rescue(rng) if problems else (),
        panels=_panels(problems) if problems else (),
        calibration=_calibration(rng) if problems else _no_calibration(),
        drift=(_drift(rng),) if problems else (),
        cases=tuple(_case(rng, maps[0], i, length, hostile, stored) for i in range(made)),
    )


def empty_report() -> Report:
    """A report of a store in which there is nothing."""
    return Report(
        database="traces.db",
        made_at="2026-11-24T03:20:11+00:00",
        version="0.4.0",
        runs=(),
        run_count=0,
        problems=0,
        solved_first=0,
        failed=0,
        notes=(),
        groups=(),
        headline=(),
        maps=(),
        rescue=(),
        panels=(),
        calibration=_no_calibration(),
        drift=(),
        cases=(),
    )


def _notes(problems: int, hostile: bool) -> tuple[str, ...]:
    notes = ["Most problems were run once; intervals count a problem that was run twice as one."]
    if 0 < problems < 30:
        notes.append(f"Only {problems} problems failed: intervals are wide.")
    if hostile:
        notes.append(f"The newest run is of `{HOSTILE[1]}`.")
    return tuple(notes)


def _runs(hostile: bool) -> tuple[RunRow, ...]:
    model = HOSTILE[1] if hostile else "embedded"
    return (
        RunRow("01JD8Q", "run", model, "numeric", "default", "9f3ac01b77", STARTS[-1], 140),
        RunRow("01JD7A", "baseline", "embedded", "numeric", "default", "9f3ac01b77", STARTS[0], 60),
    )


def _headline(failed: int, rescued: int) -> tuple[Figure, ...]:
    total, stopped = failed + 116, round(0.41 * failed)
    return (
        Figure("failed", "failed at first", failed, _share(failed, total), total, "share",
               "No first sample passed."),
        Figure("rescued", "rescued", rescued, _share(rescued, failed), failed, "share",
               "An intervention passed, a plain retry included."),
        Figure("stopped", "stopped", stopped, _share(stopped, failed), failed, "share",
               "The chance of a rescue was too small to spend more."),
        Figure("tokens", "tokens spent on failures", 461 * failed,
               Estimate(461 * failed, 400 * failed, 520 * failed), None, "tokens",
               "After the first samples; 67,351 with them."),
        Figure("saved", "tokens saved against retry alone", 413 * failed if failed else None,
               Estimate(413 * failed, 120 * failed, 790 * failed) if failed else Estimate(None),
               None, "tokens",
               "By the tokens that retry alone, measured on the same problems, took for a rescue."
               if failed else "Nothing has failed; `recov-graph run --baseline` measures it."),
    )  # fmt: skip


def _share(hits: float, of: float) -> Estimate:
    """The Wilson interval."""
    if not of:
        return Estimate(None)
    p, z = hits / of, 1.96
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half))


def _map(
    rng: random.Random, size: int, hostile: bool, features: Sequence[str] = FEATURES
) -> FailureMap:
    rows = range(size)
    route = [
        rng.choices((*OPERATORS, STOP, NOT_ROUTED), (45, 15, 8, 4, 16, 10, 2))[0] for _ in rows
    ]
    outcome = [rng.choices(OUTCOMES, (43, 38, 13, 3, 3, 2))[0] for _ in rows]
    shift = {name: i - 2 for i, name in enumerate(OPERATORS)}
    z = [
        [rng.gauss(0.35 * shift.get(route[i], 0) * (1 if f == 0 else -0.6), 1) for i in rows]
        for f, _ in enumerate(features)
    ]
    for i in range(0, size, 41):
        z[min(1, len(features) - 1)][i] *= 4
    keys = [HOSTILE[i % len(HOSTILE)] if hostile else f"arith-{i:04d}" for i in rows]
    return FailureMap(
        features=tuple(features),
        reference="the 838 failures that the policy was fitted on",
        z=tuple(map(tuple, z)),
        raw=tuple(tuple(0.4 + 0.11 * value for value in column) for column in z),
        route=tuple(route),
        outcome=tuple(outcome),
        regime=tuple(rng.choice(REGIMES) for _ in rows),
        key=tuple(keys),
        task=tuple(rng.choice(("arithmetic", "dates")) for _ in rows),
        model=tuple((HOSTILE[0] if hostile else "embedded") for _ in rows),
        problem=tuple(f"{features[0]}-{i}" for i in rows),
        unmeasured=3,
        left_out=1200 if size >= 10_000 else 0,
    )


def _rescue(rng: random.Random) -> tuple[RescueRow, ...]:
    rows = []
    for regime in (*REGIMES, "all"):
        for operator in OPERATORS:
            attempts = rng.choice((3, 8, 20, 60, 160, 254))
            rescued = sum(rng.random() < 0.12 for _ in range(attempts))
            tokens = attempts * rng.randrange(70, 190)
            rows.append(
                RescueRow(regime, operator, attempts, rescued, _share(rescued, attempts), tokens,
                          tokens / rescued if rescued else None)
            )  # fmt: skip
    return tuple(rows)


def _panels(problems: int) -> tuple[Panel, ...]:
    tokens = tuple(float(t) for t in range(0, 640, 40))

    def curve(name: str, top: float, source: str, active: bool = False) -> Curve:
        shares = [top * (1 - math.exp(-t / 210)) for t in tokens]
        return Curve(
            name,
            source,
            active,
            tokens,
            tuple(_share(s * problems, problems) for s in shares),  # type: ignore[arg-type]
        )

    return (
        Panel(
            "Problems of these runs",
            problems,
            (curve("default", 0.46, "observed", True), curve("retry alone", 0.25, "measured"),
             curve("retry, estimated", 0.21, "estimated")),
            "The same problems, each with the tokens that it was given. `retry alone` was measured "
            "beside the run; the dashed curve is estimated from how many first samples passed.",
        ),
        Panel(
            "Recorded attempts, replayed",
            problems // 2,
            (curve("default", 0.40, "recorded", True), curve("paper's rule", 0.36, "recorded"),
             curve("round robin", 0.33, "recorded"), curve("retry", 0.22, "recorded")),
            "Policies replayed on attempts that were recorded in full.",
        ),
    )  # fmt: skip


def _calibration(rng: random.Random) -> Calibration:
    attempts = tuple(
        Bin(p, _share(round(n * min(1, p * rng.uniform(0.7, 1.3))), n), n)
        for p, n in ((0.03, 80), (0.07, 70), (0.12, 55), (0.18, 40), (0.27, 25), (0.41, 11))
    )
    stops = tuple(Bin(p, _share(round(n * p * 1.4), n), n) for p, n in ((0.01, 12), (0.03, 22)))
    return Calibration(
        attempts=attempts,
        error=0.021,
        stops=stops,
        stopped=35,
        stop_chance=0.018,
        stop_checked=34,
        stop_missed=_share(3, 34),
        note="Chances are of the policy that was active when the decision was taken.",
    )


def _no_calibration() -> Calibration:
    return Calibration((), None, (), 0, None, 0, Estimate(None), "No prediction was made yet.")


STARTS = tuple(f"2026-11-{day:02d}T08:15:30.123456+00:00" for day in range(12, 24))


def _drift(rng: random.Random) -> Drift:
    means = []
    for f in range(3):
        row = []
        for t in range(len(STARTS)):
            value = rng.gauss(0.09 * t if f == 1 else 0, 0.14)
            row.append(Estimate(value, value - 0.3, value + 0.3))
        means.append(tuple(row))
    return Drift(
        policy="default 9f3ac01b",
        features=FEATURES,
        starts=STARTS,
        counts=tuple(rng.randrange(10, 40) for _ in STARTS),
        means=tuple(means),
        flagged=("concentration",),
        note="concentration lies more than 0.5 standard deviations off what the policy was fitted "
        "on: `recov-graph refit` fits it to what fails now.",
    )


def _case(
    rng: random.Random,
    found: FailureMap,
    i: int,
    length: int,
    hostile: bool,
    stored: bool,
) -> Case:
    strips = tuple(_strip(rng, i, k, length, hostile, stored) for k in range(3))
    repairs = _repairs(strips, hostile, stored, solved=found.outcome[i] == "rescued")
    attempts = [
        AttemptRow(
            k, None, "sample", "failed", "170 is not 133", "170", length, "".join(s.pieces or ())
        )
        for k, s in enumerate(strips)
    ]
    attempts += [
        AttemptRow(r.position, k, r.operator, "passed" if r.outcome == "rescued" else "failed",
                   None, "133" if r.outcome == "rescued" else "131", r.tokens, r.repaired)
        for k, r in enumerate(repairs)
    ]  # fmt: skip
    decisions = [
        DecisionRow(k, "steerable_hard", r.operator, 0.21 - 0.03 * k,
                    f"{r.operator} has rescued 31 of 254 like this; cheapest for its chance")
        for k, r in enumerate(repairs)
    ]  # fmt: skip
    if found.outcome[i] == "stopped":
        decisions.append(
            DecisionRow(len(repairs), "out_of_reach", None, 0.008, "no operator is worth its cost")
        )
    if not stored:
        attempts = [
            AttemptRow(a.position, a.step, a.operator, a.verdict, None, None, a.tokens, None)
            for a in attempts
        ]
    hurt = HOSTILE[i % len(HOSTILE)]
    return Case(
        problem=found.problem[i],
        key=found.key[i],
        model=found.model[i],
        task=found.task[i],
        why=(("expensive",), ("unsolved",), ("expensive", "unsolved"))[i % 3],
        outcome=found.outcome[i],
        regime=found.regime[i],
        tokens=sum(a.tokens for a in attempts),
        prompt=(hurt if hostile else "37+48*2?") if stored else None,
        expected="133" if stored else None,
        attempts=tuple(attempts),
        decisions=tuple(decisions),
        strips=strips,
        repairs=repairs,
    )


def _strip(
    rng: random.Random, case: int, k: int, length: int, hostile: bool, stored: bool
) -> Strip:
    size = max(4, length + rng.randrange(-length // 4, length // 4 + 1))
    words = _pieces(rng, size, hostile, k)
    path = [rng.choice((0.0, 0.0, 0.0, rng.expovariate(6), rng.expovariate(1.6))) for _ in words]
    coverage = [rng.choice((0.0, -0.02, rng.expovariate(8))) for _ in words]
    path[size // 3] = 2.1 + rng.random()
    pressure = [max(0, p) + max(0, c) for p, c in zip(path, coverage, strict=True)]
    return Strip(
        rollout=f"r{case}-{k}",
        position=k,
        junction=max(range(size), key=lambda t: pressure[t]),
        pressure=tuple(pressure),
        path=tuple(path),
        coverage=tuple(coverage),
        entropy=tuple(rng.expovariate(2) for _ in words),
        pieces=tuple(words) if stored else None,
    )


def _pieces(rng: random.Random, size: int, hostile: bool, k: int) -> list[str]:
    text = TRACE[k % 2]
    base = list(text) if k % 2 == 0 else [f"{word} " for word in text.split()]
    pieces = [base[t % len(base)] for t in range(size)]
    if hostile:
        for t in range(0, size, 9):
            pieces[t] = HOSTILE[(t // 9) % len(HOSTILE)]
    return pieces


def _repairs(
    strips: Sequence[Strip], hostile: bool, stored: bool, solved: bool
) -> tuple[Repair, ...]:
    made = []
    for k, operator in enumerate(("sparse_steer", "dense_steer", "sparse_steer_random")):
        strip, based = strips[k % len(strips)], operator != "dense_steer"
        at = strip.junction if operator == "sparse_steer" else len(strip) * 2 // 3
        whole, kept = "".join(strip.pieces or ()), "".join((strip.pieces or ())[:at])
        tail = HOSTILE[0] if hostile else "37+96\n=133\n" if k == 2 and solved else "37+98\n=135\n"
        made.append(
            Repair(
                attempt=f"a{k}",
                position=len(strips) + k,
                operator=operator,
                outcome="rescued" if k == 2 and solved else "failed",
                tokens=len(strip) + 40 * k,
                base=strip.rollout if based else None,
                at=at if based else None,
                kept=kept if based and stored else None,
                failed=whole[len(kept) :] if based and stored else None,
                repaired=tail if stored else None,
            )
        )
    return tuple(made)
