"""Writes docs/api.md from the docstrings of the public names: ``python docs/make_api.py``.

The sources are read, never imported, so that the page is the same on every version of Python.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
WIDTH = 88  # of a signature in one line
HEAD = """# API reference

Made from the docstrings by `make docs`; do not edit. Tasks are explained [page by page](README.md).
"""


class Section(NamedTuple):
    """Names of one module.

    Attributes:
        module: below recov_graph; "" for the package itself.
        names: by default the module's `__all__`; a method has its class before it.
        methods: whether methods of plain classes are told; those of protocols always are.
    """

    module: str
    names: tuple[str, ...] = ()
    methods: bool = True


READ = ("query", "run", "run_problems", "run_problem", "problem_attempts", "problem_decisions")
SECTIONS = (
    Section("", methods=False),
    Section("wrapping", ("Recovered", "Recovering.invoke", "Recovering.recover")),
    Section("agents", ("RecoveryAgentState", "Restart"), methods=False),
    Section("context", ("RecoveryContext",), methods=False),
    Section("state", ("RecoveryOutput", "AttemptData", "VerdictData", "DecisionData")),
    Section("verifiers"),
    Section("interventions", methods=False),
    Section("models.base", ("Capability", "Model", "Session", "Generation", "Scores")),
    Section("models", ("as_model",)),
    Section("models.openai", ("OpenAIModel",), methods=False),
    Section("models.chat", ("ChatModel",), methods=False),
    Section("models.black_box", ("BlackBox", "Variation")),
    Section("routing"),
    Section("refit", ("refit", "Refit")),
    Section("store.traces", tuple(f"TraceStore.{name}" for name in READ)),
    Section("store", ("default_path",)),
    Section("policies", ("PolicyShelf", "Activation", "Entry", "policies_path")),
    Section("report"),
    Section("report.content", ("Report", "Figure", "Estimate"), methods=False),
    Section("errors"),
)
LEFT_OUT = {"__version__", "VERIFIERS"}  # data, not made to be called


def api_page() -> str:
    """The text of docs/api.md."""
    logging.getLogger("griffe").setLevel(logging.ERROR)
    package = griffe.load("recov_graph", search_paths=[ROOT], docstring_parser="google")
    parts, told = [HEAD], set()
    for section in SECTIONS:
        module = package[section.module] if section.module else package
        module = module.final_target if module.is_alias else module
        title = ".".join(filter(None, ("recov_graph", section.module)))
        parts.append(f"## {title}\n\n{_summary(module)}\n")
        for name in section.names or _public(module):
            item = module[name]
            item = item.final_target if item.is_alias else item
            if item.path not in told and name not in LEFT_OUT:
                told.add(item.path)
                parts += _item(name, item, "###", section.methods)
    return "\n".join(parts)


def _public(module: Any) -> list[str]:
    """What a module offers: its `__all__`, else the classes it defines."""
    listed = module.exports
    own = [name for name, one in module.members.items() if not one.is_alias and one.is_class]
    return sorted(map(str, listed)) if listed else [name for name in own if name[0] != "_"]


def _item(name: str, item: Any, heading: str, methods: bool) -> Iterator[str]:
    yield f"{heading} {name}\n\n```python\n{_signature(name, item)}\n```\n"
    yield from _docstring(item)
    if not item.is_class:
        return
    described = _descriptions(item)
    if described:
        yield "".join(f"- `{field}`: {text}\n" for field, text in described)
    if methods or "Protocol" in map(str, item.bases):
        for member, one in item.members.items():
            if one.is_alias or member.startswith("_") or not one.docstring:
                continue
            yield from _item(f"{name}.{member}", one, "####", False)


def _signature(name: str, item: Any) -> str:
    if item.is_attribute:  # a property
        return f"{name}: {item.annotation}"
    if item.is_function or not item.parameters:
        if item.is_class:
            return _fields(item)
        if "property" in item.labels:
            return f"{name}: {item.returns}"
    shown = [_parameter(one, item) for one in item.parameters if one.name not in ("self", "cls")]
    kinds = [one.kind for one in item.parameters if one.name not in ("self", "cls")]
    named = [kind is griffe.ParameterKind.keyword_only for kind in kinds]
    if True in named and griffe.ParameterKind.var_positional not in kinds:
        shown.insert(named.index(True), "*")
    returns = f" -> {item.returns}" if item.is_function and item.returns is not None else ""
    line = f"{name}({', '.join(shown)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){returns}"


def _parameter(one: Any, item: Any) -> str:
    star = {"variadic positional": "*", "variadic keyword": "**"}.get(one.kind.value, "")
    shown = star + one.name + (f": {one.annotation}" if one.annotation is not None else "")
    if star or one.default is None:
        return shown
    default = str(one.default)
    members = item.module.members
    constant = members.get(default)  # a name says less than its value
    value = getattr(getattr(constant, "final_target", constant), "value", None)
    literal = value is not None and not hasattr(value, "canonical_path") and "(" not in str(value)
    return f"{shown} = {value if literal else default}"


def _fields(item: Any) -> str:
    """A class that is made of fields, or of nothing of its own."""
    bases = ", ".join(map(str, item.bases))
    lines = [f"class {item.name}({bases}):" if bases else f"class {item.name}:"]
    for name, one in item.members.items():
        if one.is_attribute and name[0] != "_" and one.annotation is not None:
            property_ = "property" in one.labels
            lines += [] if property_ and one.docstring else [f"    {name}: {one.annotation}"]
        elif one.is_attribute and name[0] != "_" and "StrEnum" in bases:
            lines.append(f"    {name} = {one.value}")
    # Quoted as ruff does, which formats the page as well.
    return "\n".join(lines if len(lines) > 1 else [lines[0].removesuffix(":")]).replace("'", '"')


def _descriptions(item: Any) -> list[tuple[str, str]]:
    """What pydantic's Field says of fields, where the docstring does not."""
    if any(section.kind.value == "parameters" for section in _sections(item)):
        return []
    found = []
    for name, one in item.members.items():
        for argument in getattr(getattr(one, "value", None), "arguments", ()):
            if getattr(argument, "name", "") == "description":
                found.append((name, str(argument.value).strip("'\"")))
    return found


def _sections(item: Any) -> Iterable[Any]:
    return item.docstring.parsed if item.docstring else ()


def _summary(item: Any) -> str:
    return str(item.docstring.value).split("\n\n")[0] if item.docstring else ""


def _docstring(item: Any) -> Iterator[str]:
    for section in _sections(item):
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield f"{value}\n"
        elif kind in ("parameters", "attributes"):
            yield "".join(f"- `{one.name}`: {_flat(one.description)}\n" for one in value)
        elif kind == "raises":
            yield "".join(
                f"- Raises `{one.annotation}`: {_flat(one.description)}\n" for one in value
            )
        elif kind == "returns":
            yield "".join(f"- Returns: {_flat(one.description)}\n" for one in value)
        elif kind == "admonition":
            yield f"```pycon\n{textwrap.dedent(value.contents)}\n```\n"
        else:
            raise ValueError(f"{item.path}: no way to show a section of kind {kind}")


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(api_page(), encoding="utf-8")
