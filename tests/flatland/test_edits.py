"""Edits, dialogues and pictures given: what is said is what changes, and nothing else."""

from __future__ import annotations

import random

import pytest

from metabridge.eval.detect.flatland import Found, detect
from metabridge.training.flatland.captions import split
from metabridge.training.flatland.dialogues import dialogue, frames
from metabridge.training.flatland.edits import EDITS, Edit, new_edit
from metabridge.training.flatland.given import compose, reconstruct
from metabridge.training.flatland.lessons import dialogue_lesson, edit_lesson
from metabridge.training.flatland.picture_rows import PICTURE_ROWS, misread
from metabridge.training.flatland.places import CORNERS, MIDDLE, PLACES, Object, describe, layout_of, place_of, placed
from metabridge.training.flatland.rows import row
from metabridge.training.flatland.world import HELD_OUT_PAIRS, Scene, draw

MANY = 300


def kinds(scene):
    return sorted((thing.color, thing.shape, place_of(thing)) for thing in scene.objects)


def standing(found: Found) -> Object:
    """By the middle of its box: a heart's or a triangle's centre of mass is not where it was put."""
    left, top, right, bottom = found.box
    return Object(found.shape, found.color, (left + right) / 2, (top + bottom) / 2, 0.0)


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_changes_what_it_says_and_nothing_else(kind):
    for seed in range(MANY):
        e = new_edit(random.Random(seed), kind)
        before, after = set(e.source.objects), set(e.target.objects)
        gone, come = before - after, after - before
        assert set(e.kept) == before & after and e.source != e.target
        if kind in ("recolor", "replace", "move"):
            assert len(gone) == len(come)
            for old, new in zip(sorted(gone, key=lambda o: (o.x, o.y)), sorted(come, key=lambda o: (o.x, o.y)), strict=True):
                stays = {"recolor": ("shape", "size", "x", "y"), "replace": ("color", "size", "x", "y"), "move": ("shape", "color", "size")}
                assert all(getattr(old, name) == getattr(new, name) for name in stays[kind])
        elif kind == "add":
            assert not gone and len(come) == 1
            (new,) = come
            assert place_of(new) in e.text and new.color in e.text and new.shape in e.text
        else:
            assert not come and gone
            named = {thing.shape for thing in (gone if kind == "remove" else after)}
            assert all(shape in e.text for shape in named)


def test_drawings_of_edits_are_what_their_captions_say():
    for seed in range(MANY):
        e = new_edit(random.Random(seed), allow_held_out=True)
        for scene in (e.source, e.target):
            found = [standing(f) for f in detect(draw(scene))]
            assert kinds(Scene(tuple(found))) == kinds(scene)


def test_training_and_evaluation_share_no_instruction_and_training_shows_no_held_out_pair():
    said = {wanted: {new_edit(random.Random(seed), wanted=wanted).text for seed in range(MANY)} for wanted in ("train", "eval")}
    assert not said["train"] & said["eval"]
    assert all(split(text) == wanted for wanted, texts in said.items() for text in texts)
    assert not any(new_edit(random.Random(seed)).held_out for seed in range(MANY))
    assert any(new_edit(random.Random(seed), allow_held_out=True).held_out for seed in range(MANY))
    for seed in range(MANY):
        pairs = {(o.color, o.shape) for c in (compose(random.Random(seed)), reconstruct(random.Random(seed))) for o in c.target.objects}
        assert not pairs & HELD_OUT_PAIRS


def test_places_are_told_apart_and_said():
    for seed in range(MANY):
        scene = placed(random.Random(seed))
        assert {place_of(thing) for thing in scene.objects} <= set(layout_of(scene))
        if layout_of(scene) == CORNERS:
            assert all(place_of(thing) in describe(scene) for thing in scene.objects)
    assert describe(placed(random.Random(0), most=1)).startswith(("a ", "an "))
    assert set(PLACES) == {place for seed in range(MANY) for place in map(place_of, placed(random.Random(seed)).objects)}


def test_a_dialogue_goes_on_from_what_was_drawn():
    for seed in range(MANY):
        said = dialogue(random.Random(seed))
        assert said[0].kind == "draw" and all(turn.kind in EDITS for turn in said[1:])
        for turn in said[1:]:
            if " it " in f" {turn.text} ":
                assert turn.kind not in ("add", "keep")
        first, second, third = frames(random.Random(seed))
        (thing,) = first.scene.objects
        for later in (second, third):
            assert any((o.color, o.shape, o.size) == (thing.color, thing.shape, thing.size) for o in later.scene.objects)
        assert second.kind == "move" and third.kind in ("add", "move")


def test_it_is_what_was_spoken_of_last():
    found = 0
    for seed in range(MANY):
        said = dialogue(random.Random(seed), turns=3)
        for before, turn, earlier in zip(said[1:], said[2:], said, strict=False):
            if " it " in f" {turn.text} " and len(before.scene.objects) > 1:
                changed = set(before.scene.objects) - set(earlier.scene.objects)
                gone = set(before.scene.objects) - set(turn.scene.objects)
                assert not gone or {o.shape for o in gone} == {o.shape for o in changed}
                found += 1
    assert found > 20


def test_two_pictures_make_one():
    for seed in range(MANY):
        mixed = compose(random.Random(seed), "mix")
        (a,), (b,), (c,) = (scene.objects for scene in (*mixed.sources, mixed.target))
        assert (c.color, c.shape) in ((a.color, b.shape), (b.color, a.shape)) and place_of(c) == MIDDLE[0]
        color_first = "color of the first" in mixed.text or "color from picture 1" in mixed.text
        assert color_first == (c.color == a.color) or "in the color of the first" in mixed.text
        both = compose(random.Random(seed), "both")
        assert [(o.color, o.shape) for o in both.target.objects] == [(s.objects[0].color, s.objects[0].shape) for s in both.sources]


def test_lessons_on_pictures_end_in_the_caption_of_what_should_be_drawn():
    lesson = edit_lesson(random.Random(3))
    assert lesson.images and lesson.question.startswith("Describe the picture to draw: ")
    three = next(d for d in (dialogue_lesson(random.Random(seed)) for seed in range(20)) if len(d.before) == 2)
    assert [len(turn.images) for turn in (*three.before, three)] == [0, 1, 1]
    assert all(not turn.before for turn in three.before)


@pytest.mark.parametrize("task", sorted(PICTURE_ROWS))
def test_rows_on_pictures_end_in_their_target(task):
    make, thinks = PICTURE_ROWS[task], 0
    for seed in range(60):
        row, again = make(seed, 0.5), make(seed, 0.5)
        assert (row.prompt, row.thought, row.history == again.history) == (again.prompt, again.thought, True)
        assert row.target is not None and split(row.prompt) == "train"
        thinks += row.thought is not None
        for turn in row.history:
            assert turn.think == (row.thought is not None and turn.role == "user") and bool(turn.images) == (turn.role == "assistant")
        if task == "compose":
            assert len(row.images) == 2
        if task == "reconstruct":
            assert row.images[0].tobytes() == row.target.tobytes()
        if task == "edit":
            assert row.images[0].tobytes() != row.target.tobytes()
    assert 15 < thinks < 45


def test_misread_thoughts_take_one_object_for_another():
    """In nothing but its color or place: every shape of the target is there, once, where something can stand."""
    wrong = 0
    for seed in range(MANY):
        e = new_edit(random.Random(seed))
        seen = misread(random.Random(seed), e.source, e.target)
        wrong += describe(seen) != describe(e.target)
        assert sorted(o.shape for o in seen.objects) == sorted(o.shape for o in e.target.objects)
        assert len({place_of(o) for o in seen.objects}) == len(seen.objects)
        assert {o.color for o in seen.objects} <= {o.color for o in (*e.source.objects, *e.target.objects)}
        assert not Edit("", "", e.target, seen).held_out
    assert 0.5 < wrong / MANY < 0.8  # one object alone is taken for no other
    right, misled = ([PICTURE_ROWS["edit"](seed, 1.0, misread=share) for seed in range(MANY)] for share in (0.0, 1.0))
    assert [row.prompt for row in right] == [row.prompt for row in misled]
    changed = [a for a, b in zip(right, misled, strict=True) if a.thought != b.thought]
    assert 80 < len(changed) < 150 and not any(
        word in row.prompt.split() for row in changed for word in ("add", "replace", "turn", "change")
    )
    assert all(a.target.tobytes() == b.target.tobytes() for a, b in zip(right, misled, strict=True))


def test_a_share_of_the_dialogues_keeps_one_object():
    """In every picture of one shape, color and, up to how it meets the pixels, size."""
    for seed in range(60):
        row = PICTURE_ROWS["dialogue"](seed, 0.5, frames=1.0)
        pictures = [*(turn.images[0] for turn in row.history if turn.images), row.target]
        (first,) = detect(pictures[0])
        for picture in pictures[1:]:
            (same,) = (f for f in detect(picture) if (f.color, f.shape) == (first.color, first.shape))
            assert all(abs(a - b) <= 1 for a, b in zip(sides(same.box), sides(first.box), strict=True))
    none, some, every = ([PICTURE_ROWS["dialogue"](seed, 0.5, frames=share).prompt for seed in range(MANY)] for share in (0.0, 0.5, 1.0))
    assert 0.3 < sum(a == b for a, b in zip(some, every, strict=True)) / MANY < 0.7
    assert all(b in (a, c) for a, b, c in zip(none, some, every, strict=True))


def sides(box: tuple[int, int, int, int]) -> tuple[int, int]:
    left, top, right, bottom = box
    return right - left, bottom - top


def test_captions_of_placed_objects_are_what_is_drawn():
    made = [row(seed, think=0.5, placed=1.0) for seed in range(100)]
    for example in made:
        found = Scene(tuple(standing(f) for f in detect(example.target)))
        caption = example.thought or example.prompt
        assert all(
            thing.color in caption and thing.shape in caption and place_of(thing) in caption
            for thing in found.objects
            if len(found.objects) != 2
        )
    assert 25 < sum(example.thought is not None for example in made) < 75
