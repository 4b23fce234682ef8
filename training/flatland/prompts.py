"""Prompts for evaluation and for the brain's think-rewrites: the six composition tags, and seven kinds that need reasoning.

Every reasoning prompt has one canonical picture and one canonical rewrite, a plain caption.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from metabridge.training.flatland.captions import NUMBERS, Want, captioned, counted, noun, plural
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS, pairing_held_out
from metabridge.training.flatland.world import COLORS, HELD_OUT_PAIRS, SHAPES, pick

_ANSWERS = {  # what a prompt says in a fact's place where no fact is needed
    **COLOR_FACTS,
    **{fact: noun(None, shape) for fact, shape in SHAPE_FACTS.items()},
    **{fact: NUMBERS[number] for fact, number in NUMBER_FACTS.items()},
}

KINDS = ("color_fact", "shape_fact", "number_fact", "arithmetic", "two_hop", "negation", "comparison")


@dataclass(frozen=True)
class Prompt:
    id: str
    kind: str  # a tag or a reasoning kind
    text: str
    rewrite: str  # the plain caption of the canonical picture; the text itself for composition
    want: Want
    held_out: bool  # a fact x attribute pairing or a color x shape pair that no training showed


@dataclass(frozen=True)
class _Drawn:
    text: str
    rewrite: str
    want: Want
    held_out: bool


def composition_prompts(tag: str, n: int, seed: int, held_out: bool = False) -> list[Prompt]:
    """n distinct unseen texts of a tag (fewer where the grammar has no more); `held_out`: only captions that name a held-out pair."""
    if held_out and tag not in ("colors", "color_attr"):
        return []

    def draw(rng: random.Random) -> _Drawn:
        c = captioned(rng, tag, "eval", allow_held_out=held_out)
        return _Drawn(c.text, c.text, c.want, any(pair in HELD_OUT_PAIRS for pair in c.want.objects))

    return _distinct(draw, tag, n, seed, held_out)


def reasoning_prompts(kind: str, n: int, seed: int, held_out: bool = False) -> list[Prompt]:
    """n distinct prompts of a kind (fewer where there are no more), all on seen pairings or all on held-out ones."""
    if kind not in _KIND:
        raise ValueError(f"no kind {kind!r} (there are {', '.join(KINDS)})")
    return _distinct(_KIND[kind], kind, n, seed, held_out)


def draw_reasoning(rng: random.Random, kind: str | None = None, held_out: bool = False) -> tuple[str, str]:
    """(prompt, canonical rewrite), on a seen pairing unless asked otherwise: a row of the brain's pretraining."""
    while True:
        drawn = _KIND[kind or rng.choice(KINDS)](rng)
        if drawn.held_out == held_out:
            return drawn.text, drawn.rewrite


def reworded_caption(rng: random.Random) -> tuple[str, str, Want]:
    """(prompt, plain caption, what it asks for): a prompt on a fact with the fact's answer in its place, as "a star colored like red"."""
    while True:
        drawn = _KIND[rng.choice(("color_fact", "shape_fact", "number_fact", "two_hop"))](rng)
        text = drawn.text
        for fact in sorted(_ANSWERS, key=len, reverse=True):
            text = text.replace(fact, _ANSWERS[fact])
        if not any(pair in HELD_OUT_PAIRS for pair in drawn.want.objects):
            return text, drawn.rewrite, drawn.want


def chance(kind: str) -> float:
    """Score of a bridge that draws what the words say and guesses the fact: one over the number of answers."""
    return {
        "color_fact": 1 / len(COLORS),
        "shape_fact": 1 / len(SHAPES),
        "number_fact": 1 / 4,
        "arithmetic": 1 / 4,
        "two_hop": 1 / (len(COLORS) * len(SHAPES)),
        "negation": 1 / 2,
        "comparison": 1 / 2,
    }[kind]


def _distinct(draw: Callable[[random.Random], _Drawn], kind: str, n: int, seed: int, held_out: bool) -> list[Prompt]:
    rng = random.Random(f"{kind}/{seed}/{held_out}")
    found: dict[str, _Drawn] = {}
    for _ in range(400 * n):
        drawn = draw(rng)
        if drawn.held_out == held_out:
            found.setdefault(drawn.text, drawn)
        if len(found) == n:
            break
    mark = "-held-out" if held_out else ""
    return [Prompt(f"{kind}{mark}-{i:03d}", kind, d.text, d.rewrite, d.want, d.held_out) for i, d in enumerate(found.values())]


def _one(text: str, color: str, shape: str, held: bool) -> _Drawn:
    return _Drawn(text, noun(color, shape), Want(((color, shape),)), held or (color, shape) in HELD_OUT_PAIRS)


def _many(text: str, number: int, shape: str, held: bool = False) -> _Drawn:
    return _Drawn(text, counted(number, None, shape), Want(((None, shape),) * number), held)


def _color_fact(rng: random.Random) -> _Drawn:
    fact, shape = rng.choice(list(COLOR_FACTS)), rng.choice(SHAPES)
    text = rng.choice(("a {} with the color of {}", "a {} in the color of {}", "a {} colored like {}")).format(shape, fact)
    return _one(text, COLOR_FACTS[fact], shape, pairing_held_out("color", fact, shape))


def _shape_fact(rng: random.Random) -> _Drawn:
    fact, color = rng.choice(list(SHAPE_FACTS)), rng.choice(list(COLORS))
    text = rng.choice(("something {} with the shape of {}", "something {} in the shape of {}", "something {} shaped like {}")).format(
        color, fact
    )
    return _one(text, color, SHAPE_FACTS[fact], pairing_held_out("shape", fact, color))


def _number_fact(rng: random.Random) -> _Drawn:
    fact, shape = rng.choice(list(NUMBER_FACTS)), rng.choice(SHAPES)
    text = rng.choice(("as many {} as {}", "{}: as many as {}")).format(plural(shape), fact)
    return _many(text, NUMBER_FACTS[fact], shape, pairing_held_out("number", fact, shape))


def _arithmetic(rng: random.Random) -> _Drawn:
    shape, number, other = rng.choice(SHAPES), rng.randint(1, 4), rng.randint(1, 4)
    if rng.random() < 0.5 and number + other <= 6:
        sum_text = f"{NUMBERS[number + other]} minus {NUMBERS[other]}"
    else:
        other = rng.randint(0, number)
        sum_text = f"{NUMBERS[number - other]} plus {NUMBERS[other]}"
    text = rng.choice(("{0} {1}", "{1}: {0} of them")).format(sum_text, plural(shape))
    return _many(text, number, shape, pairing_held_out("arithmetic", sum_text, shape))


def _two_hop(rng: random.Random) -> _Drawn:
    of, like = rng.choice(list(COLOR_FACTS)), rng.choice(list(SHAPE_FACTS))
    text = rng.choice(("the shape of {1} in the color of {0}", "the color of {0} on the shape of {1}")).format(of, like)
    return _one(text, COLOR_FACTS[of], SHAPE_FACTS[like], pairing_held_out("two_hop", of, like))


def _negation(rng: random.Random) -> _Drawn:
    (c1, s1), (c2, s2) = pick(rng), pick(rng)
    while s1 == s2:
        c2, s2 = pick(rng)
    stays, gone = ((c1, s1), (c2, s2)) if rng.random() < 0.5 else ((c2, s2), (c1, s1))
    if rng.random() < 0.5:
        text = f"two shapes, {noun(None, s1)} and {noun(None, s2)}; no {plural(gone[1])}"
        return _Drawn(text, noun(None, stays[1]), Want(((None, stays[1]),)), pairing_held_out("negation", f"{s1} {s2}", gone[1]))
    text = f"{noun(c1, s1)} and {noun(c2, s2)}, but without the {gone[1]}"
    return _one(text, *stays, pairing_held_out("negation", f"{s1} {s2}", gone[1]))


def _comparison(rng: random.Random) -> _Drawn:
    s1, s2 = rng.sample(SHAPES, 2)
    n1, n2 = rng.sample(range(1, 5), 2)
    more = rng.random() < 0.5
    number, shape = max((n1, s1), (n2, s2)) if more else min((n1, s1), (n2, s2))
    text = f"{'the larger' if more else 'the smaller'} group: {counted(n1, None, s1)} or {counted(n2, None, s2)}"
    return _many(text, number, shape, pairing_held_out("comparison", f"{n1} {n2}", f"{s1} {s2}"))


_KIND: dict[str, Callable[[random.Random], _Drawn]] = {
    "color_fact": _color_fact,
    "shape_fact": _shape_fact,
    "number_fact": _number_fact,
    "arithmetic": _arithmetic,
    "two_hop": _two_hop,
    "negation": _negation,
    "comparison": _comparison,
}
assert tuple(_KIND) == KINDS
