"""What `show` draws: colours and strips on a terminal, all of it in a pipe, bare facts in a log."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from stories import add_attempt, add_problem, add_run, end, hard, trace
from terminals import COMMAND, OnTerminal, bare, into_pipe, on_terminal

from recov_graph.store import TraceStore

ESC = "\x1b[31mred\x1b[0m\x1b]0;title\x07"
HOSTILE = f"{ESC}[bold red]m[/]\u202ertl\u200bzero\r\n\x7f\x9b"
FORBIDDEN = set("\x07\r\u202e\u200b\x7f\x9b")
Show = Callable[..., str]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A run with a problem of each kind of end; two of them have the same id."""
    path = tmp_path / "traces.db"
    with TraceStore(path) as store:
        add_run(store)
        hard(store)
        for name, reason, routed in (
            ("easy", "solved", False),
            ("far", "out_of_reach", True),
            ("dear", "budget_exhausted", True),
            ("broken", "model_error", True),
        ):
            add_problem(store, name)
            add_attempt(store, name, 0, "x", passed=reason == "solved")
            end(store, name, reason, routed=routed)
        add_problem(store, "open", answer=None)
        add_problem(store, "again", key="easy", prompt="the same id")
    return path


@pytest.fixture
def show(db: Path) -> Show:
    """What the command prints into a pipe."""
    return partial(into_pipe, "show", "--db", db)


def test_outcomes_have_colours_on_a_terminal(db: Path) -> None:
    seen = on_terminal("show", "--db", db, TERM="xterm", COLORTERM="")
    rows = {line.split()[1]: line for line in seen.splitlines() if "│" in line}
    assert "\x1b[1;32mrescued" in rows["hard"]
    assert "\x1b[32msolved" in rows["easy"] or "\x1b[32msolved" in seen
    assert "\x1b[33mout_of_reach" in rows["far"]
    assert "\x1b[31mbudget_exhausted" in rows["dear"]
    assert "\x1b[31mmodel_error" in rows["broken"]
    last = " ".join(bare(seen).split("┘")[1].split())
    assert last == (
        "7 problems, 2 solved; 4 failed: 1 rescued, 1 stopped, 1 out of budget, 1 model errors; "
        "2 unfinished"
    )


def test_a_strip_is_shaded_by_pressure_and_names_its_junction(db: Path) -> None:
    seen = on_terminal("show", "--db", db, "--problem", "hard")
    text = bare(seen)
    lines = [line.rstrip() for line in text.splitlines()]
    at = lines.index("    x=1;A:13·")
    assert lines[at + 1] == "      ^ junction, token 2: J 6.00"
    assert "\x1b[1;4;30;48;2;230;85;13m1" in seen  # J of 6 nats
    assert "went on from attempt 0, token 2" in text
    for line in ("kept:     x=", "failed:   1;A:13", "repaired: 9;A:99", "repaired: 2"):
        assert f"    {line}" in lines
    assert "retry alone, with as many tokens over the batch: not rescued in 3 attempts" in text
    assert lines[-1] == "solved, 123 tokens"


@pytest.mark.parametrize(
    ("terminal", "shade"),
    [
        ({"COLORTERM": ""}, r"\x1b\[1;4;30;48;5;\d+m1"),
        ({"COLORTERM": "", "TERM": "xterm"}, r"\x1b\[1;4;37;41m1"),
    ],
)
@pytest.mark.slow
def test_poorer_terminals_get_the_shades_they_have(
    db: Path, terminal: dict[str, str], shade: str
) -> None:
    # A process of its own: rich keeps the codes of a colour for the first terminal that it met.
    assert re.search(shade, OnTerminal("show", "--db", db, "--problem", "hard", **terminal).end())


def test_without_colours_a_bar_is_drawn(db: Path, show: Show) -> None:
    seen = on_terminal("show", "--db", db, "--problem", "hard", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", seen)
    for text in (bare(seen), show("--problem", "hard")):
        assert "    x=1;A:13\n" in text.replace("\r\n", "\n")
        assert "    ▁▁█▁▁▁▁▁▁\n      ^ junction, token 2: J 6.00\n" in text.replace("\r\n", "\n")
    assert "\x1b" not in show("--problem", "hard")


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("arguments", [[], ["--runs"], ["--problem", "hard"]])
def test_lines_fit_the_terminal(db: Path, columns: int, arguments: list[str]) -> None:
    seen = bare(on_terminal("show", "--db", db, *arguments, columns=columns))
    assert max(cell_len(line) for line in seen.splitlines()) <= columns
    assert "hard" in seen or "run0" in seen


def test_the_installed_command_fits_the_terminal_it_is_on(db: Path) -> None:
    command = OnTerminal("show", "--db", db, "--problem", "hard", columns=40)
    seen = command.end()
    assert "48;2;230;85;13m1" in seen
    assert max(cell_len(line) for line in bare(seen).splitlines()) in range(35, 41)


def long_problem(db: Path, pieces: list[str] | None, length: int, junction: int) -> None:
    with TraceStore(db) as store:
        add_problem(store, "long")
        text = "".join(pieces or ["z"] * length)
        store.write_traces(
            {add_attempt(store, "long", 0, text): trace(text, junction, pieces, length)}
        )


def test_a_long_strip_is_cut_to_a_window_around_the_junction(db: Path) -> None:
    long_problem(db, [f"t{i} " for i in range(2000)], 2000, 1000)
    text = bare(on_terminal("show", "--db", db, "--problem", "long"))
    assert "… 940 tokens … " in text
    assert " … 939 tokens …" in text
    assert "t1000 " in text
    assert "t939 " not in text
    assert "junction, token 1000: J 6.00" in text
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "junction, token" in line)
    assert lines[at - 1][lines[at].index("^") :].startswith("t1000")


def test_the_bar_of_a_long_rollout_is_as_wide_as_the_terminal(db: Path) -> None:
    long_problem(db, None, 2000, 1999)
    text = bare(on_terminal("show", "--db", db, "--problem", "long", columns=60))
    assert "▁" * 55 + "█" in text
    assert "junction, token 1999: J 6.00 ^" in text


@pytest.mark.parametrize("piece", ["日本", "a" * 5000, "\n", "", "é", "👩"])
def test_the_mark_is_beneath_the_junction_whatever_stands_before(db: Path, piece: str) -> None:
    long_problem(db, [piece] * 7 + ["J"] + [piece] * 3, 11, 7)
    lines = bare(on_terminal("show", "--db", db, "--problem", "long", columns=40)).splitlines()
    at = next(i for i, line in enumerate(lines) if "^" in line)
    before = lines[at].split("^")[0].replace("junction, token 7: J 6.00", " " * 25)
    assert max(map(cell_len, lines)) <= 40
    rest = lines[at - 1]
    while cell_len(before) > 0 and rest:
        before, rest = before[cell_len(rest[0]) :], rest[1:]
    assert rest.startswith("J")


def test_a_piece_shows_its_special_characters(db: Path) -> None:
    long_problem(db, ["a\n", "\t", "\x1b[31m", "[red]"], 4, 0)
    text = bare(on_terminal("show", "--db", db, "--problem", "long"))
    assert "    a↵\\t\\u001b[31m[red]" in text


def test_huge_texts_do_not_fill_a_terminal_and_are_whole_in_a_pipe(db: Path, show: Show) -> None:
    text = "w" * 200_000
    with TraceStore(db) as store:
        add_problem(store, "huge", prompt=text, answer=f'"{text}"')
        add_attempt(store, "huge", 0, text, explanation=text)
    assert len(on_terminal("show", "--db", db, "--problem", "huge")) < 20_000
    assert show("--problem", "huge").count(text) == 4


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_what_is_not_kept_is_said_to_be_not_stored(tmp_path: Path, store_text: Any) -> None:
    path = tmp_path / "other.db"
    with TraceStore(path, store_text=store_text) as store:
        add_run(store)
        hard(store)
        add_problem(store, "free", answer=None)
        hashes = {
            str(value)
            for table in ("problems", "rollouts", "verdicts")
            for row in store.query(f"SELECT * FROM {table}")
            for name, value in row.items()
            if name in ("prompt", "answer", "text", "explanation") and value
        }
        keys = [row["key"] for row in store.query("SELECT key FROM problems ORDER BY rowid")]
    for options in ([], ["--plain"]):
        seen = bare(on_terminal("show", "--db", path, "--problem", keys[0], *options))
        assert not [one for one in hashes if one in seen]
        assert "(not stored)" in seen
        assert "token 2" in seen or "token=2" in seen
    free = bare(on_terminal("show", "--db", path, "--problem", keys[1]))
    assert f"expected: {'none' if store_text == 'hash' else '(not stored)'}" in free


def test_a_problem_without_an_answer_has_none(show: Show) -> None:
    assert "expected: none\n" in show("--problem", "open")


def test_all_problems_with_the_id_are_shown(show: Show) -> None:
    text = show("--problem", "easy")
    assert "problem easy (1 of 2 with this id)" in text
    assert "problem easy (2 of 2 with this id)" in text
    assert "the same id" in text


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.db"
    with TraceStore(path) as store:
        add_run(store, model=HOSTILE, policy=HOSTILE, kind=HOSTILE, verifier=HOSTILE)
        add_problem(store, "p", key=HOSTILE, task=HOSTILE, prompt=HOSTILE, answer=HOSTILE)
        rollout = add_attempt(store, "p", 0, HOSTILE, explanation=HOSTILE)
        store.write_traces({rollout: trace(HOSTILE, 1, ["a", HOSTILE, "b"], 3)})
        details = {"anchor": "replay", "position": 0}
        add_attempt(store, "p", 1, HOSTILE, HOSTILE, details=details, explanation=HOSTILE)
        store.write(
            decisions=[
                {
                    **store.problem_decisions("p")[0],
                    "reason": HOSTILE,
                    "regime": HOSTILE,
                    "candidates": '[{"operator": "\\u001b[31m", "expected_rescue": 1}]',
                }
            ]
        )
        end(store, "p", "solved")
    return path


@pytest.mark.parametrize("arguments", [[], ["--runs"], ["--problem", HOSTILE]])
@pytest.mark.parametrize("plain", [[], ["--plain"]])
def test_texts_of_others_cannot_act_on_a_terminal(
    hostile: Path, arguments: list[str], plain: list[str]
) -> None:
    seen = on_terminal("show", "--db", hostile, *arguments, *plain, columns=400)
    assert not set(bare(seen).replace("\r\n", "")) & (FORBIDDEN | {"\x1b"})
    assert "title" in seen
    assert "[bold red]m[/]" in bare(seen)


@pytest.mark.parametrize("arguments", [[], ["--runs"], ["--problem", "hard"]])
def test_plain_is_one_fact_a_line_the_same_everywhere(
    db: Path, show: Show, arguments: list[str]
) -> None:
    piped = show(*arguments, "--plain")
    assert (
        on_terminal("show", "--db", db, *arguments, "--plain", columns=40).replace("\r\n", "\n")
        == piped
    )
    assert piped.isascii()
    value = r'("(\\.|[^"\\])*"|[^ "=]+)'
    for line in piped.splitlines():
        assert re.fullmatch(rf"[a-z_]+( [a-z_]+={value})*", line), line


def test_plain_tells_of_a_problem(show: Show) -> None:
    lines = show("--problem", "hard", "--plain").splitlines()
    for line in (
        'problem id=hard task=task prompt="prompt of hard" expected="\\"12\\""',
        "junction attempt=0 token=2 pressure=6 path=6 coverage=0 entropy=0 piece=1",
        'repair attempt=4 base=1 token=7 kept="x=2;A:1" failed=4 repaired=2',
        "candidate step=0 operator=retry expected_rescue=0.125",
        "retry_alone rescued=false attempts=3 tokens=90",
        "ended how=rescued attempts=4 tokens=123",
    ):
        assert line in lines, lines


def test_plain_tells_of_a_run_and_of_all_runs(show: Show) -> None:
    assert show("--plain").splitlines()[-1] == (
        "total problems=7 solved=2 failed=4 rescued=1 stopped=1 budget_exhausted=1 errors=1 "
        "unfinished=2 tokens=615"
    )
    (line,) = show("--runs", "--plain").splitlines()
    assert line.startswith("run id=run0 kind=run model=model ")
    assert line.endswith(" problems=7 failed=4 rescued=1 tokens=615")


def test_where_letters_fail_facts_are_printed(show: Show) -> None:
    text = show("--problem", "hard", PYTHONIOENCODING="ascii")
    assert text == show("--problem", "hard", "--plain")


def test_runs_are_listed_with_their_figures(show: Show) -> None:
    text = show("--runs")
    (row,) = (line for line in text.splitlines() if "run0" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    expected = ["run0", "run", "model", "policy", "2026-01-01 00:00", "7", "4", "1", "615"]
    assert cells == expected
    assert text.splitlines()[-1] == "1 run"


@pytest.mark.parametrize("arguments", [["--runs"], ["--runs", "run0"]])
@pytest.mark.slow
def test_an_empty_store_has_no_runs(tmp_path: Path, arguments: list[str]) -> None:
    TraceStore(tmp_path / "empty.db").close()
    command = [COMMAND, "show", "--db", tmp_path / "empty.db", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
