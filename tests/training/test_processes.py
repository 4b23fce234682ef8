"""Two gloo processes are one: the same first gradient, the same run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metabridge.training.launch import launch
from metabridge.training.stop import Stop
from tests.training import worker


def difference(a: worker.Tensors, b: worker.Tensors) -> float:
    """|a - b| / |a| over all tensors."""
    assert a.keys() == b.keys()
    flat_a, flat_b = (torch.cat([tensor.double().flatten() for tensor in tensors.values()]) for tensors in (a, b))
    return float((flat_a - flat_b).norm() / flat_a.norm())


@pytest.mark.slow
def test_two_processes_are_one(recipe_file: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert launch([worker.__file__, str(recipe_file), str(two)], 2, cuda=False) == 0
    gradient, weights, accumulated = torch.load(two / "result.pt", weights_only=True)
    # rows in the same company, so that the reduction alone differs; in float64 the company does not matter either
    assert difference(worker.first_gradient(str(recipe_file), one, 2), gradient) <= 1e-6
    assert weights["queries"].dtype == torch.float64
    alone = worker.four_steps(str(recipe_file), one)
    assert difference(alone, weights) <= 1e-9
    row_by_row = worker.four_steps(str(recipe_file), one, 4)
    assert difference(row_by_row, accumulated) <= 1e-9  # two processes of two parts: each row is alone there too
    assert difference(alone, row_by_row) <= 1e-7  # transformers' norms compute in float32, and padding stands beside other values


FAILS = "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit('metabridge: rank 1 says why')\ntime.sleep(60)"


def test_one_that_fails_ends_the_others_and_is_heard(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabridge.training.launch.GRACE", 0.1)
    start = time.monotonic()
    assert launch(["-c", FAILS], 2, cuda=False) == 1
    assert time.monotonic() - start < 30
    assert capfd.readouterr().err == "metabridge: rank 1 says why\n"


def test_all_fail_alike_and_one_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["-c", "import sys; print('one line', file=sys.stderr); sys.exit(2)"], 3, cuda=False) == 2
    assert capfd.readouterr().err == "one line\n"


WAITS = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('ready', flush=True)\ntime.sleep(60)"


def test_a_signal_reaches_every_process() -> None:
    code = f"import sys; from metabridge.training.launch import launch; sys.exit(launch(['-c', {WAITS!r}], 2, cuda=False))"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    time.sleep(0.5)  # the second process is silent; it starts beside the first
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) == 0
    parent.stdout.close()


def test_the_line_of_the_one_that_says_why_is_heard(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank then fails in what it waits for, with a page that tells nothing."""
    why = "if os.environ['RANK'] == '1':\n    print('metabridge: why', file=sys.stderr)\n    sys.exit(2)\n"
    code = f"import os, sys, time\n{why}time.sleep(1)\nsys.exit(1)"
    monkeypatch.setattr("metabridge.training.launch.GRACE", 5.0)
    assert launch(["-c", code], 2, cuda=False) == 2
    assert capfd.readouterr().err.endswith("metabridge: why\n")


def test_a_ctrl_c_that_others_told_of_is_not_the_second() -> None:
    stop = Stop()
    assert stop.agree(True, False)
    stop.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)
