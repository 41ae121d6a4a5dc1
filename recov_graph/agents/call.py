"""The model inside an agent, sampled by way of the agent's own model call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain_core.messages import AIMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import RunnableBinding
from typing_extensions import TypedDict

from recov_graph.conversation import asked_otherwise, text_of
from recov_graph.models.base import Capability, Generation
from recov_graph.models.black_box import BlackBox, Variation
from recov_graph.models.chat import (
    capabilities_of,
    chat_of,
    finish_of,
    generation_of,
    innermost,
    name_of,
    temperature_of,
    with_decoding,
)
from recov_graph.rollout import Rollout

Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]


class ModelData(TypedDict):
    """What is known of an agent's model between its calls.

    `temperature` is the decoding temperature, `prompt_tokens` what the last call read.
    """

    name: str
    can: list[str]
    temperature: float
    prompt_tokens: int


def described(request: ModelRequest[Any], prompt_tokens: int = 0) -> ModelData:
    """The model that an agent is about to call."""
    temperature = request.model_settings.get("temperature")
    return {
        "name": name_of(request.model),
        "can": sorted(capabilities_of(request.model)),
        "temperature": temperature_of(request.model) if temperature is None else temperature,
        "prompt_tokens": prompt_tokens or count_tokens_approximately(request.messages),
    }


class SeenModel(BlackBox):
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
    """

    def __init__(
        self, request: ModelRequest[Any], handler: Handler, question: str, data: ModelData
    ) -> None:
        super().__init__(data)
        self._request, self._handler, self._question = request, handler, question
        self._temperature = data["temperature"]
        self.responses: list[tuple[Rollout, ModelResponse[Any]]] = []

    def call(self, variation: Variation) -> Generation:  # type: ignore[override]
        """One call of the agent's, varied."""
        response = self._handler(self._varied(variation))
        generation = answer_generation(response, self._request)
        self.responses.append((generation.rollouts[0], response))
        return generation

    def response_of(self, rollout: Rollout) -> ModelResponse[Any]:
        """What the agent goes on with: the response that a rollout was made of."""
        for made, response in self.responses:
            if made is rollout:
                return response
        return ModelResponse(result=[AIMessage(rollout.text)])  # one of an intervention's own

    def _varied(self, variation: Variation) -> ModelRequest[Any]:
        request, chat = self._request, self._request.model
        settings = dict(request.model_settings)
        if variation.model is not None:
            given: Any = chat_of(variation.model)
            while isinstance(given, RunnableBinding):  # what is bound, the agent has to bind
                settings = {**given.kwargs, **settings}
                given = given.bound
            chat = innermost(given) or chat
        # A model in the place of another keeps its own temperature, unless another is asked for.
        plain = variation.temperature == self._temperature
        temperature = temperature_of(chat) if plain else variation.temperature
        if not plain and "temperature" in settings:
            settings["temperature"] = temperature
        varied = innermost(with_decoding(chat, temperature, variation.max_tokens)) or chat
        messages = request.messages
        if variation.prompt != self._question:
            messages = asked_otherwise(messages, self._question, variation.prompt)
        return request.override(model=varied, messages=messages, model_settings=settings)


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
