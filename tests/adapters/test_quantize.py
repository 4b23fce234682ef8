"""Quantized brains: closed forms of both formats, the same exactness as in full precision, and what changes beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from brain_families import FAMILIES
from PIL import Image
from precision import float64_throughout
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from metabridge.adapters import assemble, load_pipeline
from metabridge.adapters.brains.auto import AutoBrain, load
from metabridge.adapters.quantize import BLOCK, FORMATS, NF4, Int8Linear, Nf4Linear, QuantizedLinear, quantize_layers
from metabridge.bridge.artifact import content_hash, save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.recipe import Recipe
from metabridge.training.plan import groups
from metabridge.training.train import train
from tests.adapters.test_brains import TOLERANCE, full_forward, some_queries
from tests.runs import TRAIN, fresh_accelerator, made

__all__ = ["fresh_accelerator"]

every_format = pytest.mark.parametrize("name", FORMATS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
IN_CI = {"qwen2_5_vl", "gemma3", "mllama", "qwen3_5", "qwen3_moe"}
families = pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f in IN_CI else pytest.mark.soak) for f, known in FAMILIES.items() if known.status != "refused"],
)
ROWS = [Example("draw the same dog but blue, in the snow"), Example("a cat"), Example("a bird", thought="a small yellow bird")]


def linear(dtype: torch.dtype, inputs: int = 100, outputs: int = 12) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_int8_is_its_closed_form(dtype: torch.dtype) -> None:
    plain = linear(dtype)
    plain.weight[3] = 0
    quantized = Int8Linear(plain)
    weight, scale = plain.weight.double(), (plain.weight.abs().amax(1).double() / 127).to(dtype).double()
    assert torch.equal(quantized.scale[:, 0].double(), scale) and quantized.codes.dtype == torch.int8
    written = quantized.codes.double() * scale[:, None]
    assert ((written - weight).abs() <= scale[:, None] / 2 * (1 + 1e-6)).all(), "each weight is the nearest multiple of its row's scale"
    assert torch.equal(quantized.weight, written.to(dtype)) and not quantized.weight[3].any()
    rest = torch.arange(12) != 3
    assert (quantized.codes.abs().amax(1)[rest] >= 126).all(), "the range is used to its end"


def test_the_levels_of_nf4_are_quantiles_of_a_normal_distribution() -> None:
    """As QLoRA makes them: 2^3 + 1 quantiles above and 2^3 below, which share the 0, over the greatest."""
    end = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above, below = norm.ppf(torch.linspace(end, 0.5, 9)[:-1]), -norm.ppf(torch.linspace(end, 0.5, 8)[:-1])
    levels = torch.cat([torch.tensor(below), torch.zeros(1), torch.tensor(above)]).sort().values
    assert (levels / levels.max() - torch.tensor(NF4, dtype=torch.float64)).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_nf4_takes_the_nearest_level_of_its_block(dtype: torch.dtype) -> None:
    plain = linear(dtype)  # rows of 100: a block of 64, and one of 36 that is filled up
    plain.weight[3, :BLOCK] = 0
    quantized = Nf4Linear(plain)
    assert quantized.codes.shape == (12, BLOCK) and quantized.scale.shape == (12, 2)
    levels = torch.tensor(NF4, dtype=torch.float64)
    for part, written, scale in zip(plain.weight.split(BLOCK, dim=1), quantized.weight.split(BLOCK, dim=1), quantized.scale.T, strict=True):
        assert torch.equal(scale, part.abs().amax(1))
        relative = part.double() / scale.double().clamp(min=1e-30)[:, None]
        nearest = (relative[..., None] - levels).abs().argmin(-1)
        assert torch.equal(written, levels.to(dtype)[nearest] * scale[:, None])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_format
def test_what_it_can_write_it_writes_exactly(name: str, dtype: torch.dtype) -> None:
    once = FORMATS[name](linear(dtype))
    plain = linear(dtype)
    plain.weight.copy_(once.weight)
    if name == "int8" and dtype == torch.bfloat16:  # 127 s is rounded there, and with it the scale
        assert (FORMATS[name](plain).weight - once.weight).abs().max() <= once.scale.max() / 2
    else:
        assert torch.allclose(FORMATS[name](plain).weight, once.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@every_format
def test_product_and_gradient_are_those_of_the_written_weight(name: str, bias: bool) -> None:
    plain = linear(torch.float64)
    if not bias:
        plain.bias = None
    quantized = FORMATS[name](plain)
    x = torch.randn(2, 5, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.linear(x, quantized.weight, plain.bias)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = quantized(x)
    assert not kept, "the graph holds no copy of the weight"
    assert torch.allclose(y, expected, rtol=1e-12)
    assert torch.allclose(torch.autograd.grad(y.square().sum(), x)[0], gradient, rtol=1e-12)


@every_format
def test_autocast_is_that_of_a_plain_linear(name: str) -> None:
    plain = linear(torch.float32)
    quantized, x = FORMATS[name](plain), torch.randn(3, 100, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = quantized(x)
        assert y.dtype == plain(x).dtype == torch.bfloat16
        assert torch.allclose(y, F.linear(x, quantized.weight, plain.bias), atol=0.02)
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lambda family: FAMILIES[family].make(tmp_path_factory.mktemp(family) / "brain")


@families
@every_format
def test_a_quantized_brain_is_as_exact(folder_of: Callable[[str], Path], family: str, name: str) -> None:
    """Prefix = full and batch = singles, values and gradients."""
    folder = str(folder_of(family))
    for dtype, tolerance in TOLERANCE.items() if family == "qwen2_5_vl" else [("float32", 1e-5)]:
        brain = load(folder, dtype=dtype, quantize=name)
        with float64_throughout() if dtype == "float64" else nullcontext():
            exact(brain, tolerance)


def exact(brain: AutoBrain, tolerance: float) -> None:
    before, queries, taps = content_hash(brain.model.state_dict()), some_queries(brain), (1, -1, 2)
    expected = torch.cat([full_forward(brain, brain.collate([row]), queries, taps) for row in ROWS])
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(expected)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), queries)
    hidden = brain.query(brain.read(brain.collate(ROWS)), queries, taps)
    (gradient,) = torch.autograd.grad((hidden * weight).sum(), queries)
    assert (hidden - expected).abs().max() <= tolerance
    assert (gradient - expected_gradient).abs().max() <= tolerance * expected_gradient.abs().max().clamp(min=1)
    alone = torch.cat([brain.query(brain.read(brain.collate([row])), queries, taps) for row in ROWS])
    assert (hidden - alone).abs().max() <= tolerance
    assert content_hash(brain.model.state_dict()) == before


@torch.no_grad()
def relative_error(brain: AutoBrain, plain: AutoBrain) -> tuple[float, float]:
    """Of what the queries see, and of the logits that follow the prompts."""
    memories = [one.read(one.collate(ROWS)) for one in (brain, plain)]
    seen, expected = (one.query(memory, some_queries(plain), (-1,)) for one, memory in zip((brain, plain), memories, strict=True))
    logits, wanted = (one.model.get_output_embeddings()(memory.last) for one, memory in zip((brain, plain), memories, strict=True))
    return float((seen - expected).norm() / expected.norm()), float((logits - wanted).norm() / wanted.norm())


def test_error_against_full_precision(brain_folder: Path) -> None:
    """Random weights are the worst case, for what they say hangs on every bit."""
    plain = load(str(brain_folder))
    eight, four = (relative_error(load(str(brain_folder), quantize=name), plain) for name in ("int8", "nf4"))
    assert 0 < max(eight) <= 0.03 < max(four) <= 0.4


def test_only_linears_of_the_decoder_change(brain_folder: Path) -> None:
    plain, brain = load(str(brain_folder)), load(str(brain_folder), dtype="bfloat16", quantize="nf4")
    changed = {key for key, module in brain.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert changed == {
        key for key, module in plain.model.named_modules() if isinstance(module, nn.Linear) and ".language_model.layers." in key
    }
    assert {x.dtype for x in brain.model.parameters()} == {torch.bfloat16, torch.uint8} and brain.text.dtype == torch.bfloat16
    assert not any(x.requires_grad for x in brain.parameters())
    assert brain.identity == load(str(brain_folder), dtype="bfloat16").identity | {"quantize": "nf4"}


@every_format
def test_training_beside_it_leaves_it_as_it_is(tiny_recipe: Recipe, tmp_path: Path, name: str) -> None:
    tree = tiny_recipe.to_dict()
    tree |= {"brain": {**tree["brain"], "quantize": name}, "train": {**tree["train"], **TRAIN}, "log": {"every": 1, "sample_every": 0}}
    recipe, bridge = made(tree, steps=2)
    frozen, trained = content_hash(bridge.frozen()), content_hash(bridge.trained())
    train(recipe, bridge, tmp_path / "run")
    assert content_hash(bridge.frozen()) == frozen and content_hash(bridge.trained()) != trained
    assert load_pipeline(tmp_path / "run").bridge.brain.identity["quantize"] == name


def test_memory_is_what_is_kept(tiny_recipe: Recipe) -> None:
    def brain_of(name: str) -> Any:
        recipe = Recipe.from_dict(tiny_recipe.to_dict() | {"brain": {**tiny_recipe.to_dict()["brain"], "quantize": name}})
        return next(group for group in groups(assemble(recipe)) if group.name == "brain.model")

    plain, eight, four = (brain_of(name) for name in ("none", "int8", "nf4"))
    # of a decoder layer: q, o [32, 32], k, v [16, 32], gate, up, down [64, 32], three layers; rows of 32 are filled up to 64 in nf4
    outputs, weights = 3 * (2 * 32 + 2 * 16 + 2 * 64 + 32), 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    assert plain.size - eight.size == 4 * weights - weights - 4 * outputs
    assert plain.size - four.size == 4 * weights - outputs * 32 - 4 * outputs
    assert "int8" in eight.dtypes and "uint8" in four.dtypes


def test_experts_in_one_tensor_are_left_and_said(folder_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "metabridge"):
        load(str(folder_of("qwen3_moe")), quantize="int8")
    assert "80 % of the decoder layers' weights stay in full precision" in caplog.text


def test_refusals(brain_folder: Path) -> None:
    with pytest.raises(UserError, match=r"^brain.quantize: 'int4' given; it is one of: none, int8, nf4$"):
        load(str(brain_folder), quantize="int4")
    with pytest.raises(UserError, match=r"^brain.quantize: int8 given, but the decoder layers of b have no plain Linear to quantize; "):
        quantize_layers(nn.ModuleList([nn.LayerNorm(3)]), "int8", "b")


def test_a_bridge_on_a_quantized_brain_comes_back(
    tiny_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, picture: Image.Image
) -> None:
    """The artifact's recipe names the format; another may be asked for, and is said."""
    tree = tiny_recipe.to_dict()
    recipe = Recipe.from_dict(tree | {"brain": {**tree["brain"], "quantize": "int8"}})
    bridge = assemble(recipe)
    save_bridge(bridge, tmp_path / "bridge", recipe, {})
    assert json.loads((tmp_path / "bridge/bridge.json").read_text())["brain"]["quantize"] == "int8"
    rows = bridge.brain.collate([Example("a cat", (picture,)), Example("a dog")])
    own = load_pipeline(tmp_path / "bridge").bridge
    assert torch.equal(own.condition(rows).embeds, bridge.condition(rows).embeds) and not caplog.records
    with caplog.at_level(logging.WARNING, "metabridge"):
        full = load_pipeline(tmp_path / "bridge", quantize="none").bridge
    assert caplog.messages == ["brain.quantize: none, but this bridge was trained on int8; drawings differ a little"]
    assert "quantize" not in full.brain.identity and not any(isinstance(module, QuantizedLinear) for module in full.modules())
    assert not torch.equal(full.condition(rows).embeds, own.condition(rows).embeds)
