"""Ctrl-C at any moment of `metabridge generate`: exit code 130, one line, and every picture there is whole."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 12))])
@pytest.mark.parametrize("moment", ["reading", "drawing and writing"])
def test_stopped_by_ctrl_c(trained: Path, tmp_path: Path, moment: str, seed: int) -> None:
    words = ["generate", str(trained), "a cat", "--think", "--steps", "2", "--batch-size", "1", "-n", "5000", "-o", "out.png"]
    command = [sys.executable, "-m", "metabridge.scripts.cli", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert child.stdout is not None
    rng = random.Random(seed)
    if moment == "reading":
        assert child.stdout.readline().startswith("bridge: ")
        time.sleep(rng.uniform(0, 3))
    else:
        assert any(line == "out-0.png\n" for line in child.stdout)
        time.sleep(rng.uniform(0, 0.3))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    # the brain's random words end where they are cut
    said = [line for line in err.splitlines() if not line.endswith("replies were cut at max_new_tokens=64")]
    assert (child.returncode, said) == (130, [f"metabridge: stopped; to go on: {shlex.join(['metabridge', *words])}"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(names) == sorted(f"out-{k}.png" for k in range(len(names)))
    assert names or moment == "reading"
    for name in names:
        with Image.open(tmp_path / name) as image:
            image.load()
            assert json.loads(image.info["metabridge"])["index"] == 0


def test_a_second_attempt_is_not_needed(trained: Path, tmp_path: Path) -> None:
    """A signal in the middle of a denoising ends it there."""
    code = (
        "import os, signal, sys\n"
        "import metabridge.scripts.cli as cli\n"
        f"sys.argv = ['metabridge', 'generate', {str(trained)!r}, 'a cat', '--steps', '3']\n"
        "from metabridge.scripts import generate\n"
        "draw = generate.draw\n"
        "generate.draw = lambda *a: draw(*a[:3], lambda own, step, *_: step or os.kill(os.getpid(), signal.SIGINT))\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
