"""Profile CSVs: what is read back, and one clear line for whatever is wrong."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recov_graph.errors import RecovGraphError, TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.profiles import IDENTIFIERS, Profile, read_profiles
from tests.searching import examples

QUICK = settings(deadline=None, max_examples=examples(100))
REAL = Path(__file__).parents[2] / "shared" / "data" / "failure_profiles_dev.csv"
HEADER = "model,task,problem_id,n_failed_rollouts,spread,concentration,logit_dispersion,retry,dense"
ROW = "m,t,p1,4,0.1,2.5,-0.5,0.25,1.0"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each test, and each Hypothesis example, writes anew."""
    return tmp_path_factory.mktemp("profiles") / "profiles.csv"


def read(path: Path, content: str | bytes) -> list[Profile]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_profiles(path)


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(TapeError) as refused:
        read(path, content)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def lines(*rows: str, end: str = "\n") -> str:
    return "".join(row + end for row in rows)


# --- reading ---


def test_each_row_is_a_failed_problem(path: Path) -> None:
    assert read(path, lines(HEADER, ROW)) == [
        Profile(
            id="p1",
            model="m",
            task="t",
            failed_samples=4,
            features=ProblemFeatures(0.1, 2.5, -0.5),
            rates={"retry": 0.25, "dense": 1.0},
        )
    ]


def test_the_path_may_be_text(path: Path) -> None:
    read(path, lines(HEADER, ROW))
    assert read_profiles(str(path)) == read_profiles(path)


def test_columns_may_come_in_any_order_with_spaces_around_their_names(path: Path) -> None:
    names, values = HEADER.split(","), ROW.split(",")
    content = lines(" , ".join(reversed(names)), ",".join(reversed(values)))
    assert read(path, content) == read(path, lines(HEADER, ROW))


def test_counts_and_features_may_be_absent(path: Path) -> None:
    (profile,) = read(path, lines("model,task,problem_id,retry,dense", "m,t,p,0,1"))
    assert (profile.failed_samples, profile.features) == (None, None)


def test_counts_and_features_may_be_left_empty(path: Path) -> None:
    first, second = read(path, lines(HEADER, "m,t,p1,, ,,,0,1", "m,t,p2,3,0,0,0,0,1"))
    assert (first.failed_samples, first.features) == (None, None)
    assert (second.failed_samples, second.features) == (3, ProblemFeatures(0, 0, 0))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("cell,problem_id,retry,dense", "org|m|t,p,0,1"),
        ("cell,task,problem_id,retry,dense", "org|m|ignored,t,p,0,1"),
        ("cell,model,problem_id,retry,dense", "ignored|t,org|m,p,0,1"),
        ("cell,model,task,problem_id,retry,dense", "ignored,org|m,t,p,0,1"),
    ],
)
def test_the_cell_stands_in_for_model_and_task(path: Path, header: str, row: str) -> None:
    (profile,) = read(path, lines(header, row))
    assert (profile.model, profile.task) == ("org|m", "t")


@pytest.mark.parametrize(
    ("text", "value"),
    [("20", 20), ("20.0", 20), ("020", 20), (" 20 ", 20), (str(2**63 - 1), 2**63 - 1), ("0", 0)],
)
def test_counts_are_whole_numbers_however_written(path: Path, text: str, value: int) -> None:
    assert read(path, lines(HEADER, f"m,t,p,{text},,,,0,1"))[0].failed_samples == value


@pytest.mark.parametrize("text", ["0.1", " .1", "+1e-1", "0.10000000000000000555", "1E-01"])
def test_numbers_are_read_in_full(path: Path, text: str) -> None:
    assert read(path, lines(HEADER, f"m,t,p,,,,,{text},1"))[0].rates["retry"] == 0.1


@pytest.mark.parametrize(
    "content",
    [
        lines(HEADER, ROW).encode("utf-8-sig"),
        lines(HEADER, ROW, end="\r\n").encode(),
        lines(HEADER, ROW, end="\r").encode(),
        lines("", HEADER, " ", ROW, "", "\t").encode(),
        lines(HEADER, ROW).rstrip().encode(),
    ],
    ids=["BOM", "CRLF", "CR", "blank lines", "no last newline"],
)
def test_files_from_any_program_can_be_read(path: Path, content: bytes) -> None:
    assert [profile.id for profile in read(path, content)] == ["p1"]


def test_names_in_other_scripts_and_in_quotes_are_kept(path: Path) -> None:
    row = '"Qwen, ""small""",数学,"two\nlines",,,,,0,1'
    (profile,) = read(path, lines(HEADER, row))
    assert (profile.model, profile.task, profile.id) == ('Qwen, "small"', "数学", "two\nlines")


def test_the_same_id_may_be_used_in_two_cells(path: Path) -> None:
    rows = [f"{model},{task},p,,,,,0,1" for model in "ab" for task in "tu"]
    assert len(read(path, lines(HEADER, *rows))) == 4


def test_a_profile_cannot_be_changed(path: Path) -> None:
    (profile,) = read(path, lines(HEADER, ROW))
    with pytest.raises(AttributeError):
        profile.id = "other"  # type: ignore[misc]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
RESERVED = {*IDENTIFIERS, "n_failed_rollouts", *FEATURES, "retry"}
OPERATORS = NAMES.map(str.strip).filter(lambda name: name not in RESERVED)
RATES = st.floats(0, 1)
MEASURED = st.builds(ProblemFeatures, st.floats(0, 1), *[st.floats(-1e9, 1e9)] * 2)


@st.composite
def tables(draw: st.DrawFn) -> list[Profile]:
    others = draw(st.lists(OPERATORS, min_size=1, max_size=3, unique=True))
    rows = st.builds(
        Profile,
        id=NAMES,
        model=NAMES,
        task=NAMES,
        failed_samples=st.none() | st.integers(0, 2**63 - 1),
        features=st.none() | MEASURED,
        rates=st.fixed_dictionaries(dict.fromkeys(("retry", *others), RATES)),
    )
    unique = st.lists(rows, min_size=1, max_size=4, unique_by=lambda p: (p.model, p.task, p.id))
    return draw(unique)


@given(
    profiles=tables(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
)
@QUICK
def test_what_was_written_is_read_back(
    path: Path, profiles: list[Profile], quoting: Any, bom: bool
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting)
    operators = list(profiles[0].rates)
    writer.writerow(["model", "task", "problem_id", "n_failed_rollouts", *FEATURES, *operators])
    for one in profiles:
        features = one.features or [None] * len(FEATURES)
        rates = [one.rates[operator] for operator in operators]
        writer.writerow([one.model, one.task, one.id, one.failed_samples, *features, *rates])
    assert read(path, out.getvalue().encode("utf-8-sig" if bom else "utf-8")) == profiles


def test_the_real_profiles_are_read() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here; it is no part of the repository")
    profiles = read_profiles(REAL)
    cells = Counter((profile.model, profile.task) for profile in profiles)
    assert len(profiles) == 838
    assert cells == {
        ("grpo1p7b", "cruxeval"): 225,
        ("sft0p6b", "gsm8k"): 196,
        ("sft1p7b", "cruxeval"): 220,
        ("sft1p7b", "gpqa"): 197,
    }
    assert profiles[0] == Profile(
        id="sample_0",
        model="grpo1p7b",
        task="cruxeval",
        failed_samples=20,
        features=ProblemFeatures(0.160693, 2.095103, -0.8639),
        rates={
            "retry": 0.272727,
            "sparse_steer": 0.727273,
            "sparse_steer_random": 0.363636,
            "local_temp": 0.363636,
            "dense_steer": 0.45,
        },
    )
    assert all(profile.failed_samples and profile.features for profile in profiles)


# --- refusals ---


@pytest.mark.parametrize(
    ("row", "fragments"),
    [
        ("m,t,p,4,0.1,2.5,-0.5,0.25", ["8 fields", "header has 9", "quotes"]),
        ("m,t,p,4,0.1,2.5,-0.5,0.25,1,0", ["10 fields", "header has 9"]),
        ("m", ["1 fields"]),
        (",t,p,4,,,,0,1", ["model is empty"]),
        ("m, ,p,4,,,,0,1", ["task is empty"]),
        ("m,t,,4,,,,0,1", ["problem_id is empty"]),
        ("m,t,p,4.5,,,,0,1", ["n_failed_rollouts is '4.5'", "whole number"]),
        ("m,t,p,-4,,,,0,1", ["n_failed_rollouts is '-4'"]),
        ("m,t,p,many,,,,0,1", ["n_failed_rollouts is 'many'"]),
        ("m,t,p,nan,,,,0,1", ["n_failed_rollouts is 'nan'", "empty where not known"]),
        (f"m,t,p,{2**63},,,,0,1", ["n_failed_rollouts is", str(2**63 - 1)]),
        (f"m,t,p,{'9' * 6000},,,,0,1", ["n_failed_rollouts is '999"]),
        ("m,t,p,,0.1,,,0,1", ["only spread has a value", "leave all empty"]),
        ("m,t,p,,0.1,1, ,0,1", ["only spread and concentration"]),
        ("m,t,p,,1.1,1,1,0,1", ["spread is '1.1'", "0 to 1"]),
        ("m,t,p,,0.1,nan,1,0,1", ["concentration is 'nan'", "not measured"]),
        ("m,t,p,,0.1,1,-inf,0,1", ["logit_dispersion is '-inf'"]),
        ("m,t,p,,0.1,1,1e999,0,1", ["logit_dispersion is '1e999'"]),
        ("m,t,p,,,,,,1", ["rescue rate of 'retry' is ''", "0 to 1"]),
        ("m,t,p,,,,,0,", ["rescue rate of 'dense' is ''"]),
        ("m,t,p,,,,,0,nan", ["rescue rate of 'dense' is 'nan'"]),
        ("m,t,p,,,,,inf,0", ["rescue rate of 'retry' is 'inf'"]),
        ("m,t,p,,,,,0,1.0000001", ["rescue rate of 'dense' is '1.0000001'"]),
        ("m,t,p,,,,,-0.1,1", ["rescue rate of 'retry' is '-0.1'"]),
        ("m,t,p,,,,,0,yes", ["'dense' is 'yes'", "every column but cell, model"]),
        ("m,t,p,,,,,0,0_1", ["'0_1'"]),
        ("m,t,p,,,,,0,٠", ["'٠'"]),
        ('"m"x,t,p,,,,,0,1', ["not CSV", "quotes"]),
    ],
)
def test_a_bad_row_is_named_by_file_number_and_fault(
    path: Path, row: str, fragments: list[str]
) -> None:
    message = refusal(path, lines(HEADER, "m,t,good,,,,,0,1", "", row, "m,t,fine,,,,,0,1"))
    assert message.startswith("4: ")
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("header", "fragments"),
    [
        ("model;task;problem_id;retry;dense", ["no column model and no task", "by commas"]),
        ("model,task,retry,dense", ["no column problem_id"]),
        ("model,problem_id,retry,dense", ["no column task among"]),
        ("cell,retry,dense", ["no column problem_id"]),
        ("model,task,problem_id", ["operators are []", "'retry'"]),
        ("model,task,problem_id,retry", ["operators are ['retry']", "one more"]),
        ("model,task,problem_id,dense,sparse", ["'retry'"]),
        ("model,task,problem_id,spread,retry,dense", ["only spread", "concentration"]),
        ("model,task,problem_id,retry,retry,dense", ["'retry' is there twice"]),
        ("model,task,problem_id,retry, retry,dense", ["'retry' is there twice"]),
        (",model,task,problem_id,retry,dense", ["column 1 has no name"]),
        ("model,task,problem_id,retry,dense,", ["column 6 has no name"]),
    ],
)
def test_a_bad_header_is_refused(path: Path, header: str, fragments: list[str]) -> None:
    message = refusal(path, lines("", header, "whatever"))
    assert message.startswith("2: ")
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("number", ["\x1c0.5", "0.5\x1f", "\x1e.5", "\u2028.5", " 0.5\x1d "])
def test_separators_around_a_number_are_blanks(path: Path, number: str) -> None:
    assert read(path, lines(HEADER, ROW.replace("0.25", number)))[0].rates["retry"] == 0.5


def test_a_cell_needs_a_bar(path: Path) -> None:
    message = refusal(path, lines("cell,problem_id,retry,dense", "m|t,p,0,1", "mt,p,0,1"))
    assert message.startswith("3: cell is 'mt'; it must be model|task")


def test_a_problem_has_one_row(path: Path) -> None:
    message = refusal(path, lines(HEADER, ROW, "m,t,p2,,,,,0,1", ROW))
    assert message.startswith("4: problem_id 'p1' of model 'm' and task 't' was already used on")
    assert "on line 2; give" in message


def test_lines_inside_quotes_count(path: Path) -> None:
    row = 'm,t,"two\nlines",,,,,0,1'
    assert refusal(path, lines(HEADER, row, "m,t,p,,,,,0,2")).startswith("4: the rescue rate")
    assert "used on line 3;" in refusal(path, lines(HEADER, row, row))


def test_a_quote_that_is_never_closed_is_refused(path: Path) -> None:
    message = refusal(path, lines(HEADER, ROW, '"m,t,p2,,,,,0,1', "m,t,p3,,,,,0,1"))
    assert message.startswith("4: not CSV (")


def test_an_endless_field_is_refused(path: Path) -> None:
    message = refusal(path, lines(HEADER, f"m,t,{'x' * 200_000},,,,,0,1"))
    assert message.startswith("2: not CSV (field larger")


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(path: Path, content: bytes) -> None:
    assert refusal(path, content).startswith(" empty; expected a CSV header with model")


def test_a_header_alone_is_refused(path: Path) -> None:
    assert refusal(path, lines(HEADER, "")).startswith(" only a header; add one row")


def test_a_byte_that_is_not_utf_8_is_named_by_its_line(path: Path) -> None:
    content = lines(HEADER, ROW, "m,t,Größe,,,,,0,1").encode("latin-1")
    assert refusal(path, content) == "3: not UTF-8 text; save the file as UTF-8"


def test_utf_16_is_refused(path: Path) -> None:
    assert refusal(path, lines(HEADER, ROW).encode("utf-16")).startswith("1: not UTF-8 text")


def test_a_missing_file_a_folder_and_an_impossible_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="cannot be read: No such file or directory"):
        read_profiles(tmp_path / "none.csv")
    with pytest.raises(TapeError, match="cannot be read: Is a directory"):
        read_profiles(tmp_path)
    with pytest.raises(RecovGraphError, match="cannot be read"):
        read_profiles("a\0b")


def parses_or_is_refused(path: Path, content: str | bytes) -> None:
    profiles, message = [], ""
    try:
        profiles = read(path, content)
    except TapeError as error:
        message = str(error)
    assert profiles or message.startswith(str(path))
    for profile in profiles:
        assert profile.id
        assert profile.model
        assert profile.task
        assert len(profile.rates) >= 2
        assert all(0 <= rate <= 1 for rate in profile.rates.values())
        assert all(math.isfinite(value) for value in profile.features or ())


@given(text=st.text(), headed=st.booleans())
@example('"', True)
@example("\x00", True)
@QUICK
def test_any_text_parses_or_is_refused(path: Path, text: str, headed: bool) -> None:
    content = f"{HEADER}\n{text}" if headed else text
    parses_or_is_refused(path, content.encode("utf-8", "surrogatepass"))


@given(content=st.binary(), headed=st.booleans())
@QUICK
def test_any_bytes_parse_or_are_refused(path: Path, content: bytes, headed: bool) -> None:
    parses_or_is_refused(path, HEADER.encode() + b"\n" + content if headed else content)


CELLS = st.sampled_from(["", "0", "1", "0.5", "-1", "nan", "1e400", "x", '"', "²", " 1 ", "1,0"])


@given(rows=st.lists(st.lists(CELLS, min_size=8, max_size=10).map(",".join), max_size=3))
@QUICK
def test_any_values_parse_or_are_refused(path: Path, rows: list[str]) -> None:
    parses_or_is_refused(path, lines(HEADER, *rows))


@given(names=st.lists(st.sampled_from(sorted(RESERVED)) | st.text('a|," ', max_size=3)))
@QUICK
def test_any_header_parses_or_is_refused(path: Path, names: list[str]) -> None:
    parses_or_is_refused(path, lines(",".join(names), ",".join("1" for _ in names)))
