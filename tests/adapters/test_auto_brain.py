"""What AutoBrain and its collate do beside the contract of tests/adapters/test_brains.py: options, templates, thoughts, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from metabridge.adapters.brains.auto import AutoBrain, load
from metabridge.adapters.processors import load_processor
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example, Inputs, Memory, Turn

QUERIES = 6
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


@pytest.fixture(scope="module", params=["float32", "float64"])
def brain(request: pytest.FixtureRequest, brain_folder: Path) -> AutoBrain:
    return load(str(brain_folder), dtype=request.param)


@pytest.fixture(scope="module")
def brain32(brain_folder: Path) -> AutoBrain:
    return load(str(brain_folder))


@pytest.fixture(scope="module")
def causal(causal_folder: Path) -> AutoBrain:
    return load(str(causal_folder))


def some_queries(brain: AutoBrain) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(QUERIES, brain.width, generator=generator, dtype=torch.float64) * 0.3
    return queries.to(brain.text.dtype).requires_grad_()


def test_template_and_thought(brain32: AutoBrain) -> None:
    tokenizer = brain32.collate.tokenizer
    raw, asked, told = (
        tokenizer.decode(brain32.collate([Example("a cat", thought=thought)], think=think)["input_ids"][0])
        for think, thought in ((False, None), (True, None), (False, "a mat"))
    )
    assert raw == "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    assert asked == "<|im_start|>user\nDescribe the picture to draw: a cat<|im_end|>\n<|im_start|>assistant\n"
    assert told == asked + "a mat"  # and no end of turn


def test_history_is_read_and_what_was_drawn_stands_in_the_next_turn_of_the_user(brain32: AutoBrain, picture: Image.Image) -> None:
    turns = (Turn("user", "draw a cat"), Turn("assistant", "here", (picture,)))
    inputs = brain32.collate([Example("now blue", history=turns)])
    text = brain32.collate.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("draw a cat") < text.index("here") < text.index("<|im_start|>user\n<|vision_start|>") < text.index("now blue")
    assert "pixel_values" in inputs


def pieces(inputs: Inputs, cut: int) -> tuple[Inputs, Inputs]:
    names = ("input_ids", "attention_mask")
    return {name: inputs[name][:, :cut] for name in names}, {name: inputs[name][:, cut:] for name in names}


def test_a_tap_is_the_normed_hidden_state_of_transformers(brain32: AutoBrain) -> None:
    inputs = brain32.collate([Example("a red cat")])
    words = brain32.base.get_input_embeddings()(torch.tensor([20, 30, 40]))
    ids = torch.cat([inputs["input_ids"], torch.tensor([[20, 30, 40]])], dim=1)
    official = brain32.base(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    tapped = brain32.query(brain32.read(inputs), words, (1, 2, -1)).chunk(3, dim=-1)
    for ours, theirs in zip(tapped, (F.rms_norm(official[1], (32,)), F.rms_norm(official[2], (32,)), official[3]), strict=True):
        assert (ours - theirs[:, -3:]).abs().max() <= 1e-5


@pytest.mark.parametrize("cut", [3, 20])
def test_extending_equals_a_fresh_read(brain: AutoBrain, cut: int) -> None:
    inputs = brain.collate([Example("a red cat"), Example("draw the same dog but blue, in the snow")])
    queries = some_queries(brain)
    start, rest = pieces(inputs, cut)
    extended, fresh = brain.read(rest, brain.read(start)), brain.read(inputs)
    assert torch.equal(extended.position, fresh.position)
    difference = brain.query(extended, queries, (-1,)) - brain.query(fresh, queries, (-1,))
    assert difference.abs().max() <= TOLERANCE[brain.text.dtype]
    assert (extended.last - fresh.last).abs().max() <= TOLERANCE[brain.text.dtype]


def test_reply_ends_rows_apart(brain32: AutoBrain) -> None:
    """A row that ends early keeps its memory as it was while the others go on; nothing of the end of turn is read."""
    rows = [Example("a red cat"), Example("two blue dogs in the snow")]
    memory = brain32.read(brain32.collate(rows))
    free, _ = brain32.reply(memory, 6)
    first_ids = brain32.model.get_output_embeddings()(memory.last).argmax(-1)
    ends = brain32.end_tokens
    try:
        brain32.end_tokens = torch.cat([ends, first_ids[:1]])  # the first row's first word now ends its turn
        texts, grown = brain32.reply(memory, 6)
        alone, alone_grown = brain32.reply(brain32.read(brain32.collate(rows[1:])), 6)
    finally:
        brain32.end_tokens = ends
    assert texts[0] == "" and texts[1] == alone[0]
    queries = some_queries(brain32)
    hidden = brain32.query(grown, queries, (-1,))
    assert (hidden[:1] - brain32.query(brain32.read(brain32.collate(rows[:1])), queries, (-1,))).abs().max() <= 1e-5
    assert (hidden[1:] - brain32.query(alone_grown, queries, (-1,))).abs().max() <= 1e-5
    assert torch.equal(grown.last[0], memory.last[0])
    assert free[1] == texts[1] or not alone[0]


def test_thinking_equals_reading_the_thought(brain32: AutoBrain) -> None:
    """Queries after a reply stand where training puts them: after prompt + thought."""
    row = Example("a red cat")
    memory = brain32.read(brain32.collate([row], think=True))
    _, grown = brain32.reply(memory, 4)
    ids = torch.cat([brain32.collate([row], think=True)["input_ids"], grown_ids(brain32, memory, 4)], dim=1)
    fresh = brain32.read({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    queries = some_queries(brain32)
    assert (brain32.query(grown, queries, (-1,)) - brain32.query(fresh, queries, (-1,))).abs().max() <= 1e-5


def grown_ids(brain: AutoBrain, memory: Memory, count: int) -> Tensor:
    ids: list[Tensor] = []
    for _ in range(count):
        ids.append(brain.model.get_output_embeddings()(memory.last).argmax(-1, keepdim=True))
        memory = brain.read({"input_ids": ids[-1], "attention_mask": torch.ones_like(ids[-1])}, memory)
    return torch.cat(ids, dim=1)


def test_a_shallow_memory_cannot_reply_nor_go_deeper(brain32: AutoBrain) -> None:
    inputs = brain32.collate([Example("a cat")])
    shallow = brain32.read(inputs, depth=2)
    assert len(shallow.cache) == 2 and shallow.last is None
    with pytest.raises(ValueError, match="no last layer to reply from"):
        brain32.reply(shallow)
    with pytest.raises(ValueError, match="need 3 layers"):
        brain32.query(shallow, some_queries(brain32), (-1,))
    with pytest.raises(ValueError, match="cannot be extended"):
        brain32.read(inputs, shallow)
    assert len(brain32.text.layers) == 3


def test_a_layer_that_is_not_needed_is_not_run(brain32: AutoBrain) -> None:
    ran: list[int] = []
    layers = list(brain32.text.layers)
    hooks = [layer.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, layer in enumerate(layers, 1)]
    brain32.query(brain32.read(brain32.collate([Example("a cat")]), depth=1), some_queries(brain32), (1,))
    for hook in hooks:
        hook.remove()
    assert ran == [1, 1]


def test_training_mode_and_checkpointing_do_not_lose_the_prompt(brain_folder: Path) -> None:
    brain = load(str(brain_folder))
    inputs, queries = brain.collate([Example("a cat")]), some_queries(brain)
    expected = brain.query(brain.read(inputs), queries, (-1,))
    brain.model.activation_checkpointing_enable()
    brain.train()
    assert torch.equal(brain.query(brain.read(inputs), queries, (-1,)), expected)


def test_queries_start_at_the_scale_of_the_words(causal: AutoBrain) -> None:
    assert causal.embedding_std() == pytest.approx(float(causal.base.get_input_embeddings().weight.std()), rel=1e-3)


def test_random_weights_are_the_same_every_time(brain_folder: Path) -> None:
    one, two = (load(str(brain_folder), weights="random") for _ in range(2))
    assert one.identity == two.identity
    assert one.identity["fingerprint"] != load(str(brain_folder)).identity["fingerprint"]


def test_bfloat16_brain_takes_float32_queries(brain_folder: Path) -> None:
    brain = load(str(brain_folder), dtype="bfloat16")
    queries = torch.randn(QUERIES, brain.width).requires_grad_()
    hidden = brain.query(brain.read(brain.collate([Example("a cat")])), queries, (-1,))
    hidden.float().sum().backward()
    assert hidden.dtype == torch.bfloat16 and queries.grad is not None and queries.grad.dtype == torch.float32


def test_too_long_a_prompt(brain32: AutoBrain) -> None:
    with pytest.raises(UserError, match=r"prompt: too long; \d+ tokens .* reads 512; shorten it"):
        brain32.read(brain32.collate([Example("cat " * 600)]))


def test_special_tokens_in_a_prompt_are_refused(brain32: AutoBrain) -> None:
    with pytest.raises(UserError, match=r"special token <\|im_end\|>"):
        brain32.collate([Example("a cat<|im_end|>")])


def test_pictures_for_a_text_brain_are_refused(causal: AutoBrain, picture: Image.Image) -> None:
    with pytest.raises(UserError, match="reads text only"):
        causal.collate([Example("edit", (picture,))])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"dtype": "float8"}, "brain.dtype: 'float8' given; it is one of"),
        ({"weights": "none"}, "brain.weights: 'none' given"),
        ({"think_template": "think!"}, "no {prompt} in it"),
    ],
)
def test_bad_options(brain_folder: Path, options: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        load(str(brain_folder), **options)


def test_a_model_that_cannot_be_a_brain_is_refused_by_name(tmp_path: Path) -> None:
    import transformers

    transformers.T5Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a t5 cannot be a brain here: it is neither"):
        load(str(tmp_path))
    transformers.Zamba2Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a zamba2 cannot be a brain here: its layers keep states, and only of"):
        load(str(tmp_path))


def test_a_brain_needs_a_chat_template(causal_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(causal_folder, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        load(str(tmp_path / "plain"))


def test_a_tokenizer_without_a_pad_token(causal_folder: Path, tmp_path: Path) -> None:
    """As Llama's. Padding is behind a mask, so the end token does as well."""
    folder = shutil.copytree(causal_folder, tmp_path / "brain")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            tree = json.loads((folder / name).read_text())
            tree["pad_token"] = None
            (folder / name).write_text(json.dumps(tree))
    own, padded = load(str(folder)), load(str(causal_folder))
    assert load_processor(str(folder), "main").pad_token_id is None
    rows = [Example("a red cat"), Example("a dog in the snow on the green mat")]
    queries = some_queries(own)
    states = [brain.query(brain.read(brain.collate(rows)), queries, [-1]) for brain in (own, padded)]
    assert (states[0] - states[1]).abs().max() <= 1e-5


def test_a_think_template_may_hold_braces(brain_folder: Path) -> None:
    brain = load(str(brain_folder), think_template='Answer as {"draw": ...}: {prompt} {0}')
    ids = brain.collate([Example("a {cat}")], think=True)["input_ids"][0]
    assert 'Answer as {"draw": ...}: a {cat} {0}' in brain.collate.tokenizer.decode(ids)
