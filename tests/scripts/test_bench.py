"""`metabridge bench`: both routes have the same gradient, what is counted is the closed form, and a child that fails is one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from conftest import Command

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.bench import ROUTES, Job, difference, disagreement, floor, reason
from metabridge.scripts.bench_brain import load as bench_brain
from metabridge.scripts.bench_routes import run

LAYERS = 3  # of the tiny brain
LINEAR = LAYERS * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)  # its decoder's matrices: q, o; k, v; gate, up, down


def job(tree: dict[str, Any], folder: Path, route: str, **changed: Any) -> Job:
    settings = {"steps": 1, "prompt_tokens": 40} | changed
    return Job(recipe=Recipe.from_dict(tree).to_dict(), route=route, folder=str(folder), **settings)


def measured(one: Job) -> dict[str, Any]:
    told: dict[str, Any] = {}
    run(one, lambda **what: told.update(what))
    result: dict[str, Any] = told["result"]
    return result


@pytest.mark.parametrize("taps", [[-1], [2]], ids=str)
def test_three_routes_have_one_gradient_and_the_flops_of_the_closed_form(tree: dict[str, Any], tmp_path: Path, taps: list[int]) -> None:
    tree["connector"] |= {"taps": taps}
    jobs = {route: job(tree, tmp_path, route) for route in ROUTES}
    found = {route: measured(jobs[route]) for route in ROUTES}
    for part in ("brain", "step"):
        assert np.abs(np.load(jobs["cached"].gradient(part))).max() > 0
        for route in ("full", "checkpointed"):
            assert difference(jobs[route], jobs["cached"], part) <= 1e-5
            assert found[route][part]["loss"] == pytest.approx(found["cached"][part]["loss"], rel=1e-5)
    depth = LAYERS if taps == [-1] else 2
    assert found["cached"]["depth"] == depth
    passes = floor(40, 5, depth / LAYERS)
    flops = {route: found[route]["brain"]["flops"]["weights"] for route in ROUTES}
    for route in ("cached", "full"):
        assert flops[route] == round(2 * LINEAR * 4 * passes[route])
    # what comes last in a layer is not computed again, since no gradient needs it
    assert flops["full"] < flops["checkpointed"] <= 2 * LINEAR * 4 * passes["checkpointed"]


def test_pictures_take_both_routes(tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from metabridge.bridge.interfaces import Example

    picture = Image.effect_noise((64, 64), 90)
    rows = [Example("make it blue", (picture,), picture), Example("a cat on a mat", (), picture)]
    monkeypatch.setitem(sys.modules, "my.pictures", SimpleNamespace(load=lambda: lambda seed: rows[seed % 2]))
    tree |= {"data": [{"source": "my.pictures", "task": "edit"}], "objective": {"drop_text": 0}}
    jobs = [job(tree, tmp_path, route, prompt_tokens=None, brain_only=True) for route in ROUTES]
    found = [measured(one) for one in jobs]
    assert found[0]["real_prompt_tokens"] < 4 * found[0]["prompt_tokens"]  # rows of different lengths
    assert found[0]["brain"]["flops"]["convolutions"] > 0 or found[0]["brain"]["flops"]["weights"] > 2 * LINEAR * 4
    assert all(difference(one, jobs[0], "brain") <= 1e-5 for one in jobs[1:])
    assert "step" not in found[0]


def test_floor_is_the_closed_form() -> None:
    assert floor(256, 64, 1.0) == {"cached": 256 + 2 * 64, "full": 2 * 320, "checkpointed": 3 * 320}
    assert floor(256, 64, 0.5) == {"cached": 0.5 * 384, "full": 1.5 * 320, "checkpointed": 2 * 320}


def test_gradients_that_differ_are_an_error() -> None:
    assert disagreement({"brain": {"full": 1e-5, "checkpointed": 1e-5}}, {"brain": 1e-4}) is None
    for wrong in (2e-4, float("nan")):
        line = disagreement({"brain": {"full": 1e-5, "checkpointed": wrong}}, {"brain": 1e-4})
        assert line is not None and f"in the brain's part of a step: {wrong:.1e} relative" in line


def test_why_a_child_ended() -> None:
    assert reason(1, "Traceback\n  File\nValueError: no\n") == "ValueError: no"
    assert reason(1, "") == "ended with 1 and said nothing"
    assert reason(-9, "x") == "killed by signal 9, as happens where memory runs out; lower train.batch_size or raise train.grad_accum"
    assert reason(1, "RuntimeError: can't allocate memory").endswith("memory; lower train.batch_size or raise train.grad_accum")


def test_a_brain_of_any_size(brain_folder: Path) -> None:
    brain = bench_brain(str(brain_folder), hidden=64, layers=5, heads=2, kv_heads=1, mlp=96)
    assert (brain.width, brain.num_layers) == (64, 5)
    assert sum(p.numel() for p in brain.text.layers[0].mlp.parameters()) == 3 * 64 * 96
    with pytest.raises(UserError, match="hidden 64, heads 3, kv_heads 1 do not go together; hidden is a multiple of heads"):
        bench_brain(str(brain_folder), hidden=64, heads=3, kv_heads=1)


CHILD = pytest.mark.slow  # found by a process that imports everything first


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gone.yaml"], "recipe gone.yaml: no such file; "),
        (["tiny.yaml", "train.lrr=1"], "train.lrr: no such setting; did you mean lr? "),
        (["tiny.yaml", "--attention", "fast"], "--attention: 'fast' given; it is one of: training, torch"),
        (["tiny.yaml", "--json", "gone/numbers.json"], "--json gone/numbers.json: no such folder; make gone first, or give another path"),
        (["tiny.yaml", "brain={name: mine.breaks}"], "bench, cached (ours): RuntimeError: the disk is on fire"),
        pytest.param(["tiny.yaml", "brain.repo=./gone"], "./gone: no such folder; give the folder of a checkpoint in the ", marks=CHILD),
        pytest.param(["tiny.yaml", "--prompt-tokens", "600"], "prompt: too long; 600 tokens", marks=CHILD),
        pytest.param(["tiny.yaml", "brain={name: mine.killed}"], "bench, cached (ours): killed by signal 9, as happens ", marks=CHILD),
        pytest.param(["tiny.yaml", "brain={name: mine.other}"], "brain.name: mine.other given, which has no full-sequence ", marks=CHILD),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_an_error_is_one_line(metabridge: Command, recipe_file: Path, arguments: list[str], line: str) -> None:
    Path("mine").mkdir()
    Path("mine/breaks.py").write_text("def load():\n    raise RuntimeError('the disk is on fire')\n")
    Path("mine/killed.py").write_text("import os, signal\n\n\ndef load():\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    Path("mine/other.py").write_text(OTHER)
    code, _, err = metabridge("bench", *arguments)
    assert code == 2
    assert err.startswith(f"metabridge: {line}") and err.count("\n") == 1


OTHER = """
from metabridge.bridge.interfaces import Brain


class Other(Brain):
    width, num_layers = 32, 3

    def embedding_std(self):
        return 1.0


def load():
    return Other()
"""


@pytest.mark.slow
def test_the_command(metabridge: Command, recipe_file: Path) -> None:
    code, out, err = metabridge("bench", recipe_file, "connector.queries=7", "--steps", 2, "--prompt-tokens", 30, "--json", "numbers.json")
    assert code == 0 and not err
    assert [line for line in out.splitlines() if line.startswith("measuring")] == [f"measuring: {name}" for name in ROUTES.values()]
    assert "tiny: 4 rows of 30 prompt tokens and 7 queries; " in out and "median of 2" in out
    assert (
        "cached (ours) 44, full sequence 74, full, checkpointed 111; by arithmetic alone the cached route is 1.68x and 2.52x faster" in out
    )
    for words in ("brain's part of a step", "whole step", "memory above the model", "MFU", "gradient differs by"):
        assert words in out
    report = json.loads(Path("numbers.json").read_text())
    assert (report["batch"], report["prompt_tokens"], report["queries"], report["dtype"]) == (4, 30, 7, "float32")
    assert report["floor"]["full"]["speedup"] == pytest.approx(74 / 44)
    for part in ("brain", "step"):
        assert list(report[part]) == list(ROUTES)
        for cell in report[part].values():
            assert cell["gradient_difference"] <= 1e-5
            assert cell["wall_s"] > 0 and cell["cpu_s"] > 0 and 0 < cell["mfu"] < cell["mfu_with_attention"]
            assert cell["memory_bytes"] is None or cell["memory_bytes"] > 0
        assert report[part]["cached"]["speedup_cpu"] == 1.0


@pytest.mark.slow
def test_a_route_with_another_gradient_is_an_error(metabridge: Command, recipe_file: Path) -> None:
    """A brain that does not look at the queries has none on its own route."""
    code, out, err = metabridge("bench", recipe_file, "brain.name=metabridge.scripts.prompt_states", "--steps", 1, "--brain-only")
    assert code == 1 and "brain's part of a step" in out
    assert err.startswith("metabridge: bench: the gradients to the queries differ in the brain's part of a step: 1.0e+00 relative ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_child_too(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    words = [sys.executable, "-m", "metabridge.scripts.cli", "bench", "tiny.yaml", "--steps", "100000"]
    parent = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []
    while parent.poll() is None and not children:
        children = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert err == "metabridge: stopped; to go on: metabridge bench tiny.yaml --steps 100000\n"
    _, alive = psutil.wait_procs(children, timeout=60)  # the signal may come before the parent knows its child
    assert children and not alive
