"""A report as one HTML file that needs nothing else: charts, tables and traces of cases.

Texts may be a model's. They reach the page only escaped by the template, or as JSON that the page's
script sets as text; a content security policy lets nothing run but the scripts that are put in.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jinja2
from markupsafe import Markup, escape

from recov_graph.report.charts import (
    Chart,
    Hues,
    calibration_chart,
    drift_charts,
    map_charts,
    panel_charts,
    rescue_charts,
)
from recov_graph.report.content import (
    EVERY_REGIME,
    FAR,
    NOT_ROUTED,
    OUTCOMES,
    STOP,
    AttemptRow,
    Case,
    Figure,
    Grouping,
    Report,
)
from recov_graph.report.embed import Limits, as_json, case_data, cleaned, map_data
from recov_graph.report.naming import named_shortly
from recov_graph.report.palette import THEMES
from recov_graph.report.style import curve_colours, far, hues, palette_css, routes_of, theme
from recov_graph.report.tables import (
    bin_table,
    drift_table,
    group_table,
    map_table,
    panel_table,
    rescue_table,
    run_table,
)
from recov_graph.report.wording import moment, percent, share, shortened, visible, words
from recov_graph.words import count, listed

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js", "report.js")
LONGEST_NAMES = (80, 40, 16)  # bytes
MOST_OF_MAPS = 1_000_000  # bytes of all points
FILTERS = ("task", "model", "route", "outcome", "regime")
WHY = {
    "asked for": "Asked for",
    "expensive": "Most expensive",
    "unsolved": "Unsolved, though hopeful",
}
OPERATORS = {
    "retry": "A fresh sample.",
    "sparse_steer": "Keep a failed attempt up to its junction, change that token, go on.",
    "sparse_steer_random": "The same at a random token: the control.",
    "local_temp": "Keep a failed attempt up to its junction, sample there at a higher temperature.",
    "dense_steer": "Sample every token from a mixture of the model and its ancestor.",
    "temp_lift": "A fresh sample at a higher temperature.",
    "replan": "A fixed request for another approach; what failed is not shown.",
    "extend": "A longer completion, where one was cut.",
    "escalate": "A stronger model.",
}
STEPS = ("0", "to 0.1", "to 0.5", "to 1", "to 2", "more")  # of J, as report.js parts it

View = dict[str, Any]


def render_page(report: Report) -> str:
    """The page: a whole HTML file."""
    report, maps = _held(report)
    cases, limits = case_data(report.cases)
    hued = hues(_routes(report))
    drawn = _charts(report, hued)
    data = {
        "theme": theme(),
        "far": FAR,
        "charts": {chart.id: [chart.spec, chart.points] for chart in _all(drawn)},
    }
    scripts = [_static(name) for name in SCRIPTS]
    view = {
        "report": report,
        "summary": summary(report),
        "models": _few(run.model for run in report.runs),
        "policies": _few(run.policy for run in report.runs),
        "lead": _lead(report),
        "figures": _figures(report, drawn, hued),
        "hued": hued,
        "filters": _filters(report),
        "cases": [_case(case, limits) for case in report.cases],
        "whys": _whys(report.cases),
        "runs": run_table(report.runs),
        "groups": {by: group_table(report.groups, by) for by in get_args(Grouping)},
        "shown_features": {name for found in report.maps for name in found.features},
        "used": _used(report),
        "steps": STEPS,
        "data": Markup(as_json({**cleaned(data), "maps": maps, "cases": cases})),
        "css": Markup(_css()),
        "scripts": [Markup(script) for script in scripts],
        "policy": _policy(scripts),
    }
    return _environment().get_template("report.html").render(view)


def _held(report: Report) -> tuple[Report, list[Any]]:
    """The report with names as long as the page can hold, since each point may have one; points."""
    for most in LONGEST_NAMES:
        short = named_shortly(report, most)
        maps = [cleaned(map_data(found, short.cases)) for found in short.maps]
        if len(as_json(maps)) <= MOST_OF_MAPS:
            break
    return short, maps


def summary(report: Report) -> str:
    """All of it in one sentence, as far as it is known."""
    if not report.problems:
        return "No problem has been run yet."
    if not report.failed:
        return f"All of {count(report.problems, 'problem')} were solved by a first sample."
    figures = {figure.name: figure for figure in report.headline}
    failed, rescued = _total(figures, "failed"), _total(figures, "rescued")
    spent, saved = _total(figures, "tokens"), _total(figures, "saved")
    among = figures["failed"].of if "failed" in figures else report.problems
    said = f"Of {count(among or report.problems, 'problem')} "
    said += f"{report.failed if failed is None else failed:,.0f} failed at first"
    if rescued is None:
        return f"{said}."
    number = f"{rescued:,.0f}" if rescued else "none"
    said += f"; {number} of them {'were' if rescued > 1 else 'was'} rescued"
    if spent is not None:
        said += f", with {spent:,.0f} tokens"
        if saved is not None and rescued:
            saving = figures["saved"].estimate
            said += f"; retry alone would have needed about {_about(spent + saved)}"
            if saving.low is not None and saving.high is not None:
                said += f" ({_about(spent + saving.low)} to {_about(spent + saving.high)})"
            said += " for as many"
    return f"{said}."


def _few(names: Iterable[str]) -> str:
    """The names in use, at most three of them."""
    return listed([name for name in dict.fromkeys(names) if name], 3)


def _used(report: Report) -> list[tuple[str, str]]:
    """The operators that occur, each with what it does."""
    names = dict.fromkeys(
        [row.operator for row in report.rescue] + [r for one in report.maps for r in one.route]
    )
    return [(name, OPERATORS[name]) for name in OPERATORS if name in names]


def _lead(report: Report) -> str:
    """What rescued most, in words."""
    over_all = [row for row in report.rescue if row.regime == EVERY_REGIME]
    rows = over_all or [row for row in report.rescue if row.regime != EVERY_REGIME]
    rescued: Counter[str] = Counter()
    for row in rows:
        rescued[row.operator] += row.rescued
    if not rescued.total():
        return "No attempt rescued anything."
    operator, most = rescued.most_common(1)[0]
    attempts = sum(row.attempts for row in rows if row.operator == operator)
    name, tried = _started(words(operator)), count(attempts, "attempt")
    return f"{name} rescued most: {most:,} in {tried}."


def _about(tokens: float) -> str:
    """A number of tokens to three digits."""
    return f"{float(f'{tokens:.3g}'):,.0f}"


def _total(figures: dict[str, Figure], name: str) -> float | None:
    return figures[name].total if name in figures else None


def _charts(report: Report, hued: Hues) -> dict[str, list[list[Chart]]]:
    """By section: a list of charts for each of its figures."""
    bins = report.calibration
    attempts = calibration_chart(bins.attempts, "attempts", "rescued")
    stops = calibration_chart(bins.stops, "stops", "rescued by retry alone")
    return {
        "maps": [map_charts(found, i, hued) for i, found in enumerate(report.maps)],
        "rescue": [rescue_charts(report.rescue, hued)],
        "panels": [panel_charts(panel, i) for i, panel in enumerate(report.panels)],
        "calibration": [[attempts] if bins.attempts else [], [stops] if bins.stops else []],
        "drift": [drift_charts(drift, i) for i, drift in enumerate(report.drift)],
    }


def _all(drawn: dict[str, list[list[Chart]]]) -> Iterable[Chart]:
    return (chart for section in drawn.values() for figure in section for chart in figure)


def _figures(report: Report, drawn: dict[str, list[list[Chart]]], hued: Hues) -> View:
    """By section: what each figure consists of beside its caption."""
    bins = report.calibration
    return {
        "maps": [
            {
                "charts": made,
                "found": found,
                "table": map_table(found),
                "far": far(found),
                "routes": [
                    (route, hued[route], found.route.count(route)) for route in routes_of(found)
                ],
                "outcomes": [
                    (name, found.outcome.count(name)) for name in OUTCOMES if name in found.outcome
                ],
            }
            for found, made in zip(report.maps, drawn["maps"], strict=True)
        ],
        "rescue": {"charts": drawn["rescue"][0], "table": rescue_table(report.rescue)},
        "panels": [
            {
                "charts": made,
                "panel": panel,
                "table": panel_table(panel),
                "curves": list(zip(panel.curves, curve_colours(panel.curves), strict=True)),
            }
            for panel, made in zip(report.panels, drawn["panels"], strict=True)
        ],
        "attempts": {
            "charts": drawn["calibration"][0],
            "table": bin_table("Predicted rescue against attempts", bins.attempts),
        },
        "stops": {
            "charts": drawn["calibration"][1],
            "table": bin_table("Predicted chance at a stop against retry alone", bins.stops),
        },
        "drift": [
            {"charts": made, "drift": drift, "table": drift_table(drift)}
            for drift, made in zip(report.drift, drawn["drift"], strict=True)
        ],
    }


def _routes(report: Report) -> set[str]:
    """All operators and other routes of a report."""
    found = {STOP, NOT_ROUTED} | {route for one in report.maps for route in one.route}
    found |= {row.operator for row in report.rescue}
    return found | {d.operator for case in report.cases for d in case.decisions if d.operator}


def _route(case: Case) -> str:
    """What was decided on first."""
    return (case.decisions[0].operator or STOP) if case.decisions else NOT_ROUTED


def _case_value(case: Case, name: str) -> str:
    return _route(case) if name == "route" else str(getattr(case, name))


def _filters(report: Report) -> list[tuple[str, list[str]]]:
    """What the map and the cases can be filtered by: all of which there is more than one."""
    found = []
    for name in FILTERS:
        values = {value for one in report.maps for value in getattr(one, name)}
        values |= {_case_value(case, name) for case in report.cases}
        if len(values) > 1:
            found.append((name, sorted(values)))
    return found


def _whys(cases: Sequence[Case]) -> list[tuple[str, str, int]]:
    """Why cases were picked, in words, with their number; none where all are of one kind."""
    counts = Counter(why for case in cases for why in case.why)
    ordered = sorted(counts, key=lambda why: [*WHY, why].index(why))
    whys = [(why, WHY.get(why, why), counts[why]) for why in ordered]
    return whys if len(whys) > 1 else []


def _case(case: Case, limits: Limits) -> View:
    attempts = case.attempts[: limits.attempts]
    return {
        "case": case,
        "route": _route(case),
        "why": ", ".join(WHY.get(why, why).lower() for why in case.why),
        "prompt": _text(case.prompt, limits.text),
        "expected": _text(case.expected, limits.text),
        "timeline": _timeline(case, attempts, limits),
        "more": len(case.attempts) - len(attempts),
        "traced": bool(case.strips or case.repairs),
    }


def _timeline(case: Case, attempts: Sequence[AttemptRow], limits: Limits) -> list[View]:
    """First samples, then each decision with the attempts that it led to."""
    made: dict[int | None, list[AttemptRow]] = {}
    for attempt in attempts:
        made.setdefault(attempt.step, []).append(attempt)
    steps = [_attempt(attempt, limits) for attempt in made.get(None, ())]
    whole = len(attempts) == len(case.attempts)
    for decision in case.decisions:
        led_to = made.get(decision.step, [])
        if led_to or decision.operator is None or whole:
            steps.append({"decision": decision, "reason": _text(decision.reason, limits.text)})
        steps += [_attempt(attempt, limits) for attempt in led_to]
    return steps


def _attempt(attempt: AttemptRow, limits: Limits) -> View:
    texts = ("explanation", "answer", "text")
    short = {name: _text(getattr(attempt, name), limits.text) for name in texts}
    return {"attempt": attempt, **short}


def _text(text: str | None, limit: int) -> tuple[str, int] | None:
    return None if text is None else shortened(text, limit)


def _policy(scripts: Iterable[str]) -> str:
    """The content security policy: nothing is loaded, and these scripts alone run."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _css() -> str:
    css = _static("report.css")
    for name in THEMES:
        css = css.replace(f"/* palette: {name} */", palette_css(name))
    return css


@cache
def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8").rstrip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    """Escapes whatever is put in, and shows in it what could not be seen."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STATIC),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finished,
    )
    environment.filters |= {
        "words": words,
        "moment": moment,
        "percent": percent,
        "share": share,
        "count": count,
        "code": _code,
        "started": _started,
    }
    environment.tests["shared"] = lambda figure: figure.unit == "share"
    return environment


def _finished(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _started(text: str) -> str:
    """The text as a sentence starts."""
    return text[:1].upper() + text[1:]


def _code(text: str) -> Markup:
    """The text, with what stands in backticks as code."""
    parts = visible(text).split("`")
    even = len(parts) % 2 == 1
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 and even else escape(part)
        for i, part in enumerate(parts)
    )
