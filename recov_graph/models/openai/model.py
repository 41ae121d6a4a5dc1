"""`OpenAIModel`: any OpenAI-compatible model behind the `Model` protocol."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openai
from langchain_core.runnables import RunnableBinding
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import ValidationError

from recov_graph.errors import InvalidInputError
from recov_graph.models.base import Capability, Decoding, Generation, Ids, Overhead, Role, Scores
from recov_graph.models.openai.access import Access, tokenizers_differ
from recov_graph.models.openai.blocks import BlockSession
from recov_graph.models.openai.cache import AccessCache, found_out
from recov_graph.models.openai.chat import ChatWire
from recov_graph.models.openai.endpoint import Endpoint, arun, run
from recov_graph.models.openai.messages import MessageWire
from recov_graph.models.openai.texts import TextWire
from recov_graph.models.openai.tokens import TokenWire
from recov_graph.models.openai.wire import Wire
from recov_graph.signals import COLDEST
from recov_graph.words import storable

PREFIX = "openai:"
TOP_K = 20
TEMPERATURE = 0.6
BLOCK = 12
MAX_CONCURRENCY = 16
NO_KEY = "not-needed"  # servers of one's own rarely ask for a key, but the client wants one

Chat = BaseChatOpenAI | str | Any  # Any: what `bind` and `bind_tools` give


class OpenAIModel:
    """A model behind an OpenAI-compatible API, and the ancestor it was trained from where given.

    What can be done with it depends on the server, and is found out in at most five small calls
    when first needed (see `recov-graph doctor`), or declared. Thread-safe.

    Rate limits and server errors are retried by the chat model's client alone (`max_retries`).

    Args:
        specialist: a `ChatOpenAI`, one with tools or other parameters bound (which is then used by
            chat messages alone), or "openai:NAME".
        ancestor: the same for the model that the specialist was trained from, with its tokenizer.
        base_url: where "openai:NAME" is; by default as for the client (`OPENAI_BASE_URL`, else
            OpenAI). The key is read by the client from `OPENAI_API_KEY`.
        ancestor_base_url: where the ancestor is; by default `base_url`.
        name: part of the cell that failures are compared within; by default the model's name.
        access: what the specialist's server offers; by default it is asked.
        ancestor_access: what the ancestor's server offers; by default it is asked.
        top_k: log-probabilities asked for at each position, 1 to 1000. Policies are only
            comparable for the same number.
        block: tokens that the specialist writes ahead where it is steered, at least 1.
        max_concurrency: requests under way at a time at each of the two, at least 1.
        cache: remembers what servers offer; by default in the user's cache folder, for a day.

    Raises:
        InvalidInputError: an argument is of the wrong kind or range.
    """

    def __init__(
        self,
        specialist: Chat,
        *,
        ancestor: Chat | None = None,
        base_url: str | None = None,
        ancestor_base_url: str | None = None,
        name: str | None = None,
        access: Access | None = None,
        ancestor_access: Access | None = None,
        top_k: int = TOP_K,
        block: int = BLOCK,
        max_concurrency: int = MAX_CONCURRENCY,
        cache: AccessCache | None = None,
    ) -> None:
        _check_whole("top_k", top_k, most=1000)
        _check_whole("block", block)
        _check_whole("max_concurrency", max_concurrency)
        for what, given in (("access", access), ("ancestor_access", ancestor_access)):
            if not (given is None or isinstance(given, Access)):
                raise InvalidInputError(
                    f"{what} is {given!r}; it must be a recov_graph.models.openai.Access, or None "
                    "to have the server asked"
                )
        self.specialist = _endpoint("specialist", specialist, base_url, max_concurrency)
        self.ancestor = None
        if ancestor is not None:
            # An address of the specialist's is none of a chat model's, which has its own.
            where = ancestor_base_url or (base_url if isinstance(ancestor, str) else None)
            self.ancestor = _endpoint("ancestor", ancestor, where, max_concurrency)
        elif ancestor_base_url is not None:
            raise InvalidInputError(
                "ancestor_base_url is given without an ancestor; name the model "
                "there with ancestor='openai:NAME'"
            )
        self.name = name or self.specialist.model
        self.top_k, self.block = top_k, block
        self.calls = 0  # made to find out what the servers offer
        self._access, self._ancestor_access = access, ancestor_access
        self._cache = cache or AccessCache()
        self._wire: Wire | None = None
        # Many may be the first to use the model, and only one of them is to ask the servers.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        ancestor = "" if self.ancestor is None else f", ancestor: {self.ancestor}"
        return f"OpenAIModel({self.specialist}{ancestor})"

    @property
    def decoding(self) -> Decoding:
        """What the chat model was set to, where it was."""
        chat = self.specialist.chat
        return Decoding(
            TEMPERATURE if chat.temperature is None else max(chat.temperature, COLDEST),
            chat.max_tokens or self._reached().longest,
        )

    @property
    def overhead(self) -> Overhead:
        """What calls cost beyond the tokens that are read and written once."""
        # Not all of a block is taken, as a rule.
        several = self._reached().several
        return Overhead(max(1, 3 * self.block // 4), 1, prompt_per_sample=not several)

    @property
    def access(self) -> Access:
        """What the specialist's server offers.

        Raises:
            ModelError: it was asked, and the model cannot be had.
        """
        with self._lock:
            if self._access is None:
                self._access = self._noted(
                    run(found_out(self.specialist, self._cache, compared=self.ancestor is not None))
                )
            return self._access

    @property
    def ancestor_access(self) -> Access | None:
        """What the ancestor's server offers; None where there is no ancestor."""
        if self.ancestor is None:
            return None
        with self._lock:
            if self._ancestor_access is None:
                self._ancestor_access = self._noted(
                    run(found_out(self.ancestor, self._cache, compared=True))
                )
            return self._ancestor_access

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What can be done with the model, given what its server and the ancestor's offer."""
        access = self.access
        able = {Capability.SAMPLE}
        if access.temperature:
            able.add(Capability.TEMPERATURE)
        if access.chat:
            able.add(Capability.INSTRUCT)
        if access.way != "chat":
            able.add(Capability.CONTINUE)
        if self.why_not_scored() is None:
            able.add(Capability.SCORE)
            if access.way == "tokens":
                able.add(Capability.STEP)
        return frozenset(able)

    def why_not_scored(self) -> str | None:
        """Why token signals cannot be had, and the fix; None where they can."""
        access, ancestor = self.access, self.ancestor_access
        serve = "serve it with vLLM"
        if access.way == "chat":
            return f"the server cannot score a text; {serve}"
        if access.scored < self.top_k:
            return (
                f"the server gives {access.scored} log-probabilities of a scored token, "
                f"top_k={self.top_k} are asked for; start it with --max-logprobs {self.top_k}"
            )
        if ancestor is None:
            return "no ancestor is given; name the base model with --ancestor"
        if ancestor.way != access.way:
            return (
                f"the ancestor is reached by {ancestor.way}, the specialist by {access.way}; "
                f"{serve.replace('it', 'both')}"
            )
        if ancestor.scored < self.top_k:
            return (
                f"the ancestor's server gives {ancestor.scored} log-probabilities of a scored "
                f"token; start it with --max-logprobs {self.top_k}"
            )
        differ = tokenizers_differ(access, ancestor)
        if differ is not None:
            return f"the tokenizers differ: {differ}; name the model it was trained from"
        return None

    @property
    def end_token(self) -> int:
        """The end-of-text token, as far as it was seen; -1 before."""
        return self._reached().end_token

    @property
    def end_tokens(self) -> frozenset[int]:
        """All tokens that were seen to end a text."""
        return frozenset(self._reached().ends)

    def sample(
        self,
        prompt: str,
        *,
        n: int = 1,
        temperature: float = 0.6,
        max_tokens: int = 160,
        seed: int = 0,
        prefix: Sequence[int] | Ids = (),
    ) -> Generation:
        """Draw n completions; fewer where a later request of several fails.

        Raises:
            ModelError: nothing could be drawn.
        """
        return run(
            self._reached().sample(
                prompt,
                n=n,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed,
                prefix=np.asarray(prefix, np.int32),
            )
        )

    async def asample(
        self,
        prompt: str,
        *,
        n: int = 1,
        temperature: float = 0.6,
        max_tokens: int = 160,
        seed: int = 0,
        prefix: Sequence[int] | Ids = (),
    ) -> Generation:
        """As `sample`, without blocking the event loop."""
        await self._areach()
        return await arun(
            self._reached().sample(
                prompt,
                n=n,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed,
                prefix=np.asarray(prefix, np.int32),
            )
        )

    def score(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """Top-K of one of the two at every position of each completion.

        Raises:
            NotScorableError: tokens or log-probabilities are not what they must be.
            ModelError: the request failed.
        """
        return run(self._reached().score(prompt, completions, role))

    async def ascore(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """As `score`, without blocking the event loop."""
        await self._areach()
        return await arun(self._reached().score(prompt, completions, role))

    def open(
        self,
        prompt: str,
        *,
        prefix: Sequence[int] | Ids = (),
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> BlockSession:
        """Start a rollout that is steered token by token, two calls a block."""
        wire = self._reached()
        if not isinstance(wire, TokenWire) or Capability.STEP not in self.capabilities:
            raise InvalidInputError(
                f"model {self.name!r} cannot be steered token by token: "
                f"{self.why_not_scored() or 'its server tells no token ids'}"
            )
        head = [*run(wire.tokenized(prompt)), *map(int, prefix)]
        return BlockSession(
            wire,
            head,
            temperature=temperature,
            max_tokens=2**31 if max_tokens is None else max_tokens,
            seed=seed,
            block=self.block,
        )

    def decode(self, tokens: Sequence[int] | Ids) -> str:
        """The text of a completion's tokens, the end-of-text token left out."""
        return storable(self._reached().decode(np.asarray(tokens, np.int32)))

    def spell(self, tokens: Sequence[int] | Ids) -> list[str] | None:
        """The text of each token; None where replies have not told all of them."""
        return self._reached().spell(tokens)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt: exact by token ids, else as last counted, else estimated."""
        return self._reached().prompt_length(prompt)

    def _reached(self) -> Wire:
        if self._wire is None:
            with self._lock:
                self._wire = self._wire or self._made()
        return self._wire

    def _made(self) -> Wire:
        access = self.access
        if access.way == "chat":
            return ChatWire(self.specialist, access)
        if access.way == "tokens":
            return TokenWire(self.specialist, self.ancestor, access, self.top_k)
        by_text = TextWire if access.way == "text" else MessageWire
        return by_text(self.specialist, self.ancestor, access, self.top_k)

    async def _areach(self) -> None:
        """Find out what the servers offer without blocking the event loop."""
        if self._wire is None or (self.ancestor is not None and self._ancestor_access is None):
            await asyncio.to_thread(lambda: (self._reached(), self.ancestor_access))

    def _noted(self, found: tuple[Access, int]) -> Access:
        access, calls = found
        self.calls += calls
        return access


def _endpoint(role: str, given: Chat, base_url: str | None, max_concurrency: int) -> Endpoint:
    bound: Mapping[str, Any] = {}
    if isinstance(given, RunnableBinding):
        bound, given = given.kwargs, given.bound
    if isinstance(given, str):
        given = _chat_model(role, given, base_url)
    elif base_url is not None and isinstance(given, BaseChatOpenAI):
        raise InvalidInputError(
            f"the {role} is a chat model, which has an address already; leave base_url out, "
            "or give 'openai:NAME'"
        )
    if not isinstance(given, BaseChatOpenAI):
        raise InvalidInputError(
            f"the {role} is {given!r}; it must be 'openai:NAME' or a ChatOpenAI"
        )
    if given.root_client is None:
        raise InvalidInputError(
            f"the {role}'s ChatOpenAI has no synchronous client; give it a key that is no coroutine"
        )
    # A stream says less than a whole reply: no counts of tokens, and one choice only.
    whole = given.model_copy(
        update={
            "streaming": False,
            "disable_streaming": True,
            "n": None,
            "cache": False,  # a retry that is answered from memory is none
            "use_responses_api": False,  # which knows neither n nor log-probabilities
        }
    )
    return Endpoint(whole, bound, max_concurrency)


def _chat_model(role: str, given: str, base_url: str | None) -> ChatOpenAI:
    name = given.removeprefix(PREFIX)
    if not given.startswith(PREFIX) or not name:
        raise InvalidInputError(
            f"the {role} is {given!r}; write 'openai:NAME', with the model's name on the server"
        )
    import os

    options: dict[str, Any] = {}
    if base_url is not None:
        options["base_url"] = base_url
    own = base_url is not None or os.environ.get("OPENAI_BASE_URL")
    if own and not os.environ.get("OPENAI_API_KEY"):
        options["api_key"] = NO_KEY
    try:
        # The Responses API drops log-probabilities.
        return ChatOpenAI(model=name, use_responses_api=False, **options)
    except (openai.OpenAIError, ValidationError, ValueError) as error:
        raise InvalidInputError(
            f"the {role} {given!r} cannot be reached without a key ({error}); set OPENAI_API_KEY, "
            "or name a server of your own with --base-url"
        ) from None


def _check_whole(name: str, value: Any, *, most: float = float("inf")) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        upper = "" if most == float("inf") else f", at most {most:g}"
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number above 0{upper}")
