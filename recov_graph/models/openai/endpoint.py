"""One model behind one address: the only place that sends anything over HTTP.

Requests go through the client that a `ChatOpenAI` holds, so that its key, headers, proxies and
retries count. Nothing here or above repeats a request: rate limits and server errors are retried by
that client alone (its `max_retries`, 2 by default, with `Retry-After` respected).
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import openai
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic_core import from_json

from recov_graph.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelUnavailableError,
)
from recov_graph.words import cut

CHAT = "chat"  # a request that goes through ChatOpenAI itself, not only through its client
Result = TypeVar("Result")


class Request(NamedTuple):
    """What is asked of an endpoint.

    Attributes:
        endpoint: whom.
        path: below the base URL, absolute, or `CHAT`.
        body: JSON; for `CHAT` the messages under that name, and parameters of ChatOpenAI.
    """

    endpoint: Endpoint
    path: str
    body: Mapping[str, Any]


# Work that asks for requests to be sent and gets their replies, without knowing how they are sent.
Work = Generator[Request, Any, Result]


@dataclass(eq=False)
class Endpoint:
    """A model by the chat model that reaches it.

    Args:
        chat: any chat model of langchain-openai.
        bound: parameters bound to it, such as tools.
        max_concurrency: requests under way at a time.
    """

    chat: BaseChatOpenAI
    bound: Mapping[str, Any] = field(default_factory=dict)
    max_concurrency: int = 16

    def __post_init__(self) -> None:
        self._gate = threading.BoundedSemaphore(self.max_concurrency)
        self._threads = ThreadPoolExecutor(self.max_concurrency, "recov-graph")

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self.chat.model_name

    @property
    def base_url(self) -> str:
        """Where the server is, without a slash at the end."""
        return str(self.chat.root_client.base_url).rstrip("/")

    @property
    def address(self) -> str:
        """As `base_url`, without name, password and query: for messages and files."""
        return str(self.chat.root_client.base_url.copy_with(userinfo=b"", query=None)).rstrip("/")

    def __str__(self) -> str:
        return f"model {self.model!r} at {self.address}"

    def beside(self, path: str) -> str:
        """The address of what lies beside the API's version, such as vLLM's /tokenize."""
        base = self.base_url
        return base[: -len("/v1")] + path if base.endswith("/v1") else base + path

    def request(self, path: str, **body: Any) -> Request:
        """A request in this model's name; what the user set as `extra_body` goes along."""
        return Request(self, path, {"model": self.model, **(self.chat.extra_body or {}), **body})

    def chat_request(self, messages: Sequence[BaseMessage], **parameters: Any) -> Request:
        """A request through ChatOpenAI itself, with all that was set there."""
        return Request(self, CHAT, {"messages": list(messages), **self.bound, **parameters})

    def send(self, request: Request) -> Any:
        """The reply as JSON.

        Raises:
            ModelError: whatever went wrong, by kind.
        """
        with self._gate:
            try:
                if request.path == CHAT:
                    messages, parameters = _split(request)
                    return _chat_reply(self.chat.generate([messages], **parameters))
                client = self.chat.root_client
                return _parsed(client.post(request.path, body=request.body, cast_to=str))
            except Exception as error:
                typed = self._typed(error, request)
                if typed is error:
                    raise
                # The first error's own text may repeat the key; ours says all that it does.
                raise typed from None

    async def asend(self, request: Request) -> Any:
        """As `send`, without blocking the event loop.

        In a thread: the connections of an asynchronous client belong to the event loop that opened
        them, and langchain-openai shares one such client among all models of an address.
        """
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        return await loop.run_in_executor(self._threads, context.run, self.send, request)

    def _typed(self, error: Exception, request: Request) -> Exception:
        """What went wrong as an error of ours; an exception that is no fault of HTTP as it is."""
        where = str(self)
        said = self._said(error)
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            # What the server says may repeat part of the key.
            return ModelAccessError(
                f"{where} refused the key (HTTP {error.status_code}); set OPENAI_API_KEY to one "
                "that may use it",
                status=error.status_code,
            )
        if isinstance(error, openai.RateLimitError):
            fix = (
                "the account's quota is used up; add credit or use another key"
                if "quota" in said
                else "lower max_concurrency, or raise max_retries of the chat model"
            )
            return ModelUnavailableError(
                f"{where} is overloaded or over its rate limit (HTTP 429) after "
                f"{self._retries}: {said}; {fix}",
                status=429,
            )
        if isinstance(error, openai.APIStatusError) and error.status_code < 500:
            path = "/chat/completions" if request.path == CHAT else request.path
            fix = ""
            if error.status_code == 404:
                fix = "check the model's name, and that --base-url ends as it should (/v1?)"
            return ModelAccessError(
                f"{where} does not take this request to {path} (HTTP {error.status_code}): {said}"
                + (f"; {fix}" if fix else ""),
                status=error.status_code,
                said=said,
            )
        if isinstance(error, openai.APIStatusError):
            return ModelUnavailableError(
                f"{where} failed (HTTP {error.status_code}) after {self._retries}: {said}",
                status=error.status_code,
            )
        if isinstance(error, openai.APITimeoutError):
            return ModelUnavailableError(
                f"{where} gave no answer in time, {self._retries}; raise the chat model's timeout "
                "or lower max_new_tokens"
            )
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return ModelUnavailableError(
                f"{where} cannot be reached, or its answer was cut, after {self._retries} "
                f"({type(cause).__name__}: {self._plain(str(cause))}); "
                "check --base-url and that the server is up"
            )
        if isinstance(error, UnicodeEncodeError) and error.encoding == "ascii":
            return ModelAccessError(
                f"{where} was not asked: the key or another header holds {error.reason}; set "
                "OPENAI_API_KEY to the key and nothing else"
            )
        # A reply that the client or langchain-openai could not make sense of.
        odd = (TypeError, LookupError, AttributeError) if request.path == CHAT else ()
        if isinstance(error, (openai.OpenAIError, ValueError, *odd)):
            return ModelReplyError(
                f"{where} gave an answer that is no reply of this API "
                f"({type(error).__name__}: {said}); check --base-url",
            )
        return error

    @property
    def _retries(self) -> str:
        return f"{1 + int(self.chat.root_client.max_retries)} tries"

    def _said(self, error: Exception) -> str:
        """The server's own words, in one line."""
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, Mapping) else None
        return self._plain(str(message or error))

    def _plain(self, text: str) -> str:
        """A text of others in one short line, without the key should it be in there."""
        # Stripped: the line break of a key read from a file is what a message may be about.
        key = str(getattr(self.chat.root_client, "api_key", "") or "").strip()
        if len(key) > 3:
            text = text.replace(key, "...")
        return cut(" ".join(text.split()), 300)


def _parsed(text: str) -> Any:
    """The JSON of a reply; the text itself where it is none.

    Log-probabilities are long lists that name the same keys over and over.
    """
    try:
        return from_json(text, cache_strings="keys")
    except ValueError:
        pass
    try:
        return json.loads(text)  # which takes halves of characters, too
    except ValueError:
        return text


@contextmanager
def naming(endpoint: Endpoint) -> Iterator[None]:
    """Says whose reply it was that an error is about."""
    try:
        yield
    except ModelError as error:
        if endpoint.address not in str(error):
            error.args = (f"{endpoint}: {error}",)
        raise


def run(work: Work[Result]) -> Result:
    """Do the work, one request after the other."""
    try:
        request = next(work)
        while True:
            try:
                reply = request.endpoint.send(request)
            except ModelError as error:
                request = work.throw(error)
            else:
                with naming(request.endpoint):
                    request = work.send(reply)
    except StopIteration as done:
        result: Result = done.value
        return result


async def arun(work: Work[Result]) -> Result:
    """As `run`, without blocking the event loop."""
    try:
        request = next(work)
        while True:
            try:
                reply = await request.endpoint.asend(request)
            except ModelError as error:
                request = work.throw(error)
            else:
                with naming(request.endpoint):
                    request = work.send(reply)
    except StopIteration as done:
        result: Result = done.value
        return result


def _split(request: Request) -> tuple[list[BaseMessage], dict[str, Any]]:
    parameters = dict(request.body)
    return parameters.pop("messages"), parameters


def _chat_reply(result: LLMResult) -> dict[str, Any]:
    """What ChatOpenAI gives back, in the shape of a reply of the API."""
    choices = []
    for generation in result.generations[0]:
        assert isinstance(generation, ChatGeneration)
        message, info = generation.message, generation.generation_info or {}
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        choices.append(
            {
                "text": str(message.text),
                "tool_calls": [{"name": call["name"], "args": call["args"]} for call in calls],
                "finish_reason": info.get("finish_reason"),
                "logprobs": info.get("logprobs"),
            }
        )
    usage = (result.llm_output or {}).get("token_usage")
    return {"choices": choices, "usage": usage}
