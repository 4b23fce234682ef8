"""Brains on the generic route: read + query = one full forward, batch = singles, a Memory is never changed."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

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
CASES = ("text", "image", "mixed", "two_images", "thoughts")
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


def examples(case: str, picture: Image.Image, wide: Image.Image) -> list[Example]:
    return {
        "text": [Example("a red cat"), Example("draw the same dog but blue, in the snow"), Example("")],
        "image": [Example("edit it", (picture,)), Example("make it night and snow", (wide,))],
        "mixed": [Example("edit it", (picture,)), Example("make it night and snow")],
        "two_images": [Example("edit it", (picture,)), Example("mix", (picture, wide))],
        "thoughts": [Example("what a cat sees", thought="a green mat"), Example("edit it", (wide,), thought="a bird, and a small cat")],
    }[case]


def some_queries(brain: AutoBrain) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(QUERIES, brain.width, generator=generator, dtype=torch.float64) * 0.3
    return queries.to(brain.text.dtype).requires_grad_()


def full_forward(brain: AutoBrain, inputs: Inputs, queries: Tensor) -> Any:
    """The reference: one forward over [prompt | queries], all of it in the graph, every layer's states kept."""
    count, mask = len(queries), inputs["attention_mask"]
    dtype = brain.text.dtype
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    if "image_grid_thw" in inputs:
        grid = {"image_grid_thw": inputs["image_grid_thw"], "mm_token_type_ids": inputs["mm_token_type_ids"]}
        positions, _ = brain.base.get_rope_index(inputs["input_ids"], attention_mask=mask, **grid)
        start = torch.stack([positions[:, row, mask[row].bool()].max() + 1 for row in range(len(mask))])
        own = start.view(1, -1, 1) + torch.arange(count).view(1, 1, -1).expand(3, len(mask), -1)
    else:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        own = mask.sum(1)[:, None] + torch.arange(count)
    inputs["input_ids"] = F.pad(inputs["input_ids"], (0, count), value=10)
    inputs["attention_mask"] = F.pad(mask, (0, count), value=1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, count))

    def put_queries(module: Any, args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :-count], queries.expand(len(output), -1, -1)], dim=1)

    hook = brain.base.get_input_embeddings().register_forward_hook(put_queries)
    try:
        return brain.base(**inputs, position_ids=torch.cat([positions, own], dim=-1), use_cache=False, output_hidden_states=True)
    finally:
        hook.remove()


@pytest.mark.parametrize("taps", [(-1,), (2,), (1, -1, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_prefix_equals_full_forward(
    brain: AutoBrain, case: str, taps: tuple[int, ...], picture: Image.Image, wide_picture: Image.Image
) -> None:
    tolerance = TOLERANCE[brain.text.dtype]
    inputs = brain.collate(examples(case, picture, wide_picture))
    queries = some_queries(brain)
    full = full_forward(brain, inputs, queries)
    expected = torch.cat(
        [
            full.last_hidden_state[:, -QUERIES:] if tap == -1 else F.rms_norm(full.hidden_states[tap][:, -QUERIES:], (brain.width,))
            for tap in taps
        ],
        dim=-1,
    )
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(expected.dtype)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), queries)

    depth = None if -1 in taps else max(taps)
    hidden = brain.query(brain.read(inputs, depth=depth), queries, taps)
    (gradient,) = torch.autograd.grad((hidden * weight).sum(), queries)

    assert hidden.shape == (len(inputs["input_ids"]), QUERIES, brain.width * len(taps))
    assert (hidden - expected).abs().max() <= tolerance
    assert (gradient - expected_gradient).abs().max() <= tolerance * expected_gradient.abs().max().clamp(min=1)


@pytest.mark.parametrize("case", CASES)
def test_batch_equals_singles(brain32: AutoBrain, case: str, picture: Image.Image, wide_picture: Image.Image) -> None:
    rows = examples(case, picture, wide_picture)
    queries = some_queries(brain32)
    together = brain32.query(brain32.read(brain32.collate(rows)), queries, (-1, 2))
    alone = torch.cat([brain32.query(brain32.read(brain32.collate([row])), queries, (-1, 2)) for row in rows])
    assert (together - alone).abs().max() <= 1e-5


def test_padding_is_on_the_left(brain32: AutoBrain) -> None:
    mask = brain32.collate(examples("text", None, None))["attention_mask"]  # type: ignore[arg-type]
    assert mask[0, 0] == 0
    assert mask[:, -1].all()


def test_template_and_thought(brain32: AutoBrain) -> None:
    tokenizer = brain32.collate.tokenizer
    raw, asked, told = (
        tokenizer.decode(brain32.collate([Example("a cat", thought=thought)], think=think)["input_ids"][0])
        for think, thought in ((False, None), (True, None), (False, "a mat"))
    )
    assert raw == "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    assert asked == "<|im_start|>user\nDescribe the picture to draw: a cat<|im_end|>\n<|im_start|>assistant\n"
    assert told == asked + "a mat"  # and no end of turn


def test_own_tokens_equal_the_processor(brain32: AutoBrain) -> None:
    """The short way for text gives what the official call gives."""
    prompts = ["a red cat", "a small yellow bird to the left of a dog"]
    chats = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in prompts]
    official = brain32.collate.processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs={"padding": True, "return_tensors": "pt"}
    )
    own = brain32.collate([Example(prompt) for prompt in prompts])
    assert torch.equal(own["input_ids"], official["input_ids"])
    assert torch.equal(own["attention_mask"], official["attention_mask"])


def test_history_is_read(brain32: AutoBrain, picture: Image.Image) -> None:
    turns = (Turn("user", "draw a cat"), Turn("assistant", "here", (picture,)))
    inputs = brain32.collate([Example("now blue", history=turns)])
    text = brain32.collate.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("draw a cat") < text.index("<|vision_start|>") < text.index("here") < text.index("now blue")
    assert "pixel_values" in inputs


def test_collate_travels_to_a_worker(brain32: AutoBrain) -> None:
    """As bytes of a path, without the processor."""
    rows = [Example("a cat")]
    brain32.collate(rows)
    sent = pickle.dumps(brain32.collate)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)(rows)["input_ids"], brain32.collate(rows)["input_ids"])


def frozen_copy(memory: Memory) -> Memory:
    return copy.deepcopy(memory)


def same(a: Memory, b: Memory) -> bool:
    pairs = [*zip(a.cache, b.cache, strict=True)]
    return (
        all(torch.equal(x, y) for left, right in pairs for x, y in zip(left, right, strict=True))
        and torch.equal(a.mask, b.mask)
        and torch.equal(a.position, b.position)
        and torch.equal(a.last, b.last)
    )


def test_a_memory_is_never_changed(brain32: AutoBrain) -> None:
    """Queries, replies and further reads fork it; each gives the same thing the second time."""
    inputs = brain32.collate([Example("a red cat"), Example("two blue dogs in the snow")])
    memory = brain32.read(inputs)
    before = frozen_copy(memory)
    queries = some_queries(brain32)
    first = brain32.query(memory, queries, (-1,))
    first.sum().backward()
    texts, grown = brain32.reply(memory, 5)
    more = brain32.read(inputs, memory)
    assert same(memory, before)
    assert torch.equal(brain32.query(memory, queries, (-1,)), first)
    again, grown_again = brain32.reply(memory, 5)
    assert again == texts and same(grown, grown_again)
    assert same(brain32.read(inputs, memory), more)


def pieces(inputs: Inputs, cut: int) -> tuple[Inputs, Inputs]:
    names = ("input_ids", "attention_mask")
    return {name: inputs[name][:, :cut] for name in names}, {name: inputs[name][:, cut:] for name in names}


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


def test_extending_with_a_picture_equals_a_fresh_read(brain: AutoBrain, picture: Image.Image) -> None:
    """Under M-RoPE a later picture's positions start where the earlier text ended."""
    inputs = brain.collate([Example("edit it", (picture,))])
    cut = 3  # before the picture begins
    start, rest = pieces(inputs, cut)
    rest |= {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}
    rest["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, cut:]
    extended, fresh = brain.read(rest, brain.read(start)), brain.read(inputs)
    difference = brain.query(extended, some_queries(brain), (-1,)) - brain.query(fresh, some_queries(brain), (-1,))
    assert torch.equal(extended.position, fresh.position)
    assert difference.abs().max() <= TOLERANCE[brain.text.dtype]


@pytest.mark.parametrize("case", ["text", "mixed"])
def test_reply_is_the_models_own_greedy_text(brain32: AutoBrain, case: str, picture: Image.Image, wide_picture: Image.Image) -> None:
    rows = examples(case, picture, wide_picture)
    texts, _ = brain32.reply(brain32.read(brain32.collate(rows)), 12)
    for text, row in zip(texts, rows, strict=True):
        inputs = brain32.collate([row])
        brain32.base.rope_deltas = None
        ids = brain32.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert text == brain32.collate.tokenizer.decode(ids, skip_special_tokens=True).strip()


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


def test_causal_lm_is_the_same_class(causal: AutoBrain) -> None:
    rows = [Example("a red cat"), Example("draw the same dog but blue, in the snow", thought="a dog")]
    inputs, queries = causal.collate(rows), some_queries(causal)
    hidden = causal.query(causal.read(inputs), queries, (-1,))
    expected = full_forward(causal, inputs, queries).last_hidden_state[:, -QUERIES:]
    assert (hidden - expected).abs().max() <= 1e-5
    texts, _ = causal.reply(causal.read(inputs), 4)
    assert len(texts) == 2
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
    transformers.Qwen3NextConfig(num_hidden_layers=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="linear-attention layers"):
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
