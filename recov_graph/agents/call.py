"""The model inside an agent, sampled by way of the agent's own model call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.structured_output import (
    OutputToolBinding,
    ProviderStrategy,
    StructuredOutputError,
    ToolStrategy,
)
from langchain_core.messages import AIMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import RunnableBinding
from typing_extensions import TypedDict

from recov_graph.conversation import asked_otherwise, text_of
from recov_graph.errors import ModelReplyError
from recov_graph.models.base import UNLIMITED, Capability, Generation
from recov_graph.models.black_box import InnerModel, Variation
from recov_graph.models.chat import (
    DECODING,
    Chat,
    capabilities_of,
    finish_of,
    generation_of,
    in_place_of,
    innermost,
    limit_of,
    name_of,
    scaled_limit,
    temperature_of,
    with_decoding,
)
from recov_graph.problem import strict_json
from recov_graph.rollout import Rollout
from recov_graph.words import short

Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]


class ModelData(TypedDict):
    """What is known of an agent's model between its calls.

    `temperature` is the decoding temperature, `max_tokens` the longest completion, `prompt_tokens`
    what the last call read, `structured` whether answers have to be.
    """

    name: str
    can: list[str]
    temperature: float
    max_tokens: int
    prompt_tokens: int
    structured: bool


def described(request: ModelRequest[Any], prompt_tokens: int = 0) -> ModelData:
    """The model that an agent is about to call."""
    given = request.model_settings.get("temperature")
    temperature = temperature_of(request.model) if given is None else given
    return {
        "name": name_of(request.model),
        # Plain words: a checkpointer need not know our types.
        "can": sorted(one.value for one in capabilities_of(request.model, temperature)),
        "temperature": temperature,
        "max_tokens": _limit_of(request.model, request.model_settings),
        "prompt_tokens": prompt_tokens or count_tokens_approximately(request.messages),
        "structured": request.response_format is not None,
    }


class SeenModel(InnerModel):
    """An agent's model as a router sees it, between calls."""

    def __init__(self, data: ModelData) -> None:
        super().__init__(data["name"], frozenset(map(Capability, data["can"])))
        self._prompt_tokens = data["prompt_tokens"]

    def call(self, variation: Variation) -> NoReturn:
        """Not possible."""
        raise AssertionError("an agent's model is called by the agent")

    def prompt_length(self, prompt: str) -> int:
        """What the agent's last call read."""
        return self._prompt_tokens


class AgentModel(SeenModel):
    """An agent's model during one of its calls.

    Args:
        request: the call that the agent is about to make.
        handler: makes it.
        question: what the agent was asked.
        data: of the model, from the calls before.

    Attributes:
        responses: what the agent was answered, with the rollout made of it, in order.
        tokens_left: how many tokens the budget still allows.
    """

    def __init__(
        self, request: ModelRequest[Any], handler: Handler, question: str, data: ModelData
    ) -> None:
        super().__init__(data)
        self._request, self._handler, self._question = request, handler, question
        self._temperature, self._max_tokens = data["temperature"], data["max_tokens"]
        self.responses: list[tuple[Rollout, ModelResponse[Any]]] = []
        self.tokens_left: Callable[[], float] = lambda: math.inf

    def prompt_length(self, prompt: str) -> int:
        """What the last call read, or more where tools have told much since."""
        return max(self._prompt_tokens, count_tokens_approximately(self._request.messages))

    def call(self, variation: Variation) -> Generation:  # type: ignore[override]
        """One call of the agent's, varied."""
        try:
            response = self._handler(self._varied(variation))
        except StructuredOutputError as error:  # a reply, and paid
            spent = generation_of(error.ai_message, self._request.messages).usage
            raise ModelReplyError(str(error), usage=spent) from error
        generation = answer_generation(response, self._request)
        self.responses.append((generation.rollouts[0], response))
        return generation

    def response_of(self, rollout: Rollout) -> ModelResponse[Any]:
        """What the agent goes on with: the response that a rollout was made of.

        Raises:
            ModelReplyError: it was made of none, and is not what the agent has to answer with.
        """
        same = [(made, given) for made, given in self.responses if made.text == rollout.text]
        for made, given in same:
            if made is rollout:
                return given
        if same:  # a copy
            return same[-1][1]
        structured = None
        if self._request.response_format is not None:  # without one the agent would be called on
            structured = structured_of(rollout.text, self._request.response_format)
        return ModelResponse([AIMessage(rollout.text)], structured)

    def _varied(self, variation: Variation) -> ModelRequest[Any]:
        request, settings = self._request, dict(self._request.model_settings)
        if variation.model is None:
            varied = self._decoded(variation, settings)
        else:  # what the agent's own model was set to is not for the one in its place
            settings = {name: value for name, value in settings.items() if name not in DECODING}
            varied = in_place_of(variation.model, variation.temperature, variation.max_tokens)
        while isinstance(varied, RunnableBinding):  # what is bound, the agent has to bind
            settings = {**varied.kwargs, **settings}
            varied = varied.bound
        messages = request.messages
        if variation.prompt != self._question:
            messages = asked_otherwise(messages, self._question, variation.prompt)
        return request.override(
            model=innermost(varied) or request.model, messages=messages, model_settings=settings
        )

    def _decoded(self, variation: Variation, settings: dict[str, Any]) -> Chat:
        """The agent's own model, varied; what `settings` has for it is changed in there."""
        chat, temperature = self._request.model, variation.temperature
        if temperature == self._temperature:
            temperature = temperature_of(chat)
        elif "temperature" in settings:
            settings["temperature"] = temperature
        limit = self._limit(variation, _limit_of(chat, settings))
        if limit < UNLIMITED and settings.get("max_tokens") is not None:
            settings["max_tokens"] = limit
        return with_decoding(chat, temperature, limit)

    def _limit(self, variation: Variation, own: int) -> int:
        """The longest completion: the model's own as far as nothing else was asked for."""
        limit = scaled_limit(own, variation.max_tokens, self._max_tokens)
        left = self.tokens_left()
        if math.isinf(left):
            return limit
        return max(1, min(limit, int(left) - self.prompt_length(variation.prompt)))


def structured_of(text: str, response_format: Any) -> Any:
    """A text as the structured response that an agent has to give.

    Raises:
        ModelReplyError: it is none.
    """
    if isinstance(response_format, ProviderStrategy):
        specs = [response_format.schema_spec]
    elif isinstance(response_format, ToolStrategy):
        specs = response_format.schema_specs
    else:
        specs = ToolStrategy(getattr(response_format, "schema", response_format)).schema_specs
    for spec in specs:
        try:
            return OutputToolBinding.from_schema_spec(spec).parse(strict_json(text))
        except ValueError:
            continue
    names = ", ".join(spec.name for spec in specs)
    raise ModelReplyError(f"{short(text)} is not the JSON of {names}")


def answer_generation(response: ModelResponse[Any], request: ModelRequest[Any]) -> Generation:
    """A response as a rollout, and what it cost."""
    reply = message_of(response)
    if reply is None:
        nothing = np.zeros(0, np.int32)
        return generation_of(AIMessage(""), request.messages)._replace(
            rollouts=[Rollout("", nothing, "stop", written=0)]
        )
    generation = generation_of(reply, request.messages)
    if response.structured_response is None:
        return generation
    text = text_of(response.structured_response)
    written = len(generation.rollouts[0])
    rollout = Rollout(text, np.zeros(0, np.int32), finish_of(reply), written=written)
    return generation._replace(rollouts=[rollout])


def message_of(response: ModelResponse[Any]) -> AIMessage | None:
    """The model's own message of a response."""
    found = [message for message in response.result if isinstance(message, AIMessage)]
    return found[-1] if found else None


def is_final(response: ModelResponse[Any]) -> bool:
    """Whether an agent ends with a response, rather than going on with tools."""
    reply = message_of(response)
    return response.structured_response is not None or (reply is not None and not reply.tool_calls)


def _limit_of(chat: Chat, settings: dict[str, Any]) -> int:
    """The longest completion that a chat model is called for."""
    given = settings.get("max_tokens")
    return given if isinstance(given, int) and given > 0 else limit_of(chat)
