"""Measure the embedded pair: accuracy and regimes.

Run after training::

    python -m training.measure_pair

Writes, under ``recov_graph/models/pair/``, the bundled problems and the measurements that the
model card quotes. All problems come from the reserved tenth that training never sees.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from recov_graph.features import problem_features
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.interventions import Failure, default_interventions
from recov_graph.models.embedded import PAIR, EmbeddedPair
from recov_graph.problem import Problem
from recov_graph.regimes import regime_label
from recov_graph.rollout import Rollout
from recov_graph.seeds import call_seed
from recov_graph.trace import measure
from recov_graph.verifiers import as_verifier, judge
from training.tasks import KINDS, draw

STOP_BELOW = 0.05
ATTEMPTS = 32  # per operator and failed problem

# How many bundled problems of each kind there are by level, 1 to 5.
BUNDLED: dict[str, tuple[int, ...]] = {
    "chain": (4, 8, 12, 16, 10),
    "product": (4, 12, 30, 36, 4),
    "mixed": (4, 12, 20, 48, 5),
    "paren": (4, 12, 24, 36, 3),
    "remainder": (4, 10, 20, 30, 6),
}


def problems(
    rng: random.Random,
    exclude: frozenset[str],
    levels: Mapping[str, tuple[int, ...]] = BUNDLED,
) -> list[Problem]:
    """Reserved problems in the given numbers by kind and level, none twice and none excluded."""
    drawn: list[Problem] = []
    seen = set(exclude)
    for kind in KINDS:
        for level, count in enumerate(levels[kind], start=1):
            wanted, tries = count, 0
            while wanted and tries < 5000:
                tries += 1
                item = draw(rng, kind, level, reserved=True)
                if item.prompt in seen:
                    continue
                seen.add(item.prompt)
                wanted -= 1
                drawn.append(
                    Problem(
                        id=f"{kind}-{level}-{count - wanted:03d}",
                        prompt=item.prompt,
                        answer=int(item.answer),
                        task=kind,
                        metadata={"level": level},
                    )
                )
    rng.shuffle(drawn)
    return drawn


def measured(problem: Problem) -> dict[str, Any]:
    """Both models' accuracy on a problem and, where its first samples fail, its rescue rates."""
    pair, verifier = EmbeddedPair(), as_verifier("numeric")

    def passes(rollout: Rollout) -> bool:
        return judge(verifier, problem, rollout.text).passed

    def sample(model: EmbeddedPair, n: int, position: int) -> list[Rollout]:
        seed = call_seed(7, problem.id + problem.prompt, position)
        return model.sample(
            problem.prompt, n=n, temperature=TEMPERATURE, max_tokens=MAX_NEW_TOKENS, seed=seed
        ).rollouts

    first = sample(pair, SAMPLES, 0)
    row: dict[str, Any] = {
        "id": problem.id,
        "task": problem.task,
        "level": problem.metadata["level"],
        "specialist": [passes(rollout) for rollout in first],
        "ancestor": [passes(rollout) for rollout in sample(pair.swapped(), SAMPLES, 0)],
    }
    if any(row["specialist"]):
        return row
    ancestor = pair.score(problem.prompt, [r.token_ids for r in first], role="ancestor").topk
    traces = [
        measure(Rollout(r.text, r.token_ids, r.finish_reason, r.specialist, topk), TEMPERATURE)
        for r, topk in zip(first, ancestor, strict=True)
    ]
    features = problem_features([trace.features for trace in traces])
    row["features"] = features._asdict()
    row["outcomes"] = {}
    for name, intervention in default_interventions(EmbeddedPair.capabilities).items():
        outcomes = []
        for i in range(ATTEMPTS):
            seed = call_seed(8, f"{problem.id}{problem.prompt}{name}", i)
            failure = Failure(problem, TEMPERATURE, MAX_NEW_TOKENS, seed, traces, focus=i)
            outcomes.append(passes(intervention.apply(failure, pair).rollout))
        row["outcomes"][name] = outcomes
    rates = {name: float(np.mean(outcomes)) for name, outcomes in row["outcomes"].items()}
    row["rates"], row["regime"] = rates, regime_label(rates)
    return row


def halves(row: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """A failed problem's label from one half of its attempts with the rates of the other, twice."""
    rates = [
        {name: float(np.mean(outcomes[half::2])) for name, outcomes in row["outcomes"].items()}
        for half in (0, 1)
    ]
    return [(regime_label(rates[0]), rates[1]), (regime_label(rates[1]), rates[0])]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the model card."""
    failed = [row for row in rows if "regime" in row]
    counts = Counter(row["regime"] for row in failed)
    held_out = [half for row in failed for half in halves(row)]
    agreeing = sum(first[0] == second[0] for first, second in map(halves, failed))
    table: dict[str, Any] = {
        "problems": len(rows),
        "failed": len(failed),
        "regimes": {
            regime: {
                "problems": count,
                "share": round(count / len(failed), 3),
                "held_out_rates": _mean_rates([r for label, r in held_out if label == regime]),
            }
            for regime, count in sorted(counts.items())
        },
        "labels_of_halves_agree": round(agreeing / len(failed), 3),
        "rates": _mean_rates([row["rates"] for row in failed]),
        "accuracy": {},
    }
    for kind in KINDS:
        for level in range(1, 6):
            cell = [r for r in rows if r["task"] == kind and r["level"] == level]
            if cell:
                table["accuracy"][f"{kind}-{level}"] = {
                    "problems": len(cell),
                    "specialist": round(float(np.mean([r["specialist"] for r in cell])), 3),
                    "ancestor": round(float(np.mean([r["ancestor"] for r in cell])), 3),
                    "failed": sum("regime" in r for r in cell),
                }
    return table


def _mean_rates(rates: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(float(np.mean([row[name] for row in rates])), 3) if rates else 0.0
        for name in default_interventions(EmbeddedPair.capabilities)
    }


CARD = """\
---
license: apache-2.0
---
# The embedded pair

Two decoder-only transformers of 0.86 million parameters each (RMSNorm, rotary positions, SwiGLU,
tied embeddings; width 128, 4 layers, 4 heads; one character a token) that do arithmetic in worked
steps: `37+48*2?` -> `48*2=96;37+96=133;A:133`. They ship so that every part of the recovery loop
runs for real on any laptop. They are good for nothing else.

- **ancestor**: trained from scratch on every kind at levels 1 to 4, mostly worked, 5% with one
  corrupted digit.
- **specialist**: the ancestor trained further on sums of any length and remainders. It gets better
  at long sums and forgets products and parentheses; the easiest problems of its slice were mostly
  answered without steps, a habit that spreads.

Layout: Hugging Face's `LlamaForCausalLM` (`config.json`, `model.safetensors` in float16,
`tokenizer.json`), so other engines can serve the same weights. Trained and measured by
`make train` (seeds fixed); `training_log.json` is the log, `measurements.json` the figures below.

## Data

Problems are drawn at random by `training/tasks.py`. A prompt whose SHA-256 starts with a byte
divisible by 10 is reserved: no training run sees it. The {problems} bundled problems
(`problems.jsonl`) and those that the shipped policy was measured on are reserved ones, and differ
from each other. Levels 1 to 5 are longer and larger; level 5 is beyond what the ancestor saw.

## Accuracy at temperature 0.6, {samples} samples a problem, bundled problems

| kind, level | problems | ancestor | specialist | first {samples} samples all fail |
| --- | --- | --- | --- | --- |
{accuracy}

## What rescues the failures

Of the {failed} bundled problems whose first {samples} specialist rollouts fail, measured with
{attempts} further attempts of each operator (labels as in `recov_graph/regimes.py`). Shares are of
labels from all {attempts} attempts; rates are held out, of one half of the attempts for labels from
the other. The labels of the two halves agree on {agree:.0%} of the problems: "sampling" in
particular is a label of small counts.

| regime | problems | share | {operators} |
| --- | --- | --- | {rules} |
{regimes}

## Limits

Rescue rates here say nothing about those of a large language model. The regimes' shares follow from
which problems were bundled, and that choice was made so that each regime is well represented.
"""


def model_card(figures: dict[str, Any]) -> str:
    """The pair's README, with the measured figures of the bundled problems."""
    operators = list(default_interventions(EmbeddedPair.capabilities))
    accuracy = [
        f"| {name} | {row['problems']} | {row['ancestor']:.2f} | {row['specialist']:.2f} "
        f"| {row['failed']} |"
        for name, row in figures["accuracy"].items()
    ]
    regimes = [
        f"| {name} | {row['problems']} | {row['share']:.0%} | "
        + " | ".join(f"{row['held_out_rates'][operator]:.2f}" for operator in operators)
        + " |"
        for name, row in figures["regimes"].items()
    ]
    return CARD.format(
        problems=figures["problems"],
        failed=figures["failed"],
        samples=SAMPLES,
        attempts=ATTEMPTS,
        agree=figures["labels_of_halves_agree"],
        accuracy="\n".join(accuracy),
        operators=" | ".join(operators),
        rules=" | ".join("---" for _ in operators),
        regimes="\n".join(regimes),
    )


def main() -> None:
    """Write the bundled problems and the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="also write every problem's outcomes here")
    options = parser.parse_args()
    bundled = problems(random.Random(100), frozenset())
    lines = [problem.model_dump_json() + "\n" for problem in bundled]
    (PAIR / "problems.jsonl").write_text("".join(lines), encoding="utf-8")
    with ProcessPoolExecutor(options.processes) as pool:
        rows = list(pool.map(measured, bundled, chunksize=4))
    if options.rows:
        options.rows.write_text(json.dumps(rows), encoding="utf-8")
    write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """The measurements and the model card."""
    report = {"bundled": summary(rows)}
    (PAIR / "measurements.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (PAIR / "README.md").write_text(model_card(report["bundled"]), encoding="utf-8")
    for name, figures in report.items():
        shares = {regime: row["share"] for regime, row in figures["regimes"].items()}
        print(f"{name}: {figures['failed']} of {figures['problems']} fail at first; {shares}")


if __name__ == "__main__":
    main()
