"""Problems and the JSONL files they come from."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError, ProblemFileError, RecovGraphError
from recov_graph.problem import Problem, as_problem, read_problems
from tests.searching import examples

QUICK = settings(deadline=None, max_examples=examples(100))

ANSWERS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.fixed_dictionaries(
    {"prompt": st.text(min_size=1)},
    optional={
        "answer": ANSWERS,
        "id": st.text(),
        "task": st.text(),
        "metadata": st.dictionaries(st.text(), ANSWERS, max_size=2),
    },
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each test, and each Hypothesis example, writes anew."""
    return tmp_path_factory.mktemp("problems") / "problems.jsonl"


def read(path: Path, content: str | bytes) -> list[Problem]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_problems(path)


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(ProblemFileError) as refused:
        read(path, content)
    message = str(refused.value)
    assert "\n" not in message
    return message


# --- reading ---


def test_each_line_is_a_problem(path: Path) -> None:
    first, second = read(
        path,
        '{"prompt": "1+1?", "answer": 2, "id": "a", "task": "sums", "metadata": {"by": "me"}}\n'
        '{"prompt": "Say hi"}\n',
    )
    assert first == Problem(prompt="1+1?", answer=2, id="a", task="sums", metadata={"by": "me"})
    assert (second.prompt, second.answer, second.task, second.metadata) == (
        "Say hi",
        None,
        "default",
        {},
    )


def test_the_path_may_be_text(path: Path) -> None:
    read(path, '{"prompt": "x"}')
    assert read_problems(str(path)) == read_problems(path)


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "x"}\n{"prompt": "y"}',
        b'{"prompt": "x"}\n\n \t\n{"prompt": "y"}\n\n\n',
        b'\xef\xbb\xbf{"prompt": "x"}\n{"prompt": "y"}\n',
        b'{"prompt": "x"}\r\n{"prompt": "y"}\r\n',
        b'\xef\xbb\xbf\r\n{"prompt": "x"}\r\n\r\n{"prompt": "y"}',
        b'  {"prompt": "x"}  \n\t{"prompt": "y"}',
    ],
    ids=["no last newline", "blank lines", "BOM", "CRLF", "BOM and CRLF", "indented"],
)
def test_files_from_any_editor_can_be_read(path: Path, content: bytes) -> None:
    assert [problem.prompt for problem in read(path, content)] == ["x", "y"]


def test_line_separators_inside_text_do_not_end_a_line(path: Path) -> None:
    prompt = "a\u2028b\u2029c\x85d\x0be\x1cf"
    line = '{"prompt": "a\u2028b\u2029c\x85d\\u000be\\u001cf"}'
    assert read(path, line)[0].prompt == prompt


def test_other_scripts_are_kept(path: Path) -> None:
    assert read(path, '{"prompt": "Größe 尺寸 🎲"}')[0].prompt == "Größe 尺寸 🎲"


@given(rows=st.lists(ROWS, min_size=1, max_size=4), ascii_only=st.booleans())
@QUICK
def test_what_was_written_is_read_back(
    path: Path, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    rows = [{**row, "id": f"{place} {row.get('id', '')}"} for place, row in enumerate(rows)]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    problems = read(path, "\n".join(lines))
    assert [problem.model_dump(exclude_unset=True) for problem in problems] == rows


# --- refusals ---


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("{", ["not JSON", "'{'"]),
        ("hello", ["not JSON", "'hello'"]),
        ('{"prompt": "x"} {"prompt": "y"}', ["not JSON"]),
        ('{"prompt": "x",}', ["not JSON"]),
        ("\x00", ["not JSON"]),
        ('{"prompt": ' + "9" * 5000 + "}", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("5", ["JSON object", "got 5", '"prompt"']),
        ('["prompt"]', ["JSON object", "got ['prompt']"]),
        ("null", ["JSON object", "got None"]),
        ('"text"', ["JSON object", "got 'text'"]),
        ("{}", ["'prompt' is missing"]),
        ('{"answer": 5}', ["'prompt' is missing"]),
        ('{"prompt": ""}', ["'prompt'", "at least 1 character"]),
        ('{"prompt": null}', ["'prompt'", "string", "got None"]),
        ('{"prompt": 5}', ["'prompt'", "string", "got 5"]),
        ('{"prompt": "x", "anwser": 5}', ["unknown field 'anwser'"]),
        ('{"prompt": "x", "id": 5}', ["'id'", "string", "got 5"]),
        ('{"prompt": "x", "task": ["a"]}', ["'task'", "string", "got ['a']"]),
        ('{"prompt": "x", "metadata": "m"}', ["'metadata'", "dictionary", "got 'm'"]),
        ('{"prompt": "\\ud800"}', ["'prompt'", "unicode"]),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_fault(
    path: Path, line: str, fragments: list[str]
) -> None:
    message = refusal(path, f'{{"prompt": "good"}}\n\n{line}\n{{"prompt": "also good"}}\n')
    assert message.startswith(f"{path}:3: ")
    assert [fragment for fragment in fragments if fragment not in message] == [], message


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_blank_lines_count_in_line_numbers(path: Path, ending: str) -> None:
    message = refusal(path, f"{ending}{ending}{ending}nonsense{ending}")
    assert message.startswith(f"{path}:4: ")


def test_a_long_line_is_not_quoted_in_full(path: Path) -> None:
    assert len(refusal(path, "x" * 100_000)) < len(str(path)) + 300


def test_an_id_may_be_used_once(path: Path) -> None:
    message = refusal(path, '{"prompt": "x", "id": "a"}\n\n{"prompt": "y", "id": "a"}')
    assert message.startswith(f"{path}:3: id 'a' was already used on line 1; give every line an id")


def test_a_prompt_without_id_may_be_used_once(path: Path) -> None:
    message = refusal(path, '{"prompt": "x"}\n{"prompt": "x", "answer": 1}')
    assert message.startswith(f"{path}:2: id ")
    assert "already used on line 1" in message


def test_a_prompt_may_be_repeated_under_two_ids(path: Path) -> None:
    problems = read(path, '{"prompt": "x", "id": "a"}\n{"prompt": "x", "id": "b"}')
    assert [problem.id for problem in problems] == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_problems_is_refused(path: Path, content: bytes) -> None:
    message = refusal(path, content)
    assert message.startswith(f"{path}: no problems")
    assert "JSON object a line" in message


@pytest.mark.parametrize("content", ['{"prompt": "é"}'.encode("latin-1"), "{}".encode("utf-16")])
def test_a_file_that_is_not_utf_8_is_refused(path: Path, content: bytes) -> None:
    message = refusal(path, content)
    assert message.startswith(f"{path}:1: not UTF-8")
    assert "save the file as UTF-8" in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    with pytest.raises(ProblemFileError) as refused:
        read_problems(missing)
    assert str(refused.value) == f"{missing}: cannot be read: No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemFileError, match="cannot be read"):
        read_problems(tmp_path)


def test_refusals_can_be_caught_as_value_errors_and_as_the_packages_own(path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        read(path, "nonsense")
    with pytest.raises(RecovGraphError, match="not JSON"):
        read(path, "nonsense")


def parses_or_is_refused(path: Path, content: str | bytes) -> None:
    problems, message = [], ""
    try:
        problems = read(path, content)
    except ProblemFileError as error:
        message = str(error)
    assert problems or message.startswith(str(path))
    ids = [problem.id for problem in problems]
    assert len(set(ids)) == len(ids)
    assert all(problem.prompt and problem.id for problem in problems)


@given(text=st.text())
@example('{"prompt": "\\ud800"}')
@example('{"prompt": "x", "id": "\\ud800"}')
@example('{"prompt": "x", "answer": NaN}')
@example("[" * 980 + "]" * 980)
@QUICK
def test_any_text_parses_or_is_refused(path: Path, text: str) -> None:
    parses_or_is_refused(path, text)


@given(content=st.binary())
@QUICK
def test_any_bytes_parse_or_are_refused(path: Path, content: bytes) -> None:
    parses_or_is_refused(path, content)


@given(rows=st.lists(st.dictionaries(st.text(), ANSWERS) | ROWS | ANSWERS, max_size=4))
@QUICK
def test_any_json_parses_or_is_refused(path: Path, rows: list[Any]) -> None:
    parses_or_is_refused(path, "\n".join(map(json.dumps, rows)))


@given(field=st.sampled_from(["prompt", "answer", "id", "task", "metadata"]), value=ANSWERS)
@QUICK
def test_any_value_of_any_field_parses_or_is_refused(path: Path, field: str, value: Any) -> None:
    parses_or_is_refused(path, json.dumps({"prompt": "x", field: value}))


@pytest.mark.parametrize("depth", [*range(200, 1000, 40), *range(940, 1000, 3)])
def test_any_depth_of_nesting_parses_or_is_refused(path: Path, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for line in (nested, f'{{"prompt": {nested}}}', f'{{"prompt": "x", "answer": {nested}}}'):
        parses_or_is_refused(path, line)


# --- ids ---


@given(prompt=st.text(min_size=1), answer=ANSWERS, task=st.text())
@QUICK
def test_the_derived_id_depends_on_the_prompt_alone(prompt: str, answer: Any, task: str) -> None:
    derived = Problem(prompt=prompt).id
    assert Problem(prompt=prompt, answer=answer, task=task).id == derived
    assert len(derived) == 16
    assert set(derived) <= set("0123456789abcdef")
    assert Problem(prompt=prompt + "!").id != derived


def test_derived_ids_stay_the_same_from_version_to_version() -> None:
    # Stored traces are found by it: the first 16 digits of the prompt's SHA-256.
    assert Problem(prompt="x").id == "2d711642b726b044"


def test_a_given_id_is_kept() -> None:
    assert Problem(prompt="x", id="mine").id == "mine"


def test_an_empty_id_is_derived() -> None:
    assert Problem(prompt="x", id="").id == Problem(prompt="x").id


# --- as_problem ---


def test_a_problem_stays_itself() -> None:
    problem = Problem(prompt="x")
    assert as_problem(problem) is problem


def test_text_is_a_prompt() -> None:
    assert as_problem("What is 1+1?") == Problem(prompt="What is 1+1?")


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_a_mapping_holds_the_fields(kind: Any) -> None:
    fields = {"prompt": "x", "answer": 2, "id": "a", "task": "t", "metadata": {"k": [1]}}
    assert as_problem(kind(fields)) == Problem(**fields)


@pytest.mark.parametrize(
    ("value", "fragments"),
    [
        ("", ["'prompt'", "at least 1 character"]),
        ({}, ["'prompt' is missing"]),
        ({"prompt": "x", "extra": 1}, ["unknown field 'extra'"]),
        ({"prompt": 5}, ["'prompt'", "got 5"]),
        ({"prompt": "x", 1: 2}, ["1"]),
        ({"prompt": "x", "metadata": {1: 2}}, ["metadata"]),
        (None, ["got None"]),
        (5, ["got 5"]),
        (b"x", ["got b'x'"]),
        (["x"], ["got ['x']"]),
    ],
)
def test_what_is_no_problem_is_refused_in_words(value: Any, fragments: list[str]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        as_problem(value)
    message = str(refused.value)
    wanted = ["not a problem", "{'prompt': text", *fragments]
    assert [fragment for fragment in wanted if fragment not in message] == [], message


@given(value=ANSWERS | st.binary() | st.dictionaries(st.integers() | st.text(), ANSWERS))
@QUICK
def test_anything_is_a_problem_or_refused(value: Any) -> None:
    problem, message = None, ""
    try:
        problem = as_problem(value)
    except InvalidInputError as error:
        message = str(error)
    assert "not a problem" in message if problem is None else problem.prompt


def test_a_problem_cannot_be_changed() -> None:
    problem = Problem(prompt="x")
    with pytest.raises(ValueError, match="frozen"):
        problem.prompt = "y"


# Faults that were found by attacking the package


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_json_are_refused(path: Path, number: str) -> None:
    assert "not JSON" in refusal(path, f'{{"prompt": "x", "answer": {number}}}')


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 309 + ".5"])
def test_numbers_beyond_the_largest_are_refused(path: Path, number: str) -> None:
    message = refusal(path, f'{{"prompt": "x", "answer": [{number}]}}')
    assert "beyond the largest number" in message
    assert len(message) < 500
    assert read(path, '{"prompt": "x", "answer": [1e308, 1e-999]}')[0].answer == [1e308, 0.0]


@pytest.mark.parametrize("field", ["id", "task"])
def test_half_a_character_is_refused_in_names(path: Path, field: str) -> None:
    assert field in refusal(path, f'{{"prompt": "x", "{field}": "\\ud800"}}')


def test_a_path_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ProblemFileError):
        read_problems("a\0b")


def test_a_line_that_is_not_utf_8_is_named_by_its_number(path: Path) -> None:
    assert refusal(path, b'{"prompt": "x"}\n{"prompt": "\xff"}\n').startswith(f"{path}:2: ")
