"""The verifier for JSON outputs: json_schema."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing.jsonschema import EMPTY_REGISTRY

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem, strict_json
from recov_graph.verifiers.extract import fenced_block
from recov_graph.verifiers.verdict import (
    Check,
    UnscorableError,
    Verdict,
    Verifier,
    describe,
)
from recov_graph.words import cut, short


def json_schema(*, schema: dict[str, Any] | None = None) -> Verifier:
    """A verifier: the output is JSON that fits a JSON Schema (2020-12, or what `$schema` says).

    The output may be bare JSON or hold it in a fenced block. Nothing is ever fetched: a `$ref` out
    of the schema leaves the output unscored where it is reached. The patterns within a schema have
    no time limit.

    Args:
        schema: the schema; by default the problem's answer.

    Raises:
        InvalidInputError: for an invalid schema.
    """
    fixed = None if schema is None else _validator(schema)

    def check(problem: Problem, text: str) -> Verdict:
        validator = fixed or _answer_validator(problem.answer)
        try:
            source, value = _parse(text)
        except (ValueError, RecursionError) as error:
            return Verdict("failed", explanation=f"not JSON: {error}")
        try:
            fault = best_match(validator.iter_errors(value))
        except Exception as error:
            raise UnscorableError(f"the schema cannot be applied: {describe(error)}") from error
        if fault is None:
            return Verdict("passed", answer=source, explanation="fits the schema")
        reason = f"{fault.json_path}: {cut(fault.message, 300)}"
        return Verdict("failed", answer=source, explanation=reason)

    return Check("json_schema", check)


def _validator(schema: Any) -> Validator:
    if not isinstance(schema, dict):
        raise InvalidInputError(f"schema {short(schema)}; a JSON schema is an object")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise InvalidInputError(
            f"not a JSON schema: {error.json_path}: {cut(error.message, 300)}"
        ) from None
    # Without a registry given, jsonschema would fetch references that it does not know.
    return kind(schema, registry=EMPTY_REGISTRY)


def _answer_validator(answer: Any) -> Validator:
    try:
        return _validator(answer)
    except InvalidInputError as error:
        raise UnscorableError(f"the problem's answer: {error}") from None


def _parse(text: str) -> tuple[str, Any]:
    """The JSON text within the output and its value; a complaint is about the likelier part."""
    try:
        return text.strip(), strict_json(text)
    except ValueError:
        block = fenced_block(text, ("json",))
        if block is None:
            raise
        return block.strip(), strict_json(block)
