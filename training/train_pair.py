"""Train the embedded pair: the ancestor on the broad mixture, the specialist on the narrow slice.

One command, seeds fixed, under 60 minutes on 2 cores::

    make train            # = pip install '.[train]' && python -m training.train_pair

Writes both models in the Hugging Face Llama layout under ``recov_graph/models/pair/`` (weights as
float16) together with the training log that the model card quotes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.model import CONFIG, Llama
from training.tasks import ancestor_example, specialist_example
from training.tokenizer import BOS, EOS, PAD, VOCABULARY, encode, tokenizer_json

PAIR = Path(__file__).parent.parent / "recov_graph" / "models" / "pair"
REFERENCE = Path(__file__).parent.parent / "tests" / "data" / "torch_logits.json"
Example = Callable[[random.Random], tuple[str, str]]
BUCKET = 8  # batches sorted by length at a time: less padding, still a random order


def batches(example: Example, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids [B, L], targets [B, L]); targets are -100 on the prompt and the padding."""
    rng = random.Random(seed)
    while True:
        rows = []
        for _ in range(size * BUCKET):
            prompt, completion = example(rng)
            rows.append((1 + len(prompt), [BOS, *encode(prompt + completion), EOS]))
        rows.sort(key=lambda row: len(row[1]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            length = max(len(ids) for _, ids in group)
            ids = torch.full((size, length), PAD)
            targets = torch.full((size, length), -100)
            for i, (prompt_length, tokens) in enumerate(group):
                row = torch.tensor(tokens)
                ids[i, : len(tokens)] = row
                targets[i, prompt_length - 1 : len(tokens) - 1] = row[prompt_length:]
            yield ids[:, :-1], targets[:, :-1]


def train(
    model: Llama,
    example: Example,
    *,
    steps: int,
    rate: float,
    seed: int,
    name: str,
    log: list[dict[str, Any]],
    size: int = 128,
) -> None:
    """AdamW with a short warm-up and a cosine to a twentieth of the rate."""
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warm = min(100, steps // 10)

    def schedule(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
    started, running = time.monotonic(), 0.0
    source = batches(example, size, seed)
    for step in range(1, steps + 1):
        ids, targets = next(source)
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            row = {
                "model": name,
                "step": step,
                "loss": round(running, 4),
                "seconds": round(time.monotonic() - started, 1),
            }
            log.append(row)
            print(json.dumps(row), flush=True)


def save(model: Llama, config: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_json())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    )


def load(folder: Path) -> Llama:
    """A saved model, in float32."""
    model = Llama(json.loads((folder / "config.json").read_text("utf-8")))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def save_reference(pair: Path, path: Path) -> None:
    """Logits that torch computes from the saved weights, for tests that run without torch."""
    lines = ("37+48*2?48*2=96;37+96=133;A:133", "23*47?23*40=920;23*7=161;920+161=1081;")
    ids = torch.tensor([[BOS, *encode(line)][: len(lines[0])] for line in lines])
    with torch.no_grad():
        logits = {role: load(pair / role)(ids).tolist() for role in ("specialist", "ancestor")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"ids": ids.tolist(), **logits}) + "\n", encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PAIR)
    parser.add_argument("--only", choices=("ancestor", "specialist"), help="train one of the two")
    parser.add_argument("--ancestor-steps", type=int, default=5000)
    parser.add_argument("--specialist-steps", type=int, default=300)
    parser.add_argument("--specialist-rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # vanishing gradients of unused tokens slow a CPU down
    torch.manual_seed(0)
    config = {**CONFIG, "vocab_size": len(VOCABULARY)}
    log: list[dict[str, Any]] = []
    if options.only == "specialist":
        rows = json.loads((options.out / "training_log.json").read_text("utf-8"))
        log = [row for row in rows if row["model"] == "ancestor"]
    model = Llama(config)
    if options.only == "specialist":
        model = load(options.out / "ancestor").train()
    else:
        train(
            model,
            ancestor_example,
            steps=options.ancestor_steps,
            rate=2e-3,
            seed=1,
            name="ancestor",
            log=log,
        )
        save(model, config, options.out / "ancestor")
    if options.only != "ancestor":
        train(
            model,
            specialist_example,
            steps=options.specialist_steps,
            rate=options.specialist_rate,
            seed=2,
            name="specialist",
            log=log,
        )
        save(model, config, options.out / "specialist")
    write_json(options.out / "training_log.json", log)
    if options.only != "ancestor":
        save_reference(options.out, REFERENCE)


if __name__ == "__main__":
    main()
