"""Flatland's edits and conversations on the harness: pictures whose scores are known, the real conversation, ways to draw."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metabridge.adapters import assemble
from metabridge.bridge.conversation import Conversation
from metabridge.bridge.errors import UserError
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.eval import benchmarks, leaderboard, plan, report, result, score, store
from metabridge.eval.compare import Side, families
from metabridge.eval.generate import DRAWN, generate
from metabridge.eval.items import MODEL_ERROR, Item, Services
from metabridge.eval.score import Scored
from metabridge.eval.scorers.scene_edits import verdict, worst
from metabridge.eval.sheet import sheet
from metabridge.eval.subjects.bridge import BridgeSubject
from metabridge.training.flatland.captions import split
from metabridge.training.flatland.edits import EDITS
from metabridge.training.flatland.world import HELD_OUT_PAIRS
from tests import tiny
from tests.eval import scene_painter as painter
from tests.eval.oracle import BRIDGE, CODE, GENERATION

BENCHMARK = benchmarks.load("flatland_edit")
ITEMS = BENCHMARK.items(None)
SOME = [item for item in ITEMS if item.number % 10 == 0]
BY_KIND = {kind: [item for item in SOME if item.group == kind] for kind in BENCHMARK.groups}


def made(subject: Any, limit: int = 1, images: int = 1, **settings: Any) -> plan.Plan:
    asked = {"height": None, "width": None, **GENERATION, **settings}
    return plan.make(BENCHMARK, BRIDGE, subject.generation(asked), CODE, limit={"all": limit}, images=images)


def evaluate(planned: plan.Plan, folder: Path, subject: Any) -> tuple[dict[str, Any], list[Scored]]:
    planned = plan.save(planned, folder)
    generate(planned, folder, subject)
    scorer = BENCHMARK.scorer_module().load({}, Services(None))
    score.score(planned, folder, scorer)
    identity = score.identity_of(planned, scorer)
    scored = score.read(planned, folder, score.tag(identity))
    summary = result.summarize(planned, scored, identity, Services(None), {})
    result.write(summary, folder)
    return summary, scored


def told(values: Mapping[str, float], *names: str) -> tuple[float, ...]:
    assert all(values[f"{name}.of"] == 1 for name in names)
    return tuple(values[name] for name in names)


def test_prompts_are_many_unseen_and_of_pairs_that_are_held_out_or_not() -> None:
    seen = Counter(item.group for item in ITEMS if not item.held_out)
    held = Counter(item.group for item in ITEMS if item.held_out)
    assert set(seen) == set(held) == set(BENCHMARK.groups) and len(ITEMS) == BENCHMARK.count == len({item.number for item in ITEMS})
    assert set(seen.values()) == {50} and set(held.values()) == {math.ceil(50 / 4)}
    for item in ITEMS:
        assert all(split(text) == "eval" for text in item.turns or (item.text,))
        pairs = {(color, shape) for scene in (*item.want["sources"], *item.want["targets"]) for shape, color, *_ in scene}
        assert bool(pairs & HELD_OUT_PAIRS) == item.held_out
        assert len(item.images) == len(item.want["sources"]) and len(item.want["targets"]) == max(1, len(item.turns))
    assert len({json.dumps([item.text, item.want]) for item in ITEMS}) == len(ITEMS)
    assert BENCHMARK.items(None) == ITEMS


def test_a_prompt_without_turns_has_the_hash_it_always_had() -> None:
    items = benchmarks.load("flatland").items(None)[:5]
    rows = [asdict(item) for item in items]
    assert all(row.pop("turns") == () for row in rows)
    before = hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    assert plan.data_hash(items) == before


@pytest.mark.parametrize("kind", BENCHMARK.groups)
def test_right_pictures_score_one(kind: str) -> None:
    for item in BY_KIND[kind]:
        found = verdict(item, painter.picture(item))
        assert found.reason == "" and found.values["correct"] == 1
        counted = [name for name in found.values if found.values.get(f"{name}.of")]
        assert counted == {"edit": ["change", "rest", "outside"], "turns": ["turn_1", "turn_2", "turn_3"]}.get(
            "edit" if kind in EDITS else "turns" if item.turns else "", []
        )
        assert all(found.values[name] == (name != "outside") for name in counted)


@pytest.mark.parametrize("kind", BENCHMARK.groups)
@pytest.mark.parametrize("change", [painter.wrong_color, painter.wrong_place, painter.one_more])
def test_wrong_pictures_score_zero_and_say_why(kind: str, change: painter.Change) -> None:
    for item in BY_KIND[kind]:
        found, thing = verdict(item, painter.picture(item, change)), painter.changed(item)
        if kind == "frames" and change is painter.wrong_place:
            assert found.values["correct"] == 1 and found.values["turn_3"] == 0  # one and the same object, not where it should be
            continue
        if kind == "frames" and change is painter.one_more:
            assert found.values["correct"] == 1 and found.values["turn_3"] == 0 and told(found.values, "turn_1", "turn_2") == (1, 1)
            continue
        assert found.values["correct"] == 0
        number = len(painter.scenes(item)[-1].objects)
        if change is painter.one_more:
            assert f"{number + 1} objects, wanted {number} (shows " in found.reason
        else:
            assert f"{thing.color} {thing.shape}" in found.reason
        if item.turns:
            assert told(found.values, "turn_1", "turn_2", "turn_3") == (1, 1, 0) and found.detail["turns"][:2] == ["", ""]


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_is_told_from_what_must_stay(kind: str) -> None:
    """(change made, rest kept) of an edit done, not done, done with the rest moved, and done with one more beside it."""
    for item in BY_KIND[kind]:

        def of(change: painter.Change, item: Item = item) -> tuple[float, ...]:
            return told(verdict(item, painter.picture(item, change)).values, "change", "rest")

        assert of(painter.right) == (1, 1) and of(painter.nothing_done) == (0, 1) and of(painter.one_more) == (1, 0)
        assert of(painter.rest_moved) == ((1, 0) if painter.kept(item) else (1, 1))
        if kind not in ("remove", "keep"):
            assert of(painter.wrong_color) == (0, 1)
    assert any(painter.kept(item) for item in BY_KIND[kind])


def test_what_stays_may_be_three_pixels_off_and_no_more() -> None:
    item = next(item for item in BY_KIND["recolor"] if painter.kept(item))
    for off, kept in [(2, 1.0), (3, 1.0), (4, 0.0)]:
        thing = painter.kept(item)
        assert thing is not None
        moved = painter.swapped(painter.scenes(item), thing, painter.replace(thing, x=thing.x + (off if thing.x < 32 else -off)))
        found = verdict(item, painter.picture(item, lambda _, __, moved=moved: moved))
        assert found.values["rest"] == kept and (f"{thing.color} {thing.shape} is {off}.0 px off" in found.reason) == (not kept)


def test_pixels_outside_of_what_changes_are_counted() -> None:
    item = BY_KIND["add"][0]
    picture = np.array(painter.picture(item))
    assert verdict(item, Image.fromarray(np.clip(picture.astype(int) - 2, 0, 255).astype(np.uint8))).values["outside"] == 2.0
    new = painter.changed(item)
    picture[int(new.y), int(new.x)] = 0  # where something was to change, anything may
    assert verdict(item, Image.fromarray(picture)).values["outside"] == 0.0


def test_one_object_in_three_frames_keeps_its_size() -> None:
    item = BY_KIND["frames"][0]
    thing = painter.scenes(item)[0].objects[0]
    for grown, right in [(0.8, 1.0), (2.0, 0.0)]:
        shown = painter.scenes(item)
        old = next(o for o in shown[1].objects if o.shape == thing.shape)
        shown = painter.swapped(shown, old, painter.replace(old, size=old.size + grown), turn=1)
        found = verdict(item, painter.picture(item, lambda _, __, shown=shown: shown))
        assert found.values["correct"] == right and told(found.values, "turn_2") == (1,)
        assert ("px larger or smaller than at first" in found.reason) == (not right)
    assert verdict(item, Image.new("RGB", (192, 64), (245, 245, 240))).reason.startswith(
        f"1: no {thing.color} {thing.shape} (shows nothing)"
    )


def test_a_larger_picture_is_measured_at_the_world_s_own_scale() -> None:
    for kind in ("recolor", "dialogue"):
        item = BY_KIND[kind][0]
        small = painter.picture(item)
        assert verdict(item, small.resize((4 * small.width, 256), Image.Resampling.NEAREST)).values["correct"] == 1


def test_a_whole_evaluation_and_its_sheets(tmp_path: Path) -> None:
    """Right with a thought, wrong without: known numbers, paired differences, a tile a turn."""

    def change(item: Item, row: str) -> painter.Change:
        return painter.right if row == "think" else (painter.wrong_color, painter.one_more)[item.number % 2]

    planned = made(painter.Painter(), limit=4)
    summary, scored = evaluate(planned, tmp_path, painter.Painter(change))
    for part in ("edit", "given"):
        assert summary["scores"][part]["think"]["correct"]["overall"]["value"] == 1
        assert summary["scores"][part]["implicit"]["correct"]["overall"]["value"] == 0
        assert summary["scores"][part]["query-only"]["correct"]["overall"]["value"] == 0
        assert summary["differences"]["think - implicit"][part]["correct"]["overall"]["value"] == 1
        assert summary["differences"]["implicit - query-only"][part]["correct"]["overall"]["value"] == 0
    assert summary["scores"]["edit"]["think"]["outside"]["overall"]["value"] == 0
    assert summary["scores"]["given"]["think"]["change"] == {} and summary["scores"]["edit"]["think"]["turn_1"] == {}
    assert summary["scores"]["dialogue"]["think"]["turn_3"]["dialogue"]["value"] == 1
    assert summary["thoughts"]["overall"]["value"] == 1 and summary["thoughts"]["dialogue"]["n"] == 4
    assert summary["held_out"]["scores"]["edit"]["think"]["correct"]["overall"]["value"] == 1
    page = report.page(BENCHMARK, scored, summary, tmp_path)
    report.write(page, tmp_path / "report.html")
    assert [table.title for table, _ in page.tables][:5] == [
        "Edits",
        "Edits: other measures",
        "Pictures given",
        "Conversations",
        "Conversations: other measures",
    ]
    assert page.tables[0][0].columns == ("kind", "implicit", "think", "query-only", "think - implicit", "implicit - query-only")
    assert (tmp_path / "sheets/think-dialogue.png").exists()
    side = Side(tmp_path, planned, summary, scored)
    titles = {family.title for family in families(side, side)}
    assert "Edits: the prompt alone: rest kept" in titles and "Conversations: the prompt alone: rest kept" not in titles
    assert [head for head in leaderboard.tables([side])[0].columns if head.startswith("Pictures")] == ["Pictures given right"]
    tiles = {group: [s for s in scored if s.sample.item.group == group][:2] for group in ("recolor", "mix", "dialogue")}
    widths = {group: sheet(shown, tmp_path, BENCHMARK).width for group, shown in tiles.items()}
    # given, drawn, asked for, twice; four tiles of a mix; three turns, twice
    assert widths["recolor"] == widths["dialogue"] == 6 * 210 + 18 and widths["mix"] == 4 * 210 + 18


@pytest.fixture(scope="module")
def looking(brain_folder: Path, hand_folder: Path) -> BridgePipeline:
    """A bridge whose hand is given pictures, and heeds them."""
    tree = tiny.recipe_tree(brain_folder, hand_folder)
    tree["hand"] |= {"references": 2}
    bridge = assemble(Recipe.from_dict(tree))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in bridge.hand.named_parameters():
            if "reference_input" in name:
                parameter.normal_(std=0.5)
    return BridgePipeline(bridge, "tiny")


def test_a_conversation_is_drawn_turn_by_turn(looking: BridgePipeline, tmp_path: Path) -> None:
    subject = BridgeSubject(looking, {})
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 64, "width": 64}
    planned = made(subject)
    drawn = {}
    for row in ("bridge", "think", "query-only"):
        (sample,) = [s for s in planned.samples() if s.row == row and s.item.group == "dialogue" and not s.item.held_out]
        (drawn[row],) = subject.draw(row, [sample], [[]], settings)
    talk = Conversation(looking, think=False, **settings)
    for number, text in enumerate(sample.item.turns):
        turn = talk.draw(text, seed=sample.seed + number * 10**9)
        assert turn.drawn is not None and drawn["bridge"].image is not None
        assert np.array_equal(np.asarray(turn.drawn), np.asarray(drawn["bridge"].image.crop((64 * number, 0, 64 * number + 64, 64))))
    assert drawn["bridge"].thought is None and drawn["think"].thought is not None and drawn["think"].thought.count("\n") == 2
    assert drawn["bridge"].image is not None and drawn["query-only"].image is not None
    first, later = ((0, 0, 64, 64), (64, 0, 192, 64))
    shown, hidden = drawn["bridge"].image, drawn["query-only"].image
    assert np.array_equal(shown.crop(first), hidden.crop(first)) and not np.array_equal(shown.crop(later), hidden.crop(later))


def test_a_hand_that_is_given_no_pictures(looking: BridgePipeline, bridge: Any) -> None:
    source = Image.new("RGB", (64, 64), "red")

    def latents(pipeline: BridgePipeline, **settings: Any) -> torch.Tensor:
        return pipeline("a star", source, num_inference_steps=1, seeds=[3], output_type="latent", **settings).images[0]

    assert not torch.equal(latents(looking), latents(looking, references=False))
    with pytest.raises(UserError, match=r"^references: False given, but this hand is given no source pictures in any case; leave it out$"):
        latents(BridgePipeline(bridge), references=False)


def test_stop_and_resume_and_shards_give_the_same_result(looking: BridgePipeline, tmp_path: Path) -> None:
    subject = BridgeSubject(looking, BRIDGE)
    planned = made(subject, num_inference_steps=1)
    planned.identity["generation"]["rows"].pop("think")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(planned, whole, subject)
    plan.save(planned, parts)
    steps = 0

    def stop(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 9:  # in the middle of a conversation
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(planned, parts, BridgeSubject(looking, BRIDGE, stop))
    assert not (parts / DRAWN).exists() or len(store.read(parts / DRAWN)) % plan.CHUNK == 0
    generate(planned, parts, subject, shard=(1, 2))
    evaluate(planned, parts, subject)
    assert (parts / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    for sample in planned.samples():
        assert (parts / sample.file).read_bytes() == (whole / sample.file).read_bytes()


def test_a_conversation_that_fails_is_one_wrong_picture(looking: BridgePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, turns = looking.bridge.hand, 0
    draw = hand.draw

    def spoiled(*arguments: Any) -> torch.Tensor:
        nonlocal turns
        turns += 1
        return draw(*arguments) * (torch.nan if turns == 2 else 1)

    monkeypatch.setattr(hand, "draw", spoiled)
    subject = BridgeSubject(looking, {})
    sample = next(s for s in made(subject).samples() if s.item.turns)
    (drawn,) = subject.draw("bridge", [sample], [[]], {"num_inference_steps": 1})
    assert (drawn.image, drawn.state, drawn.reason) == (None, MODEL_ERROR, "picture 2 of 3 has NaN or infinite pixels")
    assert turns == 2
    values = worst({}, sample.item)
    assert (values["correct"], values["turn_1"], values["turn_1.of"], values["outside.of"]) == (0, 0, 1, 0)
    assert worst({}, BY_KIND["add"][0])["outside"] == 255


@pytest.mark.parametrize(
    ("name", "row", "kind", "line"),
    [
        ("flatland_edit", "native", "bridge", "--rows native: pictures come with the prompts of flatland_edit, "),
        ("flatland_edit", "rewrite", "bridge", "--rows rewrite: flatland_edit has conversations, in which the prompts stay; "),
        ("flatland", "query-only", "bridge", "--rows query-only: no pictures come with the prompts of flatland, "),
        ("flatland_edit", "bridge", "endpoint", "flatland_edit: some of its prompts are conversations, which only a bridge draws; "),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(name: str, row: str, kind: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        plan.make(benchmarks.load(name), {**BRIDGE, "kind": kind}, GENERATION, CODE, rows=[row])
    assert str(error.value).startswith(line)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    planned = plan.save(made(painter.Painter()), tmp_path)
    assert plan.load(tmp_path).items == planned.items and planned.items[-1].turns
