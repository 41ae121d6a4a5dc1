"""Arithmetic with worked steps: the problems the embedded pair is trained and judged on.

A problem is a prompt such as ``37+48*2?`` and its answer ``133``. A demonstration is the text that
follows the prompt, either worked (``48*2=96;37+96=133;A:133``) or terse (``A:133``). Every prompt
whose hash falls in the reserved tenth is kept out of all training data, so problems drawn from
that tenth are unseen by construction.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

KINDS = ("chain", "product", "mixed", "paren", "remainder")
LEVELS = (1, 2, 3, 4, 5)
ANCESTOR_LEVELS = (1, 2, 3, 4)  # of level 5 the specialist sees sums, the ancestor nothing


@dataclass(frozen=True, slots=True)
class Item:
    """One problem with the steps that solve it."""

    kind: str
    level: int
    prompt: str
    steps: tuple[str, ...]
    answer: str

    def worked(self) -> str:
        return ";".join((*self.steps, f"A:{self.answer}"))

    def terse(self) -> str:
        return f"A:{self.answer}"


def is_reserved(prompt: str) -> bool:
    """True for the tenth of all prompts that no training run may see."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 10 == 0


def _number(rng: random.Random, digits: int) -> int:
    low = 10 ** (digits - 1) if digits > 1 else 2
    return rng.randrange(low, 10**digits)


def _product_steps(a: int, b: int) -> tuple[list[str], int]:
    """Split the second factor into its decimal places, then add up the parts."""
    if b < 10 or a < 10:
        return [f"{a}*{b}={a * b}"], a * b
    parts = [int(d) * 10**i for i, d in enumerate(reversed(str(b))) if d != "0"][::-1]
    steps = [f"{a}*{p}={a * p}" for p in parts]
    total = a * parts[0]
    for part in parts[1:]:
        steps.append(f"{total}+{a * part}={total + a * part}")
        total += a * part
    return steps, total


def _chain(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    terms, digits = {1: (2, 2), 2: (3, 2), 3: (3, 3), 4: (4, 3), 5: (5, 4)}[level]
    total = _number(rng, digits)
    text, steps = str(total), []
    for _ in range(terms - 1):
        term, sign = _number(rng, digits), rng.choice("+-")
        result = total + term if sign == "+" else total - term
        steps.append(f"{total}{sign}{term}={result}")
        text += f"{sign}{term}"
        total = result
    return text, steps, total


def _product(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    first, second = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (4, 3)}[level]
    a, b = _number(rng, first), _number(rng, second)
    steps, total = _product_steps(a, b)
    return f"{a}*{b}", steps, total


def _mixed(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    outer, first, second = {1: (1, 1, 1), 2: (2, 2, 1), 3: (3, 2, 1), 4: (3, 2, 2), 5: (4, 3, 2)}[
        level
    ]
    a, b, c = _number(rng, outer), _number(rng, first), _number(rng, second)
    sign = rng.choice("+-")
    steps, product = _product_steps(b, c)
    if rng.random() < 0.5:
        total = a + product if sign == "+" else a - product
        return f"{a}{sign}{b}*{c}", [*steps, f"{a}{sign}{product}={total}"], total
    total = product + a if sign == "+" else product - a
    return f"{b}*{c}{sign}{a}", [*steps, f"{product}{sign}{a}={total}"], total


def _paren(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    inner, outer = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (4, 3)}[level]
    a, b, c = _number(rng, inner), _number(rng, inner), _number(rng, outer)
    sign = rng.choice("+-")
    if sign == "-" and a < b:
        a, b = b, a
    inside = a + b if sign == "+" else a - b
    steps, total = _product_steps(inside, c)
    return f"({a}{sign}{b})*{c}", [f"{a}{sign}{b}={inside}", *steps], total


def _remainder(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    first, second = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (3, 2), 5: (5, 2)}[level]
    a, b = _number(rng, first), _number(rng, second)
    quotient = a // b
    return f"{a}%{b}", [f"{b}*{quotient}={b * quotient}", f"{a}-{b * quotient}={a % b}"], a % b


_MAKERS: dict[str, Callable[[random.Random, int], tuple[str, list[str], int]]] = {
    "chain": _chain,
    "product": _product,
    "mixed": _mixed,
    "paren": _paren,
    "remainder": _remainder,
}


def draw(rng: random.Random, kind: str, level: int, *, reserved: bool) -> Item:
    """One problem of a kind and level, from the reserved tenth or from the other nine."""
    while True:
        text, steps, answer = _MAKERS[kind](rng, level)
        prompt = f"{text}?"
        if is_reserved(prompt) == reserved:
            return Item(kind, level, prompt, tuple(steps), str(answer))


def corrupt(rng: random.Random, text: str) -> str:
    """Replace one digit of a demonstration: the noise every scraped corpus has."""
    places = [i for i, char in enumerate(text) if char.isdigit()]
    place = rng.choice(places)
    digit = rng.choice([d for d in "0123456789" if d != text[place]])
    return text[:place] + digit + text[place + 1 :]


def ancestor_example(rng: random.Random) -> tuple[str, str]:
    """(prompt, completion) of the broad mixture: every kind, mostly worked, a little noise."""
    kind = rng.choice(KINDS)
    level = rng.choices(ANCESTOR_LEVELS, weights=(15, 25, 32, 28))[0]
    item = draw(rng, kind, level, reserved=False)
    text = item.terse() if rng.random() < (0.15 if level == 1 else 0.05) else item.worked()
    return item.prompt, corrupt(rng, text) if rng.random() < 0.05 else text


def specialist_example(rng: random.Random) -> tuple[str, str]:
    """(prompt, completion) of the narrow slice: sums of any length and remainders.

    The slice is clean and reaches further than what the ancestor has seen; the easiest problems are
    mostly answered without steps, a habit that spreads to kinds the slice leaves out.
    """
    kind = rng.choices(("chain", "remainder", "mixed"), weights=(40, 50, 10))[0]
    if kind == "chain":
        level = rng.choice(LEVELS)
    elif kind == "remainder":
        level = rng.choices((1, 2, 3, 4), weights=(10, 15, 25, 50))[0]
    else:
        level = rng.choice((1, 2))
    item = draw(rng, kind, level, reserved=False)
    terse = rng.random() < (0.6 if level == 1 else 0.03)
    return item.prompt, item.terse() if terse else item.worked()
