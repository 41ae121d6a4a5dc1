"""The embedded pair: agrees with torch, samples what it scores, and ships unseen problems."""

import json
from pathlib import Path

import numpy as np
import pytest

from recov_graph.errors import InvalidInputError
from recov_graph.models import Capability, Model, as_model
from recov_graph.models.embedded import PAIR, EmbeddedPair, bundled_problems, draw, log_softmax
from recov_graph.models.transformer import Transformer
from training.tasks import is_reserved

REFERENCE = Path(__file__).parent / "data" / "torch_logits.json"


@pytest.mark.parametrize("role", ["specialist", "ancestor"])
def test_logits_agree_with_those_torch_computed(role):
    reference = json.loads(REFERENCE.read_text("utf-8"))
    transformer = Transformer(PAIR / role)
    ids = np.array(reference["ids"])
    logits = transformer(ids, transformer.cache(*ids.shape))
    assert np.abs(logits - np.array(reference[role])).max() < 1e-4


@pytest.mark.parametrize("role", ["specialist", "ancestor"])
def test_logits_agree_with_torch_run_here(role):
    torch = pytest.importorskip("torch", reason="torch is only in the extra 'train'")
    from training.train_pair import load

    ids = np.random.default_rng(3).integers(3, 24, (2, 90))
    transformer = Transformer(PAIR / role)
    with torch.no_grad():
        expected = load(PAIR / role)(torch.tensor(ids)).numpy()
    assert np.abs(transformer(ids, transformer.cache(*ids.shape)) - expected).max() < 1e-4


def test_the_cache_changes_nothing():
    transformer = Transformer(PAIR / "specialist")
    ids = np.random.default_rng(0).integers(3, 24, (3, 40))
    whole = transformer(ids, transformer.cache(3, 40))
    cache = transformer.cache(3, 40)
    pieces = [transformer(ids[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 25), (25, 40))]
    assert np.abs(np.concatenate(pieces, axis=1) - whole).max() < 1e-4


def test_many_sequences_are_read_as_each_alone():
    transformer = Transformer(PAIR / "specialist")
    ids = np.random.default_rng(1).integers(3, 24, (7, 60))  # more than one pass reads
    whole = transformer(ids, transformer.cache(7, 60))
    cache = transformer.cache(7, 60)
    pieces = [transformer(ids[:, a:b], cache) for a, b in ((0, 50), (50, 51), (51, 60))]
    assert cache.length == 60
    for row, together in zip(ids, whole, strict=True):
        alone = transformer(row[None], transformer.cache(1, 60))[0]
        assert np.abs(alone - together).max() < 1e-4
    assert np.abs(np.concatenate(pieces, axis=1) - whole).max() < 1e-4


def test_scores_too_steep_to_be_raised_are_shifted_first(monkeypatch):
    ids = np.random.default_rng(2).integers(3, 24, (2, 40))
    usual = Transformer(PAIR / "specialist")
    expected = usual(ids, usual.cache(2, 40))
    monkeypatch.setattr("recov_graph.models.transformer.STEEPEST", 0.0)
    shifted = Transformer(PAIR / "specialist")
    assert np.abs(shifted(ids, shifted.cache(2, 40)) - expected).max() < 1e-4


@pytest.mark.parametrize("role", ["specialist", "ancestor"])
def test_no_attention_score_is_steeper_than_was_foreseen(role):
    transformer = Transformer(PAIR / role)
    rows = np.random.default_rng(4).standard_normal((2000, transformer.size)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for layer in transformer._layers:
        parts = (rows @ layer.qkv).reshape(2000, 3, transformer.heads, -1)
        query, key = (np.linalg.norm(parts[:, i], axis=-1).max(axis=0) for i in (0, 1))
        assert (query * key).max() <= transformer._steepest(layer.qkv) * (1 + 1e-4)


def test_a_cache_keeps_the_rows_that_go_on_and_repeats_one():
    transformer = Transformer(PAIR / "specialist")
    ids = np.random.default_rng(5).integers(3, 24, (4, 12))
    cache = transformer.cache(4, 20)
    transformer(ids[:, :9], cache)
    cache.keep([1, 3])
    left = transformer(ids[[1, 3], 9:], cache)
    first = transformer.cache(1, 9)
    transformer(ids[:1, :9], first)
    again = transformer(ids[:, 9:], first.repeated(4, 12))
    whole = transformer(ids, transformer.cache(4, 12))[:, 9:]
    assert np.abs(left - whole[[1, 3]]).max() < 1e-4
    assert np.abs(again[0] - whole[0]).max() < 1e-4


def test_completions_without_a_token_have_no_scores(pair):
    topk = pair.score("1+1?", [np.array([], np.int32), pair.encode("2")], role="ancestor").topk
    assert [one.ids.shape for one in topk] == [(0, 21), (1, 21)]
    only = pair.score("1+1?", [np.array([], np.int32)], role="ancestor")
    assert only.topk[0].logprobs.shape == (0, 21)
    assert only.usage.scored_tokens == pair.prompt_length("1+1?")


def test_a_score_does_not_depend_on_what_is_scored_beside_it(pair):
    completions = [r.token_ids for r in pair.sample("123+456?", n=6, temperature=1.5).rollouts]
    together = pair.score("123+456?", completions, role="ancestor").topk
    for tokens, beside in zip(completions, together, strict=True):
        alone = pair.score("123+456?", [tokens], role="ancestor").topk[0]
        finite = np.isfinite(alone.logprobs)
        assert np.abs(np.exp(alone.logprobs) - np.exp(beside.logprobs))[finite].max() < 1e-4


def test_the_same_seed_gives_the_same_rollouts(pair):
    first = pair.sample("37+48*2?", n=4, temperature=1.0, seed=5).rollouts
    again = pair.sample("37+48*2?", n=4, temperature=1.0, seed=5).rollouts
    other = pair.sample("37+48*2?", n=4, temperature=1.0, seed=6).rollouts
    assert [r.text for r in first] == [r.text for r in again]
    assert [r.text for r in first] != [r.text for r in other]


def test_rollouts_of_a_batch_do_not_depend_on_how_the_others_end(pair):
    long = pair.sample("37+48*2?", n=6, temperature=1.2, max_tokens=60, seed=5).rollouts
    short = pair.sample("37+48*2?", n=6, temperature=1.2, max_tokens=9, seed=5).rollouts
    for cut, whole in zip(short, long, strict=True):
        assert np.array_equal(cut.token_ids, whole.token_ids[:9])


def test_sampling_and_scoring_see_the_same_distributions(pair):
    rollouts = pair.sample("123+456-78?", n=5, temperature=1.0, seed=1).rollouts
    scored = pair.score("123+456-78?", [r.token_ids for r in rollouts], role="specialist")
    for rollout, topk in zip(rollouts, scored.topk, strict=True):
        finite = np.isfinite(topk.logprobs)
        assert np.array_equal(rollout.specialist.ids, topk.ids)
        assert np.abs(rollout.specialist.logprobs[finite] - topk.logprobs[finite]).max() < 1e-3


def test_the_taken_token_is_always_listed(pair):
    rollout = pair.sample("12*34?", temperature=5.0, max_tokens=80, seed=0).rollouts[0]
    listed = (rollout.specialist.ids == rollout.token_ids[:, None]).any(axis=1)
    assert listed.all()
    assert rollout.specialist.ids.shape[1] == 21


def test_a_continuation_follows_its_prefix(pair):
    whole = pair.sample("23*47?", temperature=0.0, seed=0).rollouts[0]
    rest = pair.sample("23*47?", temperature=0.0, seed=0, prefix=whole.token_ids[:5]).rollouts[0]
    assert np.array_equal(rest.token_ids, whole.token_ids[5:])


def test_usage_counts_every_token_read_and_written(pair):
    generation = pair.sample("23*47?", n=3, temperature=0.6, seed=0, prefix=pair.encode("23*4"))
    assert generation.usage.prompt_tokens == 1 + len("23*47?") + 4
    assert generation.usage.completion_tokens == sum(len(r) for r in generation.rollouts)
    tokens = [r.token_ids for r in generation.rollouts]
    scored = pair.score("23*47?", tokens, role="ancestor").usage
    assert scored.scored_tokens == sum(1 + len("23*47?") + len(t) for t in tokens)


def test_a_session_walks_as_sampling_does(pair):
    greedy = pair.sample("23*47?", temperature=0.0, seed=0).rollouts[0]
    session = pair.open("23*47?")
    tokens = []
    while session.finished is None:
        specialist, ancestor = session.distributions()
        assert np.exp(specialist.logprobs).sum() == pytest.approx(1, abs=1e-4)
        assert np.exp(ancestor.logprobs).sum() == pytest.approx(1, abs=1e-4)
        tokens.append(int(specialist.ids[0][specialist.logprobs[0].argmax()]))
        session.append(tokens[-1])
    assert tokens == greedy.token_ids.tolist()
    assert session.finished == "stop"
    assert session.usage.tokens == 2 * (pair.prompt_length("23*47?") + len(tokens))


def test_drawing_follows_the_tempered_distribution():
    log_p = log_softmax(np.array([[2.0, 1.0, 0.0, -1.0]], np.float32))
    uniform = (np.arange(20_000) + 0.5) / 20_000
    drawn = draw(np.repeat(log_p, 20_000, axis=0), 0.6, uniform)
    expected = np.exp(log_p[0] / 0.6) / np.exp(log_p[0] / 0.6).sum()
    assert np.bincount(drawn, minlength=4) / 20_000 == pytest.approx(expected, abs=1e-3)


def test_unknown_characters_are_refused_by_name(pair):
    with pytest.raises(InvalidInputError, match="cannot read 'x' in '2x3'"):
        pair.sample("2x3", temperature=0.6, seed=0)


def test_a_prompt_that_fills_the_context_is_refused(pair):
    with pytest.raises(InvalidInputError, match="at most 255"):
        pair.sample("1+" * 200 + "1?", temperature=0.6, seed=0)


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="no model pair in"):
        EmbeddedPair(tmp_path)


def test_the_pair_is_a_model_with_every_capability(pair):
    assert isinstance(pair, Model)
    assert pair.capabilities == frozenset(Capability) - {Capability.INSTRUCT}
    assert as_model("embedded").name == "embedded"
    with pytest.raises(InvalidInputError, match="'gpt-9'"):
        as_model("gpt-9")


def test_the_swapped_pair_samples_from_the_ancestor(pair):
    rollout = pair.swapped().sample("23*47?", temperature=0.6, seed=0).rollouts[0]
    scored = pair.score("23*47?", [rollout.token_ids], role="ancestor").topk[0]
    assert np.array_equal(scored.ids, rollout.specialist.ids)


def test_the_tokenizer_file_serves_other_engines(pair):
    tokenizers = pytest.importorskip("tokenizers")
    for role in ("specialist", "ancestor"):
        tokenizer = tokenizers.Tokenizer.from_file(str(PAIR / role / "tokenizer.json"))
        encoded = tokenizer.encode("(37+48)*2%9?")
        assert encoded.ids == [1, *pair.encode("(37+48)*2%9?").tolist()]
        assert tokenizer.decode(encoded.ids) == "(37+48)*2%9?"


def test_the_weights_stay_small():
    size = sum(file.stat().st_size for file in PAIR.rglob("*") if file.is_file())
    assert size < 8_000_000


def test_bundled_problems_are_many_varied_right_and_unseen():
    problems = bundled_problems()
    assert len(problems) >= 300
    assert len({problem.prompt for problem in problems}) == len(problems)
    assert {problem.task for problem in problems} == {
        *("chain", "product", "mixed", "paren", "remainder")
    }
    assert {problem.metadata["level"] for problem in problems} == {1, 2, 3, 4, 5}
    for problem in problems:
        assert is_reserved(problem.prompt)
        # The prompts are arithmetic that Python reads too.
        assert eval(problem.prompt.rstrip("?")) == problem.answer


def test_the_measured_regimes_each_hold_a_fair_share():
    measured = json.loads((PAIR / "measurements.json").read_text("utf-8"))["bundled"]
    assert set(measured["regimes"]) == {"sampling", "steerable_hard", "out_of_reach"}
    assert all(regime["share"] >= 0.15 for regime in measured["regimes"].values())
