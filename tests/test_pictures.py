"""The figures of a report as pictures: real files, read back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image

from recov_graph.errors import InvalidInputError
from recov_graph.graph import create_recovery_graph
from recov_graph.report.content import (
    NOT_ROUTED,
    OUTCOMES,
    STOP,
    Bin,
    Calibration,
    Case,
    Curve,
    Drift,
    Estimate,
    FailureMap,
    Panel,
    Report,
    RescueRow,
)
from recov_graph.report.palette import OPERATORS, PAPER, SHAPES, THEMES, colours
from recov_graph.report.pictures import FIGURES, encoded, lacking, picture, trace_picture
from recov_graph.report.pictures.budget import spaced
from recov_graph.report.pictures.drift import span_labels
from recov_graph.report.pictures.sheet import brightness
from recov_graph.report.pictures.text import fitted, shown, width_of
from recov_graph.routing import default_policy
from recov_graph.store import TraceStore
from recov_graph.strips import Repair, Strip
from tests.conftest import Cli

pytestmark = pytest.mark.slow  # 20 seconds

NAMES = tuple(OPERATORS["light"])
HOSTILE = "$\\frac{1}{0}$ <script>&]]>-- \x1b[31m\u202e\x00 \ud800 \u4e2d\u6587 ^_{}"
PNG, PDF = b"\x89PNG\r\n\x1a\n", b"%PDF-"


def share(value: float, count: int) -> Estimate:
    half = 1.96 * (value * (1 - value) / max(count, 1) + 0.25 / max(count, 1) ** 2) ** 0.5
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def sample_map(points: int, routes: Sequence[str], seed: int = 0, wide: float = 1.1) -> FailureMap:
    random = np.random.default_rng(seed)
    z = tuple(tuple(column) for column in (random.normal(0, wide, (3, points))).tolist())
    ids = tuple(f"p{i}" for i in range(points))
    return FailureMap(
        features=("spread", "concentration", "logit_dispersion"),
        reference="policy shipped 0123456789abcdef, cell embedded/sums",
        z=z,
        raw=z,
        route=tuple(routes[i] for i in random.integers(len(routes), size=points)),
        outcome=tuple(OUTCOMES[i] for i in random.choice(5, points, p=(0.4, 0.3, 0.2, 0.05, 0.05))),
        regime=("sampling",) * points,
        key=ids,
        task=("sums",) * points,
        model=("embedded",) * points,
        problem=ids,
        unmeasured=3,
    )


def sample_rescue(operators: Sequence[str], regimes: Sequence[str]) -> tuple[RescueRow, ...]:
    rows = []
    for r, regime in enumerate(regimes):
        for i, operator in enumerate(operators):
            attempts = 254 // (i + 1) + r
            rescued = int(attempts * 0.15 / (i + 1))
            spent = attempts * 110
            rate = share(rescued / attempts, attempts)
            each = spent / rescued if rescued else None
            rows.append(RescueRow(regime, operator, attempts, rescued, rate, spent, each))
    return tuple(rows)


def sample_curve(name: str, top: float, source: Any, active: bool = False, most: int = 40) -> Curve:
    tokens = tuple(float(t) for t in np.linspace(0, 460, most))
    rates = [top * (1 - np.exp(-t / 150)) for t in tokens]
    return Curve(name, source, active, tokens, tuple(share(float(r), 84) for r in rates))


def sample_calibration(stops: bool) -> Calibration:
    counts = (160, 90, 60, 31, 12, 4)
    bins = tuple(Bin(0.02 + 0.08 * i, share(0.03 + 0.075 * i, n), n) for i, n in enumerate(counts))
    below = tuple(Bin(0.01 + 0.01 * i, share(0.02 + 0.02 * i, 12), 12) for i in range(3))
    return Calibration(
        attempts=bins,
        error=0.021,
        stops=below if stops else (),
        stopped=35,
        stop_chance=0.021,
        stop_checked=30 if stops else 0,
        stop_missed=share(2 / 30, 30) if stops else Estimate(None),
        note="Predicted rescue of the operator that was chosen, against what its attempt did.",
    )


def sample_drift(spans: int, minutes: int = 700, policy: str = "policy shipped 0123") -> Drift:
    start = np.datetime64("2026-11-20T09:10:00")
    starts = tuple(f"{start + np.timedelta64(minutes * i, 'm')}+00:00" for i in range(spans))
    means = tuple(
        tuple(share_z(0.2 * f + 0.12 * f * i - 0.3, 0.5) for i in range(spans)) for f in range(3)
    )
    names = ("spread", "concentration", "logit_dispersion")
    note = "Spans hold about as many failures each."
    return Drift(policy, names, starts, (12,) * spans, means, ("logit_dispersion",), note)


def share_z(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def sample_strip(length: int, pieces: bool = True, position: int = 0, seed: int = 1) -> Strip:
    random = np.random.default_rng(seed)
    pressure = np.maximum(0, random.normal(-0.2, 0.5, length))
    junction = length * 3 // 5
    pressure[junction] = 6.2
    words = ("So", " 37", " +", " 48", " *", " 2", "\n", " is", "  ", " therefore", ",", " 96", ".")
    other = tuple(random.random(length).tolist())
    return Strip(
        rollout=f"r{position}",
        position=position,
        junction=junction,
        pressure=tuple(pressure.tolist()),
        path=other,
        coverage=other,
        entropy=other,
        pieces=tuple(words[i] for i in random.integers(len(words), size=length))
        if pieces
        else None,
    )


def sample_case(strips: Sequence[Strip], key: str = "sum-17", text: str = "") -> Case:
    first = strips[0]
    tail = text or " 48 * 2 is 96, so 37 + 96 = 123.\nA:123 " * 3

    def repair(n: int, operator: str, outcome: str, at: int | None, base: str | None) -> Repair:
        after = tail.replace("123", "133") if outcome == "rescued" else tail
        return Repair(
            f"a{n}",
            n,
            operator,
            outcome,
            100 + n,
            base,
            at,
            None if at is None else "So",
            tail,
            after,
        )

    j = first.junction
    repairs = (
        repair(4, "sparse_steer", "failed", j, first.rollout),
        repair(5, "local_temp", "failed", j, first.rollout),
        repair(6, "sparse_steer_random", "failed", max(0, j - 2), first.rollout),
        repair(7, "dense_steer", "rescued", None, None),
        repair(8, "retry", "unscored", None, None),
        repair(9, "sparse_steer", "rescued", min(len(first) - 1, j + 3), first.rollout),
    )
    return Case(
        problem="x" * 26,
        key=key,
        model="embedded",
        task="sums",
        why=("expensive",),
        outcome="rescued",
        regime="steerable_hard",
        tokens=1288,
        prompt=text or "37+48*2?",
        expected="133",
        attempts=(),
        decisions=(),
        strips=tuple(strips),
        repairs=repairs,
    )


def sample(problems: int = 84, operators: Sequence[str] = NAMES[:5], **changed: Any) -> Report:
    routes = (*operators, STOP, NOT_ROUTED)
    curves = (
        sample_curve("routed (shipped)", 0.43, "observed", active=True),
        sample_curve("retry alone", 0.23, "measured"),
        sample_curve("dense_steer, again and again", 0.41, "estimated"),
        sample_curve("round robin", 0.40, "estimated"),
    )
    note = (
        "Routed: what these runs did. Retry alone was measured beside them on the same problems; "
        "estimated curves are forecasts from first samples, not measurements."
    )
    made = Report(
        database="traces.db",
        made_at="2026-11-24T03:00:00+00:00",
        version="0",
        runs=(),
        run_count=1,
        problems=200,
        solved_first=116,
        failed=problems,
        notes=(),
        groups=(),
        headline=(),
        maps=(sample_map(problems, routes),),
        rescue=sample_rescue(operators, ("sampling", "steerable_hard")),
        panels=(Panel("In these runs", problems, curves, note),),
        calibration=sample_calibration(stops=True),
        drift=(sample_drift(9),),
        cases=(sample_case([sample_strip(34), sample_strip(40, position=1, seed=2)]),),
    )
    return dataclasses.replace(made, **changed)


def empty() -> Report:
    none = Calibration((), None, (), 0, None, 0, Estimate(None), "")
    return sample(0, maps=(), rescue=(), panels=(), calibration=none, drift=(), cases=())


def drawn(
    report: Report, figure: str, kind: str = "png", theme: str = "light", dpi: int = 80
) -> bytes:
    made = picture(report, figure, theme=theme)
    assert made is not None
    return encoded(made, kind, theme=theme, dpi=dpi, title="a title", description="what is seen")


def traced(case: Case, kind: str = "png", theme: str = "light") -> bytes:
    made = trace_picture(case, theme=theme)
    assert made is not None
    return encoded(made, kind, theme=theme, dpi=80, title="a title", description="what is seen")


def pixels(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(image.imread(path))


def texts(svg: bytes) -> str:
    """All that an SVG says, in the order of the file."""
    return " ".join("".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if ended(e))


def ended(element: ElementTree.Element) -> bool:
    return element.tag.rpartition("}")[2] in ("text", "title", "desc")


@pytest.mark.parametrize(
    ("figure", "theme"), [*((figure, "light") for figure in FIGURES), ("map", "dark")]
)
def test_every_figure_is_a_picture_of_the_size_asked_for(
    figure: str, theme: str, tmp_path: Path
) -> None:
    shades = pixels(drawn(sample(), figure, theme=theme), tmp_path / "a.png")
    assert shades.shape[1] == 520
    assert len(np.unique(shades.reshape(-1, 4), axis=0)) > 50
    paper = [int(PAPER[theme][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    border = np.concatenate([shades[0], shades[-1], shades[:, 0], shades[:, -1]])
    # Nothing is cut off at the border, and no dot of it is half transparent.
    assert np.abs(border[:, :3] - paper).max() < 0.02
    assert border[:, 3].min() == 1


@pytest.mark.parametrize(
    ("figure", "kind"), [("map", "png"), ("rescue", "svg"), ("budget", "svg"), ("drift", "pdf")]
)
def test_the_same_report_gives_the_same_bytes(figure: str, kind: str) -> None:
    assert drawn(sample(), figure, kind) == drawn(sample(), figure, kind)


def test_a_trace_gives_the_same_bytes() -> None:
    case = sample().cases[0]
    assert traced(case, "svg") == traced(case, "svg")


def test_pictures_say_what_they_show() -> None:
    assert b"Description\x00what is seen" in drawn(sample(), "map")
    svg = drawn(sample(), "map", "svg")
    assert texts(svg).startswith("a title what is seen")
    assert b"<dc:date>" not in svg
    assert b"/CreationDate" not in drawn(sample(), "map", "pdf")


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (
            "map",
            [
                "84 failed problems",
                "sparse_steer_random",
                "not routed",
                "out of budget",
                "3 failed",
            ],
        ),
        ("rescue", ["steerable_hard", "dense_steer", "38/254", "1,552", "tokens/"]),
        (
            "budget",
            ["routed (shipped)", "round robin (estimated)", "not measurements", "retry alone"],
        ),
        ("calibration", ["mean error 2.1%", "160", "rescued 6.7%", "35 problems stopped"]),
        ("drift", ["logit dispersion, drifting", "2026-11-20", "policy shipped 0123"]),
    ],
)
def test_texts_of_a_figure_can_be_read(figure: str, said: list[str]) -> None:
    found = texts(drawn(sample(), figure, "svg"))
    assert [text for text in said if text not in found] == []


def test_a_trace_shows_tokens_junction_and_both_continuations() -> None:
    found = texts(traced(sample().cases[0], "svg"))
    said = ["sum-17", "junction at token 20 with J = 6.2", "therefore", "\u21b5", "\u25b21,2"]
    said += ["sparse_steer", "A:123", "A:133", "rescued", "37+48*2?", "Attempt 1: 40 tokens"]
    assert [text for text in said if text not in found] == []


def test_a_long_trace_shows_what_is_around_the_junction() -> None:
    found = texts(traced(sample_case([sample_strip(3000)]), "svg"))
    assert "beneath: tokens 1,6" in found
    assert "junction" in found
    ends = texts(
        traced(sample_case([dataclasses.replace(sample_strip(3000), junction=2999)]), "svg")
    )
    assert "to 2,999" in ends


def test_extremes_can_be_drawn(recwarn: pytest.WarningsRecorder) -> None:
    one = sample(
        1,
        ["retry"],
        panels=(Panel("One", 1, (sample_curve("routed", 1.0, "observed", True, 1),), ""),),
        calibration=sample_calibration(stops=False),
        drift=(sample_drift(1), sample_drift(30, 1)),
    )
    many = tuple(sample_curve(f"a policy named {i} at length", 0.4, "recorded") for i in range(9))
    big = sample(
        10000,
        NAMES[:9],
        maps=(sample_map(10000, NAMES, wide=3.0), sample_map(3, NAMES)),
        panels=(Panel("Many", 9, many, "note " * 90),),
    )
    odd = dataclasses.replace(sample_map(4, NAMES), features=("agreement",), z=((1.0,) * 4,))
    nothing = Curve("none", "observed", False, (0.0,), (Estimate(None),))
    bare = sample(
        4, maps=(odd,), panels=(Panel("x", 0, (), ""), Panel("y", 1, (*many, nothing), ""))
    )
    for report, figures in ((one, FIGURES), (big, FIGURES[:3]), (bare, ("map", "budget"))):
        for figure in figures:
            assert drawn(report, figure).startswith(PNG)
    still = dataclasses.replace(sample_strip(1), pressure=(0.0,), junction=0)
    for strips in ([still], [sample_strip(200, pieces=False)], [sample_strip(9)] * 7):
        assert traced(sample_case(strips)).startswith(PNG)
    assert [str(warning.message) for warning in recwarn] == []


def test_what_has_no_data_is_not_drawn() -> None:
    for figure in FIGURES:
        assert picture(empty(), figure) is None
        assert lacking(empty(), figure)
        assert lacking(sample(), figure) is None
    assert trace_picture(dataclasses.replace(sample().cases[0], strips=())) is None


def test_hostile_text_is_only_text(recwarn: pytest.WarningsRecorder) -> None:
    strip = dataclasses.replace(sample_strip(12), pieces=(HOSTILE, "$x^2$", "\\", "") * 3)
    case = sample_case([strip], key=HOSTILE, text=HOSTILE)
    names = (HOSTILE, "$a$", "_b_")
    curve = dataclasses.replace(sample_curve("c", 0.3, "observed"), name=HOSTILE)
    report = sample(
        84,
        names,
        rescue=sample_rescue(names, (HOSTILE,)),
        panels=(Panel(HOSTILE, 84, (curve,), HOSTILE),),
        drift=(dataclasses.replace(sample_drift(3), policy=HOSTILE, note=HOSTILE),),
    )
    made = [drawn(report, figure, "svg") for figure in FIGURES] + [traced(case, "svg")]
    for svg in made:
        root = ElementTree.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "a", "image")]
    said = texts(made[-1])
    assert "$\\frac{1}{0}$ <script>&]]>--" in said
    assert "$x^2$" in said
    assert not {"\x1b", "\u202e", "\x00"} & set(said)
    assert drawn(report, "budget").startswith(PNG)
    assert drawn(report, "rescue", "pdf").startswith(PDF)
    assert [str(warning.message) for warning in recwarn] == []


def test_settings_of_the_user_change_nothing() -> None:
    import matplotlib

    expected = drawn(sample(), "rescue")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "text.usetex": False}):
        assert drawn(sample(), "rescue") == expected
    assert "matplotlib.pyplot" not in sys.modules


def test_wrong_figures_and_themes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no figure is 'pie'; choose from map, rescue"):
        picture(sample(), "pie")
    with pytest.raises(InvalidInputError, match="no theme is 'blue'; choose from light, dark"):
        picture(sample(), "map", theme="blue")
    with pytest.raises(InvalidInputError, match="'blue'"):
        trace_picture(sample().cases[0], theme="blue")


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stand_out_and_stay(theme: str) -> None:
    paper = brightness(PAPER[theme]) + 0.05
    for colour in colours([*NAMES, "mine", "yours"], theme).values():
        ink = brightness(colour) + 0.05
        assert max(ink, paper) / min(ink, paper) >= 3
    assert colours(["retry"], theme)["retry"] == colours(NAMES, theme)["retry"]
    assert len(set(colours([*NAMES, "mine", "yours", "theirs"], theme).values())) == len(NAMES) + 3
    assert set(SHAPES) == set(OUTCOMES)


def test_labels_are_moved_apart_and_stay_inside() -> None:
    places = spaced([0.1, 0.1, 0.11, 0.9, 0.95], 0.1, 0.05, 1.0)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(places))
    assert max(places) <= 1.0 + 1e-9
    assert spaced([0.2, 0.8], 0.1, 0, 1) == [0.2, 0.8]
    assert spaced([], 0.1, 0, 1) == []


def test_spans_are_labelled_as_briefly_as_can_be() -> None:
    days = ["2026-11-20T09:10:00", "2026-11-21T01:00:00"]
    assert span_labels(days) == ["2026-11-20", "2026-11-21"]
    close = ["2026-11-20T09:10:00", "2026-11-20T09:11:30", "2026-11-21T00:00:10"]
    assert span_labels(close) == ["09:10\n2026-11-20", "09:11", "00:00\n2026-11-21"]


def test_text_is_cut_to_its_room() -> None:
    assert width_of(fitted("word " * 100, 2.0, 8), 8) <= 2.0
    assert fitted("short", 2.0, 8) == "short"
    assert shown("a\nb\u202e") == "a\u21b5b\u25a1"


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Runs `recov-graph plot`."""
    return partial(cli, "plot")


@pytest.fixture(scope="session")
def plotted(tmp_path_factory: pytest.TempPathFactory, scripted: Any) -> Path:
    """A store with a problem rescued and one given up, whose failures were measured."""
    path = tmp_path_factory.mktemp("plotted") / "traces.db"
    with TraceStore(path) as store:
        graph = create_recovery_graph(
            scripted(["A:2"] * 4 + ["A:3"] * 2 + ["A:1"], last="A:4"),
            "exact",
            store=store,
            router=default_policy().model_copy(update={"stop_below": 0.0}),
            interventions=["dense_steer", "retry"],
            kind="run",
            seed=1,
        )
        for name in ("hard", "hopeless"):
            graph.invoke({"problem": {"prompt": "one?", "answer": "1", "id": name, "task": "t"}})
    return path


@pytest.fixture
def db(plotted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOV_GRAPH_POLICIES", str(tmp_path / "policies"))
    return Path(shutil.copy(plotted, tmp_path / "traces.db"))


def test_a_store_becomes_pictures(cli: Cli, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    out.mkdir()
    code, printed, complaints = cli("--db", db, "--out", out)
    assert code == 0, complaints
    made = sorted(path.name for path in out.iterdir())
    assert sorted(Path(line).name for line in printed.splitlines()) == made
    assert "rescue.png" in made
    assert all(path.read_bytes().startswith(PNG) for path in out.iterdir())
    left_out = {line.split()[0] for line in complaints.splitlines()}
    assert {name.removesuffix(".png") for name in made} | left_out == set(FIGURES)
    assert cli("--db", db, "--out", out)[0] == 0  # older pictures are replaced


def test_one_figure_goes_to_the_file_named(cli: Cli, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "Rescue.SVG"
    assert cli("rescue", "--db", db, "--out", out, "--theme", "dark")[:2] == (0, f"{out}\n")
    assert "dense_steer" in texts(out.read_bytes())
    code, printed, complaints = cli(
        "trace", "--problem", "hard", "--db", db, "--out", tmp_path, "--format", "pdf"
    )
    assert (code, printed) == (0, f"{tmp_path / 'trace.pdf'}\n"), complaints
    assert (tmp_path / "trace.pdf").read_bytes().startswith(PDF)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pie"], "choose from map, rescue, budget, calibration, drift, trace"),
        (["map", "--format", "gif"], "'gif'"),
        (["map", "--theme", "blue"], "'blue'"),
        (["map", "--out", "{tmp}/no.such"], "must be a folder, or a file that ends in"),
        (["map", "--out", "{tmp}/no/such.png"], "cannot be written"),
        (["map", "rescue", "--out", "{tmp}/a.png"], "name one figure or a folder"),
        (["map", "--out", "{tmp}/a.png", "--format", "svg"], "leave one of the two out"),
        (["rescue", "--out", "{tmp}/notes.png"], "is no PNG"),
        (["rescue", "--out", "{tmp}/notes.svg"], "is no SVG"),
        (["rescue", "--out", "{tmp}/store.png"], "is a database"),
        (["trace"], "needs it"),
        (["map", "--problem", "hard"], "is for the figure trace"),
        (["trace", "--problem", "no-such"], "no-such"),
        (["rescue", "--run", "no-such"], "no-such"),
        (["rescue", "--policy", "no-such"], "no-such"),
        (["map", "--width", "nan"], "nan"),
        (["map", "--dpi", "5"], "5"),
        (["map", "--db", "{tmp}/no.db"], "recov-graph demo"),
    ],
)
def test_wrong_input_is_one_clear_line(
    cli: Cli, db: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    for name in ("notes.png", "notes.svg"):
        (tmp_path / name).write_text("my notes", encoding="utf-8")
    shutil.copy(db, tmp_path / "store.png")
    given = [text.replace("{tmp}", str(tmp_path)) for text in arguments]
    rest = [
        *([] if "--db" in given else ["--db", db]),
        *([] if "--out" in given else ["--out", tmp_path]),
    ]
    before = sorted(tmp_path.iterdir())
    code, printed, complaints = cli(*given, *rest)
    assert (code, printed) == (2, "")
    assert said in complaints
    assert complaints.startswith("Error: ")
    assert complaints.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "notes.png").read_text(encoding="utf-8") == "my notes"


def test_nothing_to_draw_names_the_fix(cli: Cli, tmp_path: Path) -> None:
    with TraceStore(tmp_path / "empty.db"):
        pass
    code, printed, complaints = cli("--db", tmp_path / "empty.db", "--out", tmp_path)
    assert (code, printed) == (2, "")
    assert "recov-graph demo" in complaints
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".png"] == []


def run_python(code: str, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    surrounding = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=surrounding, check=False)


def test_without_matplotlib_the_fix_is_named(db: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from recov_graph.cli import main; main()"
    done = run_python(code, "plot", "rescue", "--db", db, "--out", tmp_path)
    assert done.returncode == 2
    assert 'pip install "recov-graph[plot]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_odd_backend_does_not_matter(db: Path, tmp_path: Path) -> None:
    code = "from recov_graph.cli import main; main()"
    arguments = ("plot", "rescue", "--db", db, "--out", tmp_path)
    done = run_python(code, *arguments, MPLBACKEND="no such backend")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_use_keeps_quiet(db: Path, tmp_path: Path) -> None:
    code = "from recov_graph.cli import main; main()"
    arguments = ("plot", "rescue", "--db", db, "--out", tmp_path)
    cache = str(tmp_path / "cache")
    done = run_python(code, *arguments, MPLCONFIGDIR=cache, MPLBACKEND="QtAgg")
    assert (done.returncode, done.stderr) == (0, "")
