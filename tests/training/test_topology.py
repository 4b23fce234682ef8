"""Sharded = whole, every launcher reaches the same run, and what a launcher's config asks for is heeded or refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.adapters.brains.auto import load
from metabridge.bridge.artifact import content_hash
from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Train
from metabridge.training.log import read_metrics
from metabridge.training.plan import memory, spread
from metabridge.training.sharding import blocks
from metabridge.training.topology import heed
from metabridge.training.train import train
from tests.brain_families import FAMILIES
from tests.runs import made
from tests.training import sharded
from tests.training.test_processes import difference

DOCS = Path(__file__).parents[2] / "docs"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Without the variables that would tell two processes of each other's device: what a user's shell has."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "METABRIDGE_", "RANK", "WORLD_SIZE"))}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        cwd=cwd,
        env=plain | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_sharded_is_whole(recipe_file: Path, tmp_path: Path) -> None:
    """Brain and hand over two gloo processes, under plain torchrun: gradients, four steps with a stop between, frozen bits, memory."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    run([*TORCHRUN, sharded.__file__, str(recipe_file), str(two)], tmp_path)
    result = torch.load(two / "result.pt", weights_only=True)
    assert difference(sharded.first_gradient(str(recipe_file), one, "train.grad_accum=2"), result["gradient"]) <= 1e-6
    quantized = ("train.grad_accum=2", "brain.quantize=nf4", "brain.dtype=bfloat16")
    assert difference(sharded.first_gradient(str(recipe_file), one, *quantized), result["quantized"]) <= 1e-6
    recipe, bridge = sharded.four_steps(str(recipe_file), one)
    weights = {name: tensor.detach() for name, tensor in bridge.trained().items()}
    assert any("lora" in name for name in weights) and difference(weights, result["weights"]) <= 1e-9
    assert result["frozen"] == content_hash(bridge.frozen())
    assert result["bytes"] == result["planned"] < memory(recipe, bridge)["frozen weights"]
    assert (two / "four/samples/step-000003.png").read_bytes() == (one / "four/samples/step-000003.png").read_bytes()
    assert [row["step"] for row in read_metrics(two / "four/metrics.jsonl") if "loss" in row] == [1, 2, 3, 4]


FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "NO_WRAP", "fsdp_cpu_ram_efficient_loading": True},
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "main_training_function": "main",
}


@pytest.mark.slow
def test_a_users_own_accelerate_config_reaches_the_same_run(recipe_file: Path, tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "fsdp.json").write_text(json.dumps(FSDP))
    accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", "fsdp.json"]
    said = run([*accelerate, "-m", "metabridge.scripts.train", str(recipe_file), "train.steps=1", "--out", "run"], tmp_path)
    assert "accelerate's config asks for FSDP: taken as train.shard: both; what is trained is replicated under DDP" in said
    assert said.count("run/bridge holds the trained bridge") == 1
    (row,) = read_metrics(tmp_path / "run/metrics.jsonl")
    train(*made(tree, steps=1), tmp_path / "one")
    (alone,) = read_metrics(tmp_path / "one/metrics.jsonl")
    assert abs(row["loss"] - alone["loss"]) <= 1e-5 * alone["loss"]
    assert abs(row["grad_norm"] - alone["grad_norm"]) <= 1e-4 * alone["grad_norm"]


USES_FSDP, USES_DEEPSPEED = {"ACCELERATE_USE_FSDP": "true"}, {"ACCELERATE_USE_DEEPSPEED": "true"}
REPLICATED = "; what is trained is replicated under DDP"
NO_OFFLOAD = "its offload to the CPU is not taken over"


@pytest.mark.parametrize(
    ("environ", "shard", "said"),
    [
        ({}, "none", []),
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}, "none", []),
        (USES_FSDP, "both", ["FSDP: taken as train.shard: both" + REPLICATED]),
        (
            USES_FSDP | {"FSDP_SHARDING_STRATEGY": "NO_SHARD"},
            "none",
            ["FSDP (NO_SHARD): taken as train.shard: none" + REPLICATED],
        ),
        (
            USES_FSDP | {"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "both",
            ["FSDP: taken as train.shard: both" + REPLICATED, NO_OFFLOAD],
        ),
        (
            USES_DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
            "none",
            ["DeepSpeed ZeRO-2: taken as train.shard: none" + REPLICATED],
        ),
        (
            USES_DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
            "both",
            ["DeepSpeed ZeRO-3: taken as train.shard: both" + REPLICATED, NO_OFFLOAD],
        ),
    ],
)
def test_what_a_launcher_asks_for(environ: dict[str, str], shard: str, said: list[str]) -> None:
    lines = [line if line == NO_OFFLOAD else f"accelerate's config asks for {line}" for line in said]
    given = dict(environ)
    assert heed(Train(), given) == (shard, lines)
    assert not {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & given.keys(), "accelerate would take over what it wraps"
    assert heed(Train(), given) == (shard, lines), "the next stage of a recipe finds the same"


def test_the_recipe_counts_more_than_the_launcher() -> None:
    assert heed(Train(shard="hand"), dict(USES_FSDP)) == (
        "hand",
        ["accelerate's config asks for FSDP: train.shard: hand is what counts"],
    )


@pytest.mark.parametrize(
    ("environ", "settings", "line"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "accelerate's config asks for mixed precision bf16, but train.precision is float32; "),
        (
            {"ACCELERATE_MIXED_PRECISION": "fp16"},
            {"precision": "bfloat16"},
            "asks for mixed precision fp16, but train.precision is bfloat16",
        ),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {}, "asks for 4 accumulated parts of a step, but train.grad_accum is 1; use the"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "asks for Megatron-LM, which is not offered; use MULTI_GPU, FSDP or DeepSpeed in it"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {}, "asks for dynamo, which is not offered for the whole bridge; use hand.compile"),
    ],
)
def test_what_contradicts_the_recipe_is_refused(environ: dict[str, str], settings: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        heed(Train(**settings), environ)


def test_bf16_that_both_name_is_no_contradiction() -> None:
    assert heed(Train(precision="bfloat16", grad_accum=4), {"ACCELERATE_MIXED_PRECISION": "bf16"}) == ("none", [])
    environ = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    assert heed(Train(grad_accum=4), environ) == ("none", []) and not environ, "accelerate would divide the loss by it once more"


def test_a_deepspeed_config_file(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    environ = USES_DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path), "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}, "bf16": {"enabled": "auto"}}))
    shard, said = heed(Train(), dict(environ))
    assert shard == "both" and "ZeRO-3" in said[0] and said[1] == NO_OFFLOAD
    path.write_text(json.dumps({"fp16": {"enabled": True}}))
    with pytest.raises(UserError, match=r"ds.json asks for mixed precision fp16, but train.precision is float32"):
        heed(Train(), dict(environ))
    path.write_text(json.dumps({"gradient_accumulation_steps": 8}))
    with pytest.raises(UserError, match=r"ds.json asks for 8 accumulated parts of a step, but train.grad_accum is 1"):
        heed(Train(), dict(environ))
    path.write_text("{")
    with pytest.raises(UserError, match=r"DeepSpeed config .*ds.json: cannot be read"):
        heed(Train(), dict(environ))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_half_an_address_is_one_line(tree: dict[str, Any], tmp_path: Path, alone: pytest.MonkeyPatch) -> None:
    alone.setenv("WORLD_SIZE", "2")
    alone.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"^WORLD_SIZE=2, but LOCAL_RANK is not set; start the processes with torchrun"):
        train(*made(tree), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_has_nothing_to_share(tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(*made(tree, steps=1, shard="both"), tmp_path / "run")
    assert "train.shard: both has no effect with one process" in capsys.readouterr().out
    assert train(*made(tree, steps=2), tmp_path / "run") == 2, "a run may go on with parts sharded otherwise"


def test_what_cannot_be_sharded_is_one_line(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["hand"]["train"] = "full"
    _, bridge = made(tree)
    with pytest.raises(
        UserError, match=r"^train.shard: hand given, but it is trained \(hand.train: full\), and only what is frozen is shar"
    ):
        blocks(bridge, "hand")
    assert len(blocks(bridge, "brain")) == 3
    bridge.brain = load(str(FAMILIES["mllama"].make(tmp_path / "mllama")))
    with pytest.raises(UserError, match=r"^train.shard: brain given, but of .*mllama it is not known which blocks every batch runs; leave"):
        blocks(bridge, "brain")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own compiler imports it
def test_the_hand_that_is_compiled_stays_whole(tree: dict[str, Any]) -> None:
    tree["hand"]["compile"] = True
    with pytest.raises(UserError, match=r"^train.shard: hand given, and hand.compile too, which are not offered together"):
        blocks(made(tree)[1], "hand")


def test_memory_of_a_share() -> None:
    """Cut along the first dimension, rounded up: 3 of 10 rows; what is trained and single numbers are whole."""
    block = torch.nn.Linear(4, 10).requires_grad_(False)
    block.bias.requires_grad_(True)
    block.number = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)
    other = torch.nn.Linear(8, 10, bias=False).requires_grad_(False)
    assert spread([block, other], 4) == ((10 - 3) * 4 * 4 + (10 - 3) * 8 * 4, 10 * 8 * 4)


def shell_parts() -> list[str]:
    """What docs/scaling.md gives to a shell."""
    return re.findall(r"```(?:sh|bash)\n(.*?)```", (DOCS / "scaling.md").read_text(), re.DOTALL)


def test_the_shell_of_the_docs_is_shell() -> None:
    scripts = [*shell_parts(), (DOCS / "train.sbatch").read_text()]
    assert len(scripts) > 3
    for script in scripts:
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert checked.returncode == 0, f"{checked.stderr}\n{script}"
