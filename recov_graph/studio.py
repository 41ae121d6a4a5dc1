"""The graphs that `langgraph dev` serves and Studio shows: `recover` and `recover_chat`.

Both are built when this module is imported, with the embedded pair unless the environment says
otherwise, and store their traces where `recov-graph show` looks for them. Read at import:

RECOV_GRAPH_MODEL: the model, "embedded" or "openai:NAME"; its server is that of OPENAI_BASE_URL
    and OPENAI_API_KEY.
RECOV_GRAPH_ANCESTOR: the model that it was trained from, as "openai:NAME" at the same address;
    without one a model behind a server is a black box.
RECOV_GRAPH_VERIFIER: a verifier's name such as "numeric"; "arithmetic", which the embedded pair
    has by default, also judges sums that come without an answer.
RECOV_GRAPH_ESCALATE: whom `escalate` asks, as "openai:NAME"; by default the pair's own ancestor,
    which is better at long products, and nobody for another model.
RECOV_GRAPH_MAX_NEW_TOKENS: longest completion; 160 for the embedded pair, 1024 for another model,
    which writes prose. A server whose context is shorter refuses that: set it.
RECOV_GRAPH_DB: the trace store.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from recov_graph.errors import InvalidInputError
from recov_graph.graph import MAX_NEW_TOKENS, CompiledGraph, create_recovery_graph
from recov_graph.interventions import Escalate, Intervention, resolve
from recov_graph.models import Model, as_model
from recov_graph.models.embedded import EmbeddedPair
from recov_graph.problem import Problem
from recov_graph.state import Inputs
from recov_graph.store import TraceStore
from recov_graph.store.location import default_path
from recov_graph.verifiers import Verdict, Verifier, as_verifier, numeric
from recov_graph.verifiers.verdict import Check, UnscorableError
from recov_graph.version import __version__
from recov_graph.words import short

PRICE = 10.0  # tokens of the model that one of the stronger model's is taken to be worth
SERVED_NEW_TOKENS = 1024
LONGEST_SUM = 200  # characters; without powers, that bounds the numbers too
SUM = re.compile(r"[0-9()+*/% -]+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
COMPARE = numeric()


def _arithmetic(problem: Problem, text: str) -> Verdict:
    """The last number of the output equals the problem's answer, or without one its sum."""
    if problem.answer is None or problem.answer == "":  # a form may send an empty field
        problem = problem.model_copy(update={"answer": str(value_of_sum(problem.prompt))})
    return COMPARE(problem, text)


arithmetic: Verifier = Check("arithmetic", _arithmetic)


def value_of_sum(prompt: str) -> Fraction:
    """The value of a sum such as "37+48*2?": whole numbers, + - * / % and parentheses.

    Raises:
        UnscorableError: the prompt is something else, too long, or divides by zero.
    """
    written = prompt.strip().rstrip("?= ")
    if len(written) > LONGEST_SUM or not SUM.fullmatch(written):
        raise _no_sum(prompt)
    try:
        return _value(ast.parse(written.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise UnscorableError(f"the sum {short(prompt)} divides by zero") from None
    except (SyntaxError, ValueError):
        raise _no_sum(prompt) from None


def _value(node: ast.expr) -> Fraction:
    """Computed by walking the tree; nothing is ever executed."""
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError(f"{type(node).__name__} is no part of a sum")


def _no_sum(prompt: str) -> UnscorableError:
    return UnscorableError(
        f"no answer is given and the prompt {short(prompt)} is no sum; give an answer, or write a "
        f"sum of whole numbers with + - * / % and parentheses, of at most {LONGEST_SUM} characters"
    )


def chosen_model(environment: Mapping[str, str]) -> Model:
    """The model that the environment names, else the embedded pair."""
    name = environment.get("RECOV_GRAPH_MODEL") or "embedded"
    try:
        return as_model(name, ancestor=environment.get("RECOV_GRAPH_ANCESTOR") or None)
    except InvalidInputError as error:
        raise InvalidInputError(f"RECOV_GRAPH_MODEL, RECOV_GRAPH_ANCESTOR: {error}") from None


def chosen_verifier(environment: Mapping[str, str], model: Model) -> Verifier:
    """The verifier that the environment names, else `arithmetic` for the embedded pair.

    Raises:
        InvalidInputError: there is no such verifier, or none is named for another model.
    """
    name = environment.get("RECOV_GRAPH_VERIFIER")
    if name == "arithmetic" or (not name and isinstance(model, EmbeddedPair)):
        return arithmetic
    if not name:
        raise InvalidInputError(
            f"RECOV_GRAPH_MODEL is {model.name!r} but RECOV_GRAPH_VERIFIER is not set: nothing "
            "would tell a failed attempt; set it to a verifier's name, such as numeric"
        )
    try:
        return as_verifier(name)
    except InvalidInputError as error:
        raise InvalidInputError(f"RECOV_GRAPH_VERIFIER: {error}") from None


def chosen_interventions(environment: Mapping[str, str], model: Model) -> list[Intervention]:
    """The default ones of the model, and `escalate` where there is whom to ask."""
    chosen = [*resolve(None, model.capabilities).values()]
    stronger = environment.get("RECOV_GRAPH_ESCALATE")
    if stronger:
        try:
            chosen.append(Escalate(stronger, price=PRICE))
        except InvalidInputError as error:
            raise InvalidInputError(f"RECOV_GRAPH_ESCALATE: {error}") from None
    elif isinstance(model, EmbeddedPair):
        chosen.append(Escalate(model.swapped(), price=PRICE))
    return chosen


def longest_completion(environment: Mapping[str, str], model: Model) -> int:
    """Tokens that the environment allows a completion, else what suits the model.

    Raises:
        InvalidInputError: that is no whole number above 0.
    """
    given = environment.get("RECOV_GRAPH_MAX_NEW_TOKENS")
    if not given:
        return MAX_NEW_TOKENS if isinstance(model, EmbeddedPair) else SERVED_NEW_TOKENS
    if not re.fullmatch("0*[1-9][0-9]{0,8}", given):
        raise InvalidInputError(
            f"RECOV_GRAPH_MAX_NEW_TOKENS is {short(given)}; it must be a whole number above 0"
        )
    return int(given)


def served_graphs(environment: Mapping[str, str]) -> tuple[CompiledGraph, CompiledGraph]:
    """The graph that takes problems and the one that takes messages, on one model and one store.

    Neither has a checkpointer: the server brings its own, and refuses graphs that have one.
    """
    model = chosen_model(environment)
    verifier = chosen_verifier(environment, model)
    interventions = chosen_interventions(environment, model)
    longest = longest_completion(environment, model)
    store = TraceStore(default_path())
    about = {"recov_graph": __version__, "model": model.name, "verifier": verifier.name}

    def graph(name: str, inputs: Inputs) -> CompiledGraph:
        built = create_recovery_graph(
            model,
            verifier,
            name=name,
            inputs=inputs,
            interventions=interventions,
            max_new_tokens=longest,
            store=store,
            kind="studio",
        )
        return built.with_config(metadata=about)

    return graph("recover", "problem"), graph("recover_chat", "messages")


recover, recover_chat = served_graphs(os.environ)
