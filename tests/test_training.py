"""The training data: right, noisy where it means to be, and blind to the reserved problems."""

import random

from training.tasks import (
    KINDS,
    LEVELS,
    ancestor_example,
    corrupt,
    draw,
    is_reserved,
    specialist_example,
)
from training.tokenizer import CHARACTERS, encode


def test_every_kind_and_level_is_solved_by_its_steps():
    rng = random.Random(0)
    for kind in KINDS:
        for level in LEVELS:
            for _ in range(20):
                item = draw(rng, kind, level, reserved=False)
                assert eval(item.prompt.rstrip("?")) == int(item.answer)
                for step in item.steps:
                    left, right = step.split("=")
                    assert eval(left) == int(right)


def test_training_examples_never_show_a_reserved_problem():
    rng = random.Random(1)
    prompts = [make(rng)[0] for make in (ancestor_example, specialist_example) for _ in range(2000)]
    assert not any(is_reserved(prompt) for prompt in prompts)


def test_about_a_tenth_of_all_problems_is_reserved():
    reserved = sum(is_reserved(f"{a}+{b}?") for a in range(100) for b in range(100))
    assert 800 < reserved < 1200


def test_the_vocabulary_covers_every_example():
    rng = random.Random(2)
    for make in (ancestor_example, specialist_example):
        for _ in range(500):
            prompt, completion = make(rng)
            assert len(encode(prompt + completion)) == len(prompt + completion)
            assert set(prompt + completion) <= set(CHARACTERS)


def test_corruption_changes_one_digit():
    rng = random.Random(3)
    for _ in range(100):
        changed = corrupt(rng, "37+48=85;A:85")
        differing = [
            i for i, (a, b) in enumerate(zip(changed, "37+48=85;A:85", strict=True)) if a != b
        ]
        assert len(differing) == 1
        assert changed[differing[0]].isdigit()
