"""GenEval's official folders out and in, and the official scorer's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.items import Item
from metabridge.eval.layouts import geneval as layout
from metabridge.eval.readers import geneval as reader


@pytest.fixture
def items(test_data: Path) -> list[Item]:
    return [item for item in reader.load({}, test_data / "bench_data" / "geneval") if item.number in (7, 183, 552)]


@pytest.fixture
def drawn(items: list[Item], tmp_path: Path) -> list[tuple[Item, int, Path]]:
    rows = []
    for item in items:
        for k in range(4):
            path = tmp_path / "own" / f"{item.id}-{k}.{'jpg' if k == 3 else 'png'}"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (item.number % 256, 60 * k, 0)).save(path)
            rows.append((item, k, path))
    return rows


def test_exported_folders_are_the_official_ones(drawn: list[tuple[Item, int, Path]], test_data: Path, tmp_path: Path) -> None:
    layout.export(drawn, tmp_path / "official")
    files = {str(path.relative_to(tmp_path / "official")) for path in (tmp_path / "official").rglob("*") if path.is_file()}
    names = ["metadata.jsonl", *(f"samples/000{k}.png" for k in range(4))]
    assert files == {f"{number}/{name}" for number in ("00007", "00183", "00552") for name in names}
    lines = (test_data / "bench_data" / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    for number in (7, 183, 552):
        assert (tmp_path / "official" / f"{number:05d}" / "metadata.jsonl").read_text() == lines[number] + "\n"
    assert (tmp_path / "official/00007/samples/0002.png").read_bytes() == drawn[2][2].read_bytes()
    with Image.open(tmp_path / "official/00183/samples/0003.png") as image:
        assert image.format == "PNG"


def test_what_was_exported_is_read_again(drawn: list[tuple[Item, int, Path]], items: list[Item], tmp_path: Path) -> None:
    layout.export(drawn, tmp_path / "official")
    found = layout.pictures(items, tmp_path / "official")
    assert {key: path.name for key, path in found.items()} == {(item.group, item.id, k): f"000{k}.png" for item, k, _ in drawn}
    assert set(layout.pictures(items[:1], tmp_path / "official")) == {(items[0].group, items[0].id, k) for k in range(4)}


def test_other_tools_folders(items: list[Item], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers without leading zeros, more keys in metadata.jsonl, other files beside the samples; a folder that is missing."""
    for number, name in [(7, "7"), (183, "00183")]:
        item = next(item for item in items if item.number == number)
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps({**layout.metadata(item), "seed": 3}, indent=2))
        for file in ("1.png", "00000.png", "grid.png"):
            (tmp_path / name / "samples" / file).write_bytes(b"")
    (tmp_path / "grids").mkdir()
    with caplog.at_level("INFO"):
        found = layout.pictures(items, tmp_path)
    assert {(key[1], key[2]): path.name for key, path in found.items()} == {
        (number, k): name for number in ("00007", "00183") for k, name in ((0, "00000.png"), (1, "1.png"))
    }
    assert caplog.text.count("grid.png: left out, its name is no number") == 2


def test_pictures_of_other_prompts_are_refused(drawn: list[tuple[Item, int, Path]], items: list[Item], tmp_path: Path) -> None:
    layout.export(drawn, tmp_path)
    path = tmp_path / "00183" / "metadata.jsonl"
    text = items[1].text
    for other in ({"prompt": "A long one."}, {"exclude": []}, {"tag": "colors"}):
        path.write_text(json.dumps({**layout.metadata(items[1]), **other}))
        with pytest.raises(UserError) as caught:
            layout.pictures(items, tmp_path)
        assert str(caught.value).startswith(
            f"{path}: {other.get('prompt', text)!r} is not prompt 00183, {text!r}; pictures of other prompts"
        )
    path.write_text("[]")
    with pytest.raises(UserError, match="no mapping of tag, include, exclude and prompt"):
        layout.pictures(items, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"metadata.jsonl: cannot be read \(No such file or directory\); it says which prompt"):
        layout.pictures(items, tmp_path)


def test_bad_folders(drawn: list[tuple[Item, int, Path]], items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder; give one that holds 00000/metadata.jsonl"):
        layout.pictures(items, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no picture of 3 prompts there; give one that holds"):
        layout.pictures(items, tmp_path / "empty")
    layout.export(drawn, tmp_path / "twice")
    (tmp_path / "twice/00007/samples/1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1.png: picture 1 of the prompt a second time, 0001.png is it too; remove one"):
        layout.pictures(items, tmp_path / "twice")
    drawn[0][2].unlink()
    with pytest.raises(UserError, match=r"00007-0.png: cannot be read \(No such file or directory\); draw the picture again"):
        layout.export(drawn, tmp_path / "gone")


def line(item: Item, k: int, correct: Any = True, **other: Any) -> str:
    """As the official scorer writes it; `metadata` and `details` are JSON in JSON."""
    row = {
        "filename": f"outputs/model/{item.id}/samples/{k:04d}.png",
        "tag": item.group,
        "prompt": item.text,
        "correct": correct,
        "reason": "" if correct else "expected cow>=1, found 0",
        "metadata": json.dumps(layout.metadata(item)),
        "details": "{}",
    }
    return json.dumps({**row, **other})


def test_official_results(items: list[Item], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.jsonl"
    windows = line(items[1], 3, filename=f"out\\{items[1].id}\\samples\\0003.png")
    path.write_text("\n".join([line(items[0], 1, False), line(items[0], 0), windows]))  # no end after the last line
    with caplog.at_level("INFO"):
        found = layout.results(path, items[:1])
    assert found == [
        ((items[0].group, "00007", 1), {"correct": 0.0}, "expected cow>=1, found 0"),
        ((items[0].group, "00007", 0), {"correct": 1.0}, ""),
    ]
    assert "1 lines left out, of prompts that were not asked for" in caplog.text
    assert [key for key, _, _ in layout.results(path, items)][2] == (items[1].group, "00183", 3)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", "line 2: no valid JSON"),
        ("[]", "line 2: a list given; it is a mapping of filename, tag, prompt, correct, reason"),
        ({"correct": 0.5}, "line 2: correct: 0.5 given; it is true or false"),
        ({"filename": "00007.png"}, "line 2: filename: '00007.png' given; it ends in 00000/samples/0000.png"),
        ({"prompt": "A long one."}, "line 2: 'A long one.' is not prompt 00007, "),
        ({"filename": "x/00007/samples/0000.png"}, "line 2: x/00007/samples/0000.png a second time; give the results of one run"),
    ],
)
def test_bad_results(items: list[Item], tmp_path: Path, second: Any, message: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([line(items[0], 0), second if isinstance(second, str) else line(items[0], 1, **second)]) + "\n")
    with pytest.raises(UserError) as caught:
        layout.results(path, items)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_no_results(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"none.jsonl: cannot be read \(No such file or directory\); give the results.jsonl of the official"
    ):
        layout.results(tmp_path / "none.jsonl", items)
