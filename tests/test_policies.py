"""The shelf of policies: saved, activated, rolled back, compared, and robust to damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from recov_graph.cli import cli as root
from recov_graph.cli.policy import diff, expected_rescue, policy
from recov_graph.errors import PolicyError
from recov_graph.policies import HISTORY, SHIPPED, PolicyShelf, policies_path
from recov_graph.routing import Policy, default_policy, load_policy
from recov_graph.routing.policy import Counts, Covariates, Posterior, Window
from tests.conftest import Cli

HOSTILE = "\x1b[31mred\x1b[0m\u202e\x07\r\nnext line"
ESCAPES = set("\x1b\x07\r\u202e")


# The shipped policy without what it has learned: the rule alone.
COLD = default_policy().model_copy(
    update={"name": "embedded-rule", "posterior": None, "counts": None, "code_version": None}
)


def named(name: str, **fields: Any) -> Policy:
    return COLD.model_copy(update={"name": name, **fields})


def fitted(name: str = "fitted", *, dense: float = 0.4, types: int = 2, **fields: Any) -> Policy:
    posterior = Posterior(
        operators=["retry", "dense_steer"],
        rescue=[[0.1, dense]] + [[0.2, 0.6]] * (types - 1),
        weights=[1.0 / types] * types,
        cells={"m|t": {0: 0.25, types - 1: 0.75}},
        hardness=[-1.0] * types,
        bandwidth=0.5,
        covariates=Covariates(intercept=-0.5, coefficients={"spread": 0.1}),
        informed=True,
        measure=False,
        failures={"m|t": 40},
        explore=0.1,
    )
    learned = {
        "posterior": posterior,
        "window": Window(first="2026-01-01", last="2026-02-01"),
        "counts": Counts(problems=40, attempts=160.0, rescues=30.0),
    }
    return named(name, **learned, **fields)


A, B, C = named("a"), named("b", created="2026-12-01"), fitted("c")


@pytest.fixture
def shelf(tmp_path: Path) -> PolicyShelf:
    return PolicyShelf(tmp_path / "policies")


@pytest.fixture
def cli(shelf: PolicyShelf, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """Runs `recov-graph policy` on the shelf, with the errors that users meet."""
    monkeypatch.setitem(root.commands, "policy", policy)
    return lambda *arguments: cli("policy", *arguments, "--policies", shelf.folder)


def edited(path: Path, **fields: Any) -> Path:
    """The file with some fields set by hand, its hash left as it was."""
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**data, **fields}), encoding="utf-8")
    return path


def tampered(path: Path) -> None:
    edited(path, stop_below=0.5)


def newer(path: Path) -> None:
    edited(path, schema_version=99)


def not_json(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another(path: Path) -> None:
    B.save(path)


def gone(path: Path) -> None:
    path.unlink()


DAMAGES = {
    tampered: "was changed after it was written",
    newer: "schema_version 99 is newer",
    not_json: "not JSON",
    not_text: "not JSON",
    empty: "not JSON",
    folder: "cannot be read: Is a directory",
    another: f"belongs in {B.content_hash}.json",
}
damages = pytest.mark.parametrize(
    ("damage", "says"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES]
)


# What is on the shelf


@pytest.mark.parametrize("saved", [A, C, default_policy()], ids=["rule", "fitted", "shipped"])
def test_what_is_saved_loads_again(shelf: PolicyShelf, saved: Policy) -> None:
    path = shelf.save(saved)
    assert path == shelf.folder / f"{saved.content_hash}.json"
    assert load_policy(path) == saved == shelf.find(saved.content_hash)


def test_the_same_policy_twice_is_one_file(shelf: PolicyShelf) -> None:
    assert shelf.save(A) == shelf.save(A.model_copy())
    assert [path.name for path in shelf.folder.iterdir()] == [f"{A.content_hash}.json"]


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_below": 2.0},
        {"stop_below": float("nan")},
        {"name": ""},
        {"name": "\ud800"},
        {"posterior": {"operators": []}},
        {"posterior": object()},
        {"rescue": None},
    ],
    ids=["too large", "NaN", "no name", "half a name", "no operators", "an object", "none"],
)
def test_what_would_not_load_again_is_not_saved(shelf: PolicyShelf, fields: Any) -> None:
    with pytest.raises(PolicyError, match="cannot be saved"):
        shelf.save(default_policy().model_copy(update=fields))
    with pytest.raises(PolicyError, match="cannot be saved"):
        shelf.activate(default_policy().model_copy(update=fields), why="")
    assert not shelf.folder.exists()


def test_saving_repairs_a_damaged_file(shelf: PolicyShelf) -> None:
    tampered(shelf.save(A))
    assert load_policy(shelf.save(A)) == A


def test_an_empty_shelf_lists_nothing_and_is_not_made(shelf: PolicyShelf) -> None:
    assert shelf.list() == []
    assert shelf.history() == []
    assert shelf.active() is None
    assert not shelf.folder.exists()


def test_the_list_says_what_is_active_and_how_often_it_was(shelf: PolicyShelf) -> None:
    for chosen in (A, B, A, C):
        shelf.activate(chosen, why="")
    shelf.rollback()
    listed = {entry.policy.name: entry for entry in shelf.list() if entry.policy}
    assert {name: entry.active for name, entry in listed.items()} == {
        "a": True,
        "b": False,
        "c": False,
    }
    assert [listed[name].activations for name in "abc"] == [2, 1, 1]


@damages
def test_damaged_files_are_listed_last_with_their_error(
    shelf: PolicyShelf, damage: Callable[[Path], None], says: str
) -> None:
    damaged = shelf.save(A)
    shelf.save(C)
    damage(damaged)
    *good, last = shelf.list()
    assert [entry.policy for entry in good] == [C]
    assert (last.policy, last.path) == (None, damaged)
    assert says in str(last.error)
    assert "\n" not in str(last.error)


def test_the_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOV_GRAPH_DB", str(tmp_path / "stored" / "traces.db"))
    monkeypatch.delenv("RECOV_GRAPH_POLICIES", raising=False)
    assert PolicyShelf().folder == policies_path() == tmp_path / "stored" / "policies"
    monkeypatch.setenv("RECOV_GRAPH_POLICIES", str(tmp_path / "elsewhere"))
    assert PolicyShelf().folder == tmp_path / "elsewhere"
    assert PolicyShelf(tmp_path / "named").folder == tmp_path / "named"


def test_a_file_in_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shelf = PolicyShelf(tmp_path / "file")
    for call in (lambda: shelf.save(A), shelf.list, shelf.history, lambda: shelf.find("abcd")):
        with pytest.raises(PolicyError, match=r"file.*cannot be"):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_names_the_fix(shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    shelf.folder.chmod(0o500)
    try:
        with pytest.raises(PolicyError, match=r"cannot be written.*RECOV_GRAPH_POLICIES"):
            shelf.save(B)
    finally:
        shelf.folder.chmod(0o700)
    assert shelf.active() == A


# What a reference means


def test_references(shelf: PolicyShelf, tmp_path: Path) -> None:
    path = shelf.save(A)
    shelf.activate(B, why="")
    B.save(tmp_path / "mine.json")
    known = A.content_hash
    for ref in (path, str(path), known, known[:4], known[:8].upper(), "a"):
        assert shelf.find(ref) == A
    for ref in ("active", "b", tmp_path / "mine.json"):
        assert shelf.find(ref) == B
    for ref in (SHIPPED, default_policy().name, default_policy().content_hash[:6]):
        assert shelf.find(ref) == default_policy()


def test_a_name_of_several_policies_is_ambiguous(shelf: PolicyShelf) -> None:
    twins = [named("twin", source=source) for source in ("one", "two")]
    for twin in twins:
        shelf.save(twin)
    with pytest.raises(PolicyError) as caught:
        shelf.find("twin")
    assert all(twin.content_hash in str(caught.value) for twin in twins)
    assert shelf.find(twins[0].content_hash) == twins[0]


def test_a_prefix_of_several_hashes_is_ambiguous(shelf: PolicyShelf) -> None:
    made: dict[str, Policy] = {}
    for number in range(5_000):
        one = named("many", source=str(number))
        other = made.setdefault(one.content_hash[:4], one)
        if other != one:
            break
    prefix = one.content_hash[:4]
    for each in (one, other):
        shelf.save(each)
    with pytest.raises(PolicyError, match="could mean") as caught:
        shelf.find(prefix)
    assert one.content_hash in str(caught.value)
    assert other.content_hash in str(caught.value)


def test_a_hash_prefix_may_be_too_short(shelf: PolicyShelf) -> None:
    shelf.save(A)
    with pytest.raises(PolicyError, match="at least 4 characters of a hash"):
        shelf.find(A.content_hash[:3])


@pytest.mark.parametrize("ref", ["", "nothing", "ffffffffffffffff", "x" * 5_000, "a\0b"])
def test_an_unknown_reference_lists_what_is_known(shelf: PolicyShelf, ref: str) -> None:
    shelf.save(A)
    with pytest.raises(PolicyError, match="no policy is") as caught:
        shelf.find(ref)
    assert f"{A.content_hash} ('a')" in str(caught.value)
    assert default_policy().content_hash in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_long_list_of_what_is_known_is_cut(shelf: PolicyShelf) -> None:
    for number in range(20):
        shelf.save(named(f"p{number}"))
    with pytest.raises(PolicyError, match=r"and 13 more$"):
        shelf.find("nothing")


def test_paths_that_hold_no_policy(shelf: PolicyShelf, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="Is a directory"):
        shelf.find(str(tmp_path))
    with pytest.raises(PolicyError, match="No such file"):
        shelf.find("missing.json")


def test_a_damaged_file_meant_by_its_hash_is_told_as_such(shelf: PolicyShelf) -> None:
    tampered(shelf.save(A))
    with pytest.raises(PolicyError, match="was changed after it was written"):
        shelf.find(A.content_hash[:6])


def test_nothing_active_is_not_the_shipped_policy(shelf: PolicyShelf) -> None:
    with pytest.raises(PolicyError, match="'shipped'"):
        shelf.find("active")


# Which policy is active


def test_activations_are_a_stack(shelf: PolicyShelf) -> None:
    shelf.activate(A, why="first")
    shelf.activate(B, why="second")
    assert shelf.active() == B
    assert shelf.rollback() == A == shelf.active()
    shelf.activate(C, why="third")
    assert shelf.active() == C
    assert shelf.rollback() == A == shelf.active()
    assert shelf.rollback() == default_policy()
    assert shelf.active() is None
    with pytest.raises(PolicyError, match="no policy is active"):
        shelf.rollback()
    told = [(line.action, line.policy, line.why) for line in shelf.history()]
    assert told == [
        ("activate", A.content_hash, "first"),
        ("activate", B.content_hash, "second"),
        ("rollback", A.content_hash, ""),
        ("activate", C.content_hash, "third"),
        ("rollback", A.content_hash, ""),
        ("rollback", SHIPPED, ""),
    ]
    for line in shelf.history():
        assert datetime.fromisoformat(line.time).utcoffset() is not None


def test_a_rollback_gets_away_from_a_policy_activated_twice(shelf: PolicyShelf) -> None:
    for chosen in (A, B, B):
        shelf.activate(chosen, why="")
    assert len(shelf.history()) == 3
    assert shelf.rollback() == A


def test_the_shipped_policy_can_be_activated(shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    shelf.activate(shelf.find(SHIPPED), why="")
    assert shelf.active() == default_policy()
    assert shelf.active_ref() == SHIPPED
    assert shelf.rollback() == A


def test_another_shelf_on_the_same_folder_sees_it(shelf: PolicyShelf) -> None:
    shelf.activate(C, why="")
    assert PolicyShelf(str(shelf.folder)).active() == C


@pytest.mark.parametrize("damage", [*DAMAGES, gone], ids=lambda damage: damage.__name__)
def test_a_damaged_active_policy_names_the_way_back(
    shelf: PolicyShelf, damage: Callable[[Path], None]
) -> None:
    shelf.activate(B, why="")
    shelf.activate(A, why="")
    damage(shelf.folder / f"{A.content_hash}.json")
    with pytest.raises(PolicyError, match="`recov-graph policy rollback`") as caught:
        shelf.active()
    assert "\n" not in str(caught.value)
    assert [entry.active for entry in shelf.list() if entry.error] == [True]
    assert shelf.rollback() == B == shelf.active()


def test_a_rollback_to_a_damaged_policy_changes_nothing(shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    shelf.activate(B, why="")
    tampered(shelf.folder / f"{A.content_hash}.json")
    with pytest.raises(PolicyError, match="activate shipped"):
        shelf.rollback()
    assert shelf.active() == B
    shelf.activate(default_policy(), why="")
    assert shelf.active() == default_policy()


WRITER = """
import sys
from recov_graph.policies import PolicyShelf
from recov_graph.routing import load_policy
shelf, policy = PolicyShelf(sys.argv[1]), load_policy(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    shelf.activate(policy, why=f"{number} " + "x" * 500)
"""


def test_processes_that_activate_at_once_lose_no_line(shelf: PolicyShelf, tmp_path: Path) -> None:
    shelf.activate(C, why="")
    with (shelf.folder / HISTORY).open("a") as file:
        file.write('{"time": "2026')  # whoever comes first has this to close
    writers = []
    for chosen in (A, B):
        chosen.save(tmp_path / f"{chosen.name}.json")
        paths = (shelf.folder, tmp_path / f"{chosen.name}.json")
        command = [sys.executable, "-c", WRITER, *map(str, paths)]
        writers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    lines = shelf.history()[1:]
    for chosen in (A, B):
        whys = [line.why.split()[0] for line in lines if line.policy == chosen.content_hash]
        assert whys == [str(number) for number in range(20)]
    assert len(lines) == 40


@pytest.mark.parametrize("length", [1, 20, 60])
def test_a_last_line_cut_short_is_ignored_and_closed(shelf: PolicyShelf, length: int) -> None:
    shelf.activate(A, why="")
    history = shelf.folder / HISTORY
    whole = history.read_bytes()
    shelf.activate(B, why="")
    history.write_bytes(history.read_bytes()[: len(whole) + length])
    assert shelf.active() == A
    shelf.activate(C, why="after the power came back")
    assert shelf.active() == C
    assert [line.policy for line in shelf.history()] == [A.content_hash, C.content_hash]
    assert shelf.rollback() == A
    assert history.read_bytes().startswith(whole)


def test_a_last_line_that_only_lacks_its_end_counts(shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    history = shelf.folder / HISTORY
    history.write_bytes(history.read_bytes().removesuffix(b"\n"))
    assert shelf.active() == A
    shelf.activate(B, why="")
    assert shelf.rollback() == A


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        '{"time": "t", "policy": "shipped", "action": "activate"}',
        '{"time": "t", "policy": "shipped", "action": "forget", "why": ""}',
        '{"time": "t", "policy": "../../secret", "action": "activate", "why": ""}',
        '{"time": "t", "policy": ["shipped"], "action": "activate", "why": ""}',
        '{"time": 1, "policy": "shipped", "action": "activate", "why": ""}',
        '"\x1b[31m"',
        "[" * 100_000,
    ],
    ids=range(10),
)
def test_a_damaged_line_is_an_error_with_its_number(shelf: PolicyShelf, line: str) -> None:
    shelf.activate(A, why="")
    history = shelf.folder / HISTORY
    before = history.read_text() + line + "\n"
    history.write_text(before)
    for call in (shelf.history, shelf.active, shelf.rollback, lambda: shelf.activate(B, why="")):
        with pytest.raises(PolicyError, match=r"history\.jsonl:2: ") as caught:
            call()
        assert not set(str(caught.value)) & ESCAPES
        assert len(str(caught.value)) < 400
    assert history.read_text() == before
    assert any("history.jsonl:2" in str(entry.error) for entry in shelf.list())


def test_reasons_may_hold_anything(shelf: PolicyShelf) -> None:
    for why in (HOSTILE, "\u2028 \ud800", " (cut off)", ""):
        shelf.activate(A, why=why)
        assert shelf.history()[-1].why == why


# How two policies differ


def told(a: Policy, b: Policy) -> dict[str, tuple[str, str]]:
    return {line.field: (line.old, line.new) for line in diff(a, b)}


def test_a_policy_does_not_differ_from_itself() -> None:
    assert diff(C, fitted("c")) == []


def test_a_changed_rescue_rate_is_told() -> None:
    found = told(fitted(dense=0.4), fitted(dense=0.5, types=3))
    assert found["posterior.rescue"] == (
        "2 types, mean rescue of retry 0.15, dense_steer 0.5",
        "3 types, mean rescue of retry 0.167, dense_steer 0.567",
    )
    assert found["expected_rescue.dense_steer"] == ("0.5", "0.567")
    assert "expected_rescue.local_temp" not in found
    assert found["posterior.weights"] == ("2 numbers", "3 numbers")
    assert str(diff(fitted(stop_below=0.05), fitted(stop_below=0.1))[0]) == (
        "stop_below: 0.05 -> 0.1"
    )


def test_one_changed_number_among_many_is_told_in_as_few_digits_as_it_takes() -> None:
    old = fitted(dense=0.4)
    assert told(old, fitted(dense=0.400002))["expected_rescue.dense_steer"] == ("0.5", "0.500001")
    harder = old.posterior.model_copy(update={"hardness": [-1.0, -1.5]}) if old.posterior else None
    assert told(old, old.model_copy(update={"posterior": harder})) == {
        "posterior.hardness": ("2 numbers", "1 of them changed, by at most 0.5")
    }


def test_cells_that_came_and_went_are_told() -> None:
    cells = dict(default_policy().cells)
    cells["other|task"] = cells.pop("embedded|chain")
    found = told(default_policy(), default_policy().model_copy(update={"cells": cells}))
    assert found.keys() == {"cells.embedded|chain", "cells.other|task"}
    old, new = found["cells.embedded|chain"]
    spread = default_policy().cells["embedded|chain"]["spread"]
    assert old.startswith(f"{spread.count} failures, spread {spread.mean:.3g}")
    assert new == "absent"
    assert found["cells.other|task"] == (new, old)


def test_many_cells_are_counted() -> None:
    moments = default_policy().population
    cells = {f"m|{number}": moments for number in range(50)}
    fields = {"cells": {**default_policy().cells, **cells}}
    lines = diff(default_policy(), default_policy().model_copy(update=fields))
    assert len(lines) == 9
    assert str(lines[-1]) == "cells, 42 more: 5 in all -> 55 in all"


def test_a_fitted_policy_differs_from_the_rule_in_few_lines() -> None:
    found = told(COLD, fitted())
    assert found["posterior"] == ("absent", "2 types of failure, 2 operators")
    assert found["counts"] == ("absent", "problems 40, attempts 160, rescues 30")
    assert found["name"] == ("embedded-rule", "fitted")
    assert len(found) < 10
    back = told(fitted(), COLD)
    assert back == {field: (new, old) for field, (old, new) in found.items()}


def test_what_was_learned_for_the_shipped_policy_is_told() -> None:
    shipped = default_policy()
    assert shipped.posterior is not None
    assert shipped.counts is not None
    found = told(COLD, shipped)
    types, operators = len(shipped.posterior.rescue), len(shipped.posterior.operators)
    assert found["posterior"] == ("absent", f"{types} types of failure, {operators} operators")
    assert found["counts"][1].startswith(f"problems {shipped.counts.problems}, ")
    assert found["name"] == ("embedded-rule", shipped.name)
    assert "schema_version" not in found
    assert len(found) < 20


def test_two_fitted_policies_differ_part_by_part() -> None:
    found = told(default_policy(), fitted())
    assert "posterior" not in found
    assert found["posterior.explore"] == ("0.05", "0.1")
    assert found["posterior.operators"][1] == "retry, dense_steer"


def test_every_single_change_is_told() -> None:
    data = C.model_dump(mode="json", exclude_none=True)
    told = 0
    for keys, value in leaves(data):
        changed = json.loads(json.dumps(data))
        place = changed
        for key in keys[:-1]:
            place = place[key]
        step = 1e-7 if isinstance(value, float) else 1
        place[keys[-1]] = f"{value}x" if isinstance(value, str) else value + step
        try:
            other = Policy.model_validate(changed)
        except ValueError:  # a version that does not exist
            continue
        found = diff(C, other)
        assert found, keys
        assert all(line.old != line.new for line in found), keys
        told += 1
    assert told > 90


def leaves(data: Any, keys: tuple[Any, ...] = ()) -> Any:
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*keys, key))
    else:
        yield keys, data


def test_expected_rescue_is_the_posterior_s_where_there_is_one() -> None:
    rates = expected_rescue(fitted(dense=0.4))
    assert rates["dense_steer"] == pytest.approx(0.5)
    assert rates["local_temp"] == expected_rescue(COLD)["local_temp"]


def test_expected_rescue_of_the_shipped_policy_is_the_posterior_s() -> None:
    posterior = default_policy().posterior
    assert posterior is not None
    rates, total = expected_rescue(default_policy()), sum(posterior.weights)
    for column, operator in enumerate(posterior.operators):
        rescues = [row[column] for row in posterior.rescue]
        mean = sum(w * p for w, p in zip(posterior.weights, rescues, strict=True)) / total
        assert rates[operator] == pytest.approx(mean)
        assert rates[operator] != expected_rescue(COLD)[operator]


# On the command line


def test_list_shows_the_shipped_policy_the_active_one_and_damage(
    cli: Cli, shelf: PolicyShelf
) -> None:
    (row,) = [line for line in cli("list").out.splitlines() if default_policy().name in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "*",
        default_policy().content_hash,
        default_policy().name,
        default_policy().created,
        str(default_policy().population["spread"].count),
        "0",
    ]
    shelf.activate(A, why="")
    tampered(shelf.save(B))
    lines = cli("list").out.splitlines()
    assert [line.split()[1:3] for line in lines if "*" in line] == [["*", "│"]]
    assert A.content_hash in next(line for line in lines if "*" in line)
    assert sum("was changed after it was written" in line for line in lines) == 1


def test_list_works_with_a_damaged_history(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    with (shelf.folder / HISTORY).open("a") as file:
        file.write("damaged\n")
    done = cli("list")
    assert done.code == 0
    assert A.content_hash in done.out
    assert "history.jsonl:2" in done.out
    assert "*" not in done.out


def test_show_says_what_a_policy_says(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.activate(C, why="")
    out = cli("show").out
    for text in (
        C.content_hash,
        "2026-01-01 to 2026-02-01",
        "40 failed problems, 160 attempts, 30 rescues",
        "10.0% of choices",
        "not before the first choice",
        "5.0% chance of a rescue",
    ):
        assert text in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["dense_steer", "50.0%"] in rows
    assert ["m|t", "40"] in rows
    assert ["embedded|mixed", str(C.cells["embedded|mixed"]["spread"].count)] in rows


def test_show_falls_back_on_the_shipped_policy(cli: Cli) -> None:
    out = cli("show").out
    assert default_policy().content_hash in out
    counts = default_policy().counts
    assert counts is not None
    assert f"{counts.problems} failed problems, {counts.attempts:,.0f} attempts" in out
    assert "5.0% of choices" in out
    assert "not before the first choice" in out


@pytest.mark.parametrize("shown", [default_policy(), C], ids=["shipped", "fitted"])
def test_show_json_is_a_policy_file(
    cli: Cli, shelf: PolicyShelf, tmp_path: Path, shown: Policy
) -> None:
    shelf.save(C)
    done = cli("show", shown.content_hash, "--json")
    (tmp_path / "copy.json").write_text(done.out, encoding="utf-8")
    assert load_policy(tmp_path / "copy.json") == shown


def test_diff_shows_both_policies(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.save(C)
    shelf.save(COLD)
    for ref, old, told_row in (
        ("shipped", default_policy(), ["posterior.explore", "0.05", "0.1"]),
        (COLD.name, COLD, ["posterior", "absent", "2 types of failure, 2 operators"]),
    ):
        out = cli("diff", ref, "c").out
        assert C.content_hash in out
        assert old.content_hash in out
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
        assert told_row in rows
    assert "the same policy" in cli("diff", "c", C.content_hash).out


def test_activate_and_rollback(cli: Cli, shelf: PolicyShelf, tmp_path: Path) -> None:
    A.save(tmp_path / "a.json")
    assert cli("activate", tmp_path / "a.json", "--why", "looks better").code == 0
    assert shelf.active() == A
    assert shelf.history()[0].why == "looks better"
    assert A.content_hash in cli("activate", "a").out
    done = cli("rollback", "--why", "it was not")
    assert default_policy().content_hash in done.out
    assert shelf.history()[-1].why == "it was not"
    done = cli("rollback")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "no policy is active" in done.err


def test_verify_passes_what_is_sound(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    shelf.save(C)
    done = cli("verify")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 3
    for sound in (A, C, default_policy()):
        assert sum(sound.content_hash in line for line in lines) == 1


@damages
def test_verify_gives_a_damaged_policy_one_line(
    cli: Cli, shelf: PolicyShelf, damage: Callable[[Path], None], says: str
) -> None:
    shelf.activate(A, why="")
    path = shelf.folder / f"{A.content_hash}.json"
    damage(path)
    shelf.save(C)
    done = cli("verify")
    assert done.code == 1
    failed = [line for line in done.out.splitlines() if line.startswith("failed")]
    assert len(done.out.splitlines()) == 3
    assert len(failed) == 1
    assert says in failed[0]
    done = cli("verify", path, "c")
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["failed", "ok"]
    assert cli("verify", "c", "shipped").code == 0


def test_verify_misses_an_active_policy_that_is_gone(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.activate(A, why="")
    gone(shelf.folder / f"{A.content_hash}.json")
    done = cli("verify")
    assert done.code == 1
    assert "No such file" in done.out


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "active"], ["show"], ["diff", "shipped", "active"], ["verify"]],
    ids=lambda arguments: arguments[0],
)
def test_no_terminal_escapes_are_printed(
    cli: Cli, shelf: PolicyShelf, arguments: list[str]
) -> None:
    cells = {HOSTILE: default_policy().population}
    rescue = {**default_policy().rescue, HOSTILE: default_policy().rescue["retry"]}
    texts: dict[str, Any] = {"created": HOSTILE, "source": HOSTILE, "code_version": HOSTILE}
    hostile = fitted(HOSTILE, cells=cells, rescue=rescue, **texts)
    shelf.activate(hostile, why=HOSTILE)
    done = cli(*arguments)
    assert done.code == 0
    assert "\\u001b" in done.out
    assert not set(done.out) & ESCAPES


def test_no_terminal_escapes_are_printed_of_damaged_files(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.save(named(HOSTILE))
    edited(shelf.save(A), name=HOSTILE, content_hash=HOSTILE)
    (shelf.folder / f"{HOSTILE}.json").write_text("{")
    for command in (["list"], ["verify"], ["activate", "nothing"], ["activate", HOSTILE[:5]]):
        done = cli(*command)
        assert not set(done.out + done.err) & ESCAPES
    assert len(cli("verify").out.splitlines()) == 4


def test_text_of_a_policy_is_neither_markup_nor_emoji(cli: Cli, shelf: PolicyShelf) -> None:
    shelf.save(named("[red]:bug:[/red]"))
    assert "[red]:bug:[/red]" in cli("list").out
