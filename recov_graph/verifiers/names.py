"""Verifiers by name, and anything else that can stand for a verifier."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recov_graph.errors import InvalidInputError
from recov_graph.verifiers.answers import exact, numeric, regex
from recov_graph.verifiers.functions import function
from recov_graph.verifiers.programs import python_test
from recov_graph.verifiers.schema import json_schema
from recov_graph.verifiers.verdict import Verifier, describe
from recov_graph.words import short


def python(*, path: str) -> Verifier:
    """The verifier, or the function to make one of, that `package.module:name` imports.

    Raises:
        InvalidInputError: where it cannot be imported or is neither.
    """
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise InvalidInputError(f"path={path!r}; legal is package.module:function")
    try:
        value = attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:
        raise InvalidInputError(f"{path!r} cannot be imported: {describe(error)}") from error
    return _from_object(value)


VERIFIERS: Mapping[str, Callable[..., Verifier]] = MappingProxyType(
    {
        "exact": exact,
        "json_schema": json_schema,
        "numeric": numeric,
        "python": python,
        "python_test": python_test,
        "regex": regex,
    }
)


def as_verifier(value: Any) -> Verifier:
    """The verifier that `value` is, wraps or names.

    Args:
        value: a verifier; a function `fn(problem, text)` or `fn(text)`, see `function`; or a name
            of `VERIFIERS`, some with an argument: "numeric:TOLERANCE", "regex:PATTERN",
            "json_schema:FILE", "python_test:SECONDS", "python:PACKAGE.MODULE:FUNCTION".

    Raises:
        InvalidInputError: for an unknown name, a wrong argument, or anything else.
    """
    return _from_name(value) if isinstance(value, str) else _from_object(value)


def _from_object(value: Any) -> Verifier:
    if isinstance(value, Verifier) and not isinstance(value, type):
        return value
    if any(value is factory for factory in VERIFIERS.values()):
        raise InvalidInputError(f"{value.__name__} makes verifiers; call it: {value.__name__}()")
    if callable(value):
        return function(value)
    raise InvalidInputError(
        f"{short(value)} is not a verifier; legal are a verifier, a function and a name: "
        f"{', '.join(VERIFIERS)}"
    )


def _from_name(value: str) -> Verifier:
    name, colon, argument = value.partition(":")
    if name not in VERIFIERS:
        near = difflib.get_close_matches(name, VERIFIERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidInputError(
            f"unknown verifier {value!r}; legal are {', '.join(VERIFIERS)}{hint}"
        )
    if not colon and name != "python":
        return VERIFIERS[name]()
    if name not in ARGUMENTS:
        raise InvalidInputError(f"verifier {value!r}: {name} takes no argument")
    option, read = ARGUMENTS[name]
    try:
        return VERIFIERS[name](**{option: read(argument)})
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"verifier {value!r}: {error}") from error


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


# For each name that takes an argument: the option it sets, and how it is read.
ARGUMENTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "json_schema": ("schema", _read_json),
    "numeric": ("tolerance", float),
    "python": ("path", str),
    "python_test": ("seconds", float),
    "regex": ("pattern", str),
}
