"""GenEval through the harness: drawn scenes, planned, scored and summed up, out to the official folders and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.eval import benchmarks, plan, result, score
from metabridge.eval.generate import generate
from metabridge.eval.items import Services
from metabridge.eval.layouts import geneval as layout
from metabridge.eval.plan import Sample
from metabridge.eval.scorers import geneval
from metabridge.eval.subjects import Drawing
from tests.eval.drawn_scenes import draw, right_scene, wrong_scene

ORACLE = {"detector": "tests.eval.drawn_scenes", "colors": "tests.eval.drawn_scenes"}
WRONG = {  # of a tag's first two prompts, two pictures each: (prompt, picture) that are wrong
    "colors": {(0, 1)},
    "counting": {(0, 0), (0, 1)},
    "position": {(0, 0), (1, 0)},
}


class Painter:
    """Draws scenes of known answer."""

    alone = True
    identity: Mapping[str, Any] = {"kind": "painter", "name": "painter", "fingerprint": "0" * 64}

    def __init__(self, first: Mapping[str, int]) -> None:
        self.first = first  # a tag's first prompt

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return dict(asked)

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        return [Drawing(draw((wrong_scene if self.wrong(sample) else right_scene)(sample.item.want))) for sample in samples]

    def wrong(self, sample: Sample) -> bool:
        group = sample.item.group
        return (sample.item.number - self.first[group], sample.k) in WRONG.get(group, ())


def test_from_prompts_to_numbers_and_to_the_official_folders(test_data: Path, tmp_path: Path) -> None:
    data, run, official = test_data / "bench_data" / "geneval", tmp_path / "run", tmp_path / "official"
    benchmark = benchmarks.load("geneval")
    code = {"version": "0", "commit": "0"}
    chosen = plan.save(plan.make(benchmark, Painter.identity, {}, code, limit={"all": 2}, images=2, data=data), run)
    painter = Painter({item.group: item.number for item in reversed(chosen.items)})
    generate(chosen, run, painter)
    scorer = geneval.load(ORACLE, Services(data))
    score.score(chosen, run, scorer)
    scored = score.read(chosen, run, score.tag(score.identity_of(chosen, scorer)))
    summary = result.summarize(chosen, scored, scorer.identity, Services(data), {})

    cells = summary["scores"]["score"]
    values = {metric: {name: cell["value"] for name, cell in cells[metric].items()} for metric in cells}
    right = {"single_object": 1.0, "two_object": 1.0, "counting": 0.5, "colors": 0.75, "position": 0.5, "color_attr": 1.0}
    assert values["correct"] == {"overall": pytest.approx(sum(right.values()) / 6, abs=1e-6), **right}
    assert values["pictures"]["overall"] == pytest.approx(19 / 24, abs=1e-6)
    assert values["prompts"] == {"overall": pytest.approx(11 / 12, abs=1e-6), **dict.fromkeys(right, 1.0), "counting": 0.5}
    assert summary["variant"] == "geneval/tests.eval.drawn_scenes"
    assert {one.sample.key: one.reason != "" for one in scored} == {sample.key: painter.wrong(sample) for sample in chosen.samples()}

    layout.export([(sample.item, sample.k, run / sample.file) for sample in chosen.samples()], official)
    found = layout.pictures(chosen.items, official)
    assert {key: path.read_bytes() for key, path in found.items()} == {
        (sample.item.group, sample.item.id, sample.k): (run / sample.file).read_bytes() for sample in chosen.samples()
    }
