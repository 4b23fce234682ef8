"""Each preset on a tiny local copy of the set, in the layout in which the hub ships it."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.settings import Objective, Source
from metabridge.training import presets
from metabridge.training.feeds import Tabled
from metabridge.training.sources import open_source, resolve
from tests.rows import picture

Check = Callable[[list[Example]], None]


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, kind, quality=95)
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def unpacked(folder: Path, name: str, seed: int) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encoded(seed, "PNG" if name.endswith("png") else "JPEG"))
    return name


def cc12m(folder: Path) -> None:
    for shard in range(2):
        rows = range(3 * shard, 3 * shard + 3)
        about = json.dumps({"caption": "of the JSON", "url": "http://x", "key": "k", "status": "success", "width": 64}).encode()
        parts = [(f"{k:09d}.jpg", encoded(k)) for k in rows] + [(f"{k:09d}.txt", f"alt {k}".encode()) for k in rows]
        tar(folder / f"cc12m-train-{shard:04d}.tar", dict(sorted(parts + [(f"{k:09d}.json", about) for k in rows])))
    (folder / "_info.json").write_text("{}")


def captioned(*names: str) -> Callable[[Path], None]:
    """Tars of KEY.jpg and KEY.txt."""

    def write(folder: Path) -> None:
        for number, name in enumerate(names):
            rows = range(3 * number, 3 * number + 3)
            tar(
                folder / name,
                {f"{k:05d}.{end}": encoded(k) if end == "jpg" else f"alt {k}".encode() for k in rows for end in ("jpg", "txt")},
            )

    return write


def text_to_image(folder: Path) -> None:
    for part, first in (("data_512_2M/data_000000.tar", 0), ("data_512_2M/data_000001.tar", 3), ("data_1024_10K/data_000000.tar", 6)):
        rows = range(first, first + 3)
        pictures = {f"{k:09d}.{'png' if k == 4 else 'jpg'}": encoded(k, "PNG" if k == 4 else "JPEG") for k in rows}
        tar(folder / part, pictures | {f"{k:09d}.json": json.dumps({"prompt": f"alt {k}"}).encode() for k in rows})


def omniedit(folder: Path) -> None:
    from datasets import Dataset, Features, Image, List, Value

    texts = dict.fromkeys(("omni_edit_id", "task", "sc_reasoning", "pq_reasoning"), Value("string"))
    numbers = dict.fromkeys(("width", "height", "sc_score_1", "sc_score_2", "pq_score"), Value("int64"))
    features = Features(
        **texts, **numbers, o_score=Value("float64"), src_img=Image(), edited_img=Image(), edited_prompt_list=List(Value("string"))
    )
    rows = [
        dict.fromkeys(texts, "x")
        | dict.fromkeys(numbers, 1)
        | {"o_score": 9.0, "src_img": {"bytes": encoded(100 + k), "path": None}, "edited_img": {"bytes": encoded(k), "path": None}}
        | {"edited_prompt_list": [f"make it {k}, at length", f"alt {k}"]}
        for k in range(6)
    ]
    (folder / "data").mkdir()
    for split, found in (("train", rows), ("dev", rows[:1])):
        for part in range(2):
            Dataset.from_list(found[part::2] or found, features=features).to_parquet(
                folder / "data" / f"{split}-{part:05d}-of-00002.parquet"
            )


def metaquery(folder: Path) -> None:
    from datasets import Dataset, Features, Image, List, Value

    features = Features(prompt=Value("string"), source_images=List(Image()), target_image=Image())
    rows = [
        {
            "prompt": f"alt {k}",
            "source_images": [{"bytes": encoded(100 + k + 10 * n), "path": None} for n in range(1 + k % 3)],
            "target_image": {"bytes": encoded(k), "path": None},
        }
        for k in range(6)
    ]
    (folder / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def sharegpt(folder: Path) -> None:
    plain = [{"input_prompt": f"alt {k}", "output_image": unpacked(folder, f"image/{k}.png", k)} for k in range(6)]
    (folder / "text_to_image.json").write_text(json.dumps(plain))


def sharegpt_edit(folder: Path) -> None:
    edits = [
        {
            "input_prompt": f"alt {k}",
            "input_image": [unpacked(folder, f"image/v2v_in_{k}.png", 100 + k)],
            "output_image": unpacked(folder, f"image/v2v_{k}.png", k),
        }
        for k in range(6)
    ]
    (folder / "text_and_image_to_image.json").write_text(json.dumps(edits))


def imgedit(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "Parquet").mkdir()
    for part in range(2):
        at = f"results_remove_part{part}"
        rows = [
            {
                "input_images": [unpacked(folder / "Singleturn", f"{at}/{k}/original.jpg", 100 + k)],
                "output_images": [unpacked(folder / "Singleturn", f"{at}/{k}/result.png", k)],
                "prompt": f"alt {k}",
            }
            for k in range(3 * part, 3 * part + 3)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "Parquet" / f"remove_part{part}.parquet")
    pq.write_table(pa.Table.from_pylist([{"data": [{"prompt": "a"}]}]), folder / "Parquet" / "content_memory.parquet")


LAYOUTS: dict[str, tuple[Callable[[Path], None], int]] = {  # preset -> what writes it, how many pictures are looked at
    "blip3o-60k": (captioned("journeyDB.tar", "geneval_train.tar"), 0),
    "blip3o-pretrain-journeydb": (captioned("JourneyDB_000.tar", "JourneyDB_001.tar"), 0),
    "blip3o-pretrain-long": (captioned("sa_000000.tar", "webdataset_shard_009.tar"), 0),
    "blip3o-pretrain-short": (captioned("00000.tar", "00001.tar"), 0),
    "cc12m-wds": (cc12m, 0),
    "imgedit": (imgedit, 1),
    "metaquery-instruct-2.4m": (metaquery, 3),
    "metaquery-instruct-2.4m-512": (metaquery, 3),
    "omniedit": (omniedit, 1),
    "sharegpt-4o-image": (sharegpt, 0),
    "sharegpt-4o-image-edit": (sharegpt_edit, 1),
    "text-to-image-2m": (text_to_image, 0),
}


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_reads_a_local_copy(name: str, tmp_path: Path) -> None:
    write, pictures = LAYOUTS[name]
    write(tmp_path)
    feed, _ = open_source(Source(name, options={"path": str(tmp_path)}), Objective(), seed=0)
    assert isinstance(feed, Tabled)
    found = {}
    for index in range(sum(feed.table.blocks)):
        example = feed.schema.example(feed.table.raw(index), 0.99)
        found[int(example.prompt.removeprefix("alt "))] = example
    assert sorted(found) == list(range(6)) and sum(feed.table.blocks) == 6
    for k, example in found.items():
        assert example.target is not None and abs_error(example.target, k) < 6 and not example.history and example.thought is None
        assert len(example.images) == (1 + k % 3 if pictures == 3 else pictures)
        assert all(abs_error(image, 100 + k + 10 * n) < 6 for n, image in enumerate(example.images))


def abs_error(image: Any, seed: int) -> float:
    import numpy as np

    return float(np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(picture(seed), float)).mean())


@pytest.mark.parametrize("name", presets.names())
def test_what_a_preset_says(name: str) -> None:
    tree = presets.read(name)
    known = {"title", "url", "licence", "rows", "size", "notes", "warning", "prepare", "unconfirmed", "source"}
    assert set(tree) <= known and {"title", "url", "licence", "rows", "notes", "source"} <= set(tree)
    assert tree["url"].startswith("https://huggingface.co/datasets/") and all(isinstance(note, str) for note in tree["notes"])
    doubts = " ".join(tree.get("unconfirmed", []))
    assert ("licence" in doubts) >= (tree["licence"] == "not confirmed") and ("size" in doubts) >= (
        "size" not in tree and "path" in tree["source"]
    )
    assert ("path" in tree["source"]) != ("prepare" in tree)
    if "path" in tree["source"]:
        assert tree["source"]["path"] == f"hf://{tree['url'].removeprefix('https://huggingface.co/')}"


@pytest.mark.parametrize("name", presets.names())
def test_without_a_network_or_a_path_it_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as raised:
        open_source(Source(name), Objective(), seed=0)
    message = str(raised.value)
    assert "\n" not in message
    if "prepare" in presets.read(name):
        assert message.startswith(f"data {name}.path: missing; download ") and message.endswith(f"({presets.read(name)['url']})")
    else:
        assert f"hf://datasets/{presets.read(name)['url'].split('datasets/')[1]}" in message and "offline" in message.lower()


def test_a_recipe_wins_and_warnings_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = resolve(Source("blip3o-60k", weight=2.0, options={"files": "a*.tar", "map": {"prompt": "json.x"}, "holdout": 3}))
    assert source == Source(
        "webdataset",
        "t2i",
        2.0,
        {"path": "hf://datasets/BLIP3o/BLIP3o-60k", "files": "a*.tar", "map": {"prompt": "json.x"}, "holdout": 3},
    )
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said[0].startswith("data blip3o-60k: geneval_train.tar holds prompts made from GenEval's templates, so a GenEval score")
    assert said[1] == "data blip3o-60k: not confirmed: the licence"
    assert resolve(Source("omniedit", options={"path": "x"})).task == "edit"


def test_prompts_of_omniedit_alternate(tmp_path: Path) -> None:
    omniedit(tmp_path)
    feed, _ = open_source(Source("omniedit", options={"path": str(tmp_path)}), Objective(), seed=0)
    prompts = {feed.example(0, seed).prompt for seed in range(20)}
    assert len(prompts) == 2 and {prompt.split()[0] for prompt in prompts} == {"alt", "make"}


def test_files_of_imgedit_of_two_kinds(tmp_path: Path) -> None:
    imgedit(tmp_path)
    with pytest.raises(UserError, match=r"has the columns .*; give files of one kind, as a source each$"):
        open_source(Source("imgedit", options={"path": str(tmp_path), "files": "Parquet/*.parquet"}), Objective(), seed=0)


def test_the_page_on_data_names_every_preset_and_kind() -> None:
    from metabridge.training import sources

    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    named = page.replace("`metaquery-instruct-2.4m`, `-512`", "`metaquery-instruct-2.4m` `metaquery-instruct-2.4m-512`")
    assert all(f"`{name}`" in named for name in [*presets.names(), *sources.names()])
