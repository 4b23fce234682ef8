"""Every command of the README runs; the long ones with fewer steps and prompts. The Python example runs as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from metabridge.eval.detect.flatland import detect
from metabridge.training.flatland.rows import row

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SHORTER = {
    "train own-pictures data.0.path=my/pictures --out": ["train.steps=2", "train.batch_size=4", "train.warmup=0", "log.sample_every=0"],
    "train flatland train.steps": ["train.steps=2", "train.batch_size=4", "train.warmup=0", "log.sample_every=0"],
    "eval": ["--limit", "1", "--images", "1"],
}

pytestmark = pytest.mark.slow


OWN = [c for c in COMMANDS if "my/pictures" in c or "runs/own" in c]
EDITS = [c for c in COMMANDS if "scene.png" in c]


def run(command, folder):
    words = shlex.split(command)[1:]
    for start, extra in SHORTER.items():
        if " ".join(words).startswith(start):
            words += extra
    done = subprocess.run([sys.executable, "-m", "metabridge.scripts.cli", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("metabridge ") and c not in OWN + EDITS])
def test_command(command, tmp_path):
    run(command, tmp_path)


def test_a_folder_of_pictures_becomes_a_bridge(tmp_path):
    pictures = tmp_path / "my" / "pictures"
    pictures.mkdir(parents=True)
    for seed in range(12):
        drawn = row(seed, think=0.0)
        drawn.target.save(pictures / f"{seed}.png")
        (pictures / f"{seed}.txt").write_text(drawn.prompt)
    assert [command.split()[1] for command in OWN] == ["data", "train", "train", "generate"]
    for command in OWN:
        run(command, tmp_path)
    assert (tmp_path / "sheet.png").exists() and (tmp_path / "star.png").exists()


def test_a_picture_is_drawn_and_changed(tmp_path):
    assert len(EDITS) == 2
    for command in EDITS:
        run(command, tmp_path)
    with Image.open(tmp_path / "square.png") as drawn:
        assert {(thing.color, thing.shape) for thing in detect(drawn)} == {("red", "square"), ("blue", "star")}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_target(command):
    plan = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"make demo": "metabridge demo", "make test": "-m pytest"}[command] in plan


def test_the_other_commands_are_what_make_does():
    others = [c for c in COMMANDS if not c.startswith(("metabridge ", "make "))]
    assert others == ["python3 -m venv .venv", ".venv/bin/pip install -e '.[dev]'"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m venv" in makefile and "'.[dev]'" in makefile


def test_the_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["drawn"].thoughts == ["four stars"]
    assert names["pipe"].answer("What color is fresh grass?") == "green"
    assert (tmp_path / "stars.png").exists()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
