"""The embedded pair: a specialist and its ancestor that ship with the package and need no key.

Two transformers of 0.86 million parameters that do arithmetic in worked steps. They exist so that
every part of the loop runs for real on any laptop; ``pair/README.md`` is their model card.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.models.base import Capability, Draft, Generation, Ids, Role, Scores
from recov_graph.models.transformer import Transformer
from recov_graph.problem import Problem, read_problems
from recov_graph.rollout import PAD_ID, FinishReason, Rollout, TopK, Usage

PAIR = Path(__file__).parent / "pair"
TOP_K = 20  # plus the taken token where it is not among them


@lru_cache(maxsize=1)
def bundled_problems() -> tuple[Problem, ...]:
    """The problems that ship with the pair; none was in its training data."""
    return tuple(read_problems(PAIR / "problems.jsonl"))


class EmbeddedPair:
    """The shipped specialist and ancestor behind the `Model` protocol.

    Thread-safe: a call shares nothing with another but the weights.

    Args:
        folder: holds ``specialist/`` and ``ancestor/`` in the Hugging Face Llama layout and a
            character-level tokenizer.json; by default the shipped pair.
        name: part of the cell that failures are compared within.
    """

    capabilities = frozenset(Capability) - {Capability.INSTRUCT}  # it knows nothing but sums

    def __init__(self, folder: str | Path = PAIR, *, name: str = "embedded") -> None:
        self.name = name
        folder = Path(folder)
        if not (folder / "specialist" / "model.safetensors").is_file():
            raise InvalidInputError(
                f"no model pair in {folder}; expected specialist/ and ancestor/ with "
                "config.json, tokenizer.json and model.safetensors"
            )
        self._specialist = _transformer((folder / "specialist").resolve())
        self._ancestor = _transformer((folder / "ancestor").resolve())
        tokenizer = json.loads((folder / "specialist" / "tokenizer.json").read_text("utf-8"))
        self._vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        self._characters = {i: text for text, i in self._vocabulary.items() if len(text) == 1}
        self._bos, self.end_token = self._vocabulary["<s>"], self._vocabulary["</s>"]

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
        """Draw n completions in one batch; the same seed gives the same completions."""
        context = self._context(prompt, prefix)
        room = max(0, min(max_tokens, self._specialist.context - len(context)))
        # Every rollout has its own column of draws, so that none depends on another's end.
        uniform = np.random.default_rng(seed).random((room, n))
        first = self._specialist.cache(1, len(context))
        logits = np.repeat(self._specialist(context[None], first)[:, -1], n, axis=0)
        cache = first.repeated(n, len(context) + room)
        tokens = np.full((n, room), self.end_token, np.int32)
        seen = np.empty((n, room, logits.shape[1]), np.float32)  # the logits, up to each one's end
        lengths = np.full(n, room)
        active = np.arange(n)  # rollouts that have not ended; the cache holds just these
        for step in range(room):
            chosen = draw(logits, temperature, uniform[step, active])
            tokens[active, step], seen[active, step] = chosen, logits
            going_on = chosen != self.end_token
            if not going_on.all():
                lengths[active[~going_on]] = step + 1
                active, chosen = active[going_on], chosen[going_on]
                cache.keep(np.flatnonzero(going_on).tolist())
            if len(active) == 0 or step + 1 == room:
                break
            logits = self._specialist(chosen[:, None], cache)[:, -1]
        completions = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
        topk = _listed(
            [rows[:length] for rows, length in zip(seen, lengths, strict=True)], completions
        )
        rollouts = list(map(self._rollout, completions, topk))
        return Generation(rollouts, Usage(len(context), int(lengths.sum())))

    def score(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """Top-K of one of the two models at every position, all completions in one batch."""
        context, model = self._context(prompt), self._model(role)
        first = model.cache(1, len(context))
        if len(context) > 1:
            model(context[None, :-1], first)  # once for all
        ids = np.full((len(completions), 1 + max(map(len, completions))), self.end_token, np.int32)
        ids[:, 0] = context[-1]
        for row, tokens in zip(ids, completions, strict=True):
            row[1 : 1 + len(tokens)] = tokens
        read = ids[:, : max(1, ids.shape[1] - 1)]
        logits = model(read, first.repeated(len(ids), len(context) + ids.shape[1]))
        rows = [one[: len(tokens)] for one, tokens in zip(logits, completions, strict=True)]
        tokens_read = sum(len(context) + len(tokens) for tokens in completions)
        return Scores(_listed(rows, completions), Usage(scored_tokens=tokens_read))

    def open(
        self,
        prompt: str,
        *,
        prefix: Sequence[int] | Ids = (),
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> EmbeddedSession:
        """Start a rollout that the caller steers token by token; nothing is written ahead."""
        context = self._context(prompt, prefix)
        return EmbeddedSession(self._specialist, self._ancestor, context, self.end_token)

    def swapped(self) -> EmbeddedPair:
        """The pair with its roles exchanged: the ancestor samples, the specialist is its base."""
        other = copy.copy(self)
        other.name = f"{self.name}-swapped"
        other._specialist, other._ancestor = self._ancestor, self._specialist
        return other

    def decode(self, tokens: Sequence[int] | Ids) -> str:
        """The text of a completion's tokens; special tokens have none."""
        return "".join(self.spell(tokens))

    def spell(self, tokens: Sequence[int] | Ids) -> list[str]:
        """The character of each token; special tokens have none."""
        return [self._characters.get(int(token), "") for token in tokens]

    def encode(self, text: str) -> Ids:
        """The token ids of a text, one a character, without a begin-of-text token.

        Raises:
            InvalidInputError: a character that the pair does not know.
        """
        try:
            return np.array([self._vocabulary[character] for character in text], np.int32)
        except KeyError as error:
            raise InvalidInputError(
                f"the embedded pair cannot read {error.args[0]!r} in {text[:60]!r}; it knows only "
                f"{''.join(self._characters.values())!r}. Write a sum such as '37+48*2?', "
                "or bring your own model"
            ) from None

    def prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt as the models read it, begin-of-text included."""
        return 1 + len(prompt)

    def _context(self, prompt: str, prefix: Sequence[int] | Ids = ()) -> Ids:
        head = np.concatenate([[self._bos], self.encode(prompt), np.asarray(prefix, np.int32)])
        if len(head) >= self._specialist.context:
            raise InvalidInputError(
                f"prompt and prefix have {len(head)} tokens; the embedded pair reads "
                f"at most {self._specialist.context - 1}"
            )
        return head.astype(np.int32)

    def _model(self, role: Role) -> Transformer:
        return self._specialist if role == "specialist" else self._ancestor

    def _rollout(self, tokens: Ids, topk: TopK) -> Rollout:
        ended = len(tokens) > 0 and tokens[-1] == self.end_token
        return Rollout(
            text=self.decode(tokens),
            token_ids=tokens,
            finish_reason="stop" if ended else "length",
            specialist=topk,
        )


class EmbeddedSession:
    """A rollout of the embedded pair steered from outside; see `models.base.Session`."""

    def __init__(
        self, specialist: Transformer, ancestor: Transformer, context: Ids, eos: int
    ) -> None:
        self.finished: FinishReason | None = None
        self.draft: Draft | None = None
        self.next_cost = 2  # both models read the token that was taken
        self._eos = eos
        self._models = (specialist, ancestor)
        self._caches = [model.cache(1, model.context) for model in self._models]
        self._written = 0
        self._prompt = len(context)
        self._read(context)

    @property
    def usage(self) -> Usage:
        """Both models read the prompt and every token; the specialist's writing counts as such."""
        return Usage(self._prompt, self._written, self._prompt + self._written)

    def distributions(self) -> tuple[TopK, TopK]:
        """The full next-token distributions of specialist and ancestor, [1, V] each."""
        ids = np.arange(self._logits[0].shape[1], dtype=np.int32)[None]
        specialist, ancestor = (TopK(ids, log_softmax(logits)) for logits in self._logits)
        return specialist, ancestor

    def append(self, token: int) -> None:
        """Take a token and read it with both models, unless it ends the rollout."""
        self._written += 1
        if token == self._eos:
            self.finished = "stop"
        elif self._caches[0].length + 1 >= self._models[0].context:
            self.finished = "length"
        else:
            self._read(np.array([token], np.int32))

    def _read(self, ids: Ids) -> None:
        self._logits = [
            model(ids[None], cache)[:, -1]
            for model, cache in zip(self._models, self._caches, strict=True)
        ]


@lru_cache(maxsize=8)
def _transformer(folder: Path) -> Transformer:
    return Transformer(folder)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted)


def draw(
    logits: NDArray[np.float32], temperature: float, uniform: NDArray[np.float64]
) -> NDArray[np.int32]:
    """One token a row [N] from logits [N, V] tempered by T, normed or not; T = 0: the likeliest."""
    if temperature == 0:
        return np.asarray(logits.argmax(axis=-1), np.int32)
    weights = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)
    weights /= temperature
    edges = np.exp(weights, out=weights).cumsum(axis=-1)
    places = (edges <= (uniform * edges[:, -1])[:, None]).sum(axis=-1, dtype=np.int32)
    return np.asarray(np.minimum(places, logits.shape[1] - 1))


def _listed(logits: Sequence[NDArray[np.float32]], completions: Sequence[Ids]) -> list[TopK]:
    """The `top_k` of each completion from its logits [L, V], all made at once."""
    made = top_k(log_softmax(np.concatenate(logits)), np.concatenate(completions))
    ends = np.cumsum([len(tokens) for tokens in completions])[:-1]
    return list(map(TopK, np.split(made.ids, ends), np.split(made.logprobs, ends)))


def top_k(log_p: NDArray[np.float32], taken: Ids, k: int = TOP_K) -> TopK:
    """The k likeliest of [L, V] and in place k + 1 the taken token, or padding if it is listed."""
    length = len(log_p)
    order = np.argsort(-log_p, axis=1, kind="stable")[:, :k].astype(np.int32)
    listed = (order == taken[:, None]).any(axis=1)
    ids = np.concatenate([order, np.where(listed, PAD_ID, taken)[:, None]], axis=1)
    logprobs = log_p[np.arange(length)[:, None], ids]
    logprobs[listed, -1] = -np.inf
    return TopK(ids.astype(np.int32), logprobs)
