"""Ctrl-C and errors while judges are asked: the run ends at once, and what is finished is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import score
from metabridge.eval.items import Item, Verdict
from metabridge.eval.threads import as_they_come
from tests.eval.judge_server import JudgeServer, Reply, Seen, says
from tests.eval.test_odd_records import Says, drawn

SLOW = 60.0  # seconds until the judge would answer

# scores as the command does: the judge is closed on the way out
SCORE = """
import sys
from pathlib import Path
from metabridge.eval import judges, score
from metabridge.eval.items import Services
from metabridge.eval.scorers import questions
from tests.eval.test_odd_records import drawn
folder, word = Path(sys.argv[1]), sys.argv[2]
made = drawn(folder, prompts={"reader": "tests.eval.test_stopping", "count": 8}, scoring={"scorer": "questions"})
judge = judges.load(word, folder=folder, concurrency=3, timeout=120)
scorer = questions.load({}, Services(None, judge))
if len(sys.argv) > 3:
    from metabridge.eval.judged import judged
    judged([], judge)
else:
    score.score(made, folder, scorer)
"""


def load(options: dict[str, Any], data: Path | None) -> list[Item]:
    """The reader of the benchmark that is scored here."""
    questions = [[{"id": 1, "text": f"Is it as black as {number}?", "facets": []}] for number in range(8)]
    return [Item(number, str(number), "animals", "black", {"questions": asked}) for number, asked in enumerate(questions)]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("canaries", [False, True])
def test_ctrl_c_does_not_wait_for_answers(canaries: bool, tmp_path: Path) -> None:
    """Three calls are open, each for a minute: who stops is let go at once, and all lines of the files are whole."""

    def script(seen: Seen) -> Reply:
        """Right about the two pictures that come before the first score; slow about all others."""
        red = seen.images[0].getpixel((seen.images[0].width // 2,) * 2) == (220, 20, 20)
        return says("yes" if red else "no", delay=0.0 if seen.number < 2 and not canaries else SLOW)

    with JudgeServer(script) as server:
        words = [sys.executable, "-c", SCORE, str(tmp_path), server.word, *(["canaries"] if canaries else [])]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
            try:
                deadline = time.monotonic() + 60
                while server.busy < 3 and time.monotonic() < deadline and child.poll() is None:
                    time.sleep(0.02)
                assert server.busy == 3
                start = time.monotonic()
                child.send_signal(signal.SIGINT)
                _, told = child.communicate(timeout=30)
                assert time.monotonic() - start < 20  # of the 60 that an open call takes
            finally:
                child.kill()
        server.stopped.set()
    assert told.rstrip().endswith("KeyboardInterrupt") and child.returncode != 0
    for name in (score.SCORED, "judge.jsonl"):
        if (tmp_path / name).exists():
            text = (tmp_path / name).read_text()
            assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())


class Breaks(Says):
    """Every picture but the third is scored; the third waits for the others, then fails as a refused key does."""

    def __init__(self, others: int) -> None:
        super().__init__([], workers=4)
        self.left, self.done = others, Event()

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> Any:
        if rows[0][0].id == "oak":
            self.done.wait(10)
            raise UserError("the key is refused")
        self.left -= 1
        if not self.left:
            self.done.set()
        return [Verdict({"correct": 1.0})]


def test_what_is_finished_is_recorded_before_an_error(tmp_path: Path) -> None:
    made = drawn(tmp_path)
    with pytest.raises(UserError, match=r"^the key is refused$"):
        score.score(made, tmp_path, Breaks(others=3))
    keys = {json.loads(line)["key"] for line in (tmp_path / score.SCORED).read_text().splitlines()}
    assert keys == {"bridge/animals/cat-0", "bridge/animals/dog-0", "bridge/plants/elm-0"}


def test_results_that_are_done_come_before_the_error_that_came_first() -> None:
    """All four end before the first is taken: the error is one of them, and nothing is lost."""
    gate = Event()

    def work(thing: int) -> int:
        gate.wait(10)
        if thing == 0:
            raise ValueError("first")
        return thing

    found = []
    with pytest.raises(ValueError, match="first"):
        results = as_they_come(work, range(4), 4)
        gate.set()
        time.sleep(0.2)
        for one in results:
            found.append(one)
            time.sleep(0.2)
    assert sorted(found) == [1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_are_begun_than_there_are_workers(workers: int) -> None:
    begun: list[int] = []
    things = (begun.append(thing) or thing for thing in range(10))  # type: ignore[func-returns-value]
    ahead = []
    for taken, one in enumerate(as_they_come(lambda thing: 2 * thing, things, workers), start=1):
        assert one % 2 == 0
        ahead.append(len(begun) - taken)
    assert len(begun) == 10 and max(ahead) <= workers
