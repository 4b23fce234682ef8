"""From names to a bridge, and what a wrong name is told."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from metabridge.adapters import assemble, find_bridge, load, load_pipeline, names
from metabridge.adapters.locate import locate
from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Part
from metabridge.training import recipes


def test_names() -> None:
    assert "auto" in names("brains")
    assert "sana" in names("hands")


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (Part("atuo"), "no such brain; did you mean auto?"),
        (Part("auto", {"repo": "x/y", "dtpye": "float32"}), "brain.dtpye: no such option of brain auto; did you mean dtype?"),
        (Part("auto"), "brain.repo: missing"),
        (Part("no.such.module", {"repo": "x/y"}), "no module no in this environment"),
        (Part("json.tool", {"repo": "x/y"}), r"the module has no load\(\)"),
    ],
)
def test_what_a_wrong_part_is_told(part: Part, line: str) -> None:
    with pytest.raises(UserError, match=line):
        load("brains", part)


def test_a_third_partys_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "brain.py").write_text("def load(size: int):\n    return size + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("brains", Part("their.brain", {"size": 2})) == 3
    sys.modules.pop("their.brain")


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert locate("weights") == locate("./weights") == str(tmp_path / "weights")
    assert locate("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert Path(locate("package:flatland")).name == "flatland"
    for repo, line in (("./none", "no such folder"), ("package:none", "not in this installation"), ("none", "neither a folder here")):
        with pytest.raises(UserError, match=line):
            locate(repo)


def test_a_hub_id_that_cannot_be_had_is_one_line(tiny_recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"nobody/nothing@main: cannot be loaded \(.*\); check the name") as caught:
        load("brains", Part("auto", {"repo": "nobody/nothing"}))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nobody/nothing@main: cannot be loaded"):
        load("hands", Part("sana", {"repo": "nobody/nothing"}))
    for name, line in (
        ("nobody/nothing", "no such folder, and not to be had from the hub"),
        ("runs/a b", "no such folder, and not a name that the hub could have"),
    ):
        with pytest.raises(UserError, match=f"{name}: {line}") as caught:
            load_pipeline(name)
        assert "\n" not in str(caught.value)


def test_the_same_seed_gives_the_same_bridge(tiny_recipe: Recipe) -> None:
    state = torch.get_rng_state()
    one, two = assemble(tiny_recipe).trained(), assemble(tiny_recipe).trained()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_output_starts_at_the_scale_of_the_native_conditioning(tiny_recipe: Recipe) -> None:
    bridge = assemble(tiny_recipe, scale=7.0)
    with torch.no_grad():
        embeds = bridge.condition(bridge.brain.collate([Example("a red cat"), Example("a dog")])).embeds
    assert 0.5 * 7 < embeds.square().mean().sqrt() < 2 * 7
    assert assemble(tiny_recipe).scale == pytest.approx(bridge.hand.condition_rms())


def test_distilling_needs_a_text_encoder(brain_folder: Path, tmp_path: Path) -> None:
    hand = tiny.make_hand(tmp_path / "hand", text_encoder=False)
    tree = tiny.recipe_tree(brain_folder, hand) | {"objective": {"distill": 0.5}}
    with pytest.raises(UserError, match="no text encoder to learn from"):
        assemble(Recipe.from_dict(tree))


def test_bridges_are_found(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    save_bridge(bridge, tmp_path / "run" / "bridge", tiny_recipe, {})
    assert find_bridge(tmp_path / "run") == find_bridge(tmp_path / "run" / "bridge") == tmp_path / "run" / "bridge"
    with pytest.raises(UserError, match="no bridge in it"):
        find_bridge(tmp_path)
    with pytest.raises(UserError, match="no such folder and no shipped bridge"):
        find_bridge("flatlnad")


def test_a_folder_of_its_name_does_not_hide_a_shipped_bridge(
    bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "package" / "flatland" / "bridge"
    save_bridge(bridge, shipped, tiny_recipe, {})
    monkeypatch.setattr("metabridge.adapters.shipped", lambda: {"flatland": shipped})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flatland").mkdir()  # as `metabridge eval flatland -o flatland` leaves
    assert find_bridge("flatland") == shipped
    assert load_pipeline(shipped, name="flatland").name == "flatland"
    save_bridge(bridge, tmp_path / "flatland", tiny_recipe, {})  # a bridge of one's own comes first
    assert find_bridge("flatland") == Path("flatland")


@pytest.mark.parametrize(
    ("kind", "damaged"),
    [
        ("brains", "model.safetensors"),
        ("brains", "config.json"),
        ("hands", "transformer/diffusion_pytorch_model.safetensors"),
        ("hands", "model_index.json"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(kind: str, damaged: str, brain_folder: Path, hand_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree({"brains": brain_folder, "hands": hand_folder}[kind], tmp_path / "copy")
    path = folder / damaged
    if damaged == "config.json":
        path.write_text(path.read_text().replace("qwen2_5_vl", "no_such_model"))
    elif damaged == "model_index.json":
        path.write_text(path.read_text().replace("FlowMatchEulerDiscreteScheduler", "NoSuchScheduler"))
    else:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"copy@main: cannot be loaded \(.*the folder is incomplete or damaged, copy it again") as caught:
        load(kind, Part({"brains": "auto", "hands": "sana"}[kind], {"repo": str(folder)}))
    assert "\n" not in str(caught.value)


def test_a_hand_with_a_tensor_missing_is_one_line(hand_folder: Path, tmp_path: Path) -> None:
    """diffusers would draw it at random, with a warning."""
    folder = shutil.copytree(hand_folder, tmp_path / "copy")
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state.pop("proj_out.weight")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"transformer: 1 tensors missing, the first is proj_out.weight\); the folder is incomplete"):
        load("hands", Part("sana", {"repo": str(folder)}))


def test_a_text_encoder_of_another_width_is_one_line(hand_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hand_folder, tmp_path / "copy")
    config = transformers.Gemma2Config.from_pretrained(folder / "text_encoder")
    config.hidden_size = 24
    transformers.Gemma2Model(config).save_pretrained(folder / "text_encoder")
    hand = load("hands", Part("sana", {"repo": str(folder), "max_sequence_length": 16}))
    with pytest.raises(UserError, match=r"copy: its text encoder gives 24 numbers a token, its denoiser takes 16; the two do not belong"):
        hand.condition_rms()


def test_a_lora_of_the_hand_is_saved_and_loaded_back(tiny_recipe: Recipe, tmp_path: Path) -> None:
    hand = dataclasses.replace(tiny_recipe.hand, options={**tiny_recipe.hand.options, "train": "lora", "lora_rank": 2})
    recipe = dataclasses.replace(tiny_recipe, hand=hand)
    bridge = assemble(recipe)
    lora = {name: tensor for name, tensor in bridge.trained().items() if "lora_" in name}
    assert lora and all(2 in tensor.shape for tensor in lora.values())
    assert not bridge.frozen().keys() & lora.keys()
    with torch.no_grad():
        for tensor in lora.values():
            tensor.normal_()
    save_bridge(bridge, tmp_path / "bridge", recipe, {})
    loaded = load_pipeline(tmp_path).bridge
    assert all(torch.equal(loaded.trained()[name], tensor) for name, tensor in bridge.trained().items())

    def latents(bridge: Bridge, native: bool = False) -> torch.Tensor:
        pipeline = BridgePipeline(bridge)
        draw = pipeline.draw_native if native else pipeline
        return draw("a red cat", seeds=[1], output_type="latent").images[0]

    assert torch.equal(latents(loaded), latents(bridge))
    by_turns = load_pipeline(tmp_path, offload=True)
    assert by_turns.offload and torch.equal(by_turns("a red cat", seeds=[1], output_type="latent").images[0], latents(bridge))
    plain = assemble(tiny_recipe)
    assert torch.equal(latents(loaded, native=True), latents(plain, native=True))  # the baseline is the hand as it came


def test_another_hand_is_another_line_of_the_recipe() -> None:
    one, other = (Recipe.load(recipes.find(name)).to_dict() for name in ("flatland", "flatland-sd"))
    assert {key for key in one if one[key] != other[key]} == {"name", "hand"}
    bridge = assemble(Recipe.from_dict(other))
    assert (bridge.hand.prediction, bridge.objective.name) == ("epsilon", "auto")


def test_the_states_of_a_prompt_as_queries(tiny_recipe: Recipe) -> None:
    """The ablation's brain: what it gives is the prompt's own last tokens, whatever the queries are."""
    options = {**tiny_recipe.brain.options}
    recipe = dataclasses.replace(tiny_recipe, brain=Part("metabridge.scripts.prompt_states", options))
    brain, plain = assemble(recipe).brain, assemble(tiny_recipe).brain
    inputs = brain.collate([Example("a red cat"), Example("a")])
    queries = torch.randn(30, brain.width)
    found = brain.query(brain.read(inputs), queries, (2, -1))
    assert torch.equal(found, brain.query(brain.read(inputs), torch.randn(30, brain.width), (2, -1)))
    with torch.no_grad():
        expected = plain.model(**inputs, output_hidden_states=True).hidden_states[-1]
    real = inputs["attention_mask"].bool()
    length = real.shape[1]
    assert (found[:, -length:, brain.width :][real] - expected[real]).abs().max() <= 1e-6
    assert not found[:, :-length].any() and not found[:, -length:][~real].any()
