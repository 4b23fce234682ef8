"""The world is a function of its seed, says what it draws, and keeps apart what must be unseen."""

import random
from collections import Counter

import numpy as np
import pytest

from metabridge.eval.detect.flatland import detect
from metabridge.training.flatland.captions import NUMBERS, PREFIXES, SUFFIXES, TAGS, bare, captioned, plural, split
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS, pairing_held_out
from metabridge.training.flatland.lessons import (
    AGAIN,
    describe,
    details,
    fact_lessons,
    picture_lesson,
    reading_lesson,
    second_turn,
    text_lesson,
)
from metabridge.training.flatland.prompts import KINDS, chance, composition_prompts, draw_reasoning, reasoning_prompts
from metabridge.training.flatland.rows import row
from metabridge.training.flatland.world import COLORS, HELD_OUT_PAIRS, SHAPES, draw


def test_a_row_is_a_function_of_its_seed():
    for seed in range(20):
        one, two = row(seed, think=0.5), row(seed, think=0.5)
        assert (one.prompt, one.thought) == (two.prompt, two.thought)
        assert np.array_equal(np.asarray(one.target), np.asarray(two.target))
    assert len({row(seed, 0.0).prompt for seed in range(200)}) > 100


def test_no_training_row_shows_an_evaluation_text_or_a_held_out_pair():
    evaluated = {p.text for tag in TAGS for p in composition_prompts(tag, 100, seed=0)}
    for seed in range(3000):
        c = captioned(random.Random(seed))
        assert split(c.text) == "train" and c.text not in evaluated
        assert not {(o.color, o.shape) for o in c.scene.objects} & HELD_OUT_PAIRS


def test_held_out_pairs_are_a_tenth_and_hide_no_color_or_shape():
    assert len(HELD_OUT_PAIRS) / (len(COLORS) * len(SHAPES)) == pytest.approx(0.11, abs=0.01)
    seen = {(c, s) for c in COLORS for s in SHAPES} - HELD_OUT_PAIRS
    assert {c for c, _ in seen} == set(COLORS) and {s for _, s in seen} == set(SHAPES)


def test_fifteen_percent_of_pairings_are_held_out_of_the_rewrites():
    pairings = [("color", f, s) for f in COLOR_FACTS for s in SHAPES] + [("shape", f, c) for f in SHAPE_FACTS for c in COLORS]
    assert np.mean([pairing_held_out(*p) for p in pairings]) == pytest.approx(0.15, abs=0.04)
    held = {p.text for kind in KINDS for p in reasoning_prompts(kind, 40, seed=0, held_out=True)}
    taught = {draw_reasoning(random.Random(seed))[0] for seed in range(5000)}
    assert len(held) > 200 and not held & taught


def test_every_fact_is_asked_and_answers_are_spread():
    assert len(fact_lessons()) == len(COLOR_FACTS) + len(SHAPE_FACTS) + len(NUMBER_FACTS)
    for facts, answers in ((COLOR_FACTS, set(COLORS)), (SHAPE_FACTS, set(SHAPES)), (NUMBER_FACTS, {1, 2, 3, 4})):
        counts = Counter(facts.values())
        assert set(counts) == answers and max(counts.values()) == min(counts.values())


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_has_a_hundred_distinct_unseen_prompts(tag):
    prompts = composition_prompts(tag, 100, seed=0)
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == 100
    assert all(split(p.text) == "eval" and not p.held_out for p in prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_a_hundred_prompts_and_a_chance(kind):
    prompts = reasoning_prompts(kind, 100, seed=0)
    assert len({p.text for p in prompts}) == 100 and not any(p.held_out for p in prompts)
    assert prompts == reasoning_prompts(kind, 100, seed=0)
    assert 0 < chance(kind) <= 0.5


@pytest.mark.parametrize(
    ("kind", "text", "rewrite"),
    [
        ("color_fact", "a star colored like an amethyst", "a purple star"),
        ("number_fact", "as many triangles as a dog has legs", "four triangles"),
        ("arithmetic", "five minus three triangles", "two triangles"),
        ("two_hop", "the color of denim on the shape of a chessboard", "a blue square"),
        ("negation", "two shapes, a triangle and a star; no stars", "a triangle"),
        ("comparison", "the larger group: two circles or a triangle", "two circles"),
    ],
)
def test_rewrites_are_right(kind, text, rewrite):
    assert {p.text: p.rewrite for p in reasoning_prompts(kind, 100, seed=0)}[text] == rewrite


def test_captions_are_stripped_to_their_meaning():
    for prefix in PREFIXES:
        for suffix in SUFFIXES:
            assert bare(f"{prefix}a red star left of a blue circle{suffix}") == "a red star left of a blue circle"


def test_lessons_do_not_change_with_time():
    assert text_lesson(random.Random(3)) == text_lesson(random.Random(3))
    first, again = picture_lesson(random.Random(5)), picture_lesson(random.Random(5))
    assert (first.question, first.answer) == (again.question, again.answer)


def test_questions_on_a_text_have_its_answers():
    assert details("two red stars") == [("What shape?", "star"), ("How many stars?", "two"), ("What color?", "red")]
    assert details("a red star left of a blue cross") == [
        ("Which shapes?", "star cross"),
        ("How many stars?", "one"),
        ("How many crosses?", "one"),
        ("What color is the star?", "red"),
        ("What color is the cross?", "blue"),
    ]
    for seed in range(200):
        lesson = reading_lesson(random.Random(seed))
        text, _, question = lesson.question.partition(". ")
        asked = question.removesuffix("?").split()[-1]
        groups = [group.split() for group in text.replace(" or ", " and ").split(" and ")]
        named = next(group for group in groups if group[-1] == asked or plural(group[-1]) == asked)
        assert lesson.answer == (named[1] if question.startswith("What") else {"a": "one", "an": "one"}.get(named[0], named[0]))


def test_a_second_turn_asks_what_was_said_and_not_what_was_asked():
    lessons = [second_turn(random.Random(seed)) for seed in range(300)]
    assert all(len(lesson.before) == 1 for lesson in lessons)
    repeats = [lesson for lesson in lessons if lesson.question == AGAIN]
    assert 80 < len(repeats) < 160 and all(lesson.answer == lesson.before[0].answer for lesson in repeats)
    assert all((lesson.question, lesson.answer) in details(lesson.before[0].answer) for lesson in lessons if lesson.question != AGAIN)


def test_a_scene_is_described_in_reading_order():
    for seed in range(300):
        c = captioned(random.Random(seed))
        text = describe(c.scene)
        assert all(o.color in text and o.shape in text for o in c.scene.objects)
        if len({o.shape for o in c.scene.objects}) == 2:
            assert text.index(c.scene.objects[0].shape) < text.index(c.scene.objects[1].shape)


def test_pictures_are_rgb_64():
    image = draw(captioned(random.Random(0)).scene)
    assert image.size == (64, 64) and image.mode == "RGB"


def test_think_rows_carry_the_caption_as_thought_and_seldom_as_prompt():
    rows = [row(seed, think=1.0) for seed in range(500)]
    assert all(r.thought and split(r.thought) == "train" for r in rows)
    assert np.mean([bare(r.thought) == r.thought for r in rows]) > 0.7  # as a brain's own thoughts are
    assert np.mean([r.prompt == r.thought for r in rows]) < 0.05
    assert row(0, think=0.0).thought is None


def test_no_row_of_a_connector_names_a_fact():
    facts = [*COLOR_FACTS, *SHAPE_FACTS, *NUMBER_FACTS]
    prompts = [row(seed, think=1.0).prompt for seed in range(3000)]
    assert not [prompt for prompt in prompts if any(fact in prompt for fact in facts)]
    assert any("colored like that" in prompt for prompt in prompts) and any("as many" in prompt for prompt in prompts)


def test_captions_in_other_words_show_the_form_of_a_reasoning_prompt_and_no_fact():
    facts = [*COLOR_FACTS, *SHAPE_FACTS, *NUMBER_FACTS]
    rows = [row(seed, think=0.0, reworded=1.0) for seed in range(300)]
    assert not [r.prompt for r in rows if any(fact in r.prompt for fact in facts)]
    assert {"a red heart", "three squares", "a star"} <= {r.caption for r in rows}
    forms = ("colored like", "shaped like", "as many", "on the shape of")
    assert all(any(form in r.prompt for r in rows) for form in forms)
    for r in rows:
        found = [(o.color, o.shape) for o in detect(r.target)]
        assert not HELD_OUT_PAIRS & set(found)
        words = r.caption.split()
        assert all(
            (color in words or not set(COLORS) & set(words)) and (shape in words or plural(shape) in words) for color, shape in found
        )
        assert len(found) == next((n for n, word in enumerate(NUMBERS) if word == words[0]), 1)


def test_a_share_of_captions_in_other_words_leaves_the_thoughts_alone():
    plain, mixed = ([row(seed, 0.5, share) for seed in range(400)] for share in (0.0, 0.5))
    assert [r.thought for r in plain] == [r.thought for r in mixed]
    assert np.mean([r.caption is not None for r in mixed if r.thought is None]) == pytest.approx(0.5, abs=0.1)
