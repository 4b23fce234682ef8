"""Brains that differ from the generic route, where the contract of every family does not reach."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from brain_families import FAMILIES
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from metabridge.adapters.brains.auto import AutoBrain, load
from metabridge.adapters.mllama import MllamaBrain
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example, Turn


def brain_of(name: str, folder: Path) -> AutoBrain:
    return load(str(FAMILIES[name].make(folder / name)))


def some_queries(brain: AutoBrain, count: int = 6) -> Tensor:
    return (0.3 * torch.randn(count, brain.width, generator=torch.Generator().manual_seed(1))).requires_grad_()


@pytest.fixture(scope="module")
def mllama(tmp_path_factory: pytest.TempPathFactory) -> AutoBrain:
    brain = brain_of("mllama", tmp_path_factory.mktemp("mllama"))
    assert isinstance(brain, MllamaBrain)
    return brain


def test_mllama_reads_a_further_turn_anew(
    mllama: AutoBrain, picture: Image.Image, wide_picture: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of different length, with and without pictures, in either turn."""
    first = [Example("a red cat", (picture,)), Example("draw a dog in the snow"), Example("a bird", (picture,))]
    then = [Example("at night", (wide_picture, picture)), Example("now like this", (wide_picture,)), Example("blue")]
    history = [(Turn("user", row.prompt, row.images), Turn("assistant", "here")) for row in first]
    whole = mllama.collate([Example(row.prompt, row.images, history=turns) for row, turns in zip(then, history, strict=True)])
    start = mllama.collate(first)
    rest = mllama.collate(then)
    # what the template writes between the turns, less the beginning of the text, which stands once
    tokens = mllama.collate.tokenizer
    between = tokens("here<|eot_id|>\n", add_special_tokens=False)["input_ids"]
    ids = [row[mask.bool()].tolist() for row, mask in zip(rest["input_ids"], rest["attention_mask"], strict=True)]
    rest = {name: tensor for name, tensor in rest.items() if tensor.dim() != 2 or name == "aspect_ratio_ids"} | padded(
        [between + row[1:] for row in ids], tokens.pad_token_id
    )
    seen = torch.zeros(3, rest["input_ids"].shape[1], *rest["cross_attention_mask"].shape[2:], dtype=torch.long)
    length = min(seen.shape[1], rest["cross_attention_mask"].shape[1])
    seen[:, -length:] = rest["cross_attention_mask"][:, -length:]
    rest["cross_attention_mask"] = seen
    with caplog.at_level(logging.INFO):
        extended = mllama.read(rest, mllama.read(start))
    fresh = mllama.read(whole)
    assert "the conversation is read anew" in caplog.text
    assert torch.equal(extended.position, fresh.position) and torch.equal(extended.mask, fresh.mask)
    queries = some_queries(mllama)
    assert torch.equal(mllama.query(extended, queries, (-1, 2)), mllama.query(fresh, queries, (-1, 2)))


def padded(rows: list[list[int]], pad: int) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


def test_mllama_goes_on_from_its_own_reply(mllama: AutoBrain, picture: Image.Image) -> None:
    """What it said is among what is read anew."""
    rows = [Example("a red cat", (picture,)), Example("draw a dog in the snow")]
    memory = mllama.read(mllama.collate(rows))
    _, grown = mllama.reply(memory, 4)
    tokens = mllama.collate.tokenizer("now blue", add_special_tokens=False)["input_ids"]
    rest = padded([tokens, tokens], 0)
    said = mllama.read(grown.cache.inputs)
    queries = some_queries(mllama)
    assert (mllama.query(said, queries, (-1,)) - mllama.query(grown, queries, (-1,))).abs().max() <= 1e-5
    again = mllama.read(rest, grown)
    assert torch.equal(again.position, grown.position + len(tokens))
    assert len(memory.cache.inputs["input_ids"][0]) < len(grown.cache.inputs["input_ids"][0])


@pytest.mark.parametrize("name", ["mamba2", "qwen3_5"])
def test_one_query_is_the_first_of_several(name: str, tmp_path: Path) -> None:
    """One token alone would overwrite the state it needs; causal: those behind it do not reach it."""
    brain = brain_of(name, tmp_path)
    memory = brain.read(brain.collate([Example("a red cat"), Example("draw the same dog but blue, in the snow")]))
    several = some_queries(brain, 4)
    one = several[:1].detach().requires_grad_()
    alone = brain.query(memory, one, (-1,))
    assert (alone - brain.query(memory, several, (-1,))[:, :1]).abs().max() <= 1e-5
    (gradient,) = torch.autograd.grad(alone.sum(), one)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["mistral", "qwen3_5"])
def test_padding_between_turns_is_refused_where_it_would_count(name: str, tmp_path: Path) -> None:
    brain = brain_of(name, tmp_path)
    turns = brain.collate([Example("a red cat"), Example("draw the same dog but blue, in the snow")])
    with pytest.raises(ValueError, match="turns of different length in a batch cannot be read onto a Memory by this brain"):
        brain.read(turns, brain.read(turns))
    alone = {name: tensor[:1, -12:] for name, tensor in turns.items()}
    brain.read(alone, brain.read(alone))  # one row has none


def test_code_that_comes_with_a_checkpoint_runs_only_if_asked_for(
    causal_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(causal_folder, tmp_path / "brain")
    (folder / "their.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class TheirConfig(Qwen2Config):\n    model_type = 'their'\n"
        "class Their(Qwen2ForCausalLM):\n    config_class = TheirConfig\n"
    )
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"model_type": "their", "auto_map": {"AutoConfig": "their.TheirConfig", "AutoModelForCausalLM": "their.Their"}}
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"a their comes with code of its own; read it, then set brain.trust_remote_code=true") as refused:
        load(str(folder))
    assert "\n" not in str(refused.value)
    theirs, ours = load(str(folder), trust_remote_code=True), load(str(causal_folder))
    rows, queries = [Example("a red cat"), Example("a dog in the snow")], some_queries(ours)
    states = [brain.query(brain.read(brain.collate(rows)), queries, (-1, 1)) for brain in (theirs, ours)]
    assert torch.equal(*states)
    assert type(theirs.model).__name__ == "Their"
    load(str(causal_folder), trust_remote_code=True)
    assert "brain.trust_remote_code has no effect" in caplog.text


def test_a_half_downloaded_checkpoint_is_one_line(causal_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "brain"
    load(str(causal_folder)).model.save_pretrained(folder, max_shard_size="50KB")
    for path in causal_folder.iterdir():
        if not path.name.startswith("model"):
            shutil.copy(path, folder / path.name)
    load(str(folder))
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(UserError, match=rf"cannot be loaded \(.*{shard.name}.*\); the folder is incomplete") as refused:
        load(str(folder))
    assert "\n" not in str(refused.value)


def test_a_decoder_without_a_list_of_layers_is_refused(tmp_path: Path) -> None:
    import transformers

    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a gpt2 cannot be a brain here: its decoder has no list of layers to tap"):
        load(str(tmp_path))


def test_a_tensor_that_is_missing_is_one_line(causal_folder: Path, tmp_path: Path) -> None:
    """transformers would draw it at random, with a warning."""
    folder = shutil.copytree(causal_folder, tmp_path / "brain")
    state = load_file(folder / "model.safetensors")
    state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"\(1 tensors missing, the first is model.layers.1.mlp.up_proj.weight\); the folder is incomplete"):
        load(str(folder))


def test_a_further_turn_with_a_picture_is_refused_where_pictures_are_cut_together(tmp_path: Path, picture: Image.Image) -> None:
    brain = brain_of("llava_onevision", tmp_path)
    turn = brain.collate([Example("edit it", (picture,))])
    with pytest.raises(ValueError, match="read a further turn with a picture together with the earlier ones"):
        brain.read(turn, brain.read(turn))
    brain.read(brain.collate([Example("now blue")]), brain.read(turn))
