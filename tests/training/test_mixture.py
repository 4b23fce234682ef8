"""The mixture of a recipe: rates, drops, prompts, and what it refuses."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.adapters import load
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example, Hand, Turn
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective
from metabridge.training.data import Drawn, Mixture, drop
from metabridge.training.seeds import row_seed
from tests.rows import write_jsonl, write_pictures

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def hand(hand_folder: Path) -> Hand:
    from metabridge.bridge.settings import Part

    hand: Hand = load("hands", Part("sana", {"repo": str(hand_folder)}))
    return hand


def mixture(tree: Tree, hand: Hand) -> Mixture:
    return Mixture(Recipe.from_dict(tree), hand)


def rows(tree: Tree, hand: Hand, count: int) -> list[Drawn]:
    mixed = mixture(tree, hand)
    return [mixed.row(*divmod(k, mixed.batch_size)) for k in range(count)]


def test_rows_depend_on_seed_step_and_row_alone(tree: Tree, hand: Hand) -> None:
    tree["objective"] = {"think": 0.5, "drop_text": 0.2}
    a, b = mixture(tree, hand), mixture(tree, hand)
    first = [a.row(step, index) for step in range(3) for index in range(4)]
    again = [b.row(step, index) for step in reversed(range(3)) for index in reversed(range(4))][::-1]
    for one, other in zip(first, again, strict=True):
        assert (one.example.prompt, one.example.thought, one.caption) == (other.example.prompt, other.example.thought, other.caption)
        assert one.pixels.tobytes() == other.pixels.tobytes()
    assert len({row.pixels.tobytes() for row in first}) > 10


def test_rates_of_the_guidance_rows_and_of_thoughts(tree: Tree, hand: Hand) -> None:
    tree["objective"] = {"think": 0.3, "drop_text": 0.1}
    drawn = rows(tree, hand, 2000)
    empty = [row for row in drawn if not row.example.prompt]
    thoughts = [row for row in drawn if row.example.thought]
    assert abs(len(empty) / 2000 - 0.1) < 0.03 and all(row.example.thought is None and row.caption == "" for row in empty)
    assert abs(len(thoughts) / 2000 - 0.9 * 0.3) < 0.04 and all(row.caption == row.example.thought for row in thoughts)


def test_the_teacher_is_told_the_plain_caption(tree: Tree, hand: Hand) -> None:
    """The hand's own text encoder knows captions alone; a dropped row is dropped for it too."""
    tree["objective"] = {"think": 0.0, "drop_text": 0.2}
    tree["data"][0]["reworded"] = 1.0
    drawn = rows(tree, hand, 50)
    assert all(row.caption == row.example.caption != row.example.prompt for row in drawn if row.example.prompt)
    assert {row.caption for row in drawn if not row.example.prompt} == {""}


def test_rows_on_pictures_are_taught_where_the_recipe_says_so(tree: Tree, hand: Hand) -> None:
    """A prompt on pictures is no caption: the teacher is told the thought, or nothing."""
    tree["objective"] = {"think": 0.5, "drop_text": 0.2}
    tree["data"] = [{"source": "flatland", "task": "compose"}]
    assert {row.caption for row in rows(tree, hand, 20)} == {None}
    tree["data"][0]["taught"] = True
    drawn = rows(tree, hand, 60)
    assert all(row.caption == row.example.thought for row in drawn) and 10 < sum(row.caption is not None for row in drawn) < 50
    tree["data"] = [{"source": "flatland", "taught": False}]
    assert {row.caption for row in rows(tree, hand, 20)} == {None}


@pytest.mark.parametrize("think", [0.0, 0.5, 1.0])
def test_prompts_for_the_sheet(tree: Tree, hand: Hand, think: float) -> None:
    """Also where every row has a thought: then the thoughts, which say what is drawn."""
    tree["objective"] = {"think": think}
    mixed = mixture(tree, hand)
    prompts = mixed.prompts(8)
    assert len(set(prompts)) == 8 and all(prompts) and mixed.prompts(8) == prompts
    seen = [mixed.feeds[0].example(index, row_seed(mixed.seed, 0, index, "sheet")) for index in range(400)]
    assert set(prompts) <= {row.prompt if think < 1 else row.thought for row in seen if think == 1 or row.thought is None}


def test_drops_by_kind_of_row() -> None:
    picture = Image.new("RGB", (8, 8))
    rates = Objective(drop_text=0.2, drop_image=0.3, drop_both=0.1)
    edit, plain = Example("make it red", (picture,), picture), Example("a cat", (), picture, thought="a red cat")

    def kinds(example: Example) -> list[tuple[bool, bool]]:
        dropped = [drop(example, rates, (index + 0.5) / 100) for index in range(100)]
        return [(bool(row.prompt), bool(row.images)) for row in dropped]

    assert [kinds(edit).count(kind) for kind in ((False, True), (True, False), (False, False), (True, True))] == [20, 30, 10, 40]
    assert [kinds(plain).count(kind) for kind in ((False, False), (True, False))] == [30, 70]
    assert drop(plain, rates, 0.0).thought is None


def test_sources_that_do_not_exist_and_settings_without_effect(tree: Tree, hand: Hand) -> None:
    def refused(change: Tree) -> str:
        wrong = copy.deepcopy(tree)
        wrong["data"][0] |= change
        with pytest.raises(UserError) as raised:
            mixture(wrong, hand)
        return str(raised.value)

    assert refused({"source": "flatlnad"}).startswith("flatlnad: no such source; did you mean flatland?")
    assert refused({"wieght": 2}).startswith("data flatland.wieght: no such setting; did you mean weight?")
    assert refused({"reworded": 2}) == "data flatland.reworded: 2 given; it is a share of the rows, 0 to 1"
    assert refused({"frames": 0.5}) == "data flatland.frames: 0.5 given, but it has an effect with task: dialogue alone; leave it out"
    assert refused({"think": 2}) == "data flatland.think: 2.0 given; it is 1 at most"
    assert refused({"map": {}}).startswith("data flatland.map: this source makes its rows and has no columns")
    tree["objective"] = {"drop_image": 0.1}
    with pytest.raises(UserError, match=r"objective.drop_image: no source of this recipe has pictures"):
        mixture(tree, hand)


def own(tree: Tree, path: Path, **options: Any) -> Tree:
    tree["data"] = [{"source": "jsonl", "path": str(path), **options}]
    tree["objective"] = {"drop_text": 0.0}
    return tree


def test_every_row_once_an_epoch_and_no_held_out_one(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(write_pictures(tmp_path, 10))])
    own(tree, path, holdout=2)
    drawn = rows(tree, hand, 16)
    epochs = [Counter(row.example.prompt for row in drawn[start : start + 8]) for start in (0, 8)]
    assert epochs[0] == epochs[1] and set(epochs[0].values()) == {1} and len(epochs[0]) == 8
    held = {mixture(tree, hand).held_out(k).example.prompt for k in range(4)}
    assert len(held) == 2 and not held & set(epochs[0])
    assert [row.example.prompt for row in drawn[:8]] != [row.example.prompt for row in drawn[8:]]


def test_a_bad_row_is_replaced_and_named(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 12)
    (tmp_path / names[3]).write_bytes(b"no picture")
    (tmp_path / names[5]).write_bytes(b"")
    path = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    path.write_text(path.read_text() + '{"prompt": "cut\n')
    drawn = rows(own(tree, path), hand, 13)
    skipped = {skip.where: skip.reason for row in drawn for skip in row.skipped}
    assert set(skipped) == {"rows.jsonl:4", "rows.jsonl:6", "row 13"}
    assert skipped["rows.jsonl:4"] == "a picture cannot be opened (in no format that Pillow knows)"
    assert skipped["rows.jsonl:6"] == "a picture of zero bytes"
    assert skipped["row 13"].startswith("no valid JSON")
    assert not {row.example.prompt for row in drawn} & {"row 3", "row 5"}


def test_all_rows_bad(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [{"prompt": "a", "target": "gone.png"}] * 4)
    with pytest.raises(UserError) as raised:
        mixture(own(tree, path), hand).row(0, 0)
    assert str(raised.value).startswith("data jsonl: 8 rows one after another cannot be used; the last is rows.jsonl:")
    assert "No such file" in str(raised.value)


def test_an_empty_source_a_missing_column_and_a_small_picture(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    def refused(text: str, **options: Any) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text(text)
        with pytest.raises(UserError) as raised:
            mixture(own(tree, path, **options), hand).row(0, 0)
        return str(raised.value)

    assert refused("") == f"data jsonl: no rows in {tmp_path}/rows.jsonl; give another path"
    row = '{"words": "a cat", "file": "a.png"}\n'
    assert refused(row) == ("data jsonl: no column for prompt; the columns are words, file: name one, as map: {prompt: words}")
    assert refused(row, map={"prompt": "wrods"}) == (
        "wrods: no such column of data jsonl (prompt); did you mean words? it may be one of: file, words"
    )
    assert refused(row, map={"promt": "words"}).startswith("data jsonl.map.promt: no such field; did you mean prompt?")
    Image.new("RGB", (63, 80)).save(tmp_path / "a.png")
    assert refused(row, map={"prompt": "words", "target": "file"}).endswith(
        "rows.jsonl:1: the target has 63x80 pixels, fewer than the 64x64 it is trained at; lower train.size, or set train.upscale=true; "
        "metabridge data check says what is wrong with the others"
    )
    tree["train"]["upscale"] = True
    assert mixture(own(tree, tmp_path / "rows.jsonl", map={"prompt": "words", "target": "file"}), hand).row(0, 0).pixels.shape == (
        64,
        64,
        3,
    )


def test_thoughts_of_rows_that_have_none(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    """A caption becomes the thought, and the prompt a part of its words; the rate may be the source's own."""
    caption = "one two three four five six seven eight"
    path = write_jsonl(tmp_path, [{"prompt": caption, "target": name} for name in write_pictures(tmp_path, 4)])
    drawn = rows(own(tree, path, think=0.5), hand, 400)
    thoughts = [row for row in drawn if row.example.thought]
    assert abs(len(thoughts) / 400 - 0.5) < 0.1 and all(row.example.thought == caption == row.caption for row in thoughts)
    assert all(row.example.prompt != caption for row in thoughts) and len({row.example.prompt for row in thoughts}) > 50


def test_shares_of_two_sources(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(write_jsonl(tmp_path / name, [{"prompt": name, "target": file} for file in write_pictures(tmp_path / name, 3)]))
    own(tree, paths[0])
    tree["data"] = [{"source": "jsonl", "path": str(path), "weight": weight} for path, weight in zip(paths, (1, 3), strict=True)]
    drawn = rows(tree, hand, 40)
    for start in range(0, 40, 4):
        assert Counter(row.example.prompt for row in drawn[start : start + 4]) == {"a": 1, "b": 3}


def test_pictures_of_the_history_are_dropped_with_the_others() -> None:
    picture = Image.new("RGB", (8, 8))
    row = Example("and now blue", (), picture, history=(Turn("user", "a cat", (picture,)), Turn("assistant", "here")))
    kept, gone = (drop(row, Objective(drop_text=0.0, drop_image=0.5), u) for u in (0.7, 0.2))
    assert kept == row and [turn.images for turn in gone.history] == [(), ()] and gone.prompt == row.prompt


def test_bad_held_out_rows_are_passed_over(tree: Tree, hand: Hand, tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 20)
    path = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    mixed = mixture(own(tree, path, holdout=4), hand)
    first = mixed.held_out(0).example.prompt
    (tmp_path / names[int(first.split()[1])]).write_bytes(b"torn")
    assert mixed.held_out(0).example.prompt == mixed.held_out(1).example.prompt != first


def test_rates_of_a_source_sum_to_one_at_most(tree: Tree, hand: Hand) -> None:
    tree["data"][0] |= {"drop_text": 0.8, "drop_image": 0.9}
    with pytest.raises(UserError, match=r"data: drop_text \+ drop_image \+ drop_both of a source is 1.7"):
        mixture(tree, hand)
