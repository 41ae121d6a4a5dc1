"""Recording a tape: what is tried, what it costs, what is kept, and the command."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from recov_graph.budget import Budget, MeteredModel
from recov_graph.cli.recording import record as record_command
from recov_graph.errors import InvalidInputError, ModelError, TapeError
from recov_graph.features import FEATURES
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.importing import import_file
from recov_graph.interventions import Attempt, Failure, default_interventions, registered
from recov_graph.models import Capability, Generation
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.problem import Problem
from recov_graph.record import ATTEMPTS, Recorded, Settings, record
from recov_graph.rollout import Rollout, Usage
from recov_graph.store import TraceStore
from recov_graph.tape import TapeProblem, read_tape, write_tape
from tests.conftest import Cli

pytestmark = pytest.mark.slow  # about half a minute

HOW = Settings(samples=4, attempts=3, temperature=0.6, max_new_tokens=160, seed=1)
# A few that the pair solves and a few that it does not.
PROBLEMS = bundled_problems()[100:106]
HARD = Problem(prompt="97*86-7?", answer="never", id="hard", task="t")


def plain(tape: list[TapeProblem], digits: int = 15) -> list[Any]:
    """All that a tape says, in values that can be compared."""
    return [
        (
            problem.id,
            problem.model,
            problem.task,
            None if problem.features is None else [round(v, digits) for v in problem.features],
            problem.failed_samples,
            problem.lengths,
            problem.scoring_tokens,
            [(n, m.passed.tolist(), m.tokens.tolist()) for n, m in problem.attempts.items()],
        )
        for problem in tape
    ]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the command has it: the pair's matrices are small, and threads wait for one another."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def taped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the embedded pair was recorded into."""
    path = tmp_path_factory.mktemp("taped") / "tape.db"
    with TraceStore(path) as store:
        record("embedded", "numeric", PROBLEMS, store, settings=HOW)
    return path


@pytest.fixture
def opened(taped: Path) -> Iterator[TraceStore]:
    with TraceStore(taped) as store:
        yield store


def stored(store: TraceStore) -> list[dict[str, Any]]:
    """The problems of the latest run."""
    run = store.run()
    assert run is not None
    assert run["kind"] == "record"
    return store.run_problems(run["id"])


# --- what is on the tape ---


def test_what_failed_is_on_the_tape_and_nothing_else(opened: TraceStore, taped: Path) -> None:
    ended = {}
    for row in stored(opened):
        samples = opened.problem_attempts(row["id"])
        assert [sample["operator"] for sample in samples] == ["sample"] * HOW.samples
        passed = any(sample["value"] == "passed" for sample in samples)
        assert row["stop_reason"] == ("solved" if passed else "recorded")
        assert row["solved"] == passed
        ended[row["key"]] = passed
    assert list(ended) == [problem.id for problem in PROBLEMS]
    failed = [name for name, passed in ended.items() if not passed]
    assert 0 < len(failed) < len(PROBLEMS)
    tape = read_tape(taped)
    assert [problem.id for problem in tape] == failed
    for problem in tape:
        assert list(problem.attempts) == list(default_interventions(EmbeddedPair.capabilities))
        assert {len(made.passed) for made in problem.attempts.values()} == {HOW.attempts}
        assert problem.failed_samples == HOW.samples


def test_a_tape_as_text_says_the_same(taped: Path, tmp_path: Path) -> None:
    tape = read_tape(taped)
    write_tape(tape, tmp_path / "tape.jsonl", "tests")
    assert plain(read_tape(tmp_path / "tape.jsonl"), 6) == plain(tape, 6)


def test_the_same_seed_repeats_the_tape_and_another_does_not(taped: Path, tmp_path: Path) -> None:
    expected = plain(read_tape(taped))
    for seed, same in ((HOW.seed, True), (HOW.seed + 1, False)):
        path = tmp_path / f"{seed}.db"
        with TraceStore(path) as store:
            # Neither the order of problems nor what else is recorded matters.
            record(
                "embedded",
                "numeric",
                [problem for problem in PROBLEMS[::-1] if problem.id in str(expected)],
                store,
                settings=replace(HOW, seed=seed),
            )
        again = plain(read_tape(path))[::-1]
        assert (again == expected) == same


def test_two_processes_record_what_one_does(taped: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    with TraceStore(tmp_path / "two.db") as store:
        number = record(
            "embedded",
            "numeric",
            PROBLEMS,
            store,
            settings=HOW,
            processes=2,
            on_result=lambda recorded: seen.append(recorded.problem.id),
        )
    tape = read_tape(tmp_path / "two.db")
    assert len(tape) == number
    assert plain(tape) == plain(read_tape(taped))
    assert seen == [problem.id for problem in PROBLEMS]


# --- what it costs ---


def test_every_attempt_is_charged_what_a_meter_says(
    opened: TraceStore, taped: Path, pair: EmbeddedPair
) -> None:
    """Made again from the stored traces and seeds, each costs and ends the same."""
    tape = {problem.id: problem for problem in read_tape(taped)}
    for row in stored(opened):
        if row["key"] not in tape:
            continue
        problem = next(p for p in PROBLEMS if p.id == row["key"])
        ids = [sample["id"] for sample in opened.problem_attempts(row["id"])]
        traces = [trace for trace in map(opened.read_trace, ids) if trace is not None]
        assert len(traces) == HOW.samples
        made = opened.query("SELECT * FROM tape WHERE problem_id = ?", [row["id"]])
        assert len({one["seed"] for one in made}) == len(made)
        for one in made:
            failure = Failure(
                problem,
                HOW.temperature,
                HOW.max_new_tokens,
                one["seed"],
                traces,
                focus=one["position"],
            )
            meter = MeteredModel(pair, Budget(), "again", {})
            rollout = registered()[one["operator"]].apply(failure, meter).rollout
            assert meter.spent.tokens == one["tokens"]
            kept = tape[row["key"]].attempts[one["operator"]]
            assert kept.tokens[one["position"]] == one["tokens"]
            assert kept.passed[one["position"]] == (str(problem.answer) in rollout.text[-6:])
            if one["operator"] == "retry":
                assert one["tokens"] == pair.prompt_length(problem.prompt) + len(rollout)
            if one["operator"] == "dense_steer":  # both read prompt and rollout, one writes it
                length = pair.prompt_length(problem.prompt)
                assert one["tokens"] == 2 * (length + len(rollout))


def test_measuring_is_charged_for_every_distinct_failed_sample(
    opened: TraceStore, taped: Path, pair: EmbeddedPair
) -> None:
    tape = {problem.id: problem for problem in read_tape(taped)}
    for row in stored(opened):
        if row["key"] not in tape:
            continue
        samples = opened.problem_attempts(row["id"])
        length = pair.prompt_length(row["prompt"])
        distinct = {sample["text"]: sample["tokens"] for sample in samples}
        assert tape[row["key"]].scoring_tokens == sum(length + n for n in distinct.values())
        means = sum(sample["tokens"] for sample in samples) // len(samples)
        assert tape[row["key"]].lengths[:2] == (length, means)
        measured = opened.query(
            "SELECT features.* FROM features JOIN rollouts USING (id) WHERE problem_id = ?",
            [row["id"]],
        )
        features = tape[row["key"]].features
        assert features is not None
        expected = [np.mean([one[name] for one in measured]) for name in FEATURES]
        np.testing.assert_allclose(features, expected, rtol=1e-12)


def test_what_a_problem_cost_is_the_sum_of_all_its_calls(
    opened: TraceStore, taped: Path, pair: EmbeddedPair
) -> None:
    tape = {problem.id: problem for problem in read_tape(taped)}
    for row in stored(opened):
        samples = opened.problem_attempts(row["id"])
        length = pair.prompt_length(row["prompt"])
        spent = length + sum(sample["tokens"] for sample in samples)  # one prefill for all
        if row["key"] in tape:
            problem = tape[row["key"]]
            spent += problem.scoring_tokens
            spent += sum(int(made.tokens.sum()) for made in problem.attempts.values())
            assert row["attempts"] == HOW.samples + HOW.attempts * len(problem.attempts)
        assert row["tokens"] == spent
        assert row["seconds"] > 0


class Forgetful(EmbeddedPair):
    """The pair behind an interface that gives no log-probabilities with what it samples."""

    def sample(self, prompt: str, **options: Any) -> Generation:
        rollouts, usage = super().sample(prompt, **options)
        return Generation([replace(rollout, specialist=None) for rollout in rollouts], usage)


def test_measuring_costs_twice_where_sampling_gives_no_logprobs(
    taped: Path, store: TraceStore
) -> None:
    expected = read_tape(taped)[0]
    problem = next(p for p in PROBLEMS if p.id == expected.id)
    record(Forgetful(), "numeric", [problem], store, settings=HOW, interventions=["retry"])
    (tape,) = read_tape(store.path)
    assert tape.scoring_tokens == 2 * expected.scoring_tokens
    assert tape.features == pytest.approx(expected.features)


# --- models and verifiers that are not so kind ---


def verdict_by_letter(text: str) -> bool:
    """P passes, F fails, U cannot be judged."""
    return {"P": True, "F": False}[text[0]]


def test_nothing_is_tried_after_a_sample_that_passes(scripted: Any, store: TraceStore) -> None:
    model = scripted(["F", "P", "F", "U"])
    assert record(model, verdict_by_letter, [HARD], store, settings=HOW) == 0
    assert [call.method for call in model.calls] == ["sample"]
    (row,) = stored(store)
    assert (row["stop_reason"], row["attempts"]) == ("solved", 4)
    with pytest.raises(TapeError, match="recov-graph record"):
        read_tape(store.path)


def test_a_problem_none_of_whose_samples_can_be_judged_is_left_out(
    scripted: Any, store: TraceStore
) -> None:
    model = scripted(last="U")
    assert record(model, verdict_by_letter, [HARD], store, settings=HOW) == 0
    assert [call.method for call in model.calls] == ["sample"]
    assert stored(store)[0]["stop_reason"] == "not_recorded"


def test_samples_that_cannot_be_judged_are_not_counted(scripted: Any, store: TraceStore) -> None:
    model = scripted(["U", "FF", "U", "FFFF"], last="F")
    record(model, verdict_by_letter, [HARD], store, settings=HOW, interventions=["retry"])
    (problem,) = read_tape(store.path)
    assert problem.failed_samples == 2
    assert problem.lengths[:2] == (len(HARD.prompt), (3 + 5) // 2)  # with the end-of-text token
    assert problem.scoring_tokens == 2 * len(HARD.prompt) + 3 + 5


@pytest.mark.parametrize(
    ("capabilities", "operators"),
    [
        ([Capability.SAMPLE], ["retry"]),
        ([Capability.SAMPLE, Capability.CONTINUE], ["retry"]),
        ([Capability.SAMPLE, Capability.SCORE], ["retry"]),
        (
            [Capability.SAMPLE, Capability.SCORE, Capability.CONTINUE],
            ["retry", "sparse_steer", "sparse_steer_random", "local_temp"],
        ),
        (list(Capability), list(default_interventions(list(Capability)))),
    ],
)
def test_only_what_the_model_can_carry_out_is_tried(
    scripted: Any, store: TraceStore, capabilities: list[Capability], operators: list[str]
) -> None:
    model = scripted(last="FFFF", capabilities=capabilities)
    assert record(model, verdict_by_letter, [HARD], store, settings=HOW) == 1
    (problem,) = read_tape(store.path)
    assert list(problem.attempts) == operators
    assert (problem.features is not None) == (Capability.SCORE in capabilities)
    assert (problem.scoring_tokens > 0) == (Capability.SCORE in capabilities)


def test_a_model_that_can_carry_out_nothing_asked_for_is_refused(
    scripted: Any, store: TraceStore
) -> None:
    model = scripted(capabilities=[Capability.SAMPLE])
    with pytest.raises(InvalidInputError, match=r"scripted.*none of sparse_steer.*retry"):
        record(model, "exact", [HARD], store, settings=HOW, interventions=["sparse_steer"])
    assert store.run() is None


def test_attempts_that_cannot_be_judged_are_left_out(scripted: Any, store: TraceStore) -> None:
    texts = ["F"] * 4 + ["P", "U", "F", "P"]
    model = scripted(texts, capabilities=[Capability.SAMPLE])
    how = replace(HOW, attempts=4)
    assert record(model, verdict_by_letter, [HARD], store, settings=how) == 1
    (problem,) = read_tape(store.path)
    assert problem.attempts["retry"].passed.tolist() == [True, False, True]
    positions = store.query("SELECT position FROM tape ORDER BY position")
    assert [row["position"] for row in positions] == [0, 2, 3]
    # What could not be judged was paid for all the same.
    each = len(HARD.prompt) + 2
    assert stored(store)[0]["tokens"] == len(HARD.prompt) + 4 * 2 + 4 * each


def test_a_problem_with_too_few_judged_attempts_does_not_spoil_the_tape(
    scripted: Any, store: TraceStore
) -> None:
    texts = ["F"] * 4 + ["U", "U", "U", "F"] + ["F"] * 8
    model = scripted(texts, capabilities=[Capability.SAMPLE])
    seen: list[Recorded] = []
    problems = [HARD.model_copy(update={"id": name}) for name in ("unjudged", "judged")]
    how = replace(HOW, attempts=4)
    on_tape = record(model, verdict_by_letter, problems, store, settings=how, on_result=seen.append)
    assert on_tape == 1
    assert [problem.id for problem in read_tape(store.path)] == ["judged"]
    assert [row["stop_reason"] for row in stored(store)] == ["not_recorded", "recorded"]
    assert [recorded.unsolved for recorded in seen] == [True, True]
    assert seen[0].spent.tokens == seen[1].spent.tokens


def test_failures_without_a_token_have_nothing_to_repair_and_are_left_out(
    scripted: Any, store: TraceStore
) -> None:
    class Silent(scripted):  # type: ignore[misc]
        def sample(self, prompt: str, **options: Any) -> Generation:
            self._called("sample", prompt=prompt)
            empty = Rollout("", np.zeros(0, np.int32), "length")
            return Generation([empty] * options.get("n", 1), Usage(len(prompt)))

    model = Silent()
    assert record(model, "exact", [HARD], store, settings=HOW) == 0
    assert [call.method for call in model.calls] == ["sample"]
    retry = Silent()
    assert record(retry, "exact", [HARD], store, settings=HOW, interventions=["retry"]) == 1
    (problem,) = read_tape(store.path)
    assert (problem.features, problem.scoring_tokens) == (None, 0)
    assert problem.attempts["retry"].tokens.tolist() == [len(HARD.prompt)] * HOW.attempts


def test_a_model_that_fails_ends_the_problem_and_not_the_rest(
    scripted: Any, store: TraceStore
) -> None:
    problems = [HARD.model_copy(update={"id": name}) for name in ("a", "b", "c")]
    texts = [ModelError("down"), *["F"] * 4, "F", ModelError("down again"), *["F"] * 7]
    model = scripted(texts, capabilities=[Capability.SAMPLE])
    seen: list[Recorded] = []
    number = record(model, verdict_by_letter, problems, store, settings=HOW, on_result=seen.append)
    assert number == 1
    assert [one.error for one in seen] == ["ModelError: down", "ModelError: down again", None]
    assert [problem.id for problem in read_tape(store.path)] == ["c"]
    rows = stored(store)
    assert [row["stop_reason"] for row in rows] == ["model_error", "model_error", "recorded"]
    first, each = len(HARD.prompt) + 4 * 2, len(HARD.prompt) + 2
    assert [row["tokens"] for row in rows] == [0, first + each, first + 3 * each]


def test_a_model_without_an_answer_is_an_error(scripted: Any, store: TraceStore) -> None:
    class Mute(scripted):  # type: ignore[misc]
        def sample(self, prompt: str, **options: Any) -> Generation:
            return Generation([], Usage(len(prompt)))

    seen: list[Recorded] = []
    record(Mute(), "exact", [HARD], store, settings=HOW, on_result=seen.append)
    assert "no rollouts" in str(seen[0].error)


class Charmed:
    """A user's own intervention, made for the occasion and registered nowhere."""

    needs = frozenset({Capability.SAMPLE})

    def __init__(self, name: str = "charmed") -> None:
        self.name = name

    def expected_cost(self, lengths: Any) -> int:
        return 1

    def apply(self, failure: Failure, model: Any) -> Attempt:
        return Attempt(Rollout("P", np.zeros(1, np.int32), "stop"))


def test_interventions_may_be_objects_and_are_taken_as_given(
    scripted: Any, store: TraceStore
) -> None:
    # One of them has a registered one's name, and is not to be mistaken for it.
    chosen = ["dense_steer", Charmed(), Charmed("retry")]
    how = replace(HOW, attempts=2)
    record(scripted(last="F"), verdict_by_letter, [HARD], store, settings=how, interventions=chosen)
    (problem,) = read_tape(store.path)
    passed = {name: made.passed.any() for name, made in problem.attempts.items()}
    assert passed == {"retry": True, "dense_steer": False, "charmed": True}
    assert problem.attempts["charmed"].tokens.tolist() == [0, 0]


# --- settings ---


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attempts": 1}, r"attempts is 1.*at least 2.*half"),
        ({"attempts": 2.0}, r"attempts is 2\.0"),
        ({"samples": 0}, r"samples is 0.*at least 1"),
        ({"max_new_tokens": 0}, r"max_new_tokens is 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0"),
        ({"seed": 2**63}, r"seed is 9223372036854775808"),
        ({"seed": None}, r"seed is None"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        replace(HOW, **wrong)


def test_other_processes_are_given_names_only(scripted: Any, store: TraceStore) -> None:
    for model, verifier in ((scripted(), "exact"), ("embedded", verdict_by_letter)):
        with pytest.raises(InvalidInputError, match=r"processes is 2.*name both"):
            record(model, verifier, [HARD], store, settings=HOW, processes=2)


@pytest.mark.parametrize("processes", [0, -1, 1.0, True])
def test_a_wrong_number_of_processes_is_refused(store: TraceStore, processes: Any) -> None:
    with pytest.raises(InvalidInputError, match="processes is"):
        record("embedded", "exact", [HARD], store, settings=HOW, processes=processes)


def test_a_process_that_dies_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: TraceStore
) -> None:
    (tmp_path / "deadly.py").write_text("import os\n\ndef check(text):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="ended all of a sudden"):
        record("embedded", "python:deadly:check", [HARD], store, settings=HOW, processes=2)


# --- the store ---


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_a_store_without_texts_holds_the_same_tape_but_for_the_ids(
    taped: Path, tmp_path: Path, store_text: Any
) -> None:
    expected = read_tape(taped)
    with TraceStore(tmp_path / "tape.db", store_text=store_text) as store:
        record("embedded", "numeric", PROBLEMS, store, settings=HOW)
    content = b"".join(file.read_bytes() for file in tmp_path.glob("tape.db*"))
    tape = read_tape(tmp_path / "tape.db")
    assert [one[1:] for one in plain(tape)] == [one[1:] for one in plain(expected)]
    for problem in expected:
        assert problem.id.encode() not in content
    write_tape(tape, tmp_path / "tape.jsonl", "tests")
    assert plain(read_tape(tmp_path / "tape.jsonl"), 6) == plain(tape, 6)


def test_a_problem_recorded_again_counts_once(scripted: Any, store: TraceStore) -> None:
    for letter, attempts in (("F", 2), ("P", 5)):
        texts = ["F"] * 4 + [letter] * 5
        model = scripted(texts, capabilities=[Capability.SAMPLE])
        how = replace(HOW, attempts=attempts)
        record(model, verdict_by_letter, [HARD], store, settings=how)
    (problem,) = read_tape(store.path)
    assert problem.attempts["retry"].passed.tolist() == [True] * 5


def test_the_same_id_with_another_task_or_model_is_another_problem(
    scripted: Any, store: TraceStore
) -> None:
    for task, name in (("t", "m"), ("u", "m"), ("t", "n")):
        model = scripted(last="F", name=name, capabilities=[Capability.SAMPLE])
        problem = HARD.model_copy(update={"task": task})
        record(model, verdict_by_letter, [problem], store, settings=HOW)
    assert [(one.task, one.model) for one in read_tape(store.path)] == [
        ("t", "m"),
        ("u", "m"),
        ("t", "n"),
    ]


def test_attempts_of_other_operators_are_not_mixed_into_a_tape(
    scripted: Any, store: TraceStore
) -> None:
    model = scripted(last="F")
    record(model, verdict_by_letter, [HARD], store, settings=HOW, interventions=["retry"])
    calls = len(model.calls)
    with pytest.raises(InvalidInputError, match=r"attempts of retry, and.*dense_steer.*store"):
        record(model, verdict_by_letter, [HARD], store, settings=HOW)
    assert len(model.calls) == calls
    # A store that got there in another way cannot be read as a tape.
    other = HARD.model_copy(update={"id": "other"})
    record(model, verdict_by_letter, [other], store, settings=HOW, interventions=["retry"])
    connection = sqlite3.connect(store.path)
    with connection:
        connection.execute(
            "UPDATE tape SET operator = 'dense_steer' WHERE problem_id = "
            "(SELECT id FROM problems WHERE key = 'other')"
        )
    connection.close()
    with pytest.raises(TapeError, match=r"traces\.db.*'other'.*dense_steer.*retry"):
        read_tape(store.path)


def test_a_problem_that_was_cut_off_is_not_on_the_tape(
    taped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_tape(taped)[0].id
    seen: list[str] = []

    def until(recorded: Recorded) -> None:
        seen.append(recorded.problem.id)
        if recorded.problem.id == first:  # what comes next is stored in part
            monkeypatch.setattr(TraceStore, "write_traces", interrupted)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with TraceStore(tmp_path / "cut.db") as store, pytest.raises(KeyboardInterrupt):
        record("embedded", "numeric", PROBLEMS, store, settings=HOW, on_result=until)
    assert len(seen) < len(PROBLEMS)
    monkeypatch.undo()
    with TraceStore(tmp_path / "cut.db") as store:
        assert [row["stop_reason"] for row in stored(store)].count(None) == 1
    assert [problem.id for problem in read_tape(tmp_path / "cut.db")] == [first]


# --- the command ---


COMMAND = [sys.executable, "-m", "recov_graph.cli", "record"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """Runs the command line in this process, with the errors that users meet."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with problems and a verifier of the user's own."""
    lines = [problem.model_dump_json() for problem in PROBLEMS]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    hard = ({"prompt": f"{i}7*86-7?", "answer": 777777, "id": f"h{i}"} for i in range(1, 40))
    (tmp_path / "hard.jsonl").write_text("\n".join(map(json.dumps, hard)))
    (tmp_path / "own_check.py").write_text(
        "def check(problem, text):\n    return text.endswith(f'A:{problem.answer}')\n\n"
        "def generous(text):\n    return True\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_are_those_of_the_graph(cli: Cli) -> None:
    defaults = {option.name: option.default for option in record_command.params}
    assert (defaults["attempts"], defaults["samples"]) == (ATTEMPTS, SAMPLES)
    assert (HOW.temperature, HOW.max_new_tokens) == (TEMPERATURE, MAX_NEW_TOKENS)
    code, out, _ = cli("record", "--help")
    assert code == 0
    assert [
        name for name in ("--verifier", "--out", "--processes", "--db") if name not in out
    ] == []


def test_the_command_records_and_says_what_to_do_next(cli: Cli, folder: Path, taped: Path) -> None:
    code, out, err = cli(
        *("record", "problems.jsonl", "--verifier", "numeric", "--attempts", 3, "--seed", 1),
        *("--db", "my tape.db", "--out", "tape.jsonl"),
    )
    assert (code, err) == (0, "")
    expected = read_tape(taped)
    assert plain(read_tape("my tape.db")) == plain(expected)
    assert plain(read_tape("tape.jsonl"), 6) == plain(expected, 6)
    assert f"{len(expected)} of 6 problems failed" in out
    assert "recov-graph evaluate --tape 'my tape.db'" in out
    assert "tape.jsonl" in out
    with TraceStore("my tape.db") as store:
        tokens = sum(row["tokens"] for row in stored(store))
    assert f"{tokens:,} tokens" in out


def test_the_command_finds_a_verifier_of_the_working_folder_in_every_process(
    folder: Path,
) -> None:
    command = [*COMMAND, "problems.jsonl", "--processes", "2"]
    command += ["--verifier", "python:own_check:check", "--attempts", "2", "--db", "t.db"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # the folder is on no other path
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    tape = read_tape("t.db")
    assert f"{len(tape)} of 6 problems failed" in done.stdout
    assert {len(made.passed) for made in tape[0].attempts.values()} == {2}


def test_the_command_takes_names_of_interventions(cli: Cli, folder: Path) -> None:
    options = ("--verifier", "numeric", "--attempts", 2, "--db", "t.db")
    code, *_ = cli("record", "problems.jsonl", *options, "--interventions", "retry, local_temp")
    assert code == 0
    assert list(read_tape("t.db")[0].attempts) == ["retry", "local_temp"]


def test_where_nothing_failed_there_is_no_tape(cli: Cli, folder: Path) -> None:
    solved = '{"prompt": "12+34?", "id": "a"}\n{"prompt": "50-8?", "id": "b"}\n'
    (folder / "easy.jsonl").write_text(solved)
    check = ("--verifier", "python:own_check:generous")
    options = (*check, "--db", "t.db", "--out", "tape.jsonl")
    code, out, err = cli("record", "easy.jsonl", *options)
    assert (code, err) == (0, "")
    assert "nothing to record: 2 of 2 problems solved" in out
    assert len(out.splitlines()) == 1
    assert not (folder / "tape.jsonl").exists()


def test_problems_that_end_in_an_error_are_told(cli: Cli, folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"prompt": "Hello?"}\n')
    code, out, err = cli("record", "bad.jsonl", "--verifier", "numeric", "--db", "t.db")
    assert code == 1
    assert "nothing to record" in out
    assert "1 of 1 ended early" in err
    assert "cannot read 'H'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--verifier", "numerik"], ["'numerik'", "numeric"]),
        (["--model", "gpt-9"], ["'gpt-9'", "'embedded'"]),
        (["--attempts", 1], ["attempts is 1", "at least 2"]),
        (["--samples", 0], ["samples is 0"]),
        (["--processes", 0], ["processes is 0"]),
        (["--interventions", "retry,zap"], ["'zap'", "sparse_steer"]),
        (["--interventions", ""], ["''", "sparse_steer"]),
        (["--out", "none/tape.jsonl"], ["--out", "none/tape.jsonl"]),
        (["--out", "."], ["--out"]),
        (["--out", "t.db"], ["--out", "t.db", "store"]),
        (["--out", "hard.jsonl"], ["--out", "problem file"]),
        (["--db", "."], ["--db"]),
    ],
)
def test_wrong_options_get_one_clear_line_before_any_work(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[Any], words: list[str]
) -> None:
    def unasked(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(EmbeddedPair, "sample", unasked)
    before = (folder / "hard.jsonl").read_bytes()
    code, out, err = cli("record", "hard.jsonl", "--verifier", "numeric", "--db", "t.db", *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert [word for word in words if word not in err] == []
    assert (folder / "hard.jsonl").read_bytes() == before


@pytest.mark.parametrize(("processes", "everyone"), [(1, True), (2, True), (2, False)])
def test_ctrl_c_ends_it_and_keeps_what_was_recorded(
    folder: Path, processes: int, everyone: bool
) -> None:
    """A terminal interrupts every process; a supervisor may interrupt only the first."""
    command = [*COMMAND, "hard.jsonl", "--processes", processes]
    command += ["--verifier", "numeric", "--attempts", 6, "--db", "t.db", "--out", "tape.jsonl"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*map(str, command)], start_new_session=True, **pipes) as process:
        _wait_for_a_problem("t.db", process)
        (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    stopped, aborted = err.splitlines()[0], err.splitlines()[-1]
    assert stopped.startswith("stopped after ")
    assert "recov-graph evaluate --tape t.db" in stopped
    assert aborted == "Aborted."
    assert "Traceback" not in err
    assert not (folder / "tape.jsonl").exists()
    for problem in read_tape("t.db"):
        assert {len(made.passed) for made in problem.attempts.values()} == {6}
    with TraceStore("t.db") as store:
        assert stored(store)


def _wait_for_a_problem(path: str, process: subprocess.Popen[str]) -> None:
    """Until one is on the tape."""
    while process.poll() is None:
        time.sleep(0.05)
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as c,
        ):
            if c.execute("SELECT count(*) FROM tape").fetchone()[0]:
                return
    raise AssertionError(process.communicate())


def test_a_terminal_gets_a_bar(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "problems.jsonl", "--processes", "2"]
    command += ["--verifier", "numeric", "--attempts", "2", "--db", "t.db"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as p:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        assert p.stdout is not None
        out = p.stdout.read().decode()
    os.close(ours)
    assert p.returncode == 0
    assert all(word in seen for word in (b"6/6", b"failed", b"tokens"))
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other side is closed
        return b""


# --- what `show` says of it ---


def test_show_says_how_recorded_problems_ended(cli: Cli, taped: Path) -> None:
    code, out, _ = cli("show", "--db", taped)
    assert code == 0
    assert "(record, " in out
    assert {"recorded", "solved"} <= set(out.split())
    assert "unfinished" not in out
    first = read_tape(taped)[0]
    code, out, _ = cli("show", "--db", taped, "--problem", first.id)
    assert code == 0
    assert out.splitlines()[-1].startswith("recorded, ")


def test_show_does_not_call_imported_problems_unfinished(
    cli: Cli, tmp_path: Path, store: TraceStore
) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text('{"problem": "p1", "operator": "retry", "passed": true, "tokens": 210}\n')
    import_file(path, store)
    store.close()
    for options in ((), ("--problem", "p1")):
        code, out, _ = cli("show", "--db", store.path, *options)
        assert code == 0
        assert "imported" in out
        assert "unfinished" not in out
