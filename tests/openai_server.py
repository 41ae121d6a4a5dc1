"""A real HTTP server: the embedded pair behind an OpenAI-compatible API, as of vLLM 0.32.

The replies agree with a live vLLM 0.32 that serves the same weights; the lesser dialects offer what
other servers do. ``python -m tests.openai_server --role specialist`` serves until it is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from recov_graph.models.base import Role
from recov_graph.models.embedded import EmbeddedPair, draw, log_softmax
from recov_graph.models.transformer import Cache
from tests.openai_faults import HTML, SPOILERS, STATUSES, Fault, FaultPlan, Problem, spoil

Json = dict[str, Any]
Row = dict[int, tuple[float, int]]  # token -> log-probability and rank, the taken token first
DialectName = Literal["vllm", "echo", "chat_vllm", "chat", "reasoning", "openai_logprobs"]

ROOT = Path(__file__).parents[1]
GREEDY = 1e-5
REASONING = 7  # tokens that the dialect "reasoning" thinks before it answers
PIECE = re.compile(r"<pad>|<s>|</s>|.|\n+")
FINGERPRINT = {"system_fingerprint": "vllm-0.32.0-1bf776ae"}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
OPENAI_FIELDS = (
    "model messages max_tokens max_completion_tokens temperature top_p seed n stop stream "
    "stream_options presence_penalty frequency_penalty user response_format tools tool_choice "
    "logprobs top_logprobs metadata store logit_bias reasoning_effort"
)
PATHS: dict[str, frozenset[str]] = {
    "vllm": frozenset({TEXT, CHAT, "/tokenize", "/detokenize", "/v1/models", "/health"}),
    "echo": frozenset({TEXT, CHAT, "/v1/models", "/health"}),
} | dict.fromkeys(
    ("chat_vllm", "chat", "reasoning", "openai_logprobs"), frozenset({CHAT, "/v1/models"})
)


class ApiError(Exception):
    """A request that is refused."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, **how: Any):
        super().__init__(message)
        self.status, self.param, self.how = status, param, how


class Answer(NamedTuple):
    """One completion: its tokens and, where asked for, what was listed beside each."""

    ids: list[int]
    rows: list[Row]
    stopped: bool


@dataclass(frozen=True)
class Call:
    """A request for completions, understood."""

    body: Json
    chat: bool
    prompts: list[list[int]]
    texts: list[str]  # what echo repeats
    rooms: list[int]
    n: int
    temperature: float
    top: int | None  # log-probabilities beside each sampled token; -1: the whole vocabulary
    prompt_top: int | None
    only_prompt: bool  # echo with max_tokens 0
    created: int = field(default_factory=lambda: int(time.time()))

    def asks(self, name: str) -> bool:
        return bool(self.body.get(name))


class Engine:
    """One transformer of the embedded pair: sampling in batches, and log-probabilities."""

    def __init__(self, role: Role) -> None:
        pair = EmbeddedPair()
        self.model, self.vocabulary, self.end = pair._model(role), pair._vocabulary, pair.end_token
        self.names = [name for name, _ in sorted(self.vocabulary.items(), key=lambda it: it[1])]
        self.texts = [name if len(name) == 1 else "" for name in self.names]
        self._keys = [str(i) for i in range(len(self.names))]

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids; a character that the pair does not know is padding, as in Hugging Face."""
        ids = [self.vocabulary.get(piece, 0) for piece in PIECE.findall(text)]
        return [self.vocabulary["<s>"], *ids] if bos else ids

    def rows(self, log_p: np.ndarray, taken: Sequence[int], top: int) -> list[Row]:
        """The taken token and the likeliest at each position of [L, V]."""
        order = np.argsort(-log_p, axis=1, kind="stable")[:, : len(self.names) if top < 0 else top]
        ids = np.concatenate([np.asarray(taken, np.int64)[:, None], order], axis=1)
        values = np.take_along_axis(log_p, ids, axis=1)
        ranks = (log_p >= values[:, :1]).sum(axis=1).tolist()
        places = range(1, ids.shape[1])
        return [
            {i: (value, place) for i, value, place in zip(*row, (rank, *places), strict=True)}
            for *row, rank in zip(ids.tolist(), values.tolist(), ranks, strict=True)
        ]

    def prompt_logprobs(self, rows: list[Row]) -> list[Json | None]:
        return [
            None,
            *(
                {
                    self._keys[i]: {"logprob": value, "rank": rank, "decoded_token": self.names[i]}
                    for i, (value, rank) in row.items()
                }
                for row in rows
            ),
        ]

    def answer(self, call: Call) -> tuple[list[list[Answer]], list[list[Row]]]:
        """Every prompt's n answers, and the rows of the prompts where they were asked for."""
        groups = defaultdict(list)  # the cache holds rows of one length; scoring may pad instead
        for i, prompt in enumerate(call.prompts):
            groups[len(prompt) if call.rooms[i] > 1 else 0].append(i)
        answers: list[list[Answer]] = [[] for _ in call.prompts]
        prompt_rows: list[list[Row]] = [[] for _ in call.prompts]
        for members in groups.values():
            room, lengths = call.rooms[members[0]], [len(call.prompts[i]) for i in members]
            ids = np.zeros((len(members), max(lengths)), np.int32)
            for row, i in zip(ids, members, strict=True):
                row[: len(call.prompts[i])] = call.prompts[i]
            cache = self.model.cache(len(ids), max(lengths) + max(room - 1, 0))
            logits = self.model(ids, cache)
            last = logits[np.arange(len(ids)), np.array(lengths) - 1]
            if call.prompt_top is not None:
                log_p = log_softmax(logits)
                for i, length, row in zip(members, lengths, log_p, strict=True):
                    taken = call.prompts[i][1:]
                    prompt_rows[i] = self.rows(row[: length - 1], taken, call.prompt_top)
            drawn = self._draw(call, np.repeat(last, call.n, axis=0), cache, room)
            for place, i in enumerate(members):
                answers[i] = drawn[place * call.n : (place + 1) * call.n]
        return answers, prompt_rows

    def _draw(self, call: Call, logits: np.ndarray, cache: Cache, room: int) -> list[Answer]:
        count, k = len(logits), call.body.get("top_k") or 0
        seed = call.body.get("seed")
        streams = [  # choice i at seed s is the only choice at seed s + i, as in vLLM
            np.random.default_rng(None if seed is None else abs(seed + i)).random(room)
            for i in range(call.n)
        ]
        uniform = np.tile(np.array(streams), (count // call.n, 1))
        temperature = call.temperature if call.temperature >= GREEDY else 0.0
        tokens, lengths = np.full((count, room), self.end, np.int32), np.full(count, room)
        recorded = np.zeros((count, room, logits.shape[1]), np.float32)
        active = np.arange(count)
        if call.n > 1 and room > 1:
            cache = Cache(np.repeat(cache.stored, call.n, axis=0), cache.length)
        for step in range(room):
            log_p = log_softmax(logits)
            recorded[active, step] = log_p
            if 0 < k < log_p.shape[1]:
                edge = np.partition(log_p, -k, axis=1)[:, -k, None]
                log_p = np.where(log_p >= edge, log_p, -np.inf)
            chosen = draw(log_p, temperature, uniform[active, step])
            tokens[active, step] = chosen
            going_on = chosen != self.end
            if not going_on.all():
                lengths[active[~going_on]] = step + 1
                active, chosen = active[going_on], chosen[going_on]
                cache.keep(np.flatnonzero(going_on).tolist())
            if len(active) == 0 or step + 1 == room:
                break
            logits = self.model(chosen[:, None], cache)[:, -1]
        found = []
        for row, log_p, length in zip(tokens, recorded, lengths.tolist(), strict=True):
            ids = row[:length].tolist()
            rows = [] if call.top is None else self.rows(log_p[:length], ids, call.top)
            found.append(Answer(ids, rows, bool(ids) and ids[-1] == self.end))
        return found


class Api:
    """What the server answers, apart from HTTP."""

    def __init__(
        self,
        role: Role,
        model: str,
        dialect: str,
        max_logprobs: int,
        context: int,
        tool_calls: bool,
    ) -> None:
        self.engine, self.model, self.dialect = Engine(role), model, dialect
        self.max_logprobs, self.tool_calls = max_logprobs, tool_calls
        self.context = min(context, self.engine.model.context)
        self.vllm = dialect in ("vllm", "chat_vllm")
        self.strict = dialect in ("chat", "reasoning", "openai_logprobs")  # OpenAI's own manners

    def error(self, error: ApiError) -> Json:
        code: Any = error.how.get("code")
        kind = error.how.get("type", "invalid_request_error")
        if not self.strict:
            kind = "NotFoundError" if error.status == 404 else "BadRequestError"
            kind, code = error.how.get("vllm_type", kind), error.status
        return {"error": Problem(str(error), kind, error.param, code)._asdict()}

    def get(self, path: str) -> Json | None:
        if path == "/health":
            return None
        card = {"id": self.model, "object": "model", "created": int(time.time())}
        card |= {"owned_by": "vllm"} if self.vllm else {"owned_by": "system"}
        if self.vllm:
            card |= {"root": self.model, "parent": None, "max_model_len": self.context}
        return {"object": "list", "data": [card]}

    def post(self, path: str, body: Any) -> Json | list[Json]:
        """The reply to a request, or what a stream of it carries."""
        if not isinstance(body, dict):
            raise _invalid("model_attributes_type", "body", "Input should be a valid dictionary")
        if body.get("model", self.model) != self.model:
            text, param = f"The model `{body['model']}` does not exist", "model"
            if self.strict:
                text, param = f"{text} or you do not have access to it.", None
            else:
                text += f". Valid aliases: {self.model}."
            raise ApiError(text, param, status=404, code="model_not_found")
        if path == "/tokenize":
            return self._tokenize(body)
        if path == "/detokenize":
            if not isinstance(tokens := body.get("tokens"), list):
                raise _invalid("list_type", "body.tokens", "Input should be a valid list")
            names = dict(enumerate(self.engine.names))
            return {"prompt": "".join(names.get(i, "") for i in tokens)}
        call = self._understood(body, chat=path == CHAT)
        answers, prompt_rows = self.engine.answer(call)
        if call.asks("stream"):
            return self._stream(call, answers)
        return self._reply(call, answers, prompt_rows)

    def _tokenize(self, body: Json) -> Json:
        if "messages" in body:
            ids = self.engine.encode(self._conversation(body))
        elif isinstance(text := body.get("prompt"), str):
            ids = self.engine.encode(text, bos=body.get("add_special_tokens", True))
        else:
            raise _invalid("missing", "body.prompt", "Field required")
        names = [self.engine.names[i] for i in ids] if body.get("return_token_strs") else None
        reply = {"count": len(ids), "max_model_len": self.context}
        return reply | {"tokens": ids, "token_strs": names}

    def _conversation(self, body: Json) -> str:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise _invalid("missing", "body.messages", "Field required")
        if not messages:
            raise ApiError(
                "Cannot apply chat template to an empty conversation. Provide at least one message."
            )
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise ApiError(
                "continue_final_message and add_generation_prompt are not compatible. Use "
                "continue_final_message when you want the model to continue the final message, and "
                "add_generation_prompt when you want to add a header that will prompt it to start "
                "a new assistant message instead."
            )
        contents = [message.get("content") for message in messages]
        for i, content in enumerate(contents):
            if not isinstance(content, str):
                place = f"body.messages.{i}.content"
                raise _invalid("string_type", place, "Input should be a valid string")
        return "".join(contents)

    def _refuse(self, body: Json, chat: bool) -> None:
        """What this dialect does not know."""
        if self.dialect == "echo" and chat and body.get("logprobs"):
            raise ApiError("logprobs are not supported for chat completions", "logprobs")
        if not self.strict:
            return
        for name in body.keys() - OPENAI_FIELDS.split():
            raise ApiError(f"Unknown parameter: '{name}'.", name, code="unknown_parameter")
        asked = [name for name in ("logprobs", "top_logprobs") if body.get(name)]
        if asked and self.dialect != "openai_logprobs":
            text = f"Unsupported parameter: '{asked[0]}' is not supported with this model."
            raise ApiError(text, asked[0], code="unsupported_parameter")
        if (body.get("top_logprobs") or 0) > 20:
            text = "Invalid value for 'top_logprobs': must be less than or equal to 20."
            raise ApiError(text, "top_logprobs", code="integer_above_max_value")
        if self.dialect == "reasoning":
            if (temperature := body.get("temperature")) not in (None, 1):
                raise ApiError(
                    f"Unsupported value: 'temperature' does not support {temperature} with this "
                    "model. Only the default (1) value is supported.",
                    "temperature",
                    code="unsupported_value",
                )
            if "max_tokens" in body:
                raise ApiError(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    "max_tokens",
                    code="unsupported_parameter",
                )

    def _understood(self, body: Json, *, chat: bool) -> Call:
        self._refuse(body, chat)
        if chat:
            texts = [self._conversation(body)]
            prompts = [self.engine.encode(texts[0])[: self.context + 1]]
            top = _number(body, "top_logprobs", 0) if body.get("logprobs") else None
            if top is None and body.get("top_logprobs"):
                text = "when using `top_logprobs`, `logprobs` must be set to true."
                raise ApiError(f"{text} (parameter=top_logprobs)", "top_logprobs")
        else:
            prompts, texts = self._prompts(body)
            top = _number(body, "logprobs", None)
        if chat:  # so vLLM: only the opening of the message that is going on is repeated
            last = body["messages"][-1]
            texts = [last["content"] if last.get("role") == _role(body) else ""]
        echo = body.get("echo") and (not chat or self.vllm)
        prompt_top = _number(body, "prompt_logprobs", None) if self.vllm else None
        if prompt_top is None and echo:
            prompt_top = _number(body, "top_logprobs", 0) if chat else top
        for kind, name, value in (
            ("sample", "logprobs", top),
            ("prompt", "prompt_logprobs", prompt_top),
        ):
            if value is not None and value < -1:
                text = f"`{name}` must be a positive value or -1. (parameter={name}, value={value})"
                raise ApiError(text, name)
            if value is not None and value > self.max_logprobs:
                raise ApiError(
                    f"Requested {kind} logprobs of {value}, which is greater than max allowed: "
                    f"{self.max_logprobs} (parameter={name}, value={value})",
                    name,
                )
        if body.get("stream") and body.get("prompt_logprobs") is not None and self.vllm:
            text = "`prompt_logprobs` are not available when `stream=True`."
            raise ApiError(f"{text} (parameter=prompt_logprobs)", "prompt_logprobs")
        temperature, n = _number(body, "temperature", 1.0, (int, float)), _number(body, "n", 1)
        if temperature < 0 or not math.isfinite(temperature):
            got = float(temperature)
            text = f"temperature must be non-negative, got {got}."
            raise ApiError(f"{text} (parameter=temperature, value={got})", "temperature")
        if n < 1 or (n > 1 and temperature == 0 and self.vllm):
            text = f"n must be at least 1, got {n}."
            raise ApiError(text if n < 1 else f"n must be 1 when using greedy sampling, got {n}.")
        if (top_k := _number(body, "top_k", 0)) < -1:
            raise ApiError(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
        _number(body, "seed", None)
        asked = _number(body, "max_completion_tokens", None) if chat else None
        if asked is None:
            asked = _number(body, "max_tokens", None if chat else 16)
        only_prompt = bool(echo and not chat and asked == 0)
        return Call(
            body=body,
            chat=chat,
            prompts=prompts,
            texts=texts,
            rooms=[self._room(len(prompt), asked, only_prompt) for prompt in prompts],
            n=1 if self.dialect in ("chat", "reasoning") else n,
            temperature=float(temperature),
            top=top,
            prompt_top=prompt_top,
            only_prompt=only_prompt,
        )

    def _room(self, length: int, asked: int | None, only_prompt: bool) -> int:
        """Tokens that may be written; vLLM cuts what is asked for to what the context leaves."""
        if asked is not None and asked > self.context:
            raise ApiError(
                f"max_tokens={asked} cannot be greater than max_model_len={self.context}. Please "
                f"request fewer output tokens. (parameter=max_tokens, value={asked})",
                "max_tokens",
            )
        if length > self.context:
            told = "at least " if length == self.context + 1 else ""
            raise ApiError(
                f"This model's maximum context length is {self.context} tokens. However, your "
                f"prompt contains {told}{length} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={length})",
                "input_tokens",
                code="context_length_exceeded",
            )
        if only_prompt and length == self.context:
            raise ApiError(
                f"The decoder prompt (length {length}) plus the number of requested output tokens "
                f"(at least 1) is longer than the maximum model length of {self.context}. Make "
                "sure that `max_model_len` is no smaller than the number of text tokens (prompt + "
                "requested output tokens)."
            )
        room = self.context - length if asked is None else min(asked, self.context - length)
        if only_prompt:
            return 1
        if room < 1:
            text = f"max_tokens must be at least 1, got {room}."
            raise ApiError(f"{text} (parameter=max_tokens, value={room})", "max_tokens")
        return max(0, room - REASONING) if self.dialect == "reasoning" else room

    def _prompts(self, body: Json) -> tuple[list[list[int]], list[str]]:
        prompt = body.get("prompt")
        if prompt is None or prompt == "":
            text = "Either prompt or prompt_embeds must be provided and non-empty."
            raise ApiError(f"{text} (parameter=prompt)", "prompt")
        several = prompt if isinstance(prompt, list) else [prompt]
        if several and all(isinstance(one, int) for one in several):
            several = [several]
        if not several:
            raise ApiError("You must pass at least one prompt")
        if all(isinstance(one, str) for one in several):
            most = self.context + 1  # so vLLM: no more is read of what is too long anyway
            return [self.engine.encode(one)[:most] for one in several], several
        flat = all(isinstance(one, list) and one for one in several)
        if (
            self.dialect == "echo"
            or not flat
            or any(type(i) is not int for p in several for i in p)
        ):
            raise _invalid("string_type", "body.prompt", "Input should be a valid string")
        for i in (i for ids in several for i in ids):
            if not 0 <= i < len(self.engine.names):
                raise ApiError(f"Token id {i} is out of vocabulary")
        return several, ["".join(self.engine.names[i] for i in ids) for ids in several]

    def _name(self, call: Call, i: int) -> str:
        return f"token_id:{i}" if self._as_ids(call) else self.engine.names[i]

    def _as_ids(self, call: Call) -> bool:
        return self.vllm and call.asks("return_tokens_as_token_ids")

    def _text_logprobs(
        self, call: Call, ids: Sequence[int], rows: Sequence[Row | None], offset: int = 0
    ) -> Json:
        names = [self._name(call, i) for i in ids]
        offsets = [offset]
        for name in names[:-1]:
            offsets.append(offsets[-1] + len(name))
        top = len(self.engine.names) if call.top == -1 else call.top or 0
        return {
            "text_offset": offsets,
            "token_logprobs": [
                None if row is None else row[i][0] for i, row in zip(ids, rows, strict=True)
            ],
            "tokens": names,
            "top_logprobs": [
                row and {self._name(call, i): row[i][0] for i in list(row)[: top + 1]}
                for row in rows
            ],
        }

    def _chat_logprobs(self, call: Call, ids: Sequence[int], rows: Sequence[Row]) -> Json:
        def listed(i: int, value: float, *, taken: bool) -> Json:
            name = self._name(call, i)
            told = self.engine.names[i] if taken else name  # so vLLM: of the taken token, its text
            return {"token": name, "logprob": value, "bytes": list(told.encode())}

        content = []
        for i, row in zip(ids, rows, strict=True):
            if self.strict and i == self.engine.end:
                continue  # OpenAI does not list it
            beside = [(j, value) for j, (value, _) in row.items()]
            if self.strict:
                beside.sort(key=lambda it: -it[1])
            beside = beside if call.top == -1 else beside[: call.top]
            tops = [listed(j, value, taken=False) for j, value in beside]
            content.append(listed(i, row[i][0], taken=True) | {"top_logprobs": tops})
        return {"content": content, "refusal": None} if self.strict else {"content": content}

    def _usage(self, call: Call, answers: list[list[Answer]]) -> Json:
        read = sum(map(len, call.prompts))
        written = sum(len(answer.ids) for several in answers for answer in several)
        if self.dialect == "reasoning":
            written += REASONING
        if self.dialect == "echo" and call.only_prompt:
            written = 0
        usage: Json = {"prompt_tokens": read, "total_tokens": read + written}
        usage["completion_tokens"] = written
        if self.strict:
            thought = REASONING if self.dialect == "reasoning" else 0
            usage["prompt_tokens_details"] = {"cached_tokens": 0}
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        return usage

    def _head(self, call: Call, kind: str) -> Json:
        name = ("chatcmpl-" if call.chat else "cmpl-") + uuid.uuid4().hex[:16]
        return {"id": name, "object": kind, "created": call.created, "model": self.model}

    def _reply(self, call: Call, answers: list[list[Answer]], prompt_rows: list[list[Row]]) -> Json:
        choices = []
        listed = [self.engine.prompt_logprobs(rows) for rows in prompt_rows]
        scored = self.vllm and call.prompt_top is not None
        with_ids = self.vllm and call.asks("return_token_ids")
        for p, several in enumerate(answers):
            for answer in several:
                choice = self._choice(call, p, answer, prompt_rows[p])
                choice["index"] = len(choices)
                if self.vllm:
                    choice |= {"stop_reason": None, "token_ids": answer.ids if with_ids else None}
                    if not call.chat:
                        choice["prompt_logprobs"] = listed[p] if scored else None
                        choice["prompt_token_ids"] = call.prompts[p] if with_ids else None
                    choice["routed_experts"] = None
                choices.append(choice)
        reply = self._head(call, "chat.completion" if call.chat else "text_completion")
        reply |= {"choices": choices, "usage": self._usage(call, answers)}
        if not self.vllm:
            return reply | ({"system_fingerprint": None} if self.strict else {})
        reply["usage"] |= {"prompt_tokens_details": None, "completion_tokens_details": None}
        if call.chat:
            reply["prompt_logprobs"] = listed[0] if scored else None
            reply["prompt_token_ids"] = call.prompts[0] if with_ids else None
            reply["prompt_text"] = None
        nulls = ("service_tier", "kv_transfer_params", "ec_transfer_params", "metrics")
        return reply | FINGERPRINT | dict.fromkeys(nulls)

    def _choice(self, call: Call, p: int, answer: Answer, prompt_rows: list[Row]) -> Json:
        text = "".join(self.engine.texts[i] for i in answer.ids)
        finish = "stop" if answer.stopped else "length"
        if call.asks("echo") and (self.vllm or not call.chat):
            head = call.texts[p]
            if not call.chat and self.vllm and call.asks("return_token_ids"):
                head = ""  # so vLLM: who asks for the ids does not get the prompt's text
            text = head if call.only_prompt else head + text
        if call.chat:
            message: Json = {"role": "assistant", "content": text, "refusal": None}
            if self.vllm:
                message["role"] = _role(call.body)
                absent = ("annotations", "audio", "function_call", "reasoning")
                message |= dict.fromkeys(absent)
            if self.tool_calls:
                function = {"name": "calculate", "arguments": json.dumps({"sum": text})}
                one = {"id": "call_" + uuid.uuid4().hex, "type": "function", "function": function}
                message, finish = message | {"content": None, "tool_calls": [one]}, "tool_calls"
            found = None if call.top is None else self._chat_logprobs(call, answer.ids, answer.rows)
            return {"index": 0, "message": message, "logprobs": found, "finish_reason": finish}
        ids, rows = answer.ids, list[Row | None](answer.rows)
        if call.asks("echo") and call.top is not None:
            keep = 0 if call.only_prompt else len(ids)
            ids, rows = call.prompts[p] + ids[:keep], [None, *prompt_rows, *rows[:keep]]
        found = None if call.top is None else self._text_logprobs(call, ids, rows)
        return {"index": 0, "text": text, "logprobs": found, "finish_reason": finish}

    def _stream(self, call: Call, answers: list[list[Answer]]) -> list[Json]:
        events = list(self._events(call, answers))
        if self.vllm:
            events[-1] |= FINGERPRINT
        return events

    def _events(self, call: Call, answers: list[list[Answer]]) -> Iterator[Json]:
        kind = "chat.completion.chunk" if call.chat else "text_completion"
        head, index = self._head(call, kind), -1
        with_ids = self.vllm and call.asks("return_token_ids")
        for p, several in enumerate(answers):
            for answer in several:
                index += 1
                first: Json = {"prompt_token_ids": call.prompts[p] if with_ids else None}
                if call.chat:
                    opening = {"role": "assistant", "content": ""}
                    choice: Json = {"index": index, "delta": opening, "logprobs": None}
                    more = first | {"prompt_text": None} if self.vllm else {}
                    yield head | {"choices": [choice | {"finish_reason": None}]} | more
                for at, i in enumerate(answer.ids):
                    last = at + 1 == len(answer.ids)
                    row = answer.rows[at : at + 1]
                    choice = {"index": index}
                    if call.chat:
                        choice["delta"] = {"content": self.engine.texts[i]}
                        found = row and self._chat_logprobs(call, [i], row)
                    else:
                        choice["text"] = self.engine.texts[i]
                        found = row and self._text_logprobs(call, [i], row, at)
                    choice["logprobs"] = found or None
                    choice["finish_reason"] = ("length", "stop")[answer.stopped] if last else None
                    if self.vllm:
                        if last or not call.chat:
                            choice["stop_reason"] = None
                        choice |= {} if call.chat else first
                        choice["token_ids"] = [i] if with_ids else None
                        first = {"prompt_token_ids": None}
                    yield head | {"choices": [choice]}
        if (call.body.get("stream_options") or {}).get("include_usage"):
            yield head | {"choices": [], "usage": self._usage(call, answers)}


def _role(body: Json) -> str:
    """Whose message a chat reply is."""
    if body.get("add_generation_prompt", True):
        return "assistant"
    return str(body["messages"][-1].get("role", "assistant"))


def _invalid(kind: str, place: str, message: str) -> ApiError:
    text = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{place}', 'msg': '{message}'}}"
    return ApiError(text, place, vllm_type="Bad Request")


def _number(body: Json, name: str, default: Any, kinds: tuple[type, ...] = (int,)) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in kinds:
        what = "integer" if kinds == (int,) else "number"
        raise _invalid(f"{what}_type", f"body.{name}", f"Input should be a valid {what}")
    return value


class Recorded(NamedTuple):
    """A request as it came; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Sent(NamedTuple):
    """A reply on its way: a body, or the events of a stream."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    events: Iterable[bytes] | None = None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, handle: Callable[[Recorded], tuple[Sent, Fault | None]], port: int) -> None:
        self.handle, self.closing = handle, threading.Event()
        self.busy = self.most_busy = 0
        self._counting = threading.Lock()
        self._sockets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request as under way."""
        with self._counting:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            yield
        finally:
            with self._counting:
                self.busy -= 1

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._sockets.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client may go away when it likes
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        for connection in list(self._sockets):  # kept alive by clients that may never speak again
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw, headers = self.rfile.read(length), {k.lower(): v for k, v in self.headers.items()}
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        path = self.path.partition("?")[0]
        with self.server.counted():
            sent, fault = self.server.handle(Recorded(self.command, path, headers, body))
            kind = fault.kind if fault else None
            if fault and kind == "timeout":
                self.server.closing.wait(fault.seconds)
        if sent.events is None and kind != "cut_stream":
            length = ("Content-Length", str(len(sent.body)))
            whole = self._head(sent, length) + sent.body
            cut = len(sent.body) // 2 if kind == "disconnect" else 0
            self.wfile.write(whole[: len(whole) - cut])
        else:
            pieces = [sent.body] if sent.events is None else list(sent.events)
            self.wfile.write(self._head(sent, ("Transfer-Encoding", "chunked")))
            cut = kind in ("cut_stream", "disconnect")
            for piece in pieces[: (len(pieces) + 1) // 2] if cut else pieces:
                part = piece[: len(piece) // 2] if cut and len(pieces) == 1 else piece
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"" if cut else b"0\r\n\r\n")
        self.close_connection = self.close_connection or kind in ("cut_stream", "disconnect")

    do_POST = do_GET  # noqa: N815

    def _head(self, sent: Sent, length: tuple[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {sent.status} {HTTPStatus(sent.status).phrase}"]
        headers = (("Date", self.date_time_string()), ("Content-Type", sent.kind), length)
        lines += [f"{name}: {value}" for name, value in headers + sent.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class OpenAIServer:
    """The embedded pair behind an OpenAI-compatible API on 127.0.0.1; a context manager.

    Args:
        role: which of the two transformers answers.
        model: the name that it is served under.
        dialect: what the server offers.
        max_logprobs: the most log-probabilities that a request may ask for.
        context: the longest prompt and answer together, at most the model's own 256.
        key: what a request must bear; None: nothing.
        faults: what goes wrong, a request at a time; more can be added to `faults` later.
        tool_calls: chat replies call a tool and say nothing.
        port: 0 picks a free one.

    Attributes:
        base_url: ends in /v1.
        requests: what was asked so far.
        errors: tracebacks of requests that the server itself failed.
    """

    def __init__(
        self,
        *,
        role: Role = "specialist",
        model: str = "specialist",
        dialect: DialectName = "vllm",
        max_logprobs: int = 25,
        context: int = 256,
        key: str | None = None,
        faults: Iterable[Fault | str] = (),
        tool_calls: bool = False,
        port: int = 0,
    ) -> None:
        self._api = Api(role, model, dialect, max_logprobs, context, tool_calls)
        self._paths, self._key = PATHS[dialect], key
        self.faults = FaultPlan()
        self.faults.add(*faults)
        self.requests: list[Recorded] = []
        self.errors: list[str] = []
        self._http = _Http(self._handle, port)
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        serve = partial(self._http.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True, name="openai-server").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def most_at_once(self) -> int:
        """The most requests that were ever under way at the same time."""
        return self._http.most_busy

    def calls(self, path: str) -> list[Recorded]:
        """The requests to a path, such as "/completions", oldest first."""
        return [one for one in list(self.requests) if one.path in (path, "/v1" + path)]

    def _handle(self, request: Recorded) -> tuple[Sent, Fault | None]:
        self.requests.append(request)
        fault = self.faults.take(request.path)
        if fault and fault.kind in STATUSES:
            after = () if fault.retry_after is None else (("Retry-After", str(fault.retry_after)),)
            body = _json({"error": STATUSES[fault.kind]._asdict()})
            return Sent(int(fault.kind), body, headers=after), fault
        if fault and fault.kind == "not_json":
            return Sent(200, HTML, "text/html"), fault
        try:
            return self._answer(request, fault), fault
        except ApiError as error:
            return Sent(error.status, _json(self._api.error(error))), fault
        except Exception as error:
            self.errors.append(traceback.format_exc())
            return Sent(
                500, _json({"error": Problem(repr(error), "server_error")._asdict()})
            ), fault

    def _answer(self, request: Recorded, fault: Fault | None) -> Sent:
        bearer = request.headers.get("authorization")
        if self._key is not None and bearer != f"Bearer {self._key}":
            return Sent(401, _json({"error": STATUSES["401"]._asdict()}))
        if request.path not in self._paths:
            if not self._api.strict:
                return Sent(404, b'{"detail":"Not Found"}')
            text = f"Invalid URL ({request.method} {request.path})"
            return Sent(404, _json({"error": Problem(text)._asdict()}))
        if (request.method == "GET") != (request.path in ("/v1/models", "/health")):
            return Sent(405, b'{"detail":"Method Not Allowed"}')
        if request.method == "GET":
            reply = self._api.get(request.path)
            return Sent(200) if reply is None else Sent(200, _json(reply))
        if isinstance(request.body, bytes):
            raise _invalid("json_invalid", "body", "JSON decode error")
        reply = self._api.post(request.path, request.body)
        if not isinstance(reply, dict):
            events = [b"data: %s\n\n" % _json(event) for event in reply] + [b"data: [DONE]\n\n"]
            return Sent(200, kind="text/event-stream; charset=utf-8", events=events)
        body = _json(reply)
        if fault and fault.kind in SPOILERS:
            spoil(reply := json.loads(body), fault)  # a copy in which no part is shared
            body = _json(reply)
        return Sent(200, body)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@contextlib.contextmanager
def served(
    role: Role = "specialist",
    *,
    dialect: DialectName = "vllm",
    model: str = "specialist",
    max_logprobs: int = 25,
    context: int = 256,
    key: str | None = None,
) -> Iterator[str]:
    """A server in a process of its own, so that it shares no GIL with its client: its base_url."""
    options = {"role": role, "dialect": dialect, "model": model, "key": key}
    options |= {"max-logprobs": max_logprobs, "context": context}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "tests.openai_server", *given]
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not (base_url := process.stdout.readline().strip()):
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            yield base_url
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=get_args(Role), default="specialist")
    parser.add_argument("--dialect", choices=get_args(DialectName), default="vllm")
    parser.add_argument("--model", default="specialist")
    parser.add_argument("--key")
    for name, default in (("--port", 0), ("--max-logprobs", 25), ("--context", 256)):
        parser.add_argument(name, type=int, default=default)
    with OpenAIServer(**vars(parser.parse_args())) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
