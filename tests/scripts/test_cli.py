"""The commands a user types: what they print, what they leave, and the one line that an error is."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from metabridge.bridge.interfaces import Example
from tests.tiny import make_brain


def test_train_prints_how_to_draw_and_resumes(metabridge: Command, recipe_file: Path) -> None:
    code, out, err = metabridge("train", recipe_file, "train.steps=2", "--out", "run")
    assert code == 0 and not err
    assert out.splitlines()[-1] == "run/bridge holds the trained bridge; to draw with it: metabridge generate run 'PROMPT' -o out.png"
    code, out, _ = metabridge("train", recipe_file, "train.steps=3", "--out", "run")
    assert code == 0 and out.splitlines()[0] == "run: going on from step 2"
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_dry_run_says_what_and_writes_nothing(metabridge: Command, recipe_file: Path) -> None:
    code, out, _ = metabridge("train", recipe_file, "train.lr=2e-4", "--dry-run", "--processes", 2)
    assert code == 0
    assert "lr: 0.0002" in out and "trained" in out and "frozen weights" in out and "AdamW" in out
    assert "2 processes x 1 accumulated x 2 rows" in out
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["train", "flatlnad"],
            "flatlnad: no such recipe; did you mean flatland? it may be one of: flatland, flatland-demo, flatland-edit, flatland-sd, ",
        ),
        (
            ["train", "gone.yaml"],
            "recipe gone.yaml: no such file; give a recipe file, or a shipped name: flatland, flatland-demo, flatland-edit, flatland-sd",
        ),
        (["train", "tiny.yaml", "train.lrr=1"], "train.lrr: no such setting; did you mean lr? it may be one of: batch_size, "),
        (["train", "tiny.yaml", "train.lr=fast"], "train.lr: 'fast' given; it is a number"),
        (["train", "tiny.yaml", "train.steps=0"], "train.steps: 0 given; it is 1 at least"),
        (["train", "tiny.yaml", "train.lr"], "override 'train.lr': write key=value, as train.lr=1e-4"),
        (["train", "tiny.yaml", "brain.rpo=x"], "brain.rpo: no such option of brain auto; did you mean repo? it may be one of: "),
        (["train", "tiny.yaml", "hand.name=snaa"], "snaa: no such hand; did you mean sana? it may be one of: auraflow, "),
        (["train", "tiny.yaml", "connector.taps=9"], "connector.taps: 9 given, but the brain has 3 layers; use 1..3 or -1"),
        (["train", "tiny.yaml", "--processes", "3"], "train.batch_size: 4 (global) does not divide by 3 = 1 (train.grad_accum) x 3 "),
        (["generate", "RUN", ""], "prompt: empty; say what to draw"),
        (["generate", "RUN", "a", "  "], "prompt: empty; say what to draw"),
        (["generate", "RUN", "a", "--image", "gone.png"], "--image gone.png: no such file; give a picture"),
        (["generate", "RUN", "a", "--image", "tiny.yaml"], "--image tiny.yaml: not a picture that can be read; give a PNG, JPEG or WebP"),
        (["generate", "RUN", "a", "--image", "cut.png"], "--image cut.png: damaged or unreadable ("),
        (["generate", "RUN", "a", "-o", "a.jpg"], "-o a.jpg: drawings are written as .png; give a name that ends in .png"),
        (["generate", "RUN", "a", "-o", "tiny.yaml/a.png"], "-o tiny.yaml/a.png: its folder cannot be made ("),
        (["generate", "RUN", "a", "--think-mode", "always"], "--think-mode always: has no effect without --think; add --think"),
        (["generate", "RUN", "a", "--think", "--think-mode", "no"], "--think-mode: 'no' given; it is one of: always, auto, rewrite"),
        (["generate", "RUN", "word " * 900], "prompt: too long; "),
        (["generate", "nothere", "a", "-o", "new/a.png"], "nothere: no such folder and no shipped bridge; "),
        (["generate", "RUN", "word " * 900, "-o", "new/a.png"], "prompt: too long; "),
        (
            ["generate", "RUN", "a", "-o", "x" * 300 + "/a.png"],
            "-o " + "x" * 300 + "/a.png: its folder cannot be made (File name too long)",
        ),
        (["generate", "runs/typo", "a"], "runs/typo: no such folder, and not to be had from the hub ("),
        (["generate", "runs/a b", "a"], "runs/a b: no such folder, and not a name that the hub could have; "),
        (
            ["train", "tiny.yaml", "log.sample_every=1", "log.prompts=['a <|im_end|>']"],
            "log.prompts: prompt: holds the brain's special token",
        ),
        (["check", "gone.yaml"], "recipe gone.yaml: no such file; "),
        (["generate", "nothere", "a"], "nothere: no such folder and no shipped bridge; "),
        (["generate", ".", "a"], ".: no bridge in it; give a run folder (with bridge/bridge.json) or the folder that holds bridge.json"),
        (["check", "RUN", "train.lr=1"], "train.lr=1: a trained bridge has its settings already; give key=value with a recipe only"),
        (["ls", "hand"], "hand: no such list; did you mean hands? it may be one of: benchmarks, brains, data, hands, recipes"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_an_error_is_one_line(metabridge: Command, recipe_file: Path, trained: Path, arguments: list[str], line: str) -> None:
    Image.effect_noise((64, 64), 90).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:1500])
    before = sorted(Path().rglob("*"))
    code, _, err = metabridge(*[trained if word == "RUN" else word for word in arguments])
    assert code == 2
    assert err.startswith(f"metabridge: {line}") and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_generate(metabridge: Command, trained: Path) -> None:
    code, out, _ = metabridge("generate", trained, "a cat", "-n", 2, "--seed", 5, "--think", "--steps", 2, "-o", "sub/x.png")
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"bridge: {trained} ({trained}/bridge)"
    assert lines[1].startswith("thought: ") and lines[-2:] == ["sub/x-0.png", "sub/x-1.png"]
    assert sorted(path.name for path in Path("sub").iterdir()) == ["x-0.png", "x-1.png"]
    for k in range(2):
        with Image.open(f"sub/x-{k}.png") as image:
            text = image.info
            assert image.size == (64, 64)
        assert (text["prompt"], text["seed"], text["bridge"]) == ("a cat", str(5 + k), str(trained))
        assert text["thought"] == out.split("thought: ")[1].split("\nsub/")[0]
        settings = json.loads(text["settings"])
        assert settings["num_inference_steps"] == 2 and settings["guidance_scale"] == 3.0 and settings["think_mode"] == "always"


def test_a_seed_draws_the_same_picture_in_any_company(metabridge: Command, trained: Path) -> None:
    metabridge("generate", trained, "a cat", "-n", 3, "--seed", 1, "-o", "many.png")
    metabridge("generate", trained, "a cat", "--seed", 2, "-o", "one.png")
    metabridge("generate", trained, "a dog", "a cat", "--seed", 2, "-o", "two.png")
    many, one, two = (np.asarray(Image.open(name), dtype=int) for name in ("many-1.png", "one.png", "two-1.png"))
    assert np.abs(many - one).max() <= 1 and np.abs(two - one).max() <= 1
    assert np.abs(one - np.asarray(Image.open("many-0.png"), dtype=int)).max() > 1


def test_pictures_are_looked_at(metabridge: Command, trained: Path) -> None:
    Image.new("RGB", (64, 64), "red").save("red.png")
    Image.new("RGB", (64, 64), "blue").save("blue.png")
    for name in ("red", "blue"):
        assert metabridge("generate", trained, "the same", "--image", f"{name}.png", "-o", f"{name}-drawn.png")[0] == 0
    with Image.open("red-drawn.png") as red, Image.open("blue-drawn.png") as blue:
        assert red.tobytes() != blue.tobytes()
        assert json.loads(red.info["settings"])["images"] == ["red.png"]


def test_full_disk_while_drawing(metabridge: Command, trained: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code, _, err = metabridge("generate", trained, "a cat", "-o", "x.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and err == "metabridge: -o x.png: cannot be written (File too large); make room or give another path\n"
    assert not list(Path().iterdir())


def test_a_bridge_refuses_another_brain(metabridge: Command, trained: Path, tmp_path: Path) -> None:
    config = json.loads((trained / "bridge/bridge.json").read_text())
    config["recipe"]["brain"]["repo"] = str(make_brain(tmp_path / "other", seed=1))
    config["recipe"]["hand"]["repo"] = str((trained / "bridge" / config["recipe"]["hand"]["repo"]).resolve())
    shutil.copytree(trained / "bridge", tmp_path / "moved")
    (tmp_path / "moved/bridge.json").write_text(json.dumps(config))
    code, _, err = metabridge("generate", "moved", "a cat")
    assert code == 2 and err.startswith("metabridge: moved: trained on the brain ") and "(fingerprint " in err and err.count("\n") == 1
    assert not Path("out.png").exists()


def test_check(metabridge: Command, recipe_file: Path, trained: Path) -> None:
    shutil.copy(recipe_file, "plain")  # as `train` takes it, too
    for what, first in ((recipe_file, f"recipe {recipe_file}"), ("plain", "recipe plain"), (trained, f"bridge {trained}/bridge")):
        code, out, _ = metabridge("check", what)
        assert code == 0 and out.splitlines()[0] == first
        assert "[5, 32]" in out and "[4, 16, 16]" in out and "the hand's own text encoder" in out
        assert "a gradient reaches everything that is trained, and nothing that is frozen" in out


def test_a_check_of_pictures_alone(metabridge: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that all have pictures: there is no prompt to look at alone."""
    picture = Image.new("RGB", (64, 64), "red")
    monkeypatch.setitem(sys.modules, "my.pictures", SimpleNamespace(load=lambda: lambda seed: Example("make it blue", (picture,), picture)))
    code, out, err = metabridge("check", recipe_file, "data=[{source: my.pictures, task: edit}]")
    assert code == 0 and not err and "conditioning: not looked at" in out and "a trial step on 4 rows" in out
    code, *_ = metabridge("train", recipe_file, "data=[{source: my.pictures, task: edit}]", "log.sample_every=1", "--out", "edits")
    assert code == 0 and list(Path("edits/samples").glob("step-*.png"))


def test_a_warning_is_one_line(metabridge: Command, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((trained / "bridge/bridge.json").read_text())
    config["recipe"]["objective"]["drop_text"] = 0.0
    for part in ("brain", "hand"):
        config["recipe"][part]["repo"] = str((trained / "bridge" / config["recipe"][part]["repo"]).resolve())
    (tmp_path / "run/bridge/bridge.json").write_text(json.dumps(config))
    code, _, err = metabridge("generate", "run", "a cat", "--steps", 1)
    assert code == 0 and err.startswith("metabridge: guidance_scale 3: this bridge was trained with objective.drop_text=0, ")
    assert err.count("\n") == 1
    assert metabridge("generate", "run", "a cat", "--steps", 1, "--guidance", 1)[2] == ""


def test_seeds_have_63_bits(metabridge: Command, trained: Path) -> None:
    assert metabridge("generate", trained, "a cat", "-n", 2, "--steps", 1, "--seed", 2**63 - 1)[0] == 0
    code, _, err = metabridge("generate", trained, "a cat", "--seed", 2**63)
    assert code == 2 and "Invalid value for '--seed'" in err


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["generate", "flatland", "a cat"], "generate.generate_command"),
        (["eval", "flatland", "-o", "here"], "eval.eval_command"),
        (["demo"], "demo.demo_command"),
        (["check", "flatland"], "check.check_command"),
    ],
)
def test_ctrl_c_says_how_to_go_on(metabridge: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], where: str) -> None:
    monkeypatch.setattr(f"metabridge.scripts.{where}", lambda *_: signal.raise_signal(signal.SIGINT))
    assert metabridge(*words) == (130, "", f"metabridge: stopped; to go on: {shlex.join(['metabridge', *words])}\n")


@pytest.mark.parametrize("kind", ["brains", "hands", "recipes", "benchmarks"])
def test_ls(metabridge: Command, kind: str) -> None:
    code, out, _ = metabridge("ls", kind, "--json")
    rows = json.loads(out)
    assert code == 0 and rows and all(set(row) >= {"name", "status", "reason"} for row in rows)
    code, table, _ = metabridge("ls", kind)
    assert code == 0 and all(row["name"] in table for row in rows)


def test_ls_data(metabridge: Command) -> None:
    code, out, _ = metabridge("ls", "data", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (
        code == 0 and rows["folder"]["status"] == "kind" and rows["omniedit"]["licence"] == "MIT" and rows["omniedit"]["size"] == "2.98 TB"
    )
    assert rows["blip3o-60k"]["notes"][0].startswith("geneval_train.tar holds prompts made from GenEval's templates")
    assert "not confirmed: the licence" in rows["blip3o-60k"]["notes"]
    code, table, _ = metabridge("ls", "data")
    assert code == 0 and all(name in table for name in rows) and "licence: MIT" in table and "not confirmed" in table


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metabridge.scripts.cli", "train", str(recipe_file), "--out", str(tmp_path / "run")]
    child = subprocess.Popen([*command, "train.steps=100000", "train.schedule=constant"], stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while child.poll() is None and not metrics.exists():
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    said = out.splitlines()[-1]
    done = int(said.split()[3])
    assert said.startswith(f"stopped at step {done} of 100000, saved in {tmp_path}/run; to go on: metabridge train {recipe_file} --out ")
    assert (tmp_path / f"run/checkpoints/step-{done:06d}.pt").exists() and (tmp_path / "run/bridge/bridge.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2); " + (
    "from metabridge.scripts.cli import main; main()"
)


@pytest.mark.slow
def test_a_full_disk_while_training(recipe_file: Path, trained: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk, at the bridge and at the checkpoint; with room the same command goes on."""
    shutil.copytree(trained, tmp_path / "run")
    kept = tmp_path / "run/checkpoints/step-000002.pt"
    before, bridge = kept.read_bytes(), (tmp_path / "run/bridge/bridge.safetensors").stat().st_size

    def command(limit: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", LIMITED, str(limit), "train", str(recipe_file), "objective.think=0.2", "--out", "run"]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)

    for limit, line in (
        (bridge // 2, "metabridge: run/bridge: the bridge could not be saved ("),
        (len(before) // 2, "metabridge: run: cannot be written (the file is too large for this disk or its limit); "),
    ):
        done = command(limit)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(line)
        assert kept.read_bytes() == before and [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert "run/checkpoints/step-000002.pt is kept; make room and run the same command again" in done.stderr
    done = command(10**9)
    assert done.returncode == 0 and "going on from step 2" in done.stdout and not done.stderr


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_written(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = [sys.executable, "-m", "metabridge.scripts.cli", "train", str(recipe_file), "--out", "file/run"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "metabridge: file/run: cannot be written (a part of the path is no folder); nothing was saved; give another --out or make room\n"
    )


@pytest.mark.slow
def test_two_processes_fail_in_one_line(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metabridge.scripts.cli", "train", str(recipe_file), "train.lr=1e30", "train.checkpoint_every=1"]
    settings = ["train.steps=8", "train.max_skips=1", "--processes", "2"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=tmp_path)
    kept = "runs/tiny/checkpoints/step-000001.pt"
    assert done.returncode == 2
    assert done.stderr == (
        f"metabridge: step 5: the norm of the gradient is nan (bad steps in a row: 1); going back to {kept} 3 times did not help; "
        "look at the rows of these steps, lower train.lr or train.clip\n"
    )
    assert (tmp_path / kept).exists()
