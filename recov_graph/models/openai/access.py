"""What a server lets one do with a model: declared by the user, or found out in a few calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from langchain_core.messages import HumanMessage

from recov_graph.errors import InvalidInputError, ModelAccessError, ModelError
from recov_graph.models.openai.endpoint import Endpoint, Request, Work
from recov_graph.models.openai.replies import choices, decoded, ids_of, sampled_lists
from recov_graph.words import short

MOST_CALLS = 5
MOST = 20  # log-probabilities that OpenAI's own API allows, and that the features need
ASKED = "12+34*5-6?"  # read by any model, the embedded pair included

# How the model is reached: with token ids; with texts whose tokens are echoed; with chat messages
# of which the last can be continued; or with nothing but chat messages.
Way = Literal["tokens", "text", "messages", "chat"]


@dataclass(frozen=True)
class Access:
    """What a server offers for a model.

    Attributes:
        way: how the model is best reached.
        chat: whether prompts go through a chat template.
        temperature: whether the decoding temperature can be chosen.
        seeds: whether the same seed gives the same text; None where that was not found out.
        logprobs: log-probabilities per sampled token, at most; 0 for none.
        scored: log-probabilities per token of a given text, at most; 0 for none.
        context: longest prompt and completion together; None where unknown.
        vocabulary: some tokens and their texts, to tell tokenizers apart.
        refused: parameters that the server does not take.
    """

    way: Way = "chat"
    chat: bool = True
    temperature: bool = True
    seeds: bool | None = None
    logprobs: int = 0
    scored: int = 0
    context: int | None = None
    vocabulary: Mapping[int, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise InvalidInputError(
                f"way is {short(self.way)}; it must be one of {', '.join(get_args(Way))}"
            )
        for name in ("logprobs", "scored"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidInputError(
                    f"{name} is {short(value)}; it must be a whole number from 0"
                )

    def as_data(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "vocabulary": {str(k): v for k, v in self.vocabulary.items()}}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Access:
        """From `as_data`."""
        known = {one.name for one in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        kept["vocabulary"] = {int(k): str(v) for k, v in kept.get("vocabulary", {}).items()}
        kept["refused"] = tuple(kept.get("refused", ()))
        return cls(**kept)


def tokenizers_differ(one: Access, other: Access) -> str | None:
    """A token that two models write differently, in words; None where none is known."""
    for token, text in one.vocabulary.items():
        theirs = other.vocabulary.get(token, text)
        if theirs != text:
            return f"token {token} is {short(text)} for one and {short(theirs)} for the other"
    return None


class _Calls:
    """Counts what is asked, and never asks more often than allowed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.made = 0

    @property
    def left(self) -> int:
        return MOST_CALLS - self.made

    def __call__(self, request: Request) -> Request:
        self.made += 1
        assert self.made <= MOST_CALLS
        return request


def probe(endpoint: Endpoint, *, compared: bool = True) -> Work[tuple[Access, int]]:
    """Find out what a server offers, in at most five small calls; gives their number too.

    Args:
        endpoint: the model.
        compared: whether another model is to be compared with it; if not, chat is preferred to
            texts, which know no chat template.

    Raises:
        ModelError: the model cannot be had at all.
    """
    calls = _Calls(endpoint)
    access: Access | None = None
    if not endpoint.bound:  # tools and formats need the server's own chat template and parsers
        access = yield from _by_completions(calls)
    if access is None:
        return (yield from _by_chat(calls)), calls.made
    if access.way == "text" and not compared and calls.left:
        try:
            return (yield from _by_chat(calls)), calls.made
        except ModelAccessError:
            pass  # no chat at all
    return access, calls.made


def _by_completions(calls: _Calls) -> Work[Access | None]:
    """What /completions offers, beyond sampling; None where that is nothing."""
    endpoint = calls.endpoint
    body = {"prompt": ASKED, "max_tokens": 1, "temperature": 1.0, "logprobs": MOST, "echo": True}
    try:
        # More than any server allows: the refusal tells the most, and a server that does not know
        # the parameter ignores it, as a rule.
        reply = yield calls(endpoint.request("/completions", **body, prompt_logprobs=999))
    except ModelAccessError as error:
        _give_up(error)
        most = _most_allowed(error.said)
        if most:
            return (yield from _by_tokens(calls, most))
        if "prompt_logprobs" not in error.said:
            return None
        try:
            reply = yield calls(endpoint.request("/completions", **body))
        except ModelAccessError:
            return None
    most = _listed(reply)
    if most:  # it really gives as many
        return (yield from _by_tokens(calls, most))
    listed = _echoed(reply)
    if not listed:
        return None
    again = endpoint.request("/completions", prompt=ASKED, max_tokens=8, temperature=2.0, seed=1)
    seeds = None
    try:
        first = choices((yield calls(again)))[0].get("text")
        seeds = first == choices((yield calls(again)))[0].get("text")
    except ModelAccessError:
        pass  # it may not know seeds
    return Access(way="text", chat=False, seeds=seeds, logprobs=listed, scored=listed)


def _by_tokens(calls: _Calls, most: int) -> Work[Access | None]:
    """What a server in the manner of vLLM offers; None where token ids are not to be had."""
    endpoint = calls.endpoint
    templated, context = True, None
    try:
        tokenized = yield calls(
            endpoint.request(
                endpoint.beside("/tokenize"), messages=[{"role": "user", "content": ASKED}]
            )
        )
    except ModelAccessError as error:
        if error.status != 400:
            return None
        templated = False  # it tokenizes, but has no chat template
    else:
        context = _whole(tokenized, "max_model_len")
    most_now = min(most, MOST)
    asked = endpoint.request(
        "/completions",
        prompt=ASKED,
        max_tokens=8,
        temperature=2.0,
        seed=1,
        logprobs=most_now,
        prompt_logprobs=most_now,
        return_token_ids=True,
        return_tokens_as_token_ids=True,
    )
    try:
        first = choices((yield calls(asked)))[0]
        told = ids_of(first)
        if told is None or not first.get("prompt_logprobs"):
            return None
        again = ids_of(choices((yield calls(asked)))[0])
    except ModelAccessError:
        return None
    return Access(
        way="tokens",
        chat=templated,
        seeds=None if again is None else again.tolist() == told.tolist(),
        logprobs=most,
        scored=most,
        context=context,
        vocabulary=decoded(first),
    )


# Parameters of a chat request that a server may not take, the most demanding first.
EXTRAS: dict[str, Any] = {
    "extra_body": {"return_token_ids": True, "prompt_logprobs": MOST},
    "logprobs": True,
    "top_logprobs": MOST,
    "seed": 1,
    "temperature": 2.0,
}
_WORDS = {
    "extra_body": ("return_token_ids", "prompt_logprobs", "unrecognized", "unknown", "extra"),
    "logprobs": ("logprob",),
    "seed": ("seed",),
    "temperature": ("temperature",),
}


def _by_chat(calls: _Calls) -> Work[Access]:
    """What /chat/completions offers: everything is asked for, and what is refused is left out."""
    endpoint = calls.endpoint
    wanted = dict(EXTRAS) if calls.left > 1 else {}
    if endpoint.bound:
        wanted.pop("extra_body", None)
    while True:
        try:
            reply = yield calls(_chat_request(endpoint, wanted))
            break
        except ModelAccessError as error:
            _give_up(error)
            if not wanted or error.status == 404:
                raise
            wanted = _without(wanted, error.said, last=calls.left == 1)
    choice = choices(reply)[0]
    listed = _chat_listed(choice)
    seeds = None
    if "seed" in wanted and "temperature" in wanted and calls.left:
        again = choices((yield calls(_chat_request(endpoint, wanted))))[0]
        seeds = _content(again) == _content(choice)
    scored = reply.get("prompt_logprobs") or choice.get("prompt_logprobs")
    with_ids = ids_of(choice) is not None and bool(scored)
    return Access(
        way="messages" if with_ids else "chat",
        chat=True,
        temperature="temperature" in wanted,
        seeds=seeds,
        logprobs=listed,
        scored=MOST if with_ids else 0,
        vocabulary=decoded({"prompt_logprobs": scored or []}),
        refused=tuple(name for name in EXTRAS if name not in wanted and name != "top_logprobs"),
    )


def _chat_request(endpoint: Endpoint, wanted: Mapping[str, Any]) -> Request:
    if "extra_body" not in wanted:
        return endpoint.chat_request([HumanMessage(ASKED)], max_tokens=8, **wanted)
    # langchain-openai drops what is not in OpenAI's own replies, so this one goes past it.
    plain = {name: value for name, value in wanted.items() if name != "extra_body"}
    return endpoint.request(
        "/chat/completions",
        messages=[{"role": "user", "content": ASKED}],
        max_tokens=8,
        **plain,
        **wanted["extra_body"],
    )


def _without(wanted: Mapping[str, Any], message: str, *, last: bool) -> dict[str, Any]:
    """What is still asked for after a refusal; nothing but the messages before the last call."""
    named = [
        name
        for name, words in _WORDS.items()
        if name in wanted and any(word in message.lower() for word in words)
    ]
    if "extra_body" in named and not last:
        named = ["extra_body"]  # its parameters have names much like those of others
    if last or not named:
        # Which parameter it was is not said: the rarest goes first.
        named = list(wanted) if last else [next(iter(wanted))]
    dropped = {*named, *(["top_logprobs"] if "logprobs" in named else [])}
    return {name: value for name, value in wanted.items() if name not in dropped}


def _give_up(error: ModelError) -> None:
    """Raise an error that no other request would avoid."""
    missing = error.status == 404 and re.search(r"\bmodel\b.*(exist|found)", error.said, re.I)
    if error.status in (401, 403) or missing:
        raise error


def _most_allowed(message: str) -> int | None:
    """The most log-probabilities that vLLM says it allows."""
    found = re.search(r"logprobs of .*?max allowed: *(\d+)", message, re.I)
    return int(found[1]) if found else None


def _listed(reply: Any) -> int:
    """The log-probabilities per prompt token that a reply holds; 0 where it holds none."""
    try:
        told = choices(reply)[0].get("prompt_logprobs")
    except ModelError:
        return 0
    entries = told if isinstance(told, Sequence) and not isinstance(told, str) else []
    lists = [entry for entry in entries if isinstance(entry, Mapping)]
    return min((len(entry) for entry in lists), default=0)


def _echoed(reply: Any) -> int:
    """The log-probabilities per echoed token; 0 where the prompt was not echoed."""
    try:
        choice = choices(reply)[0]
        tokens, lists = sampled_lists(choice)
    except ModelError:
        return 0
    told = [found for found in lists[1:] if isinstance(found, Mapping)]
    return min((len(f) for f in told), default=0) if ASKED[-1] in "".join(tokens) else 0


def _chat_listed(choice: Mapping[str, Any]) -> int:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not content or not isinstance(content[0], Mapping):
        return 0
    return len(content[0].get("top_logprobs") or [])


def _content(choice: Mapping[str, Any]) -> Any:
    message = choice.get("message")
    return choice.get("text") or (message.get("content") if isinstance(message, Mapping) else None)


def _whole(reply: Any, name: str) -> int | None:
    value = reply.get(name) if isinstance(reply, Mapping) else None
    return value if isinstance(value, int) and value > 0 else None
