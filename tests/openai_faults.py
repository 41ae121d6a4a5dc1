"""What can go wrong between a client and an OpenAI-compatible server, for `OpenAIServer`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

Json = dict[str, Any]


class Problem(NamedTuple):
    """An error body of OpenAI's: message, type, param and code."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | int | None = None


STATUSES = {
    "401": Problem(
        "Incorrect API key provided: sk-*****. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    ),
    "403": Problem(
        "Country, region, or territory not supported",
        "request_forbidden",
        code="unsupported_country_region_territory",
    ),
    "404": Problem(
        "The model `gone` does not exist or you do not have access to it.", code="model_not_found"
    ),
    "429": Problem(
        "Rate limit reached for requests. Please try again in 1s.",
        "requests",
        code="rate_limit_exceeded",
    ),
    "500": Problem("The server had an error while processing your request.", "server_error"),
    "503": Problem("The engine is currently overloaded, please try again later.", "server_error"),
}
WIRE = frozenset({"timeout", "disconnect", "cut_stream", "not_json"})
HTML = b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"
ENDLESS = 4096


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        kind: a status of `STATUSES`, one of `WIRE`, or one of `SPOILERS`.
        path: which requests it meets, such as "/chat/completions"; None: any.
        times: how many requests it meets; None: all.
        retry_after: the Retry-After header of a status.
        seconds: how long "timeout" waits before it answers after all.
        size: characters that "huge_text" adds.
    """

    kind: str
    path: str | None = None
    times: int | None = 1
    retry_after: float | str | None = None
    seconds: float = 5.0
    size: int = 8 * 2**20

    def __post_init__(self) -> None:
        if self.kind not in {*STATUSES, *WIRE, *SPOILERS}:
            raise ValueError(f"no fault is called {self.kind!r}")

    def meets(self, path: str) -> bool:
        return self.path is None or self.path in (path, path.removeprefix("/v1"))


@dataclass
class FaultPlan:
    """A queue of faults; a request uses up the first that meets its path. Thread-safe."""

    waiting: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *faults: Fault | str) -> None:
        """Queue faults; a bare kind meets one request."""
        with self._lock:
            self.waiting += [Fault(one) if isinstance(one, str) else one for one in faults]

    def clear(self) -> None:
        with self._lock:
            self.waiting.clear()

    def take(self, path: str) -> Fault | None:
        with self._lock:
            for i, fault in enumerate(self.waiting):
                if fault.meets(path):
                    left = None if fault.times is None else fault.times - 1
                    self.waiting[i : i + 1] = [] if left == 0 else [replace(fault, times=left)]
                    return fault
        return None


def spoil(reply: Json, fault: Fault) -> None:
    """Damage a reply in place, as the fault says."""
    SPOILERS[fault.kind](reply, fault)


def _choices(reply: Json) -> Iterable[Json]:
    return reply.get("choices") or ()


def _set_text(choice: Json, text: str | None) -> None:
    if "message" in choice:
        choice["message"]["content"] = text
    else:
        choice["text"] = text


def _text(choice: Json) -> str:
    return (choice["message"]["content"] if "message" in choice else choice["text"]) or ""


def _per_token(reply: Json) -> list[list[Any]]:
    """Every list of a reply that has an entry per token, prompt_logprobs included."""
    found = [reply.get("prompt_logprobs")]
    for choice in _choices(reply):
        found.append(choice.get("prompt_logprobs"))
        logprobs = choice.get("logprobs") or {}
        found += [logprobs.get(key) for key in ("content", *TEXT_KEYS)]
    return [entries for entries in found if entries]


TEXT_KEYS = ("token_logprobs", "tokens", "top_logprobs", "text_offset")


def _revalued(value: float | None) -> Callable[[Json, Fault], None]:
    """Put a value in place of every other log-probability."""

    def spoiler(reply: Json, _: Fault) -> None:
        for choice in [reply, *_choices(reply)]:
            for row in (choice.get("prompt_logprobs") or ())[1::2]:
                for entry in row.values():
                    entry["logprob"] = value
        for choice in _choices(reply):
            logprobs = choice.get("logprobs") or {}
            for item in (logprobs.get("content") or ())[::2]:
                item["logprob"] = value
                for other in item["top_logprobs"]:
                    other["logprob"] = value
            if values := logprobs.get("token_logprobs"):
                last = len(values) - 1  # with echo, the first has none anyway
                for i in range(last, -1, -2):
                    values[i] = value
                    tops = logprobs["top_logprobs"]
                    tops[i] = None if value is None else dict.fromkeys(tops[i] or (), value)

    return spoiler


def _empty_choices(reply: Json, _: Fault) -> None:
    reply["choices"] = []


def _no_choices_key(reply: Json, _: Fault) -> None:
    reply.pop("choices", None)


def _null_content(reply: Json, _: Fault) -> None:
    for choice in _choices(reply):
        _set_text(choice, None)


def _short(reply: Json, _: Fault) -> None:
    for entries in _per_token(reply):
        entries.pop()


def _long(reply: Json, _: Fault) -> None:
    for entries in _per_token(reply):
        entries.append(entries[-1])


def _wrong_ids(reply: Json, _: Fault) -> None:
    for holder in [reply, *_choices(reply)]:
        rows = holder.get("prompt_logprobs") or []
        for i, row in enumerate(rows[1:], start=1):
            actual = next(iter(row))
            others = {key: entry for key, entry in row.items() if key != actual}
            rows[i] = others or {str(int(actual) + 1): row[actual]}


def _negative_usage(reply: Json, _: Fault) -> None:
    usage = reply.get("usage") or {}
    usage.update({key: -value for key, value in usage.items() if isinstance(value, int)})


def _no_usage(reply: Json, _: Fault) -> None:
    reply.pop("usage", None)


def _endless(reply: Json, _: Fault) -> None:
    for choice in _choices(reply):
        text, ids = _text(choice) or "1", choice.get("token_ids")
        _set_text(choice, (text * ENDLESS)[:ENDLESS])
        choice["finish_reason"] = None
        if ids:
            choice["token_ids"] = (ids * ENDLESS)[:ENDLESS]
        logprobs = choice.get("logprobs") or {}
        for key in logprobs:
            logprobs[key] = ((logprobs[key] or []) * ENDLESS)[:ENDLESS] or None
    if usage := reply.get("usage"):
        usage["completion_tokens"] = ENDLESS * len(reply["choices"])
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


def _huge_text(reply: Json, fault: Fault) -> None:
    for choice in _choices(reply):
        _set_text(choice, _text(choice) + "9" * fault.size)


SPOILERS: dict[str, Callable[[Json, Fault], None]] = {
    "empty_choices": _empty_choices,
    "no_choices_key": _no_choices_key,
    "null_content": _null_content,
    "missing_logprobs": _revalued(None),
    "nan_logprobs": _revalued(math.nan),
    "positive_logprobs": _revalued(0.5),
    "short_logprobs": _short,
    "long_logprobs": _long,
    "wrong_ids": _wrong_ids,
    "negative_usage": _negative_usage,
    "no_usage": _no_usage,
    "endless": _endless,
    "huge_text": _huge_text,
}
