"""DreamBench: the official list of subjects and prompts, pictures of our own, and from a photograph in hand to the three numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, plan, result, score
from metabridge.eval.generate import generate
from metabridge.eval.items import Services
from metabridge.eval.plan import Sample
from metabridge.eval.readers import dreambench
from metabridge.eval.scorers import embedding
from metabridge.eval.subjects import Drawing
from tests.conftest import noise_picture
from tests.eval import tiny_features

LIST = """Classes

subject_name,class
backpack,backpack
dog2,dog
bear_plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in a chef outfit'.format(unique_token, class_token),
'a wet {0} {1}'.format(unique_token, class_token),
'a shiny {0} {1}'.format(unique_token, class_token)
]
"""
PICTURES = {"backpack": 2, "dog2": 2, "bear_plushie": 1}


def write(folder: Path, text: str = LIST, pictures: Mapping[str, int] = PICTURES) -> Path:
    (folder / "dataset").mkdir(parents=True, exist_ok=True)
    (folder / "dataset" / "prompts_and_classes.txt").write_text(text)
    for seed, (subject, count) in enumerate(pictures.items()):
        for number in range(count):
            path = folder / "dataset" / subject / f"{number:02d}.jpg"
            path.parent.mkdir(exist_ok=True)
            noise_picture(10 * seed + number, 80, 64).save(path)
    return folder


def refused(data: Path | None) -> str:
    with pytest.raises(UserError) as error:
        dreambench.load({}, data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_prompts_without_the_rare_word(tmp_path: Path) -> None:
    items = dreambench.load({}, write(tmp_path))
    assert [(item.group, item.id, item.text, item.images) for item in items] == [
        ("backpack", "00", "a backpack in the snow", ("dataset/backpack/00.jpg",)),
        ("backpack", "01", "a red backpack", ("dataset/backpack/01.jpg",)),
        ("dog2", "00", "a dog in a chef outfit", ("dataset/dog2/00.jpg",)),
        ("dog2", "01", "a wet dog", ("dataset/dog2/01.jpg",)),
        ("dog2", "02", "a shiny dog", ("dataset/dog2/00.jpg",)),
        ("bear_plushie", "00", "a stuffed animal in the snow", ("dataset/bear_plushie/00.jpg",)),
        ("bear_plushie", "01", "a red stuffed animal", ("dataset/bear_plushie/00.jpg",)),
    ]
    assert [item.number for item in items] == list(range(7))
    assert items[2].want["real"] == ["dataset/dog2/00.jpg", "dataset/dog2/01.jpg"]
    before = plan.data_hash(items)
    noise_picture(77, 80, 64).save(tmp_path / "dataset" / "dog2" / "01.jpg")  # under the same name
    assert plan.data_hash(dreambench.load({}, tmp_path)) != before


def test_the_official_list(test_data: Path, tmp_path: Path) -> None:
    text = (test_data / "bench_data" / "dreambench" / "prompts_and_classes.txt").read_text()
    benchmark = benchmarks.load("dreambench")
    items = benchmark.items(write(tmp_path, text, dict.fromkeys(benchmark.groups, 1)))
    assert len(items) == benchmark.count == 30 * 25 and benchmark.images == 4
    assert list(dict.fromkeys(item.group for item in items)) == list(benchmark.groups)
    live = {item.group for item in items if item.text.endswith("wearing a santa hat")}
    assert live == {"cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"}
    assert sum(item.text.endswith("on top of a white rug") for item in items) == 21
    assert all(item.text.startswith("a ") and "{" not in item.text and "  " not in item.text for item in items)
    first = [item.text for item in items if item.group == "wolf_plushie"]
    assert first[0] == "a stuffed animal in the jungle" and first[-1] == "a cube shaped stuffed animal"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("'a red {0} {1}'.format(", "'a red {1}'.format("),
            "line 14: \"'a red {1}'.format(unique_token, class_token)\" is neither a subject",
        ),
        (("dog2,dog", "dog2"), "line 5: 'dog2' is neither a subject with its class nor a prompt; fetch the data again"),
        (("Live Subject Prompts", ""), ": 3 subjects, 5 and 0 prompts; fetch the data again"),
        (("Classes", ""), "line 4: 'backpack,backpack' is neither a subject"),
    ],
)
def test_a_list_that_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    said = refused(write(tmp_path, LIST.replace(*change)))
    assert said.startswith(f"{tmp_path}/dataset/prompts_and_classes.txt: ") and says in said


def test_pictures_that_are_missing(tmp_path: Path) -> None:
    assert refused(None) == "dreambench: no data folder given; it holds dataset/prompts_and_classes.txt and the subjects' pictures"
    assert refused(tmp_path).startswith(f"{tmp_path}/dataset/prompts_and_classes.txt: cannot be read (No such file or directory)")
    write(tmp_path, pictures={"dog2": 1})
    assert refused(tmp_path) == (
        f"{tmp_path}/dataset: no pictures of 2 of 3 subjects: backpack, bear_plushie; put them there as dataset/backpack/00.jpg, "
        "from a clone of google/dreambooth"
    )
    write(tmp_path)
    (tmp_path / "dataset" / "dog2" / "01.jpg").write_bytes(b"")
    assert refused(tmp_path) == f"{tmp_path}/dataset/dog2/01.jpg: a picture of 0 bytes; put the whole one there"


class Copyist:
    """Hands back the photograph that it is given, but for a bear."""

    alone = True
    identity: Mapping[str, Any] = {"kind": "copyist", "name": "copyist", "fingerprint": "0" * 64}

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return dict(asked)

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        return [
            Drawing(noise_picture(sample.seed, 64, 64) if sample.item.group == "bear_plushie" else given)
            for sample, (given,) in zip(samples, images, strict=True)
        ]


def test_from_photographs_to_numbers(tmp_path: Path) -> None:
    """A copy of the only photograph would score 1; of one of two, the mean of 1 and what the two have in common."""
    shipped = benchmarks.load("dreambench")
    data, folder = write(tmp_path / "data"), tmp_path / "run"
    models = {"clip": str(tiny_features.clip(tmp_path / "tiny-clip")), "dino": str(tiny_features.dino(tmp_path / "tiny-dino"))}
    chosen = plan.save(plan.make(shipped, Copyist.identity, {}, {"version": "0", "commit": "0"}, images=2, data=data), folder)
    generate(chosen, folder, Copyist(), data=data)
    services = Services(data, models={**shipped.models, **models})
    scorer = embedding.load(shipped.scorer_options, services)
    score.score(chosen, folder, scorer)
    scored = score.read(chosen, folder, score.tag(score.identity_of(chosen, scorer)))
    summary = result.summarize(chosen, scored, scorer.identity, services, {})
    assert summary["variant"] == "dreambench/tiny-dino tiny-clip"
    cells = summary["scores"]["score"]
    assert list(cells) == ["dino", "clip_i", "clip_t"]
    for metric, encoder in (("dino", scorer.dino), ("clip_i", scorer.clip)):
        assert encoder is not None
        photographs = [Image.open(data / "dataset" / "backpack" / f"0{number}.jpg").convert("RGB") for number in (0, 1)]
        a, b = (vector / np.linalg.norm(vector) for vector in encoder.images(photographs))
        assert cells[metric]["backpack"]["value"] == pytest.approx((1 + float(a @ b)) / 2, abs=1e-5)
        assert cells[metric]["bear_plushie"]["value"] < 1
        groups = [cells[metric][group]["value"] for group in PICTURES]
        assert cells[metric]["overall"]["value"] == pytest.approx(np.mean(groups), abs=1e-6)  # subjects count alike
    assert cells["clip_t"]["overall"]["n"] == 14 and cells["clip_t"]["overall"]["prompts"] == 7
