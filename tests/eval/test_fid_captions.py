"""Captions of MJHQ-30K and COCO in their own formats, on files of our own."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.readers import captions

MJHQ = {"0a1b": {"category": "people", "prompt": "a  sailor\nat dawn"}, "ff-2": {"category": "animals", "prompt": "an owl"}}


def write(folder: Path, name: str, tree: Any) -> Path:
    (folder / name).write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return folder


def refused(options: dict[str, Any], data: Path | None) -> str:
    with pytest.raises(UserError) as error:
        captions.load(options, data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mjhq(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path, "meta_data.json", MJHQ)
    benchmark = benchmarks.load("mjhq_fid")
    items = benchmark.items(data)
    assert [(item.number, item.id, item.group, item.text, item.images) for item in items] == [
        (0, "0a1b", "people", "a sailor at dawn", ()),
        (1, "ff-2", "animals", "an owl", ()),
    ]
    assert f"{tmp_path}/mjhq30k_imgs is not there: FID cannot be scored without it, or --model reference=PATH" in caplog.text
    caplog.clear()
    (tmp_path / "mjhq30k_imgs").mkdir()
    benchmark.items(data)
    assert not caplog.text
    assert len(benchmark.groups) == 10 and benchmark.scorer_options["whole"] == {benchmark.models["reference"]: benchmark.count}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ("{", "meta_data.json: cannot be read (Expecting property name"),
        ([], "meta_data.json: a list given; it is a mapping with something in it"),
        ({"a/b": MJHQ["ff-2"]}, "meta_data.json: a/b: the id is no name for a file; it has letters, digits, _ and -"),
        ({"ab": "owl"}, "meta_data.json: ab: text given; it is a mapping of category and prompt"),
        ({"ab": {"category": "art"}}, "meta_data.json: ab: prompt: nothing given; it is text, and not blank"),
        ({"ab": {"category": "art", "prompt": " "}}, "meta_data.json: ab: prompt: text given; it is text, and not blank"),
    ],
)
def test_mjhq_that_is_refused(tmp_path: Path, tree: Any, says: str) -> None:
    assert says in refused({"format": "mjhq"}, write(tmp_path, "meta_data.json", tree))


def annotations(count: int) -> list[dict[str, Any]]:
    """Five captions a picture, in no order; that of the lowest id is the first."""
    rows = [
        {"image_id": 7 * n, "id": 1000 - 5 * n + k, "caption": f"caption {k} of {7 * n} "} for n in range(1, count + 1) for k in range(5)
    ]
    random.Random(0).shuffle(rows)
    return rows


def test_coco(tmp_path: Path) -> None:
    data = write(tmp_path, "captions_val2014.json", {"info": {}, "images": [], "annotations": annotations(20)})
    items = captions.load({"format": "coco", "sample": 12}, data)
    order = sorted((str(7 * n) for n in range(1, 21)), key=lambda ident: hashlib.sha256(ident.encode()).digest())
    assert [item.id for item in items] == order[:12]
    assert [item.text for item in items] == [f"caption 0 of {ident}" for ident in order[:12]]
    assert [item.number for item in items] == list(range(12)) and {item.group for item in items} == {"coco"}
    more = captions.load({"format": "coco", "sample": 20}, data)
    assert more[:12] == items  # a smaller sample is the beginning of a larger one


def test_coco_that_is_refused(tmp_path: Path) -> None:
    def said(tree: Any, sample: Any = 1) -> str:
        return refused({"format": "coco", "sample": sample}, write(tmp_path, "captions_val2014.json", tree))

    assert "no list of annotations; it is the captions file" in said({"images": []})
    assert "annotations.0: a mapping given; it is a mapping of id, image_id and caption" in said(
        {"annotations": [{"id": 1, "caption": "x"}]}
    )
    assert "annotations.0: caption: a number given; it is text, and not blank" in said(
        {"annotations": [{"id": 1, "image_id": 1, "caption": 3}]}
    )
    rows = {"annotations": annotations(3)}
    for sample, given in ((None, "nothing"), (True, "True"), ("all", "text")):
        assert said(rows, sample) == f"prompts.sample: {given} given; it is a whole number"
    for sample in (0, 4):
        assert said(rows, sample) == f"prompts.sample: {sample!r} given; captions_val2014.json has captions of 3 pictures"


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refused({"format": "mjhq"}, tmp_path).startswith(f"{tmp_path}/meta_data.json: not there; it comes with the reference pictures")
    assert refused({"format": "coco"}, None) == "captions: no data folder given; it holds captions_val2014.json"
    assert refused({"format": "koko"}, tmp_path) == "prompts.format: koko: no such format; it may be one of: coco, mjhq"
    assert refused({"form": "coco"}, tmp_path).startswith("prompts.form: no such setting; did you mean format?")
