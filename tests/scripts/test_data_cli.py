"""`metabridge data`: what check says of rows, and that shards hold what was converted, however often it was killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Command
from PIL import Image

from metabridge.bridge.interfaces import Example
from metabridge.bridge.settings import Objective, Source
from metabridge.training.feeds import Tabled
from metabridge.training.sources import open_source
from metabridge.training.survey import row_at
from tests.rows import picture, write_jsonl, write_pictures

SIZES = ((64, 64), (128, 64), (64, 96))


def write_rows(folder: Path, count: int = 12, **more: Any) -> Path:
    """Texts to images, and every third an edit with two pictures, a thought and turns before."""
    folder.mkdir(exist_ok=True)
    names = write_pictures(folder, count, SIZES, "png")
    rows: list[dict[str, Any]] = [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)]
    for k in range(0, count, 3):
        turns = [{"role": "user", "text": "draw", "images": [names[1]]}, {"role": "assistant", "text": "done"}]
        rows[k] |= {"prompt": f"edit {k}", "images": [names[1], names[2]], "thought": f"thought {k}", "history": turns}
    return write_jsonl(folder, [row | more for row in rows])


def examples(kind: str, path: Path) -> list[Example]:
    feed, _ = open_source(Source(kind, options={"path": str(path)}), Objective(), 0)
    assert isinstance(feed, Tabled)
    found = [row_at(feed, index).example for index in range(sum(feed.table.blocks))]
    assert all(found)
    return [example for example in found if example is not None]


def as_plain(example: Example) -> Any:
    def pixels(image: Image.Image) -> str:
        return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()

    assert example.target is not None
    turns = [(turn.role, turn.text, [pixels(image) for image in turn.images]) for turn in example.history]
    texts = (example.prompt, example.thought, example.caption)
    return (*texts, pixels(example.target), [pixels(image) for image in example.images], turns)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()}


# check


def test_check_counts_what_is_there(metabridge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(Path("rows"), 12)
    Path("rows/004.png").write_bytes(b"no picture")
    Path("rows/007.png").unlink()
    lines = path.read_text().splitlines()
    lines[10] = json.dumps({"prompt": "A photo of two CLOCKS", "target": "010.png", "id": 3})
    path.write_text("\n".join([*lines, lines[11], "{broken"]) + "\n")
    Path("lists").mkdir()
    Path("lists/mine.json").write_text('["row eleven", "row 11!"]')
    monkeypatch.setenv("METABRIDGE_BENCH_DATA", "lists")
    code, out, err = metabridge("data", "check", path, "--size", 64, "--json", "found.json", "--sheet", "sheet.png")
    assert code == 1
    assert err.startswith("metabridge: data jsonl: 21.4% of the rows cannot be used, more than 5.0% (--max-bad); 1 of 14: ")
    assert out.startswith("rows/rows.jsonl, taken as a source of kind jsonl\n") and "sheet.png" in out
    (found,) = json.loads(Path("found.json").read_text())
    assert (found["rows"], found["rows_looked_at"], found["usable"]) == (14, 14, 11)
    assert found["fields"]["history"] == ["history"] and found["columns_not_read"] == {"id": 1}
    assert [group["rows"] for group in found["bad"].values()] == [1, 1, 1]
    assert any("007.png" in group["examples"][0] for group in found["bad"].values())
    assert found["width"] == {"min": 64, "low": 64, "median": 64, "high": 64, "max": 128}
    assert found["buckets"] == {"56x72": 5, "64x64": 4, "88x48": 2}
    assert found["with"] == {"images": 4, "thought": 4, "history": 4}
    assert (found["distinct_prompts"], found["doubled_prompts"]) == (10, {"row 11": 2})
    hits = {(hit["benchmark"], hit["how"]): hit["rows"] for hit in found["contamination"]}
    assert hits == {("mine", "exact"): 2, ("GenEval's templates", "template"): 1}
    assert found["contaminated_rows"] == 3 and found["compared_with"]["flatland"] > 1000
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 6 * 192


def test_check_says_when_it_will_do(metabridge: Command) -> None:
    path = write_rows(Path("rows"))
    code, out, err = metabridge("data", "check", path, "--size", 64, "--headers", "--max-aspect", 2, "--max-contaminated", 0)
    assert (code, err) == (0, "") and "usable         12 of 12 (100%)" in out and "pictures' headers read alone" in out
    code, out, _ = metabridge("data", "check", "jsonl", f"path={path}", "map.prompt=prompt", "--size", 64, "--rows", 5)
    assert code == 0 and out.startswith("source jsonl\n") and "rows           12; looked at the first 5 in the order of training" in out


def test_check_of_pictures_that_are_too_small(metabridge: Command) -> None:
    code, _, err = metabridge("data", "check", write_rows(Path("rows")))
    assert code == 1 and err == (
        "metabridge: data jsonl: none of its rows can be used; 12 of 12: the target is smaller than it would be trained at; "
        "give a smaller --size, or set train.upscale=true in a recipe\n"
    )


def test_check_fails_on_contamination_where_that_is_asked(metabridge: Command) -> None:
    path = write_rows(Path("rows"))
    Path("list.txt").write_text("Row 1.\nrow 2\n")
    arguments = ("data", "check", path, "--size", 64, "--against", "list.txt")
    assert metabridge(*arguments)[0] == 0
    code, out, err = metabridge(*arguments, "--max-contaminated", 0.1)
    assert code == 1 and "2  list, exact" in out
    assert err.startswith("metabridge: data jsonl: 16.67% of the rows have a prompt of a benchmark, more than 10.00% (--max-contaminated)")


def test_check_of_a_recipe_takes_all_of_its_sources_and_its_hands_sizes(metabridge: Command, tree: dict[str, Any]) -> None:
    path = write_rows(Path("rows"))
    tree["data"] = [{"source": "jsonl", "path": str(path)}, {"source": "flatland", "weight": 3.0}]
    tree["train"] |= {"size": 64, "max_aspect": 2.0}
    Path("mine.yaml").write_text(yaml.safe_dump(tree))
    code, out, err = metabridge("data", "check", "mine.yaml", "--rows", 20, "--json", "found.json")
    assert (code, err) == (0, "") and out.startswith("recipe mine.yaml\n")
    assert "25% of the recipe's rows" in out and "cut to sizes of the recipe's hand, sana" in out
    jsonl, flatland = json.loads(Path("found.json").read_text())
    assert (jsonl["rows"], flatland["rows"], flatland["rows_looked_at"]) == (12, None, 20)


def test_kinds_are_guessed_from_names(metabridge: Command) -> None:
    path = write_rows(Path("rows"))
    assert metabridge("data", "convert", path, "--out", "shards", "--shard-size", 5)[0] == 0
    Path("pictures").mkdir()
    for name in write_pictures(Path("pictures"), 3, suffix="jpg"):
        Path("pictures", name).with_suffix(".txt").write_text(f"picture {name}")
    for what, kind in (("shards", "webdataset"), ("shards/shard-000001.tar", "webdataset"), ("pictures", "folder"), (path, "jsonl")):
        code, out, err = metabridge("data", "check", what, "--size", 64)
        assert (code, err) == (0, "") and out.splitlines()[0] == f"{what}, taken as a source of kind {kind}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["check", "flatlnad"], "flatlnad: no such path, recipe, preset or kind of source; did you mean flatland? it may be one of: "),
        (["check", "gone.jsonl"], "gone.jsonl: no such path, recipe, preset or kind of source; "),
        (["check", "empty"], "empty: no pictures, .parquet or .tar in it; give a folder that has some, or a file of rows"),
        (["check", "a.doc"], "a.doc: no kind of source reads .doc; give .jsonl, .json, .parquet, .tar or a folder"),
        (["check", "rows/rows.jsonl", "task=edti"], "data.task: 'edti' given; did you mean edit? "),
        (["check", "rows/rows.jsonl", "map.promt=x"], "data jsonl.map.promt: no such field; did you mean prompt? "),
        (["check", "rows/rows.jsonl", "--sheet", "a.jpg"], "--sheet a.jpg: a sheet is written as .png; give a name that ends in .png"),
        (["check", "rows/rows.jsonl", "--json", "no/a.json"], "--json no/a.json: no such folder; make no first, or give another path"),
        (["check", "rows/rows.jsonl", "--against", "gone"], "gone: no such file; give a list of a benchmark's prompts"),
        (["convert", "flatland", "--out", "o"], "--rows: this source makes rows without end; say how many, as --rows 1000"),
        (
            ["convert", "rows/rows.jsonl", "--out", "o", "--shard-size", "big"],
            "--shard-size: 'big' given; give a number of rows, as 1000, ",
        ),
        (["convert", "rows/rows.jsonl", "--out", "o", "--format", "gif"], "--format: 'gif' given; it is one of: keep, jpg, png, webp"),
        (["convert", "rows/rows.jsonl", "--out", "a.doc"], "--out a.doc: cannot be made ("),
    ],
)
def test_wrong_words_are_one_line(metabridge: Command, arguments: list[str], line: str) -> None:
    write_rows(Path("rows"), 3)
    Path("empty").mkdir()
    Path("a.doc").write_text("")
    code, _, err = metabridge("data", *arguments)
    assert code == 2 and err.startswith(f"metabridge: {line}") and err.count("\n") == 1


# convert


def test_shards_hold_the_same_examples(metabridge: Command) -> None:
    path = write_rows(Path("rows"), native_caption="what the hand's own encoder knows")
    code, out, err = metabridge("data", "convert", path, "--out", "shards", "--shard-size", 5)
    assert (code, err) == (0, "") and "shards: 12 rows in 3 shards" in out
    before, after = examples("jsonl", path), examples("webdataset", Path("shards"))
    assert [as_plain(example) for example in before] == [as_plain(example) for example in after]
    assert before[0].caption and len(before[0].images) == 2 and before[0].history[0].images
    assert [name for name in hashes(Path("shards")) if not name.endswith(".index")] == [
        "bad_rows.jsonl",
        "manifest.json",
        *(f"shard-00000{k}.tar" for k in range(3)),
    ]
    assert Path("shards/bad_rows.jsonl").read_text() == "" and not Path("shards/.progress").exists()
    manifest = json.loads(Path("shards/manifest.json").read_text())
    assert (manifest["complete"], manifest["rows"], manifest["bad"], manifest["rows_per_shard"]) == (True, 12, 0, 5)


def test_alternatives_of_a_prompt_stay(metabridge: Command) -> None:
    Path("rows").mkdir()
    (name,) = write_pictures(Path("rows"), 1)
    path = write_jsonl(Path("rows"), [{"prompt": ["a cat", "one cat"], "target": name}])
    assert metabridge("data", "convert", path, "--out", "shards")[0] == 0
    feed, _ = open_source(Source("webdataset", options={"path": "shards"}), Objective(), 0)
    assert {feed.example(0, seed).prompt for seed in range(20)} == {"a cat", "one cat"}


def test_bytes_stay_where_nothing_shrinks_and_sizes_where_it_does(metabridge: Command) -> None:
    Path("rows").mkdir()
    picture(0, (200, 100)).save("rows/a.jpg", quality=80)
    picture(1, (60, 50)).convert("RGBA").save("rows/b.webp")
    picture(2, (40, 40)).save("rows/c.bmp")
    path = write_jsonl(Path("rows"), [{"prompt": name, "image": name} for name in ("a.jpg", "b.webp", "c.bmp")])
    assert metabridge("data", "convert", path, "--out", "kept")[0] == 0
    tars = {name: read_tar(Path(name)) for name in ("kept",)}
    assert tars["kept"]["000000000.jpg"] == Path("rows/a.jpg").read_bytes()
    assert tars["kept"]["000000001.webp"] == Path("rows/b.webp").read_bytes()
    assert Image.open(io.BytesIO(tars["kept"]["000000002.png"])).tobytes() == Image.open("rows/c.bmp").tobytes()
    assert metabridge("data", "convert", path, "--out", "small", "--size", 50, "--format", "jpg")[0] == 0
    small = {name: Image.open(io.BytesIO(data)) for name, data in read_tar(Path("small")).items() if name.endswith("jpg")}
    assert [image.size for image in small.values()] == [(100, 50), (60, 50), (40, 40)]
    assert all(image.format == "JPEG" and image.mode == "RGB" for image in small.values())


def read_tar(folder: Path) -> dict[str, bytes]:
    import tarfile

    with tarfile.open(folder / "shard-000000.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_bad_rows_are_left_out_and_named_and_too_many_stop_it(metabridge: Command) -> None:
    path = write_rows(Path("rows"))
    data = Path("rows/003.png").read_bytes()
    Path("rows/003.png").write_bytes(data[: len(data) // 2])  # its header is whole
    assert metabridge("data", "convert", path, "--out", "shards", "--shard-size", 5, "--max-bad", 0.2)[::2] == (0, "")
    (bad,) = [json.loads(line) for line in Path("shards/bad_rows.jsonl").read_text().splitlines()]
    assert (bad["row"], bad["where"]) == (3, "rows.jsonl:4") and bad["reason"].startswith("a picture cannot be decoded (")
    assert [shard["rows"] for shard in json.loads(Path("shards/manifest.json").read_text())["shards"]] == [4, 5, 2]
    many = write_jsonl(Path("rows"), [{"prompt": "a", "target": "000.png" if k % 10 else "gone.png"} for k in range(120)])
    code, _, err = metabridge("data", "convert", many, "--out", "many")
    assert code == 2 and err.startswith("metabridge: 10 of 100 rows cannot be used; metabridge data check says what is wrong with them; ")
    none = write_jsonl(Path("rows"), [{"prompt": "a", "target": "gone.png"}])
    code, _, err = metabridge("data", "convert", none, "--out", "none")
    assert code == 2 and err.startswith("metabridge: 1 of 1 rows cannot be used (a picture cannot be opened (")


def test_sizes_in_bytes_and_rows_that_are_made(metabridge: Command) -> None:
    code, out, _ = metabridge("data", "convert", "flatland", "--rows", 40, "--out", "shards", "--shard-size", "20KB")
    assert code == 0 and "shards: 40 rows in" in out
    sizes = [path.stat().st_size for path in sorted(Path("shards").glob("*.tar"))]
    assert len(sizes) > 1 and all(10_000 < size < 40_000 for size in sizes[:-1])
    assert len({example.prompt for example in examples("webdataset", Path("shards"))}) > 20


def test_run_again_it_is_complete_and_other_settings_are_refused(metabridge: Command) -> None:
    path = write_rows(Path("rows"))
    assert metabridge("data", "convert", path, "--out", "shards")[0] == 0
    before = hashes(Path("shards"))
    code, out, _ = metabridge("data", "convert", path, "--out", "shards")
    assert code == 0 and "shards: complete already, 12 rows in 1 shards" in out and hashes(Path("shards")) == before
    code, _, err = metabridge("data", "convert", path, "--out", "shards", "--size", 32)
    assert (code, err) == (
        2,
        "metabridge: --out shards: holds shards made with --size 0, and 32 is given; give another folder, or the same --size\n",
    )
    Path("other").mkdir()
    Path("other/x.tar").write_bytes(b"")
    code, _, err = metabridge("data", "convert", path, "--out", "other")
    assert (code, err) == (2, "metabridge: --out other: holds tars of something else; give another folder\n")


def test_a_stream_is_converted_and_goes_on_from_where_it_was(metabridge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one's own, which counts what it reads."""
    module = Path("my/counted.py")
    module.parent.mkdir()
    module.write_text(
        "from metabridge.training.schema import BadRow, Raw\n"
        "from tests.rows import picture\n"
        "class Counted:\n"
        "    def __init__(self, log): self.log = log\n"
        "    def rows(self, epoch, state=None):\n"
        "        for k in range(state or 0, 11):\n"
        "            with open(self.log, 'a') as log: log.write(f'{k} ')\n"
        "            yield (BadRow('torn') if k == 4 else Raw({'prompt': f'row {k}', 'image': picture(k)}, f'row {k}')), k + 1\n"
        "def load(log): return Counted(log)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    arguments = ("data", "convert", "my.counted", "log=log.txt")
    code, out, _ = metabridge(*arguments, "--out", "shards", "--shard-size", 4, "--max-bad", 1)
    assert code == 0 and "shards: 10 rows in 3 shards" in out and "1 rows left out" in out
    whole = hashes(Path("shards"))
    half = json.loads(Path("shards/manifest.json").read_text()) | {"complete": False}
    Path("shards/manifest.json").write_text(json.dumps(half))
    Path("shards/.progress").mkdir()
    size = Path("shards/shard-000000.tar").stat().st_size
    record = {"name": "shard-000000.tar", "rows": 4, "bytes": size, "bad": [], "state": 4}
    Path("shards/.progress/shard-000000.tar.json").write_text(json.dumps(record))
    Path("log.txt").unlink()
    assert metabridge(*arguments, "--out", "shards", "--shard-size", 4, "--max-bad", 1)[0] == 0
    assert hashes(Path("shards")) == whole
    assert Path("log.txt").read_text().endswith(" 10 4 5 6 7 8 9 10 ")  # the first rows for their columns, and then what was missing


def convert(path: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "metabridge.scripts.cli", "data", "convert", str(path), "--out", str(out), "--shard-size", "4", *more]


@pytest.mark.slow
def test_killed_and_run_again_it_writes_the_same_shards(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows", 3)
    big = [{"prompt": f"row {k}", "target": "big.png"} for k in range(24)]
    picture(0, (1200, 1200)).save(tmp_path / "rows" / "big.png")
    path = write_jsonl(tmp_path / "rows", big)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    resized = ("--size", "64")
    subprocess.run(convert(path, whole, *resized), check=True, capture_output=True)
    with subprocess.Popen(convert(path, killed, *resized), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and len(list(killed.glob("shard-*.tar"))) < 2:
            time.sleep(0.005)
        running.kill()
    assert running.returncode == -signal.SIGKILL and not json.loads((killed / "manifest.json").read_text())["complete"]
    stamps = {
        file.name: file.stat().st_mtime_ns for file in killed.glob("shard-*.tar") if (killed / ".progress" / f"{file.name}.json").exists()
    }
    assert stamps
    (killed / ".shard-000009.tar.1.tmp").write_bytes(b"left over")
    subprocess.run(convert(path, killed, *resized), check=True, capture_output=True)
    assert hashes(killed) == hashes(whole) and len(hashes(killed)) == 8
    assert stamps == {name: (killed / name).stat().st_mtime_ns for name in stamps}  # what was whole was not written again


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows", 30)
    (tmp_path / "rows" / "008.png").write_bytes(b"")
    for name, more in (("one", ()), ("two", ("--processes", "2"))):
        subprocess.run(convert(path, tmp_path / name, *more), check=True, capture_output=True)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_a_full_disk_is_one_line_and_what_was_written_stays(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: the second shard does not fit."""
    path = write_rows(tmp_path / "rows", 3)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "rows" / "noise.png")
    path = write_jsonl(tmp_path / "rows", [{"prompt": "a", "target": "000.png" if k < 4 else "noise.png"} for k in range(8)])

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = subprocess.run(convert(path, tmp_path / "out"), capture_output=True, text=True, preexec_fn=limited, env=os.environ)
    assert done.returncode == 2 and done.stderr == (
        f"metabridge: {tmp_path}/out/shard-000001.tar: cannot be written (File too large); the shards before are whole: "
        "make room and run the same command again\n"
    )
    assert [file.name for file in (tmp_path / "out").glob("*.tar")] == ["shard-000000.tar"]
    subprocess.run(convert(path, tmp_path / "out"), check=True, capture_output=True)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
