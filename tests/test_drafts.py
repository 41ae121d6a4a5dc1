"""Dense steering by drafted blocks writes exactly what token-by-token mixing writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from recov_graph.interventions import DenseSteer, Failure, Retry
from recov_graph.interventions.mixing import Draw, tempered
from recov_graph.models import Model, OpenAIModel
from recov_graph.models.base import Draft
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.models.openai import Access, AccessCache
from recov_graph.problem import Problem
from recov_graph.rollout import TopK
from tests.openai_server import OpenAIServer, served

pytestmark = pytest.mark.slow  # about half a minute

VOCABULARY = 24  # all of the pair's tokens: nothing is cut off
DRAWS = 300
OPEN = "2595+9243-8005-8281+7287?"  # where mixing changes most


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    with (
        served("specialist", model="specialist") as specialist,
        served("ancestor", model="ancestor") as ancestor,
    ):
        yield specialist, ancestor


def over_http(urls: tuple[str, str], folder: Path, *, block: int = 12) -> OpenAIModel:
    specialist, ancestor = urls
    return OpenAIModel(
        "openai:specialist",
        base_url=specialist,
        ancestor="openai:ancestor",
        ancestor_base_url=ancestor,
        top_k=VOCABULARY,
        block=block,
        cache=AccessCache(folder),
    )


def texts(
    model: Model, prompts: Sequence[str], *, temperature: float, draws: int = 1, max_tokens: int
) -> list[str]:
    """Densely steered rollouts, those of each prompt one after the other."""
    failures = [
        Failure(Problem(prompt=prompt), temperature, max_tokens, seed)
        for prompt in prompts
        for seed in range(draws)
    ]
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda failure: DenseSteer().apply(failure, model), failures)
        return [attempt.rollout.text for attempt in made]


def same_distribution(one: Sequence[str], other: Sequence[str]) -> float:
    """The p-value of a chi-square test on two samples of texts, rare ones taken together."""
    counts = [Counter(one), Counter(other)]
    common = [text for text, n in (counts[0] + counts[1]).most_common() if n >= 12]
    table = [[c[text] for text in common] for c in counts]
    rest = [sum(c.values()) - sum(row) for c, row in zip(counts, table, strict=True)]
    if sum(rest):
        table = [[*row, left] for row, left in zip(table, rest, strict=True)]
    assert len(table[0]) > 2, "too few different texts to tell anything"
    return float(chi2_contingency(table).pvalue)


def test_greedy_output_is_that_of_token_by_token_mixing(
    urls: tuple[str, str], pair: EmbeddedPair, tmp_path: Path
) -> None:
    prompts = [problem.prompt for problem in bundled_problems()[:200]]
    model = over_http(urls, tmp_path)
    blockwise = texts(model, prompts, temperature=0.0, max_tokens=160)
    stepwise = texts(pair, prompts, temperature=0.0, max_tokens=160)
    assert blockwise == stepwise
    assert len(set(blockwise)) > 150


@pytest.mark.long
def test_sampled_output_is_distributed_as_that_of_token_by_token_mixing(
    urls: tuple[str, str], pair: EmbeddedPair, tmp_path: Path
) -> None:
    how = {"temperature": 1.0, "max_tokens": 5}
    # Blocks of 3 in rollouts of 5: a draft is accepted, replaced, and begun anew.
    blockwise = texts(over_http(urls, tmp_path, block=3), [OPEN], draws=DRAWS, **how)
    stepwise = texts(pair, [OPEN], draws=2 * DRAWS, **how)
    assert same_distribution(blockwise, stepwise) > 1e-3
    # The test can tell: the specialist alone writes something else.
    alone = [
        Retry().apply(Failure(Problem(prompt=OPEN), 1.0, 5, seed), pair).rollout.text
        for seed in range(2 * DRAWS)
    ]
    assert same_distribution(blockwise, alone) < 1e-6


def test_blocks_take_a_third_of_the_calls_or_less(tmp_path: Path) -> None:
    everything = Access(way="tokens", chat=False, logprobs=25, scored=25, context=256)
    tokens = 0
    with (
        OpenAIServer(role="specialist", model="specialist") as specialist,
        OpenAIServer(role="ancestor", model="ancestor") as ancestor,
    ):
        model = OpenAIModel(
            "openai:specialist",
            base_url=specialist.base_url,
            access=everything,
            ancestor="openai:ancestor",
            ancestor_base_url=ancestor.base_url,
            ancestor_access=everything,
        )
        for seed, problem in enumerate(bundled_problems()[:30]):
            rollout = DenseSteer().apply(Failure(problem, 0.6, 160, seed), model).rollout
            tokens += len(rollout)
        calls = len(specialist.requests) + len(ancestor.requests)
    assert calls <= 2 * tokens / 3  # token by token: one call to each of the two models


distributions = st.lists(st.floats(-6.0, 0.0), min_size=2, max_size=5)


@settings(max_examples=25, deadline=None)
@given(distributions, distributions, st.integers(0, 4), st.integers(0, 2**31))
def test_a_draft_does_not_change_what_is_drawn(
    target: list[float], proposal: list[float], shift: int, seed: int
) -> None:
    """The two may list different tokens; `shift` moves the proposal's along."""
    wanted = listed(target, 0)
    ids, offered = tempered(listed(proposal, shift), 1.0)
    rng = np.random.default_rng(seed)
    drawn: Counter[int] = Counter()
    for token in rng.choice(ids, 4000, p=offered):
        drawn[Draw(rng, Draft(int(token), ids.astype(np.int32), offered))(wanted, 1.0)] += 1
    tokens, probabilities = tempered(wanted, 1.0)
    assert set(drawn) <= set(tokens.tolist())
    expected = probabilities * drawn.total()
    assert chisquare([drawn[int(t)] for t in tokens], expected).pvalue > 1e-6


def test_a_draft_serves_one_draw_only() -> None:
    sure = Draft(7, np.array([7], np.int32), np.ones(1))
    draw = Draw(np.random.default_rng(0), sure)
    both = TopK(np.array([[7, 8]]), np.log([[0.5, 0.5]]))
    draw(both, 1.0)
    assert {draw(both, 1.0) for _ in range(20)} == {7, 8}


def listed(logits: Sequence[float], shift: int) -> TopK:
    values = np.array(logits) - np.logaddexp.reduce(logits)
    return TopK(np.arange(shift, shift + len(values), dtype=np.int32)[None], values[None])
