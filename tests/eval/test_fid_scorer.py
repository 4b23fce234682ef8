"""The scorer of sets: features kept a picture each, one distance over all, whatever their order; and from drawings to result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, fid, plan, result, score
from metabridge.eval.features.reference import Reference
from metabridge.eval.generate import generate
from metabridge.eval.items import MODEL_ERROR, Item, Services, Unscored, Verdict
from metabridge.eval.plan import Sample
from metabridge.eval.scorers import SetRow, distribution
from metabridge.eval.subjects import Drawing
from tests.conftest import noise_picture
from tests.eval import tiny_features


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"inception": str(tiny_features.inception(folder / "weights.pth")), "clip": str(tiny_features.clip(folder / "tiny-clip"))}


def rows(folder: Path, features: np.ndarray, images: int = 2) -> list[SetRow]:
    """So many pictures a prompt."""
    found = []
    for place, own in enumerate(features):
        path = folder / f"{place}.npy"
        np.save(path, own)
        found.append(SetRow(Item(place // images, str(place // images), "a", "x", {}), path, {}))
    return found


def gaussian_file(path: Path, seed: int, d: int) -> tuple[Path, fid.Gaussian]:
    gaussian = fid.Moments.of(np.random.default_rng(seed).normal(size=(100, d))).gaussian
    np.savez(path, mu=gaussian.mean, sigma=gaussian.covariance)
    return path, gaussian


def test_the_distance_over_all_rows(tmp_path: Path, models: Mapping[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever their order; blocks are of prompts, so that a prompt's pictures are left out together."""
    features = np.random.default_rng(0).normal(0.5, 1, (120, 5)).astype(np.float32)
    path, reference = gaussian_file(tmp_path / "stats.npz", 1, 5)
    services = Services(None, models={**models, "reference": str(path)})
    there = rows(tmp_path, features)
    cell = distribution.aggregate("fid", there, {}, services)
    assert distribution.aggregate("fid", [there[place] for place in np.random.default_rng(2).permutation(120)], {}, services) == cell
    value = fid.distance(reference, fid.Moments.of(features).gaussian)
    assert cell["value"] == pytest.approx(value, abs=1e-6) and (cell["n"], cell["prompts"]) == (120, 60)
    left = []
    for block in range(20):
        rest = [own for place, own in enumerate(features) if place // 2 % 20 != block]
        left.append(fid.distance(reference, fid.Moments.of(np.array(rest)).gaussian))
    stderr = float(np.sqrt(19 / 20 * ((np.array(left) - np.mean(left)) ** 2).sum()))
    assert cell["stderr"] == pytest.approx(stderr, abs=1e-6)
    assert cell["high"] - cell["value"] == pytest.approx(2.093024 * stderr, abs=1e-5)
    assert "fid: 120 pictures. Below 10000 its bias is large; compare it at the same number alone" in caplog.text


def test_what_cannot_be_measured(tmp_path: Path, models: Mapping[str, str]) -> None:
    path, _ = gaussian_file(tmp_path / "stats.npz", 1, 5)
    services = Services(None, models={**models, "reference": str(path)})
    there = rows(tmp_path, np.zeros((4, 6), np.float32))
    with pytest.raises(UserError, match=r"^fid: features of 6 numbers, the reference is of 5; give one made by the same network$"):
        distribution.aggregate("fid", there, {}, services)
    (tmp_path / "3.npy").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"3\.npy: the features of a/1 cannot be read \(.*\); remove the file, and score again$"):
        distribution.aggregate("fid", there, {}, services)
    with pytest.raises(UserError, match=r"^metrics\.kid: no distance of this name; the one over the whole set is fid$"):
        distribution.aggregate("kid", there, {}, services)
    with pytest.raises(UserError, match=r"^models\.reference: missing; name the folder of the reference pictures"):
        distribution.load({}, Services(None, models=models))
    with pytest.raises(UserError, match=r"^scoring\.resise: no such setting; did you mean resize\?"):
        distribution.load({"resise": "256"}, services)


class Broken:
    """An encoder whose second answer is no number."""

    name, identity = "broken", {"sha256": "0"}

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([[1.0, float("nan") if place == 1 else 2.0] for place in range(len(images))], np.float32)


def test_features_that_are_no_numbers_are_not_kept() -> None:
    scorer = distribution.Distribution(Broken(), Reference(2, "0", lambda: fid.Gaussian(np.zeros(2), np.eye(2))), None)
    good, bad = scorer.score([(Item(0, "0", "a", "x", {}), noise_picture(0, 8, 8))] * 2)
    assert isinstance(good, Verdict) and good.features is not None and good.features.tolist() == [1, 2]
    assert isinstance(bad, Unscored) and str(bad) == "its features are not finite"


class Painter:
    """Noise by seed; what `lost` names comes out as NaN."""

    alone = True
    identity: Mapping[str, Any] = {"kind": "painter", "name": "painter", "fingerprint": "0" * 64}

    def __init__(self, lost: str = "") -> None:
        self.lost = lost

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return dict(asked)

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        return [
            Drawing(None, None, MODEL_ERROR, "NaN") if sample.item.id == self.lost else Drawing(noise_picture(sample.seed, 24, 24))
            for sample in samples
        ]


def data_folder(folder: Path, prompts: int) -> Path:
    """MJHQ's layout, with `prompts` captions and a picture of each."""
    groups = list(benchmarks.load("mjhq_fid").groups)
    meta = {f"{number:04x}": {"category": groups[number % 10], "prompt": "a cat " * (1 + 20 * (number == 3))} for number in range(prompts)}
    folder.mkdir(parents=True)
    (folder / "meta_data.json").write_text(json.dumps(meta))
    for number, (key, row) in enumerate(meta.items()):
        path = folder / "mjhq30k_imgs" / row["category"] / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_picture(500 + number, 30, 24).save(path)
    return folder


def run(data: Path, folder: Path, models: Mapping[str, str], painter: Painter) -> tuple[dict[str, Any], plan.Plan]:
    """plan -> generate -> score -> result of mjhq_fid with a reference of five."""
    shipped = benchmarks.load("mjhq_fid")
    benchmark = replace(shipped, name="five", scorer_options={**shipped.scorer_options, "whole": {"mjhq30k_imgs": 5}})
    chosen = plan.save(plan.make(benchmark, painter.identity, {}, {"version": "0", "commit": "0"}, data=data), folder)
    generate(chosen, folder, painter)
    services = Services(data, models={**benchmark.models, **models})
    scorer = distribution.load(benchmark.scorer_options, services)
    score.score(chosen, folder, scorer)
    scored = score.read(chosen, folder, score.tag(score.identity_of(chosen, scorer)))
    return result.summarize(chosen, scored, scorer.identity, services, {}), chosen


def test_from_prompts_to_numbers(tmp_path: Path, models: Mapping[str, str]) -> None:
    data = data_folder(tmp_path / "mjhq30k", 5)
    summary, chosen = run(data, tmp_path / "run", models, Painter())
    scores = summary["scores"]["score"]
    encoder = distribution.load({"resize": "256"}, Services(data, models={**models, "reference": "mjhq30k_imgs"})).inception
    drawn = encoder.images([Image.open(tmp_path / "run" / sample.file) for sample in chosen.samples()])
    real = encoder.images([Image.open(path).convert("RGB") for path in sorted((data / "mjhq30k_imgs").rglob("*.jpg"))])
    value = fid.distance(fid.Moments.of(real).gaussian, fid.Moments.of(drawn).gaussian)
    assert scores["fid"]["overall"]["value"] == pytest.approx(value, rel=1e-4) and value > 0
    assert scores["fid"]["overall"]["n"] == scores["fid"]["overall"]["prompts"] == 5
    assert set(scores["clip_score"]) == {"overall", *(item.group for item in chosen.items)}
    assert 0 <= scores["clip_score"]["overall"]["value"] <= 100
    name = summary["identity"]["scoring"]["reference"]
    weights = encoder.identity["sha256"][:8]
    assert summary["variant"] == f"five/inception-{weights} resize256 ref=5:{name['sha256'][:8]} tiny-clip N=5" and name["pictures"] == 5
    records = [json.loads(line) for line in (tmp_path / "run" / "scored.jsonl").read_text().splitlines()]
    cut = [record.get("detail") for record in records if record["key"].endswith("/0003-0")]
    assert cut == [{"prompt_tokens": 86, "compared": 77}] and sum("detail" in record for record in records) == 1
    alone = distribution.load({"resize": "none"}, Services(data, models={**models, "reference": "mjhq30k_imgs"}))
    assert alone.identity["variant"] == f"inception-{weights} resize-none ref=5:{name['sha256'][:8]}"


def test_a_lost_picture_leaves_the_set_unmeasured(tmp_path: Path, models: Mapping[str, str]) -> None:
    data = data_folder(tmp_path / "mjhq30k", 5)
    summary, _ = run(data, tmp_path / "run", models, Painter("0002"))
    cell = summary["scores"]["score"]["fid"]["overall"]
    assert (cell["value"], cell["unscored"], cell["n"]) == (None, 1, 5)
    assert summary["scores"]["score"]["clip_score"]["overall"]["value"] is not None  # there it counts as 0


def test_a_part_of_the_reference_is_refused_before_the_first_picture(tmp_path: Path, models: Mapping[str, str]) -> None:
    data = data_folder(tmp_path / "mjhq30k", 4)
    with pytest.raises(UserError, match=r"mjhq30k_imgs: 4 pictures, the whole set has 5; put the rest there"):
        run(data, tmp_path / "run", models, Painter())
