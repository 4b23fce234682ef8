"""Conversations on disk: saved and loaded they go on as if they had never been put down."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from test_conversation import latents, talk

from metabridge.bridge.conversation import Conversation, Turn
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.transcript import load, save


@pytest.fixture(scope="module")
def pipeline(_bridge: Bridge) -> BridgePipeline:
    return BridgePipeline(copy.deepcopy(_bridge), "tiny")


@pytest.fixture(scope="module")
def said(pipeline: BridgePipeline, picture: Image.Image, wide_picture: Image.Image) -> Conversation:
    said = talk(pipeline, negative_prompt="a dog")
    said.draw("a red cat", seed=1)
    said.draw("ein Vogel, größer: 赤い ★", [picture, wide_picture], seed=2**48, think=False, guidance_scale=2.0)
    said.ask("what is it", picture)
    return said


@pytest.fixture
def saved(said: Conversation, tmp_path: Path) -> Path:
    save(said, tmp_path / "talk")
    return tmp_path / "talk"


def test_a_loaded_conversation_goes_on(said: Conversation, pipeline: BridgePipeline, saved: Path, picture: Image.Image) -> None:
    loaded, unbroken = load(pipeline, saved), said.branch()
    assert (loaded.think, loaded.max_new_tokens, loaded.settings) == (said.think, said.max_new_tokens, said.settings)
    drawn = [latents(each, "now this", picture, seed=3, thought="a cow") for each in (loaded, unbroken)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1e-5
    whole, silent = loaded._reads[-1].memory, loaded._reads[-1].textless
    # all of it once, and the end of the null row
    assert whole.mask.shape[1] < loaded.tokens_read < whole.mask.shape[1] + silent.mask.shape[1]
    read = [each.tokens_read for each in (loaded, unbroken)]
    latents(loaded, "and blue", seed=4, thought="a cow")
    latents(unbroken, "and blue", seed=4, thought="a cow")
    assert 0 < loaded.tokens_read - read[0] == unbroken.tokens_read - read[1]


def test_undo_and_branch_after_loading(said: Conversation, pipeline: BridgePipeline, saved: Path) -> None:
    loaded, unbroken = load(pipeline, saved), said.branch()
    branch = loaded.branch()
    assert loaded.undo().said == unbroken.undo().said
    drawn = [latents(each, "a bird", seed=5, thought="a bird") for each in (loaded, unbroken)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1e-5
    assert len(branch.turns) == 3 and branch.turns[2].prompt == "what is it"
    again = load(pipeline, saved)
    again.undo()
    drawn, first = again.again(seed=2**48).drawn, said.turns[1].drawn
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(first, dtype=int)).max() <= 1


def test_what_is_written_can_be_read(said: Conversation, saved: Path) -> None:
    config = json.loads((saved / "conversation.json").read_text(encoding="utf-8"))
    identity = said.pipeline.bridge.brain.identity
    assert config["format"] == 1 and config["bridge"]["name"] == "tiny" and config["bridge"]["brain"] == identity
    assert "größer: 赤い ★" in (saved / "conversation.json").read_text(encoding="utf-8")
    first, second, third = config["turns"]
    assert [len(turn["images"]) for turn in config["turns"]] == [0, 2, 1] and third["drawn"] is None and third["seed"] is None
    assert second["seed"] == 2**48 and second["settings"]["guidance_scale"] == 2.0 and first["think"] and not second["think"]
    names = {path.name for path in (saved / "pictures").iterdir()}
    assert names == {Path(name).name for turn in config["turns"] for name in (*turn["images"], *filter(None, [turn["drawn"]]))}
    assert len(names) == 5 and {"01-drawn", "02-given", "02-drawn", "03-given"} == {name[:8] for name in names}


def test_saving_again_writes_what_is_new(said: Conversation, pipeline: BridgePipeline, saved: Path) -> None:
    """And leaves alone what is not the conversation's."""
    (saved / "pictures/mine.png").write_bytes(b"mine")
    (saved / "mine.txt").write_text("mine")
    before = {path: path.stat().st_ino for path in saved.rglob("*.png")}
    grown = said.branch()
    grown.draw("a cow", seed=6)
    save(grown, saved)
    after = {path: path.stat().st_ino for path in saved.rglob("*.png")}
    assert len(after) == len(before) + 1 and before.items() <= after.items()
    save(said, saved)
    assert {path: path.stat().st_ino for path in saved.rglob("*.png")} == before
    assert len(load(pipeline, saved).turns) == 3 and (saved / "mine.txt").read_text() == "mine"


def test_a_save_that_fails_leaves_the_last_one(
    said: Conversation, pipeline: BridgePipeline, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, fsync, calls = said.branch(), os.fsync, []
    grown.undo()
    grown.draw("a cow", seed=6)

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the new picture and its folder
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"talk: the conversation cannot be saved \(No space left on device\); make room"):
        save(grown, saved)
    monkeypatch.undo()
    assert [turn.prompt for turn in load(pipeline, saved).turns] == [turn.prompt for turn in said.turns]
    assert not list(saved.rglob("*.tmp"))


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode_are_kept(pipeline: BridgePipeline, tmp_path: Path, mode: str) -> None:
    noise = torch.randint(256, (5, 7, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    colours = Image.fromarray(noise)
    if mode in ("RGBa", "La"):
        image = (colours.convert("LA") if mode == "La" else colours).convert(mode)
    elif mode in ("I", "I;16", "F", "RGBX", "LAB"):
        image = Image.frombytes(mode, (7, 5), noise.tobytes()[: 5 * 7 * {"I;16": 2, "LAB": 3}.get(mode, 4)])
    else:
        image = (colours if mode == "RGBA" else colours.convert("RGB")).convert(mode)
    image.getexif()[ExifTags.Base.Orientation] = 6
    talk = Conversation(pipeline)
    talk.resume([Turn("see", (image,), said="yes")])
    save(talk, tmp_path)
    (loaded,) = load(pipeline, tmp_path).turns[0].images
    assert (loaded.mode, loaded.size, loaded.tobytes()) == (image.mode, image.size, image.tobytes())
    assert loaded.getexif()[ExifTags.Base.Orientation] == 6
    if mode == "P":
        assert loaded.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_transparency_of_a_palette_is_kept(pipeline: BridgePipeline, tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), "red").quantize(4)
    image.info["transparency"] = 0
    talk = Conversation(pipeline)
    talk.resume([Turn("see", (image,), said="yes")])
    save(talk, tmp_path)
    (loaded,) = load(pipeline, tmp_path).turns[0].images
    assert loaded.convert("RGBA").tobytes() == image.convert("RGBA").tobytes() != Image.new("RGBA", (4, 4), "red").tobytes()


Change = Callable[[dict[str, Any], Path], Any]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda config, folder: config.update(format=2), "talk/conversation.json: format 2, this version reads 1; update metabridge"),
        (lambda config, folder: config.pop("turns"), "talk/conversation.json: turns is missing or damaged"),
        (lambda config, folder: config.update(think=1), "talk/conversation.json: think is missing or damaged"),
        (lambda config, folder: config.pop("bridge"), "talk/conversation.json: bridge is missing or damaged"),
        (lambda config, folder: config["bridge"]["hand"].pop("fingerprint"), "json: bridge: hand: fingerprint is missing or damaged"),
        (lambda config, folder: config["turns"][1].pop("said"), "conversation.json: turns.1: said is missing or damaged"),
        (lambda config, folder: config["turns"][1].update(seed="1"), "conversation.json: turns.1: seed is missing or damaged"),
        (lambda config, folder: config["turns"][0].update(sed=1), "turns.0.sed: no such part of a turn; did you mean seed?"),
        (lambda config, folder: config["turns"].append("x"), "conversation.json: turns.3 is damaged"),
        (lambda config, folder: config["turns"][1].update(forgotten=2), "turns.1: forgotten is 2, of 1 turns before it"),
        (
            lambda config, folder: config["settings"].update(guidance=1),
            "guidance: no such setting of a drawing; did you mean guidance_scale?",
        ),
        (lambda config, folder: config["settings"].update(height="x"), "conversation.json: settings: height is missing or damaged"),
        (lambda config, folder: (folder / config["turns"][0]["drawn"]).unlink(), "turns.0: drawn: "),
        (lambda config, folder: (folder / config["turns"][1]["images"][0]).write_bytes(b"x"), "turns.1: images: "),
        (lambda config, folder: config["bridge"]["brain"].update(fingerprint="0" * 64), "this conversation was held with another brain, "),
        (lambda config, folder: config["bridge"]["brain"].update(quantize="int8"), "its brain quantized as int8, this one's is none"),
        (lambda config, folder: config["bridge"].update(content="0" * 64), "another bridge, of content 000000000000, this one's is "),
    ],
)
def test_what_cannot_be_loaded_is_named(pipeline: BridgePipeline, saved: Path, change: Change, line: str) -> None:
    config = json.loads((saved / "conversation.json").read_text(encoding="utf-8"))
    change(config, saved)
    (saved / "conversation.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(pipeline, saved)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_conversation(pipeline: BridgePipeline, saved: Path) -> None:
    with pytest.raises(UserError, match="gone: no such folder; give one that a conversation was saved in"):
        load(pipeline, "gone")
    with pytest.raises(UserError, match=r"pictures: no conversation.json in it"):
        load(pipeline, saved / "pictures")
    text = (saved / "conversation.json").read_text(encoding="utf-8")
    for damaged in (text[:100], "[" * 100_000, "[]"):
        (saved / "conversation.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=r"conversation.json(: cannot be read \(| is damaged; )"):
            load(pipeline, saved)
