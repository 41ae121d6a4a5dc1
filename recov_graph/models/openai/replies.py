"""Reading replies: what a server says is checked before anything is made of it. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from recov_graph.errors import ModelReplyError, NotScorableError
from recov_graph.models.base import Ids
from recov_graph.rollout import PAD_ID, FinishReason, TopK
from recov_graph.words import short, storable

ID_PREFIX = "token_id:"  # how vLLM writes a token where it is asked for ids
ROUNDING = 1e-3  # a log-probability this far above 0 is a rounded 0
MOST_TOKENS = 2**31  # beyond it a count is no count
MOST_ID = 2**31
TOKEN = re.compile("[0-9]{1,10}")  # what is a digit elsewhere is no number to Python


Listed = Mapping[int, float]  # token to log-probability at one position


class Spent(NamedTuple):
    """Tokens that a reply says were read and written; None where it says nothing believable."""

    prompt: int | None
    completion: int | None


def spent(reply: Any) -> Spent:
    """The usage of a reply."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(usage, Mapping):
        return Spent(None, None)
    return Spent(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < MOST_TOKENS else None


def choices(reply: Any) -> list[Mapping[str, Any]]:
    """The choices of a reply, by their index.

    Raises:
        ModelReplyError: there are none.
    """
    found = reply.get("choices") if isinstance(reply, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise ModelReplyError(f"the reply has no choices: {short(reply, 200)}")
    if not all(isinstance(choice, Mapping) for choice in found):
        raise ModelReplyError(f"a choice of the reply is no object: {short(found, 200)}")
    return sorted(found, key=lambda choice: _count(choice.get("index")) or 0)


def text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice; of one that only calls tools, the calls as JSON."""
    text = choice.get("text")
    message = choice.get("message")
    if text is None and isinstance(message, Mapping):
        text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise ModelReplyError(f"the text of the reply is {short(text)}; it must be a string")
    if not text and choice.get("tool_calls"):
        return json.dumps(choice["tool_calls"], default=str)
    return storable(text or "")


def finish_of(choice: Mapping[str, Any]) -> FinishReason:
    """How a choice ended; one that says nothing did not end by itself."""
    return "length" if choice.get("finish_reason") in ("length", None) else "stop"


def ids_of(choice: Mapping[str, Any]) -> Ids | None:
    """The ids of the tokens of a choice, where it tells them."""
    found = choice.get("token_ids")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return None
    if not all(_is_id(token) for token in found):
        raise ModelReplyError(f"token_ids of the reply hold {short(found)}; ids are whole numbers")
    return np.array(found, np.int32)


def _is_id(token: Any) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < MOST_ID


def prompt_lists(
    choice: Mapping[str, Any], tokens: Sequence[int] | Ids, length: int
) -> list[Listed]:
    """Token to log-probability at each of the last positions of a prompt, those of `tokens`.

    Args:
        choice: holds prompt_logprobs.
        tokens: the last of the prompt.
        length: of the whole prompt; of another length, what is listed would be out of step.

    Raises:
        NotScorableError: a position is missing, lacks the token taken or holds no numbers.
    """
    entries = choice.get("prompt_logprobs")
    if not isinstance(entries, Sequence) or len(entries) != length or length <= len(tokens):
        held = len(entries) if isinstance(entries, Sequence) else "no"
        raise NotScorableError(
            f"the reply has {held} prompt_logprobs for {length} tokens, of which the last "
            f"{len(tokens)} were scored"
        )
    lists: list[Listed] = []
    for token, entry in zip(tokens, entries[len(entries) - len(tokens) :], strict=True):
        try:
            found = {int(name): float(value["logprob"]) for name, value in entry.items()}
        except (AttributeError, TypeError, KeyError, ValueError, OverflowError):
            raise NotScorableError(f"a prompt_logprobs entry is {short(entry)}") from None
        if int(token) not in found:
            raise NotScorableError(
                f"prompt_logprobs lack the token {int(token)} itself; the tokenizers differ"
            )
        lists.append(found)
    return lists


def decoded(choice: Mapping[str, Any]) -> dict[int, str]:
    """Token to text, as far as the prompt_logprobs of a choice tell."""
    texts: dict[int, str] = {}
    entries = choice.get("prompt_logprobs")
    for entry in entries if isinstance(entries, Sequence) else []:
        if isinstance(entry, Mapping):
            for name, value in entry.items():
                text = value.get("decoded_token") if isinstance(value, Mapping) else None
                if isinstance(text, str) and TOKEN.fullmatch(str(name)):
                    texts[int(name)] = text
    return texts


def sampled_lists(choice: Mapping[str, Any]) -> tuple[list[str], list[Mapping[str, float]]]:
    """Tokens as text and the lists of log-probabilities at each, of a completion.

    Raises:
        ModelReplyError: there are none, or the two differ in length.
    """
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("tokens") if isinstance(logprobs, Mapping) else None
    lists = logprobs.get("top_logprobs") if isinstance(logprobs, Mapping) else None
    if not (isinstance(tokens, Sequence) and isinstance(lists, Sequence)):
        raise ModelReplyError(f"the reply has no logprobs: {short(logprobs)}")
    if len(tokens) != len(lists) or not all(isinstance(token, str) for token in tokens):
        raise ModelReplyError(
            f"the reply has {len(tokens)} tokens and log-probabilities of {len(lists)}"
        )
    return list(tokens), list(lists)


def named_ids(entry: Mapping[str, Any] | None) -> Listed:
    """Token to log-probability of a list whose tokens are written as ids.

    Raises:
        ModelReplyError: the list is missing, or a token is no id.
    """
    try:
        assert isinstance(entry, Mapping)
        return {int(name.removeprefix(ID_PREFIX)): float(p) for name, p in entry.items()}
    except (AssertionError, ValueError, TypeError, AttributeError, OverflowError):
        raise ModelReplyError(f"a list of log-probabilities is {short(entry)}") from None


def top_k(lists: Sequence[Listed]) -> TopK:
    """Lists of log-probabilities as arrays [L, K].

    Raises:
        NotScorableError: a value is NaN, infinite or above 0, or a list is empty.
    """
    width = max((len(found) for found in lists), default=1) or 1
    ids = np.full((len(lists), width), PAD_ID, np.int32)
    logprobs = np.full((len(lists), width), -np.inf, np.float32)
    for row, found in enumerate(lists):
        if not found or min(found) < 0 or max(found) >= MOST_ID:
            raise NotScorableError(f"the server gave log-probabilities of {short(list(found))}")
        ids[row, : len(found)] = list(found)
        with np.errstate(over="ignore"):  # what is infinite then is refused below
            logprobs[row, : len(found)] = list(found.values())
    used = ids != PAD_ID
    values = logprobs[used]
    if not used.any(axis=1).all() or not (np.isfinite(values) & (values <= ROUNDING)).all():
        odd = values[~(np.isfinite(values) & (values <= ROUNDING))]
        what = f"{float(odd[0])}" if len(odd) else "nothing"
        raise NotScorableError(
            f"the server gave {what} as a log-probability; they must be finite and at most 0"
        )
    return TopK(ids, np.minimum(logprobs, np.float32(0.0)))


def evenly(total: int, weights: Sequence[int]) -> list[int]:
    """A whole number in whole parts about as large as the weights, at least 0 each."""
    whole = sum(weights) or 1
    edges = [round(total * sum(weights[:i]) / whole) for i in range(len(weights) + 1)]
    edges[-1] = total
    return [max(0, b - a) for a, b in pairwise(edges)]
