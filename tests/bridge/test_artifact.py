"""What was trained, saved and laid over its base again; refused over another."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from metabridge.adapters import assemble, load_pipeline
from metabridge.bridge.artifact import apply, content_hash, copy_bridge, fingerprint, read_artifact, save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Part
from metabridge.bridge.weights import INDEX, shards


def disturb(bridge: Bridge) -> Bridge:
    """As training would."""
    with torch.no_grad():
        for parameter in bridge.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    return bridge


def test_a_saved_bridge_draws_the_same_bits(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    save_bridge(disturb(bridge), tmp_path / "bridge", tiny_recipe, {"loss": 0.5})
    pipeline = load_pipeline(tmp_path / "bridge")
    loaded = pipeline.bridge
    assert all(torch.equal(x, bridge.trained()[name]) for name, x in loaded.trained().items())
    inputs = bridge.brain.collate([Example("a red cat")])
    assert torch.equal(loaded.condition(inputs).embeds, bridge.condition(inputs).embeds)
    assert pipeline.answer("a cat") == bridge.brain.reply(bridge.brain.read(bridge.brain.collate([Example("a cat")])))[0][0]
    assert loaded.scale == bridge.scale


def test_what_lies_in_the_folder(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    for _ in range(2):  # a second save replaces the first
        save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {"loss": 0.5})
    assert sorted(p.name for p in (tmp_path / "bridge").iterdir()) == ["README.md", "bridge.json", "bridge.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["bridge"]
    config = json.loads((tmp_path / "bridge" / "bridge.json").read_text())
    assert config["brain"]["fingerprint"] == bridge.brain.identity["fingerprint"]
    assert config["connector"]["queries"] == 5 and config["connector"]["scale"] == bridge.scale
    assert config["metrics"] == {"loss": 0.5}
    assert "| loss | 0.5 |" in (tmp_path / "bridge" / "README.md").read_text()
    assert (tmp_path / "bridge" / "bridge.safetensors").stat().st_size < 200_000


def test_weights_of_an_ema_are_saved_instead(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    ema = {name: torch.zeros_like(x) for name, x in bridge.trained().items()}
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {}, ema)
    assert not any(x.any() for x in read_artifact(tmp_path / "bridge").tensors.values())
    with pytest.raises(ValueError, match="differ from what is trained"):
        save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {}, {"queries": ema["queries"]})


def test_relative_paths_move_with_the_folder(brain_folder: Path, hand_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(brain_folder, home / "brain")
    shutil.copytree(hand_folder, home / "hand")
    recipe = Recipe.from_dict(tiny.recipe_tree(home / "brain", home / "hand"))
    save_bridge(assemble(recipe), home / "runs" / "bridge", recipe, {})
    assert str(tmp_path) not in (home / "runs" / "bridge" / "bridge.json").read_text()
    moved = home.rename(tmp_path / "moved")
    assert load_pipeline(moved / "runs").bridge.brain.identity["repo"] == str(moved / "brain")


@pytest.mark.parametrize("part", ["brain", "hand"])
def test_another_base_is_refused(
    part: str, bridge: Bridge, tiny_recipe: Recipe, brain_folder: Path, hand_folder: Path, tmp_path: Path
) -> None:
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    folders = {"brain": brain_folder, "hand": hand_folder}
    folders[part] = {"brain": tiny.make_brain, "hand": tiny.make_hand}[part](tmp_path / "other", seed=1)
    other = assemble(Recipe.from_dict(tiny.recipe_tree(**folders)))
    before = content_hash(other.trained())
    theirs, given = (getattr(b, part).identity["fingerprint"][:12] for b in (bridge, other))
    with pytest.raises(UserError, match=rf"trained on the {part} .*{theirs}.*but .*other@main has {given}; give the {part}"):
        apply(read_artifact(tmp_path / "bridge"), other)
    assert content_hash(other.trained()) == before


def test_another_connector_is_refused(bridge: Bridge, tiny_recipe: Recipe, brain_folder: Path, hand_folder: Path, tmp_path: Path) -> None:
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    changes = {"queries": (5, 6), "layers": (2, 1), "taps": ([-1], [2]), "heads": (2, 6)}  # the last two do not show in any shape
    for key, (before, now) in changes.items():
        tree = tiny.recipe_tree(brain_folder, hand_folder)
        tree["connector"][key] = now  # type: ignore[index]
        line = f"trained with connector.{key}={before}, but this recipe has {now}; use the connector settings it was trained with"
        with pytest.raises(UserError, match=re.escape(line)):
            apply(read_artifact(tmp_path / "bridge"), assemble(Recipe.from_dict(tree)))


def test_a_bridge_with_a_tensor_missing_is_refused(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    artifact = read_artifact(tmp_path / "bridge")
    artifact.tensors.pop("connector.head.weight")
    with pytest.raises(UserError, match=r"bridge: connector.head.weight is not in it; the bridge is damaged, copy it again"):
        apply(artifact, bridge)


def test_large_bridges_are_saved_in_shards(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = bridge.trained()
    most = max(tensor.nbytes for tensor in tensors.values())
    assert len(shards(tensors, sum(tensor.nbytes for tensor in tensors.values()))) == 1
    monkeypatch.setattr("metabridge.bridge.weights.SHARD", most)
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    index = json.loads((tmp_path / "bridge" / INDEX).read_text())
    files = sorted(path.name for path in (tmp_path / "bridge").glob("*.safetensors"))
    assert len(files) > 1 and files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"bridge-00001-of-{len(files):05d}.safetensors"
    assert index["weight_map"].keys() == tensors.keys() and index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for file in files:
        assert sum(tensor.nbytes for tensor in load_file(tmp_path / "bridge" / file).values()) <= most
    loaded = load_pipeline(tmp_path).bridge.trained()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "bridge" / files[1]).unlink()
    with pytest.raises(UserError, match=f"bridge: no {files[1]} here"):
        load_pipeline(tmp_path)


def test_a_bridge_starts_from_the_weights_of_another(
    bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bridge(disturb(bridge), tmp_path / "run" / "bridge", tiny_recipe, {})
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(tiny_recipe, init="run")  # against the working directory, as every path of a recipe
    begun = assemble(recipe)
    assert content_hash(begun.trained()) == content_hash(bridge.trained()) and begun.scale == bridge.scale
    assert begun.init == {"path": "run", "content_hash": content_hash(bridge.trained())}
    save_bridge(disturb(begun), tmp_path / "next" / "bridge", recipe, {})
    config = json.loads((tmp_path / "next/bridge/bridge.json").read_text())
    assert config["init"] == {"path": "../../run", "content_hash": content_hash(bridge.trained())}
    assert config["recipe"]["init"] == "../../run"
    shutil.rmtree(tmp_path / "run")  # what it began from is in its weights
    assert content_hash(load_pipeline(tmp_path / "next").bridge.trained()) == content_hash(begun.trained())
    with pytest.raises(UserError, match=r"run: no such folder and no shipped bridge"):
        assemble(recipe)


def test_a_copy_finds_its_base_and_its_start_from_where_it_lies(
    bridge: Bridge, tiny_recipe: Recipe, brain_folder: Path, tmp_path: Path
) -> None:
    save_bridge(bridge, tmp_path / "one" / "bridge", tiny_recipe, {})
    recipe = dataclasses.replace(tiny_recipe, init=str(tmp_path / "one"))
    save_bridge(assemble(recipe), tmp_path / "two" / "bridge", recipe, {"steps": 1})
    first = read_artifact(tmp_path / "two" / "bridge")
    copy_bridge(first, tmp_path / "a" / "b" / "c")
    second = read_artifact(tmp_path / "a/b/c")
    assert second.recipe == first.recipe and second.recipe.brain.options["repo"] == str(brain_folder)
    assert second.config["init"]["path"] == second.config["recipe"]["init"] == "../../../one"
    assert second.config["metrics"] == {"steps": 1} and content_hash(second.tensors) == content_hash(first.tensors)
    assert load_pipeline(tmp_path / "a/b/c").bridge.trained().keys() == bridge.trained().keys()


def test_what_of_the_hand_goes_on_and_what_begins(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A LoRA that the start lacks begins at zero; one that this recipe does not ask for, or of another rank, is refused."""

    def trained(**options: object) -> Recipe:
        hand = Part(tiny_recipe.hand.name, {**tiny_recipe.hand.options, **options})
        return dataclasses.replace(tiny_recipe, hand=hand)

    save_bridge(disturb(bridge), tmp_path / "plain", tiny_recipe, {})
    lora = assemble(trained(train="lora", lora_rank=2), init=tmp_path / "plain")
    own = lora.trained()
    assert all(torch.equal(own[name], tensor) for name, tensor in bridge.trained().items())
    fresh = {name for name in own if name not in bridge.trained()}
    assert fresh and all("lora_A" in name or ("lora_B" in name and not own[name].any()) for name in fresh)
    save_bridge(disturb(lora), tmp_path / "lora", trained(train="lora", lora_rank=2), {})
    again = assemble(trained(train="lora", lora_rank=2), init=tmp_path / "lora").trained()
    assert content_hash(again) == content_hash(own)
    for options, line in (
        ({}, r"lora: hand.denoiser.*lora_A.* has no place in this recipe; it was trained with hand.train=lora, use the same"),
        ({"train": "full"}, r"has no place in this recipe; it was trained with hand.train=lora"),
        ({"train": "lora", "lora_rank": 3}, r"lora_A.* is \(2, 16\), but this recipe's is \(3, 16\); use the hand.lora_rank it was"),
    ):
        with pytest.raises(UserError, match=line):
            assemble(trained(**options), init=tmp_path / "lora")


def test_folders_that_cannot_be_read(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "bridge"
    save_bridge(bridge, folder, tiny_recipe, {})
    with pytest.raises(UserError, match=r"no bridge\.json here"):
        read_artifact(tmp_path)
    config = (folder / "bridge.json").read_text()
    (folder / "bridge.json").write_text(config.replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="not a bridge of format 1"):
        read_artifact(folder)
    (folder / "bridge.json").write_text(config[:50])
    with pytest.raises(UserError, match="cannot be read"):
        read_artifact(folder)
    (folder / "bridge.json").write_text(config)
    (folder / "bridge.safetensors").write_bytes((folder / "bridge.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        read_artifact(folder)


def test_a_folder_that_cannot_be_written(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="could not be saved"):
        save_bridge(bridge, tmp_path / "file" / "bridge", tiny_recipe, {})


def test_a_full_disk_leaves_the_last_bridge_whole(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A limit on file size stands for a full disk."""
    import resource
    import signal

    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(UserError, match="could not be saved"):
            save_bridge(disturb(bridge), tmp_path / "bridge", tiny_recipe, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert read_artifact(tmp_path / "bridge").config["metrics"] == {"loss": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["bridge"]


@pytest.mark.parametrize("name", [".bridge.old", "bridge"])
def test_a_save_killed_in_the_middle_leaves_a_bridge(
    bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The kill comes at one of the two renames: what was put aside is found, and goes once there is a new one."""
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {"loss": 1.0})
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.name == name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {"loss": 0.5})
    monkeypatch.undo()
    assert (tmp_path / "bridge").exists() == (name == ".bridge.old")
    assert read_artifact(tmp_path / "bridge").config["metrics"] == {"loss": 1.0}
    assert load_pipeline(tmp_path).bridge.trained().keys() == bridge.trained().keys()
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {"loss": 0.5})
    assert read_artifact(tmp_path / "bridge").config["metrics"] == {"loss": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["bridge"]


def test_half_the_size_in_bfloat16(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    for name, dtype in (("whole", None), ("half", torch.bfloat16)):
        save_bridge(disturb(bridge) if dtype is None else bridge, tmp_path / name, tiny_recipe, {}, dtype=dtype)
    sizes = [(tmp_path / name / "bridge.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_pipeline(tmp_path / "half").bridge.trained()
    for name, tensor in bridge.trained().items():
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], tensor.bfloat16().float())


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("brain",), None, "brain.repo is missing or damaged"),
        (("hand", "fingerprint"), None, "hand.fingerprint is missing or damaged"),
        (("connector", "scale"), "loud", "connector.scale is missing or damaged"),
        (("metrics",), None, "metrics is missing or damaged"),
        (("recipe",), "tiny", "recipe is missing or damaged"),
        (("recipe", "hand"), None, "recipe: hand: missing"),
        (("recipe", "trian"), {}, "recipe: trian: no such setting"),
    ],
)
def test_a_damaged_description_is_named(
    bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path, path: tuple[str, ...], value: object, line: str
) -> None:
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    config = json.loads((tmp_path / "bridge/bridge.json").read_text())
    section = config if len(path) == 1 else config[path[0]]
    section.pop(path[-1], None)
    if value is not None:
        section[path[-1]] = value
    (tmp_path / "bridge/bridge.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"bridge.json: {line}"):
        read_artifact(tmp_path / "bridge")


def test_a_flipped_bit_in_the_weights_is_found(bridge: Bridge, tiny_recipe: Recipe, tmp_path: Path) -> None:
    save_bridge(bridge, tmp_path / "bridge", tiny_recipe, {})
    path = tmp_path / "bridge/bridge.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"bridge: the weights are damaged, their hash is not that of bridge.json; copy or train"):
        read_artifact(tmp_path / "bridge")


def test_fingerprint_and_content_hash() -> None:
    tensors = {"a": torch.arange(1000.0), "b": torch.zeros(3, 2, dtype=torch.bfloat16), "empty": torch.zeros(0)}

    def changed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return tensors | {name: tensor}

    flipped = tensors["a"].clone()
    flipped[1] += 1e-4  # between the sampled values
    for hash_of in (fingerprint, content_hash):
        assert hash_of(tensors) == hash_of(dict(reversed(tensors.items())))
        assert len({hash_of(t) for t in (tensors, changed("a", tensors["a"] + 1), changed("b", torch.zeros(2, 3)), {})}) == 4
    assert fingerprint(changed("a", flipped)) == fingerprint(tensors)
    assert content_hash(changed("a", flipped)) != content_hash(tensors)
    assert fingerprint(changed("b", tensors["b"].float())) != fingerprint(tensors)
