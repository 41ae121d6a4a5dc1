"""The recovery graph: generate, verify, featurize, classify, intervene.

START -> generate -> verify -> (passed, or cannot be judged) END
verify -> (failed) featurize -> classify -> (stop) END
classify -> intervene -> verify
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext, context_schema
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Intervention
from recov_graph.models import Model, as_model
from recov_graph.models.base import Decoding, decoding_of
from recov_graph.nodes import Nodes
from recov_graph.recorder import Recorder, RunStart
from recov_graph.routing import Policy, Router
from recov_graph.settings import as_settings, as_store
from recov_graph.state import INPUTS, Inputs, RecoveryInput, RecoveryOutput, RecoveryState
from recov_graph.store import TraceStore
from recov_graph.verifiers import Verifier, as_verifier
from recov_graph.workspace import KEPT_PROBLEMS

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

SAMPLES = 4
TEMPERATURE = 0.6
MAX_NEW_TOKENS = 160

Graph = StateGraph[RecoveryState, RecoveryContext, RecoveryInput, RecoveryOutput]
CompiledGraph = CompiledStateGraph[RecoveryState, RecoveryContext, RecoveryInput, RecoveryOutput]


def build_recovery_graph(
    model: Model | BaseChatModel | str,
    verifier: Verifier | Any,
    *,
    router: Router | Policy | str | Path | None = None,
    interventions: Iterable[str | Intervention] | None = None,
    budget: Budget | None = None,
    store: TraceStore | str | Path | None = None,
    samples: int = SAMPLES,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    approve: Iterable[str] = (),
    inputs: Inputs = "either",
    kind: str = "graph",
    open_problems: int = KEPT_PROBLEMS,
    run: RunStart | None = None,
) -> Graph:
    """The recovery loop as a StateGraph, to be compiled or changed further.

    Args:
        model: "embedded" for the pair that ships, "openai:NAME", a chat model of LangChain, or a
            `recov_graph.models.Model`.
        verifier: a `Verifier`, a callable ``(problem, text)`` or ``(text)``, or a name such as
            "numeric" or "python_test".
        router: a `Router`, a `Policy` or the path of one; by default the policy that was
            activated with `recov-graph policy`, else the one that ships.
        interventions: names or objects to choose from; by default those that suit what the model
            can do, with all that users registered: see
            `recov_graph.interventions.default_interventions`. Those the model cannot carry out
            are never chosen.
        budget: limits for each problem; by default 12 attempts.
        store: where traces go: a `TraceStore` or a path. None stores nothing.
        samples: rollouts drawn before anything else is tried, at least 1.
        temperature: decoding temperature of plain rollouts, 0.001 to 1e6; by default what a chat
            model was set to, else 0.6.
        max_new_tokens: longest completion; by default what a chat model was set to, else 1024
            (chat alone: as the server has it), and 160 for the embedded pair.
        seed: makes runs repeatable; None draws fresh randomness.
        approve: names of interventions that a person approves, at an interrupt, before they are
            paid; needs a checkpointer. Refused ones are not chosen again for the problem.
        inputs: what the graph takes: a "problem", chat "messages", or "either".
        kind: what the trace store calls runs of this graph.
        open_problems: of how many problems under way at a time arrays are kept in memory.
        run: a run of the store that can be gone on with; by default each graph is a new one.

    Raises:
        InvalidInputError: an argument of the wrong type or range, naming what is legal.
        PolicyError: the policy file cannot be used.
        StoreError: the store cannot be opened.
    """
    if not _whole(samples) or samples < 1:
        raise InvalidInputError(f"samples is {samples!r}; it must be a whole number above 0")
    if max_new_tokens is not None and (not _whole(max_new_tokens) or max_new_tokens < 1):
        raise InvalidInputError(
            f"max_new_tokens is {max_new_tokens!r}; it must be a whole number above 0"
        )
    if inputs not in INPUTS:
        raise InvalidInputError(f"inputs is {inputs!r}; it must be one of {', '.join(INPUTS)}")
    model, verifier = as_model(model), as_verifier(verifier)
    usual = decoding_of(model) or Decoding(TEMPERATURE, MAX_NEW_TOKENS)
    temperature = usual.temperature if temperature is None else temperature
    settings = as_settings(
        router, interventions, budget, temperature, seed, approve, can=model.capabilities
    )
    if not any(one.needs <= model.capabilities for one in settings.interventions.values()):
        raise InvalidInputError(
            f"model {model.name!r} can carry out none of {', '.join(settings.interventions)}; it "
            f"has only {', '.join(sorted(model.capabilities)) or 'no capabilities'}. Add 'retry'"
        )
    recorder = Recorder(
        as_store(store),
        kind=kind,
        model=model.name,
        verifier=verifier.name,
        router=settings.router,
        seed=seed,
        run=run,
    )
    nodes = Nodes(
        model,
        verifier,
        settings=settings,
        recorder=recorder,
        samples=samples,
        max_new_tokens=max_new_tokens or usual.max_tokens,
        open_problems=open_problems,
    )
    graph: Graph = StateGraph(
        RecoveryState,
        context_schema=context_schema(settings.interventions),
        input_schema=INPUTS[inputs],
        output_schema=RecoveryOutput,
    )
    for node in (
        nodes.generate,
        nodes.verify,
        nodes.featurize,
        nodes.classify,
        nodes.intervene,
    ):
        says = (node.__doc__ or "").splitlines()[0]
        graph.add_node(node.__name__, node, metadata={"description": says})
    graph.add_edge(START, "generate")
    graph.add_edge("generate", "verify")
    # Every conditional edge has a path_map: without one a misspelt target ends a run quietly.
    graph.add_conditional_edges("verify", _after_verify, {"failed": "featurize", "done": END})
    graph.add_edge("featurize", "classify")
    graph.add_conditional_edges("classify", _after_classify, {"try": "intervene", "stop": END})
    graph.add_conditional_edges(
        "intervene", _after_intervene, {"attempted": "verify", "refused": "classify"}
    )
    return graph


def create_recovery_graph(
    model: Model | BaseChatModel | str,
    verifier: Verifier | Any,
    *,
    checkpointer: Checkpointer = None,
    name: str = "recovery",
    **options: Any,
) -> CompiledGraph:
    """The recovery loop, ready to invoke; see `build_recovery_graph` for all options.

    Example:
        >>> graph = create_recovery_graph("embedded", "numeric", seed=0)
        >>> graph.invoke({"problem": {"prompt": "37+48*2?", "answer": 133}})["solved"]
        True
    """
    graph = build_recovery_graph(model, verifier, **options)
    return graph.compile(checkpointer=checkpointer, name=name)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _after_verify(state: RecoveryState) -> str:
    return "done" if state.get("stop_reason") else "failed"


def _after_intervene(state: RecoveryState) -> str:
    # An attempt that failed to be made ends the problem, by way of verify.
    refused = state.get("refused", [])[-1:] == [state["route"][-1]["operator"]]
    return "refused" if refused and not state.get("stop_reason") else "attempted"


def _after_classify(state: RecoveryState) -> str:
    return "stop" if state.get("stop_reason") else "try"
