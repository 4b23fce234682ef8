"""The contract of every family of brains: read + query = one full forward, batch = singles, what was read and the weights never change.

Each family has one case here that holds every kind of row at once; `make soak` runs each kind, tap and precision apart.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from brain_families import FAMILIES
from PIL import Image
from precision import float64_throughout
from torch import Tensor
from torch.nn import functional as F

from metabridge.adapters.brains.auto import AutoBrain, load
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example, Inputs, Memory, Turn

QUERIES = 6
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
CASES = ("text", "image", "mixed", "two_images", "thoughts")
READ = [name for name, family in FAMILIES.items() if family.status != "refused"]
REFUSED = [name for name, family in FAMILIES.items() if family.status == "refused"]
LOOKING = [name for name in READ if FAMILIES[name].pictures]

every_family = pytest.mark.parametrize("name", READ)
soak = pytest.mark.soak


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = FAMILIES[name].make(tmp_path_factory.mktemp(name) / "brain")
        return made[name]

    return get


@pytest.fixture(scope="module")
def brain_of(folder_of: Callable[[str], Path]) -> Callable[..., AutoBrain]:
    loaded: dict[tuple[str, str], AutoBrain] = {}

    def get(name: str, dtype: str = "float32") -> AutoBrain:
        if (name, dtype) not in loaded:
            loaded[name, dtype] = load(str(folder_of(name)), dtype=dtype)
        return loaded[name, dtype]

    return get


@pytest.fixture(autouse=True)
def _precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where 1e-9 is asked for, transformers must not compute a part in float32."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    narrow = "name" in params and FAMILIES[params["name"]].narrow
    with float64_throughout() if narrow and params.get("dtype") == "float64" else nullcontext():
        yield


@pytest.fixture
def rows_of(picture: Image.Image, wide_picture: Image.Image) -> Callable[[str, str], list[Example]]:
    cases = {
        "text": [Example("a red cat"), Example("draw the same dog but blue, in the snow"), Example("")],
        "image": [Example("edit it", (picture,)), Example("make it night and snow", (wide_picture,))],
        "mixed": [Example("edit it", (picture,)), Example("make it night and snow")],
        "two_images": [Example("edit it", (picture,)), Example("mix", (picture, wide_picture))],
        "thoughts": [
            Example("what a cat sees", thought="a green mat"),
            Example("edit it", (wide_picture,), thought="a bird, and a small cat"),
        ],
    }
    cases["all"] = [cases["text"][1], cases["image"][0], cases["two_images"][1], cases["thoughts"][1]]

    def get(name: str, case: str) -> list[Example]:
        rows = cases[case]
        return rows if FAMILIES[name].pictures else [Example(row.prompt, thought=row.thought) for row in rows]

    return get


def kinds(name: str) -> tuple[str, ...]:
    return CASES if FAMILIES[name].pictures else ("text", "thoughts")


ALWAYS = ("all", "float32", (1, -1, 2))
WITH_TAPS = [(case, dtype, taps) for case in ("all", *CASES) for dtype in TOLERANCE for taps in ((-1,), (2,), (1, -1, 2))]
every_case = pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, marks=[] if case == "all" else soak) for name in READ for case in ("all", *kinds(name))],
)
every_case_and_tap = pytest.mark.parametrize(
    ("name", "case", "dtype", "taps"),
    [
        pytest.param(name, *case, marks=[] if case == ALWAYS else soak)
        for name in READ
        for case in WITH_TAPS
        if case[0] in ("all", *kinds(name))
    ],
)


def some_queries(brain: AutoBrain) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(QUERIES, brain.width, generator=generator, dtype=torch.float64) * 0.3
    return queries.to(brain.text.dtype).requires_grad_()


def full_forward(brain: AutoBrain, inputs: Inputs, queries: Tensor, taps: tuple[int, ...]) -> Tensor:
    """The reference: one forward over [prompt | queries], all of it in the graph, no padding; what the queries became at each tap."""
    count, mask = len(queries), inputs["attention_mask"]
    inputs = {name: x.to(brain.text.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    position_ids = positions(brain, inputs, count)
    for name, tensor in inputs.items():
        if tensor.shape == mask.shape:
            inputs[name] = F.pad(tensor, (0, count), value={"input_ids": brain.filler, "attention_mask": 1}.get(name, 0))
        elif name == "cross_attention_mask":  # queries see the pictures that the prompt's last token sees
            inputs[name] = torch.cat([tensor, *[tensor[:, -1:]] * count], dim=1)
    outputs: dict[int, Tensor] = {}

    def put_queries(module: Any, args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :-count], queries.expand(len(output), -1, -1)], dim=1)

    def keep(tap: int) -> Any:
        return lambda module, args, output: outputs.update({tap: output[0] if isinstance(output, tuple) else output})

    hooks = [layer.register_forward_hook(keep(k)) for k, layer in enumerate(brain.text.layers, 1)]
    hooks.append(brain.base.get_input_embeddings().register_forward_hook(put_queries))
    try:
        outputs[-1] = brain.base(**inputs, position_ids=position_ids, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    for tap in set(taps) - {-1}:
        outputs[tap] = outputs[max(k for k in outputs if 0 < k <= tap)]  # Mllama passes over layers that have no picture to look at
        # Gemma 3n's layers have several streams, of which they compute one
        stream = outputs[tap][brain.text.config.altup_active_idx] if outputs[tap].dim() == 4 else outputs[tap]
        outputs[tap] = F.rms_norm(stream, (brain.width,))
    return torch.cat([outputs[tap][:, -count:] for tap in taps], dim=-1)


def positions(brain: AutoBrain, inputs: Inputs, count: int) -> Tensor:
    """Of prompt and queries, [B, L + N], or under M-RoPE [3, B, L + N]: the queries go on behind the highest that a row has."""
    mask = inputs["attention_mask"]
    if "image_grid_thw" not in inputs or not hasattr(brain.base, "get_rope_index"):
        return torch.cat([(mask.cumsum(1) - 1).clamp(min=0), mask.sum(1)[:, None] + torch.arange(count)], dim=-1)
    grid = {"image_grid_thw": inputs["image_grid_thw"], "mm_token_type_ids": inputs["mm_token_type_ids"]}
    prompt, _ = brain.base.get_rope_index(inputs["input_ids"], attention_mask=mask, **grid)
    start = torch.stack([prompt[:, row, mask[row].bool()].max() + 1 for row in range(len(mask))])
    own = start.view(1, -1, 1) + torch.arange(count).view(1, 1, -1)
    return torch.cat([prompt, own.expand(3, -1, -1)], dim=-1)


@every_case_and_tap
def test_prefix_equals_full_forward(
    brain_of: Callable[..., AutoBrain], rows_of: Any, name: str, case: str, dtype: str, taps: tuple[int, ...]
) -> None:
    brain = brain_of(name, dtype)
    rows, queries = rows_of(name, case), some_queries(brain)
    inputs = brain.collate(rows)
    expected = torch.cat([full_forward(brain, brain.collate([row]), queries, taps) for row in rows])
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(expected.dtype)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), queries)

    hidden = brain.query(brain.read(inputs, depth=None if -1 in taps else max(taps)), queries, taps)
    (gradient,) = torch.autograd.grad((hidden * weight).sum(), queries)

    assert hidden.shape == (len(inputs["input_ids"]), QUERIES, brain.width * len(taps))
    assert (hidden - expected).abs().max() <= TOLERANCE[dtype]
    assert (gradient - expected_gradient).abs().max() <= TOLERANCE[dtype] * expected_gradient.abs().max().clamp(min=1)


@every_case
def test_batch_equals_singles(brain_of: Callable[..., AutoBrain], rows_of: Any, name: str, case: str) -> None:
    brain, rows = brain_of(name), rows_of(name, case)
    inputs, queries = brain.collate(rows), some_queries(brain)
    assert not inputs["attention_mask"][:, 0].all() and inputs["attention_mask"][:, -1].all(), "padded, and on the left"
    together = brain.query(brain.read(inputs), queries, (-1, 2))
    alone = torch.cat([brain.query(brain.read(brain.collate([row])), queries, (-1, 2)) for row in rows])
    assert (together - alone).abs().max() <= TOLERANCE["float32"]


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor that a Memory holds."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for f in fields(value):
            yield from tensors(getattr(value, f.name))
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def same(a: Memory, b: Memory) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@every_family
def test_a_memory_is_never_changed(brain_of: Callable[..., AutoBrain], rows_of: Any, name: str) -> None:
    """Queries and replies fork it; each gives the same thing the second time, whatever came between."""
    brain = brain_of(name)
    memory = brain.read(brain.collate(rows_of(name, "all")))
    before = copy.deepcopy(memory)
    assert len(list(tensors(before))) > brain.num_layers
    queries = some_queries(brain)
    first = brain.query(memory, queries, (-1,))
    first.sum().backward()
    texts, grown = brain.reply(memory, 5)
    assert same(memory, before)
    assert torch.equal(brain.query(memory, queries, (-1,)), first)
    again, grown_again = brain.reply(memory, 5)
    assert again == texts and same(grown, grown_again)
    assert same(memory, before)


@every_family
def test_a_shallow_read_equals_a_full_one_for_its_taps(brain_of: Callable[..., AutoBrain], rows_of: Any, name: str) -> None:
    brain = brain_of(name)
    inputs, queries = brain.collate(rows_of(name, "all")), some_queries(brain)
    shallow, full = (brain.query(brain.read(inputs, depth=depth), queries, (1, 2)) for depth in (2, None))
    assert torch.equal(shallow, full)


@every_case
def test_understanding_is_intact(brain_of: Callable[..., AutoBrain], folder_of: Any, rows_of: Any, name: str, case: str) -> None:
    """Logits after queries have been read and trained: the bare model's, bit for bit; the reply: its own greedy text."""
    brain, rows = brain_of(name), rows_of(name, case)
    inputs = brain.collate(rows)
    memory = brain.read(inputs)
    brain.query(memory, some_queries(brain), (-1,)).sum().backward()
    texts, _ = brain.reply(memory, 8)
    bare = type(brain.model).from_pretrained(folder_of(name), dtype=torch.float32).eval()
    bare.requires_grad_(False)  # torch takes another kernel for some products with weights that want a gradient, and rounds otherwise
    with torch.no_grad():
        assert torch.equal(brain.model(**inputs).logits, bare(**inputs).logits)
    ends = sorted(brain.end_tokens.tolist())
    for text, row in zip(texts, rows, strict=True):
        single = brain.collate([row])
        ids = bare.generate(**single, max_new_tokens=8, do_sample=False, eos_token_id=ends)[0, single["input_ids"].shape[1] :]
        assert text == brain.collate.tokenizer.decode(ids, skip_special_tokens=True).strip()


@every_family
def test_weights_stay_as_they_came(brain_of: Callable[..., AutoBrain], folder_of: Any, rows_of: Any, name: str) -> None:
    brain = brain_of(name)
    memory = brain.read(brain.collate(rows_of(name, "all")))
    brain.query(memory, some_queries(brain), (1, -1)).sum().backward()
    brain.reply(memory, 2)
    bare = type(brain.model).from_pretrained(folder_of(name), dtype=torch.float32)
    came, has = bare.state_dict(), brain.model.state_dict()
    assert came.keys() == has.keys() and all(torch.equal(came[key], has[key]) for key in came)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in brain.parameters())


@every_family
def test_collate_travels_to_a_worker(brain_of: Callable[..., AutoBrain], rows_of: Any, name: str) -> None:
    """As bytes of its settings, without processor and weights."""
    brain, rows = brain_of(name), rows_of(name, "all")
    inputs = brain.collate(rows)
    sent = pickle.dumps(brain.collate)
    assert len(sent) < 1000
    assert not any(isinstance(held, Tensor | torch.nn.Module) for held in vars(brain.collate).values())
    arrived = pickle.loads(sent)(rows)
    assert arrived.keys() == inputs.keys() and all(torch.equal(arrived[key], inputs[key]) for key in inputs)


@pytest.mark.parametrize("name", LOOKING)
def test_own_tokens_equal_the_processors(brain_of: Callable[..., AutoBrain], name: str) -> None:
    """The short way for text gives what the official call gives."""
    collate = brain_of(name).collate
    prompts = ["a red cat", "a small yellow bird to the left of a dog"]
    official = collate.processor.apply_chat_template(
        [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in prompts],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    own = collate([Example(prompt) for prompt in prompts])
    assert torch.equal(own["input_ids"], official["input_ids"])
    assert torch.equal(own["attention_mask"], official["attention_mask"])


def second_turn(brain: AutoBrain, first: tuple[Image.Image, ...], second: tuple[Image.Image, ...]) -> tuple[Inputs, Inputs, Inputs]:
    """What is read at first, what is read then, and both in one."""
    whole = Example("now make it night", second, history=(Turn("user", "a red cat", first), Turn("assistant", "here it is")))
    fresh = brain.collate([whole])
    start = brain.collate([Example("a red cat", first)])
    cut = start["input_ids"].shape[1]
    assert torch.equal(fresh["input_ids"][:, :cut], start["input_ids"]), "the template writes earlier turns as they were"
    rest = {key: tensor[:, cut:] for key, tensor in fresh.items() if tensor.shape == fresh["attention_mask"].shape}
    if second:
        alone = brain.collate([Example("now make it night", second)])
        rest |= {key: tensor for key, tensor in alone.items() if tensor.shape != alone["attention_mask"].shape}
    return start, rest, fresh


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=soak)])
@pytest.mark.parametrize("name", [name for name in READ if FAMILIES[name].extends])
def test_a_second_turn_equals_a_fresh_read(
    brain_of: Callable[..., AutoBrain], picture: Image.Image, wide_picture: Image.Image, name: str, dtype: str
) -> None:
    brain = brain_of(name, dtype)
    queries = some_queries(brain)
    looks = [((), (picture,)), ((wide_picture,), (picture,)), ((picture,), ())] if FAMILIES[name].pictures else [((), ())]
    for first, second in looks:
        start, rest, fresh = second_turn(brain, first, second)
        memory = brain.read(start)
        before = copy.deepcopy(memory)
        extended, whole = brain.read(rest, memory), brain.read(fresh)
        assert same(memory, before) and same(brain.read(rest, memory), extended)
        assert torch.equal(extended.position, whole.position)
        difference = brain.query(extended, queries, (-1, 2)) - brain.query(whole, queries, (-1, 2))
        assert difference.abs().max() <= TOLERANCE[dtype]
        assert (extended.last - whole.last).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_family_says_why(folder_of: Any, name: str) -> None:
    with pytest.raises(UserError) as refused:
        load(str(folder_of(name)))
    assert FAMILIES[name].reason and FAMILIES[name].reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize("name", LOOKING)
def test_a_picture_of_any_size_is_read(brain_of: Callable[..., AutoBrain], picture: Image.Image, name: str, dtype: str) -> None:
    brain = brain_of(name, dtype)
    sizes = [(1, 1), (1, 20_000), (20_000, 8), (3, 600), (601, 3), (2, 5)]
    odd = [Image.effect_noise(size, 80) for size in sizes]
    rows = [Example("edit it", (one,)) for one in odd] + [Example("mix", (odd[0], picture, odd[1]))]
    inputs, queries = brain.collate(rows), some_queries(brain)
    together = brain.query(brain.read(inputs), queries, (-1,))
    alone = torch.cat([brain.query(brain.read(brain.collate([row])), queries, (-1,)) for row in rows])
    assert together.isfinite().all()
    assert (together - alone).abs().max() <= TOLERANCE[dtype]


def to_older_layout(folder: Path, fast: bool) -> None:
    """The files of a checkpoint of 2024: preprocessor_config.json, chat_template.json, pixel limits by their own names."""
    tree = json.loads((folder / "processor_config.json").read_text())
    pictures = tree.pop("image_processor") | {"processor_class": tree["processor_class"]}
    pictures["image_processor_type"] = pictures["image_processor_type"].removesuffix("Pil") + ("Fast" if fast else "")
    if pictures["image_processor_type"].startswith("Qwen2VL"):
        size = pictures.pop("size")
        pictures |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "processor_config.json").unlink()
    if set(tree) > {"processor_class"}:
        (folder / "processor_config.json").write_text(json.dumps(tree))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(words | {"tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=soak)], ids=["Fast", "slow"])
@pytest.mark.parametrize("name", LOOKING)
def test_the_hubs_older_files_give_the_same(
    brain_of: Callable[..., AutoBrain], folder_of: Any, rows_of: Any, tmp_path: Path, name: str, fast: bool
) -> None:
    folder = shutil.copytree(folder_of(name), tmp_path / "brain")
    to_older_layout(folder, fast)
    rows = rows_of(name, "all")
    older, expected = load(str(folder)).collate(rows), brain_of(name).collate(rows)
    assert older.keys() == expected.keys() and all(torch.equal(older[key], expected[key]) for key in expected)
