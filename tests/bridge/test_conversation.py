"""Conversations: what is read once is not read again, and what is taken back has never been."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor

from metabridge.bridge.conversation import Conversation, Turn
from metabridge.bridge.drawing import settings_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import without_text
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline

# earlier words of the assistant are left out, as where thoughts are dropped from the history
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}...{% elif m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def pipeline(_bridge: Bridge) -> BridgePipeline:
    return BridgePipeline(copy.deepcopy(_bridge), "tiny")


@pytest.fixture
def own(_bridge: Bridge) -> BridgePipeline:
    return BridgePipeline(copy.deepcopy(_bridge), "tiny")


def talk(pipeline: BridgePipeline, **settings: Any) -> Conversation:
    return Conversation(pipeline, max_new_tokens=5, **{"num_inference_steps": 2, **settings})


def latents(conversation: Conversation, *words: Any, **settings: Any) -> Tensor:
    """Of the next picture, [1, C, h, w]."""
    seen: list[Tensor] = []
    conversation.draw(*words, callback_on_step_end=lambda own, step, timestep, held: seen.append(held["latents"]), **settings)
    return seen[-1]


def embeds(conversation: Conversation) -> Tensor:
    """The condition of the last turn, as the conversation has read it."""
    read = conversation._reads[-1]
    assert read is not None
    with torch.no_grad():
        return conversation.pipeline.bridge.condition_from(read.memory).embeds


def afresh(conversation: Conversation) -> Tensor:
    """The same, read from nothing."""
    bridge, turns = conversation.pipeline.bridge, conversation.turns
    last = turns[-1]
    history = tuple(message for turn in turns[last.forgotten : -1] for message in turn.messages())
    example = Example(last.prompt, last.images, history=history, thought=last.said if last.think else None)
    with torch.no_grad():
        return bridge.condition(bridge.brain.collate([example])).embeds


def same(one: Turn, other: Turn) -> bool:
    assert one.drawn is not None and other.drawn is not None
    undrawn = [dataclasses.replace(turn, drawn=None) for turn in (one, other)]
    return undrawn[0] == undrawn[1] and one.drawn.tobytes() == other.drawn.tobytes()


def test_reading_on_is_reading_afresh(pipeline: BridgePipeline, picture: Image.Image, wide_picture: Image.Image) -> None:
    said = talk(pipeline)
    asked: list[tuple[str, Any, dict[str, Any]]] = [
        ("a red cat", None, {}),
        ("the same dog", picture, {"thought": "a dog"}),
        ("both", [picture, wide_picture], {"think": False}),
        ("a small bird", wide_picture, {}),
    ]
    for prompt, image, how in asked:
        said.draw(prompt, image, seed=1, **how)
        assert (embeds(said) - afresh(said)).abs().max() <= 1e-5
    said.ask("what is it", picture)
    said.draw("and blue", seed=1)
    assert (embeds(said) - afresh(said)).abs().max() <= 1e-5


def test_what_is_read_does_not_grow_with_the_history(pipeline: BridgePipeline) -> None:
    said, read = talk(pipeline), []
    for _ in range(4):
        before = said.tokens_read
        said.draw("a red cat", seed=1, thought="a cat")
        read.append(said.tokens_read - before)
    assert read[1] == read[2] == read[3]
    alone = pipeline.bridge.brain.collate([Example("a red cat", thought="a cat")])
    assert read[0] == int(alone["attention_mask"].sum())


def test_undone_has_never_been(pipeline: BridgePipeline, picture: Image.Image) -> None:
    said, other = talk(pipeline), talk(pipeline)
    for each in (said, other):
        each.draw("a red cat", seed=1)
    undone = said.draw("a dog", picture, seed=2)
    assert said.undo() is undone
    assert torch.equal(latents(said, "blue", seed=3), latents(other, "blue", seed=3))
    assert same(said.turns[-1], other.turns[-1])
    said.undo()
    said.undo()
    assert said.turns == []
    with pytest.raises(UserError, match="undo: nothing has been said yet"):
        said.undo()


def test_branches_do_not_meet(pipeline: BridgePipeline) -> None:
    said = talk(pipeline)
    said.draw("a red cat", seed=1)
    branch = said.branch()
    branch.settings["guidance_scale"] = 1.0
    branch.draw("a dog", seed=2)
    branch.again(seed=5)
    plain = talk(pipeline)
    plain.draw("a red cat", seed=1)
    assert len(said.turns) == 1 and said.settings == {"num_inference_steps": 2}
    assert torch.equal(latents(said, "a bird", seed=3), latents(plain, "a bird", seed=3))
    assert len(branch.turns) == 2 and branch.turns[0] is said.turns[0]


def test_again_reads_nothing(pipeline: BridgePipeline) -> None:
    said = talk(pipeline)
    with pytest.raises(UserError, match="again: nothing was drawn in the last turn"):
        said.again()
    first = said.draw("a red cat", seed=1)
    read = said.tokens_read
    second = said.again(seed=2, guidance_scale=1.0)
    assert said.tokens_read == read and said.turns == [second]
    assert (second.seed, second.said, second.settings) == (2, first.said, {"num_inference_steps": 2, "guidance_scale": 1.0})
    assert same(said.again(seed=1, guidance_scale=None), dataclasses.replace(first, settings=said.turns[-1].settings))
    said.ask("what is it")
    with pytest.raises(UserError, match="again: nothing was drawn in the last turn"):
        said.again()


@pytest.fixture
def forgetful(own: BridgePipeline) -> BridgePipeline:
    """With room for two turns and a half."""
    said = talk(own)
    said.draw("a red cat", seed=1, thought="a cat")
    said.draw("a red cat", seed=1, thought="a cat")
    first, second = (turn.memory.mask.shape[1] for turn in said._reads if turn is not None)
    own.bridge.brain.max_tokens = second + (second - first) // 2 + len(own.bridge.queries)
    return own


def test_the_oldest_turns_are_forgotten(forgetful: BridgePipeline, caplog: pytest.LogCaptureFixture) -> None:
    said = talk(forgetful)
    for seed in range(4):
        said.draw("a red cat", seed=seed, thought="a cat")
    assert [turn.forgotten for turn in said.turns] == [0, 0, 2, 2]
    most = forgetful.bridge.brain.max_tokens
    assert [line.split(f" tokens, the brain reads {most}: ")[1] for line in caplog.messages] == [
        "turn 1 is forgotten",
        "turn 2 is forgotten",
    ]
    assert int(caplog.messages[0].removeprefix("the conversation has ").split()[0]) > most
    assert (embeds(said) - afresh(said)).abs().max() <= 1e-5
    with pytest.raises(UserError, match="prompt: too long"):
        said.draw("cat " * 600)
    assert len(said.turns) == 4


def test_once_turns_are_forgotten_there_is_room_for_more(own: BridgePipeline) -> None:
    """Not every turn from then on reads all afresh."""
    said = talk(own, num_inference_steps=1)
    for seed in range(3):
        said.draw("a red cat", seed=seed, thought="a cat")
    first, *_, last = (turn.memory.mask.shape[1] for turn in said._reads if turn is not None)
    turn = (last - first) // 2
    own.bridge.brain.max_tokens = first + 7 * turn + len(own.bridge.queries)
    for seed in range(9):
        said.draw("a red cat", seed=seed, thought="a cat")
    forgotten = [turn.forgotten for turn in said.turns]
    assert forgotten[7] == 0 < forgotten[8] == forgotten[9] < forgotten[-1] and forgotten[8] >= 2
    assert (embeds(said) - afresh(said)).abs().max() <= 1e-5


def test_a_setting_of_pictures_waits_for_one(own: BridgePipeline) -> None:
    said = talk(own, preserve=1.0)
    said.draw("a red cat", seed=0, thought="a cat")
    kept = said.draw("make it blue", seed=1, thought="a blue cat")
    assert [turn.settings.get("preserve") for turn in said.turns] == [None, 1.0] and kept.drawn is not None
    read = said.tokens_read
    with pytest.raises(UserError, match="preserve: 2 given"):
        said.draw("make it red", preserve=2)
    assert said.tokens_read == read and len(said.turns) == 2
    first, second = (turn.asked(said.turns[:k]) for k, turn in enumerate(said.turns))
    assert (said.standing(first), said.standing(second)) == ({"num_inference_steps": 2}, {"num_inference_steps": 2, "preserve": 1.0})


def test_the_memory_of_old_turns_goes(own: BridgePipeline) -> None:
    """Each holds all before it; what is taken back further than that is read again, and the same comes of it."""
    said, other = talk(own), talk(own)
    for seed in range(6):
        said.draw("a red cat", seed=seed, thought="a cat")
    assert [read is not None for read in said._reads] == [False] * 3 + [True] * 3
    for _ in range(4):
        said.undo()
    for seed in range(2):
        other.draw("a red cat", seed=seed, thought="a cat")
    ours, theirs = (latents(each, "a dog", seed=5, thought="a dog") for each in (said, other))
    assert (ours - theirs).abs().max() <= 1e-4


def test_what_was_forgotten_comes_back_with_undo(forgetful: BridgePipeline) -> None:
    said, other = talk(forgetful), talk(forgetful)
    for each in (said, other):
        each.draw("a red cat", seed=0, thought="a cat")
    for seed in (1, 2):
        said.draw("a red cat", seed=seed, thought="a cat")
    assert said.undo().forgotten == 2
    said.undo()
    assert torch.equal(latents(said, "a dog", seed=5, thought="a dog"), latents(other, "a dog", seed=5, thought="a dog"))
    assert said.turns[-1].forgotten == 0


def test_again_after_resuming_forgets_as_before(forgetful: BridgePipeline) -> None:
    """A thought that is there needs no room to be written, but the picture is one of a conversation that had forgotten more."""
    brain = forgetful.bridge.brain
    brain.max_tokens += 1
    said = talk(forgetful)
    said.draw("a red cat", seed=0, thought="a cat")
    turn = said.draw("a red cat", seed=1, thought="a cat")
    brain.max_tokens = said._reads[-1].memory.mask.shape[1] + len(forgetful.bridge.queries) - 1  # type: ignore[union-attr]
    said.undo()
    turn = said.draw("a red cat", seed=1, thought="a cat")
    assert turn.forgotten == 1
    brain.max_tokens += 1  # as a thought that is not written again leaves room
    resumed = talk(forgetful)
    resumed.resume(said.turns)
    again = resumed.again(seed=1)
    assert same(again, turn) and again.forgotten == 1
    assert (embeds(resumed) - embeds(said)).abs().max() <= 1e-5


def test_a_template_that_rewrites_is_read_afresh(own: BridgePipeline, picture: Image.Image) -> None:
    own.bridge.brain.collate.processor.chat_template = REWRITING
    said, read = talk(own), []
    for prompt in ("a red cat", "a red dog", "a red cow"):
        before = said.tokens_read
        said.draw(prompt, picture, seed=1, thought="a cat")
        read.append(said.tokens_read - before)
        assert (embeds(said) - afresh(said)).abs().max() <= 1e-5
    assert read[0] < read[1] < read[2]


def test_words_that_are_other_tokens_within_a_turn_are_read_afresh(own: BridgePipeline) -> None:
    """A tokenizer that puts a space before the first word: a thought alone is not what it is in the history."""
    tokenizer = own.bridge.brain.collate.tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    said = talk(own)
    for prompt in ("a red cat", "a red dog"):
        said.draw(prompt, seed=1, thought="cat")
    assert (embeds(said) - afresh(said)).abs().max() <= 1e-5


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_drawing_that_ends_early_leaves_no_trace(pipeline: BridgePipeline, error: type[BaseException]) -> None:
    said, other = talk(pipeline), talk(pipeline)
    for each in (said, other):
        each.draw("a red cat", seed=1)

    def stop(own: BridgePipeline, step: int, timestep: Tensor, held: dict[str, Tensor]) -> None:
        raise error("stopped")

    before = list(said.turns)
    with pytest.raises(error):
        said.draw("a dog", seed=2, callback_on_step_end=stop)
    with pytest.raises(error):
        said.again(seed=2, callback_on_step_end=stop)
    assert said.turns == before
    assert torch.equal(latents(said, "blue", seed=3), latents(other, "blue", seed=3))


def test_an_answer_is_the_brains_own(pipeline: BridgePipeline, picture: Image.Image) -> None:
    said, brain = talk(pipeline), pipeline.bridge.brain
    said.draw("a red cat", picture, seed=1)
    said.ask("what is it")
    turn = said.ask("and this", picture)
    history = tuple(message for earlier in said.turns[:-1] for message in earlier.messages())
    with torch.no_grad():
        expected, _ = brain.reply(brain.read(brain.collate([Example("and this", (picture,), history=history)])), 5)
    assert turn.said == expected[0] and turn.drawn is None and turn.seed is None


def test_a_setting_that_does_not_exist(pipeline: BridgePipeline) -> None:
    with pytest.raises(UserError, match="guidance: no such setting of a drawing; did you mean guidance_scale"):
        Conversation(pipeline, guidance=2.0)


def test_the_null_row_of_a_turn_shares_what_went_before(pipeline: BridgePipeline, picture: Image.Image) -> None:
    """History and pictures are read once for both, and it equals reading the null row afresh; the drawing equals the pipeline's own."""
    said = Conversation(pipeline, think=False, guidance_scale=2.0)
    said.draw("a red cat", seed=1)
    said.draw("make it blue", picture, seed=2)
    read, brain, bridge = said._reads[-1], pipeline.bridge.brain, pipeline.bridge
    assert read is not None and read.textless is not None
    null = without_text(read.example)
    assert null.history and null.images
    with torch.no_grad():
        fresh, shared = bridge.condition(brain.collate([null])), bridge.condition_from(read.textless)
    assert (fresh.embeds - shared.embeds).abs().max() <= 1e-5
    drawn = pipeline.draw_examples([read.example], [2], guidance_scale=2.0, output_type="latent")[0]
    ours = pipeline.draw(
        bridge.condition_from(read.memory),
        [read.example],
        1,
        [torch.Generator().manual_seed(2)],
        settings_of(bridge.hand, [read.example], guidance_scale=2.0, output_type="latent"),
        shared,
    )[0]
    assert (drawn - ours).abs().max() <= 1e-5


def test_an_unguided_turn_reads_no_null_row(pipeline: BridgePipeline, picture: Image.Image) -> None:
    said = Conversation(pipeline, think=False, guidance_scale=1.0)
    said.draw("make it blue", picture, seed=2)
    assert said._reads[-1].textless is None
    assert said.tokens_read == said._reads[-1].memory.mask.sum()
