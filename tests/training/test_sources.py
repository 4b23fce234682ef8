"""The same rows from every kind of source; resume; damaged files; what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.settings import Objective, Source
from metabridge.training.feeds import Feed, Streamed, Tabled
from metabridge.training.order import Order, mix
from metabridge.training.paths import braces
from metabridge.training.schema import BadRow
from metabridge.training.sources import open_source
from metabridge.training.sources import webdataset as tars_source
from metabridge.training.tars import opened, tar
from tests.rows import picture

Row = dict[str, Any]
COUNT = 12


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, (40, 32)).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[Row]:
    """Pictures as PNG bytes. In turn: a plain row, an edit of two pictures, one with a thought, one with a history."""
    made = []
    for k in range(COUNT):
        row: Row = {"prompt": f"row {k}, ä", "target": png(k), "images": [], "thought": None, "history": []}
        if k % 4 == 1:
            row["images"] = [png(100 + k), png(200 + k)]
        elif k % 4 == 2:
            row["thought"] = f"thought {k}"
        elif k % 4 == 3:
            user = {"role": "user", "text": f"turn {k}", "images": [png(300 + k)]}
            row["history"] = [user, {"role": "assistant", "text": "done", "images": []}]
        made.append(row)
    return made


def seen(example: Example) -> tuple[Any, ...]:
    """All that an example holds, with pictures as their pixels."""

    def pixels(image: Image.Image | None) -> tuple[Any, ...]:
        assert image is not None
        return image.size, image.convert("RGB").tobytes()

    history = tuple((turn.role, turn.text, tuple(map(pixels, turn.images))) for turn in example.history)
    return example.prompt, tuple(map(pixels, example.images)), pixels(example.target), example.thought, history


def expected() -> list[tuple[Any, ...]]:
    def open_(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data))

    def one(row: Row) -> Example:
        from metabridge.bridge.interfaces import Turn

        turns = tuple(Turn(turn["role"], turn["text"], tuple(map(open_, turn["images"]))) for turn in row["history"])
        return Example(row["prompt"], tuple(map(open_, row["images"])), open_(row["target"]), turns, row["thought"])

    return [seen(one(row)) for row in rows()]


def with_files(folder: Path, target: str = "target") -> list[Row]:
    """The rows with their pictures written into `folder`, and named instead; what is empty is left out."""
    folder.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, name: str) -> str:
        (folder / name).write_bytes(data)
        return name

    found = []
    for k, row in enumerate(rows()):
        named = {"prompt": row["prompt"], target: put(row["target"], f"t{k:02d}.png")}
        if row["images"]:
            named["images"] = [put(data, f"i{k:02d}-{n}.png") for n, data in enumerate(row["images"])]
        if row["thought"]:
            named["thought"] = row["thought"]
        if row["history"]:
            named["history"] = [
                turn | {"images": [put(data, f"h{k:02d}-{n}.png") for data in turn["images"]]} for n, turn in enumerate(row["history"])
            ]
        found.append(named)
    return found


def lines(found: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in found)


def write_jsonl(folder: Path) -> Row:
    (folder / "rows.jsonl").write_text(lines(with_files(folder)))
    return {"source": "jsonl", "path": str(folder / "rows.jsonl")}


def write_json(folder: Path) -> Row:
    (folder / "rows.json").write_text(json.dumps(with_files(folder / "pictures")))
    return {"source": "jsonl", "path": str(folder), "files": "rows.json", "root": "pictures"}


def write_folder(folder: Path) -> Row:
    (folder / "metadata.jsonl").write_text(lines(with_files(folder, "file_name")))
    return {"source": "folder", "path": str(folder)}


def write_nested(folder: Path) -> Row:
    (folder / "a").mkdir()
    (folder / "a" / "metadata.jsonl").write_text(lines(with_files(folder / "a", "file_name")))
    return {"source": "folder", "path": str(folder)}


def arrow(make: Callable[[bytes], Any]) -> list[Row]:
    def turns(row: Row) -> list[Row]:
        return [turn | {"images": [make(data) for data in turn["images"]]} for turn in row["history"]]

    return [
        row | {"target": make(row["target"]), "images": [make(data) for data in row["images"]], "history": turns(row)} for row in rows()
    ]


def write_parquet(folder: Path, found: list[Row] | None = None, size: int = COUNT) -> Row:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(found or arrow(bytes)), folder / "rows.parquet", row_group_size=size)
    return {"source": "parquet", "path": str(folder / "rows.parquet")}


def write_structs(folder: Path) -> Row:
    """As datasets writes its Image feature."""
    return write_parquet(folder, arrow(lambda data: {"bytes": data, "path": None}))


def write_paths(folder: Path) -> Row:
    empty = {"images": [], "thought": None, "history": []}
    write_parquet(folder, [empty | row for row in with_files(folder / "pictures")])
    return {"source": "parquet", "path": str(folder), "files": "*.parquet", "root": "pictures"}


def write_tar(path: Path, first: int = 0, last: int = COUNT) -> Path:
    """As `metabridge data convert` writes it."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for k, row in list(enumerate(rows()))[first:last]:
            members = {"png": row["target"]} | {f"{n}.png": data for n, data in enumerate(row["images"])}
            members |= {f"turn{n}.png": data for n, turn in enumerate(row["history"]) for data in turn["images"]}
            turns = [turn | {"images": [f"turn{n}.png" for _ in turn["images"]]} for n, turn in enumerate(row["history"])]
            texts = {"prompt": row["prompt"], "thought": row["thought"], "history": turns}
            for name, data in (members | {"json": json.dumps(texts).encode()}).items():
                info = tarfile.TarInfo(f"{k:09d}.{name}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return path


def write_webdataset(folder: Path) -> Row:
    return {"source": "webdataset", "path": str(write_tar(folder / "shard-000000.tar"))}


def dataset(**options: Any) -> Any:
    import datasets
    from datasets import Features, Image, List, Value

    turn = {"role": Value("string"), "text": Value("string"), "images": List(Image())}
    features = Features(prompt=Value("string"), target=Image(), images=List(Image()), thought=Value("string"), history=List(turn))
    found = [{name: row[name] for name in features} for row in arrow(lambda data: {"bytes": data, "path": None})]
    return datasets.Dataset.from_list(found, features=features)


def write_saved(folder: Path) -> Row:
    dataset().save_to_disk(str(folder / "saved"))
    return {"source": "huggingface", "path": str(folder / "saved")}


def write_repo(folder: Path, files: int = 1) -> Row:
    """As push_to_hub leaves a dataset."""
    (folder / "data").mkdir()
    for k in range(files):
        dataset().shard(files, k).to_parquet(folder / "data" / f"train-{k:05d}-of-{files:05d}.parquet")
    return {"source": "huggingface", "path": str(folder)}


LAYOUTS = (
    write_jsonl, write_json, write_folder, write_nested, write_parquet, write_structs, write_paths, write_webdataset,
    write_saved, write_repo,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def feed(tree: Row, seed: int = 3) -> Any:
    options = {key: value for key, value in tree.items() if key != "source"}
    return open_source(Source(tree["source"], "edit", 1.0, options), Objective(), seed)[0]


def examples(found: Feed, count: int) -> list[tuple[Any, ...]]:
    return [seen(found.example(number, 0)) for number in range(count)]


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_the_same_rows_in_the_same_order_from_every_layout(write: Callable[[Path], Row], tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    table = feed(write(folder))
    assert isinstance(table, Tabled) and table.table.blocks == [COUNT]
    order = [Order([COUNT], mix(3, 0)).index(number) for number in range(2 * COUNT)]
    assert sorted(order[:COUNT]) == list(range(COUNT)) != order[:COUNT] != order[COUNT:]
    assert examples(table, 2 * COUNT) == [expected()[index] for index in order]
    again = pickle.loads(pickle.dumps(table))
    assert examples(again, 3) == [expected()[index] for index in order[:3]]


def test_pictures_with_captions_beside_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nested, of any case, sorted; what has no caption is named; metadata, then captions.json, then NAME.txt."""
    for name in ("b/2.PNG", "b/1.webp", "a.jpeg", "c.jpg", "d.jpg", ".hidden/x.jpg", "e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(len(name)).save(tmp_path / name)
    (tmp_path / "b" / "2.txt").write_text("\ufefftwo, ä\n", encoding="utf-8")
    (tmp_path / "c.TXT").write_text("not this one")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "captions.json").write_text(json.dumps({"c.jpg": ["a sea", "the sea"], "a.jpeg": "nor this"}))
    (tmp_path / "metadata.csv").write_text('file_name,caption\na.jpeg,"a, first"\ngone.jpg,gone\n')
    os.symlink(tmp_path, tmp_path / "b" / "round")
    table = feed({"source": "folder", "path": str(tmp_path), "map": {"prompt": ["caption", "text"]}}).table
    rows = [raw if isinstance(raw, str) else (raw.where, raw.columns.get("text") or raw.columns["caption"]) for raw in map_raw(table)]
    assert rows == [
        ("a.jpeg", "a, first"),
        ("gone.jpg", "gone"),
        "b/1.webp has no caption: no 1.txt beside it, nor a row of metadata",
        ("b/2.PNG", "two, ä\n"),
        ("c.jpg", ["a sea", "the sea"]),
        "d.jpg has no caption: no d.txt beside it, nor a row of metadata",
        "e.txt cannot be read ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)",
    ]


def map_raw(table: Any) -> Iterator[Any]:
    for index in range(sum(table.blocks)):
        try:
            yield table.raw(index)
        except BadRow as bad:
            yield str(bad)


def test_row_groups_are_blocks_and_read_once(tmp_path: Path) -> None:
    """And a column that is not mapped is not read at all."""
    from metabridge.training.sources import parquet

    write_parquet(tmp_path, size=5)
    shutil.copy(tmp_path / "rows.parquet", tmp_path / "more.parquet")
    table = feed({"source": "parquet", "path": str(tmp_path / "*.parquet")})
    assert table.table.blocks == [5, 5, 2, 5, 5, 2]
    parquet._column.cache_clear()
    texts = [table.schema.texts(table.table.raw(index), "prompt") for index in range(24)]
    assert texts == [[row["prompt"]] for row in rows()] * 2
    assert parquet._column.cache_info().misses == 6
    assert [table.table.raw(index).where for index in (0, 11, 12, 23)] == [
        "more.parquet:1", "more.parquet:12", "rows.parquet:1", "rows.parquet:12",
    ]  # fmt: skip
    assert set(examples(table, 24)) == set(expected())


def damage(path: Path) -> None:
    """Overwrite the first column of the second row group."""
    import pyarrow.parquet as pq

    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)


def test_a_damaged_row_group_is_bad_rows(tmp_path: Path) -> None:
    tree = write_parquet(tmp_path, size=6)
    damage(tmp_path / "rows.parquet")
    table = feed(tree)
    good = [index for index in range(COUNT) if not isinstance(tried(table, index), str)]
    assert good == list(range(6))
    assert str(tried(table, 8)).startswith("row group 2 of rows.parquet cannot be read (")


def tried(table: Tabled, index: int) -> Any:
    try:
        return table.schema.example(table.table.raw(index), 0.0)
    except BadRow as bad:
        return str(bad)


def add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_in_a_tar(layout: int, tmp_path: Path) -> None:
    """Keys reach up to the first dot of the base name, however long; extensions are in lower case; a row need not be together."""
    deep = "/".join(["folder.x" * 3] * 4) if layout == tarfile.USTAR_FORMAT else "ordner-ä." * 30
    with tarfile.open(tmp_path / "a.tar", "w", format=layout) as shard:
        folder = tarfile.TarInfo("sub.dir")
        folder.type = tarfile.DIRTYPE
        shard.addfile(folder)
        for key in ("./000", "sub.dir/000", f"{deep}/long"):
            add(shard, f"{key}.JPG", b"picture " + key.encode())
        add(shard, "sub.dir/.hidden.jpg", b"x")
        add(shard, "README", b"x")
        for key in ("./000", "sub.dir/000", f"{deep}/long"):
            add(shard, f"{key}.txt", b"text " + key.encode())
    table = tars_source.load(str(tmp_path / "a.tar"))
    found = [table.raw(index) for index in range(sum(table.blocks))]
    assert [raw.where for raw in found] == ["a.tar:./000", "a.tar:sub.dir/000", f"a.tar:{deep}/long"]
    for raw in found:
        key = raw.columns["__key__"]
        assert raw.columns["jpg"] == raw.columns["image"] == b"picture " + key.encode() and raw.columns["txt"] == f"text {key}"
        assert set(raw.columns) == {"jpg", "txt", "image", "__key__"}


def test_members_of_a_row_by_usual_names(tmp_path: Path) -> None:
    """Also where rows differ: pictures of other kinds, JSON that some have, or that is none."""
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name, data in {
            "0.jpg": b"0", "0.txt": b"zero", "0.json": b'{"caption": "other", "nested": {"x": [7]}}',
            "1.webp": b"1", "1.json": b'{"prompt": ["one", "uno"], "thought": "t"}',
            "2.png": b"2", "2.10.png": b"c", "2.9.jpg": b"b", "2.json": b"{",
        }.items():  # fmt: skip
            add(shard, name, data)
    table = tars_source.load(str(tmp_path / "a.tar"))
    zero, one, two = (table.raw(index).columns for index in range(3))
    assert (zero["image"], zero["txt"], "caption" in zero, zero["json"]["nested"]["x"]) == (b"0", "zero", False, [7])
    assert (one["image"], one["txt"], one["prompt"], one["thought"]) == (b"1", None, ["one", "uno"], "t")
    assert (two["image"], two["images"], zero["images"]) == (b"2", [b"b", b"c"], [])
    with pytest.raises(BadRow, match=r"^json: no valid JSON \("):
        two["json"]
    schema = feed({"source": "webdataset", "path": str(tmp_path / "a.tar"), "map": {"prompt": ["txt", "prompt", "json.nested.y"]}}).schema
    assert schema.fields == {
        "prompt": ("txt", "prompt", "json.nested.y"), "images": ("images",), "target": ("image",), "thought": ("thought",),
    }  # fmt: skip


def test_a_tar_that_is_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At every byte around the end of a row: whole rows are there, what is wrong is said, also when the index is there already."""
    whole = write_tar(tmp_path / "whole.tar").read_bytes()
    table = tars_source.load(str(tmp_path / "whole.tar"))
    ends = [max(sum(place) for place in opened(tar(tmp_path / "whole.tar")).places(k).values()) for k in range(COUNT)]
    assert not caplog.records and sum(table.blocks) == COUNT
    for cut in (ends[6] - 1, ends[6], ends[6] + 600, ends[7] - 10):
        path = tmp_path / f"cut-{cut}.tar"
        path.write_bytes(whole[:cut])
        for _ in ("indexed", "from the index"):
            caplog.clear()
            cut_table = tars_source.load(str(path))
            assert cut_table.blocks == [7 if cut >= ends[6] else 6], cut
            assert [record.message for record in caplog.records] == [
                f"{path}: {tar(path).damage}; its {cut_table.blocks[0]} whole rows are used"
            ]
            assert ("cut short" in tar(path).damage or "no end mark" in tar(path).damage) and (tmp_path / f"cut-{cut}.tar.index").exists()
        assert [raw.where.split(":")[1] for raw in map_raw(cut_table)] == [f"{k:09d}" for k in range(cut_table.blocks[0])]


def test_the_index_is_kept_and_is_of_its_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", 0, 3)
    first = tar(path)
    assert first.index == tmp_path / "a.tar.index" and first.rows == 3
    stamp = first.index.stat().st_mtime_ns
    assert tar(path) == first and first.index.stat().st_mtime_ns == stamp
    write_tar(path, 0, 5)
    assert tar(path).rows == 5
    with pytest.raises(UserError, match="has changed since it was opened; begin again"):
        opened.__wrapped__(first)
    index = tmp_path / "a.tar.index"
    index.write_bytes(index.read_bytes()[:-9])  # an index that is cut short is made anew
    assert tar(path).rows == 5 and len(index.read_bytes()) > 9
    index.unlink()
    index.mkdir()  # a place that cannot be written
    elsewhere = tar(path)
    assert elsewhere.index is not None and elsewhere.index.parent == tmp_path / "cache" / "metabridge" / "tars"
    elsewhere.index.unlink()
    shutil.rmtree(tmp_path / "cache" / "metabridge" / "tars")
    (tmp_path / "cache" / "metabridge" / "tars").write_text("no folder")
    nowhere = tar(path)
    assert nowhere.index is None and [opened(nowhere).key(k) for k in range(5)] == [f"{k:09d}" for k in range(5)]


def test_a_tar_of_a_gigabyte_is_indexed_from_its_headers_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with open(path, "wb") as file:
        for k in range(100):
            info = tarfile.TarInfo(f"{k:03d}.jpg")
            info.size = 10 << 20
            file.write(info.tobuf())
            file.seek(info.size, os.SEEK_CUR)
        file.write(b"\0" * 1024)

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    assert tar(path).rows == 100 and path.stat().st_size > 10**9
    assert bytes_read() - before < 200_000


def test_tars_are_blocks(tmp_path: Path) -> None:
    for k, (first, last) in enumerate([(0, 5), (5, 5), (5, 6), (6, 12)]):
        write_tar(tmp_path / f"shard-{k}.tar", first, last)
    table = feed({"source": "webdataset", "path": str(tmp_path)})
    assert table.table.blocks == [5, 0, 1, 6]
    assert [seen(table.schema.example(table.table.raw(index), 0.0)) for index in range(COUNT)] == expected()
    again = pickle.loads(pickle.dumps(table))
    assert examples(again, 2 * COUNT) == examples(table, 2 * COUNT)


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, Callable[..., Streamed]]:
    (tmp_path / "repo").mkdir()
    write_repo(tmp_path / "repo", 3)
    for k in range(3):
        write_tar(tmp_path / f"shard-{k}.tar", 4 * k, 4 * k + 4)
    trees = {
        "huggingface": {"source": "huggingface", "path": str(tmp_path / "repo"), "streaming": True},
        "parquet": {"source": "parquet", "path": f"file://{tmp_path}/repo", "files": "data/*.parquet"},
        "webdataset": {"source": "webdataset", "path": f"file://{tmp_path}", "files": "shard-{0..2}.tar"},
    }
    return {kind: lambda tree=tree, **more: feed(tree | more) for kind, tree in trees.items()}


@pytest.mark.parametrize("kind", ["huggingface", "parquet", "webdataset"])
def test_a_stream_has_the_rows_of_a_table(kind: str, streams: dict[str, Callable[..., Streamed]]) -> None:
    """Each once an epoch, files in an order of its own, a row by the same name each time; and it goes on after any row, also pickled."""
    found = streams[kind]()
    assert isinstance(found, Streamed)
    names = []
    for epoch in range(4):
        read = list(found.stream.rows(epoch))
        assert sorted(map(repr, (seen(found.schema.example(row, 0.0)) for row, _ in read))) == sorted(map(repr, expected()))
        names.append([row.where for row, _ in read])
    assert all(set(epoch) == set(names[0]) for epoch in names) and len({tuple(epoch) for epoch in names}) > 1
    for place, (_, state) in enumerate(found.stream.rows(2)):
        state = json.loads(json.dumps(state))
        assert [row.where for row, _ in found.stream.rows(2, state)] == names[2][place + 1 :]

    found.chunk, found.reach = 8, 16
    found.begin(None)
    whole = [found.raw(number).where for number in range(60)]
    for stop in (5, 23, 24, 50):
        halfway = streams[kind]()
        halfway.chunk, halfway.reach = 8, 16
        for number in range(stop):
            halfway.raw(number)
        pickled = pickle.loads(pickle.dumps(halfway))
        assert [pickled.raw(number).where for number in range(stop, 60)] == whole[stop:]
        later = streams[kind]()
        later.chunk, later.reach = 8, 16
        later.begin(halfway.cursor())
        assert [later.raw(number).where for number in range(stop, 60)] == whole[stop:]


@pytest.mark.slow
def test_every_worker_sees_every_row_of_a_stream(streams: dict[str, Callable[..., Streamed]]) -> None:
    """Also where there are fewer files than workers: datasets alone would deal the files out to them."""
    from torch.utils.data import DataLoader

    from tests.training.reading import Wheres

    found = streams["huggingface"](data_files="data/train-00001*")
    expected_names = [found.raw(number).where for number in range(20)]
    assert len(set(expected_names)) == 4
    loader = DataLoader(Wheres(found), batch_size=None, sampler=range(20), num_workers=2, multiprocessing_context="spawn")
    assert list(loader) == expected_names


@pytest.mark.parametrize("kind", ["jsonl", "webdataset", "stream"])
def test_held_out_rows_are_never_trained_on(kind: str, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "t.png")
    data = (tmp_path / "t.png").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for k in range(1000):
            add(shard, f"{k}.png", data)
            add(shard, f"{k}.txt", str(k).encode())
    (tmp_path / "rows.jsonl").write_text(lines([{"prompt": str(k), "target": "t.png"} for k in range(1000)]))
    path = {"jsonl": tmp_path / "rows.jsonl", "webdataset": tmp_path / "a.tar", "stream": f"file://{tmp_path}/a.tar"}[kind]
    found = feed({"source": "jsonl" if kind == "jsonl" else "webdataset", "path": str(path), "holdout": 4})
    held = {found.held_out(k).prompt for k in range(8)}
    assert len(held) == 4 and not held & {found.example(number, 0).prompt for number in range(2500)}


def test_a_network_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is lost or read twice; in the end one line says so, and a resume goes on there."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    from metabridge.training import network

    monkeypatch.setattr(network, "PAUSE", 0.001)
    left = [0]  # reads until the next failure; below 0: every one fails

    class Shaky(LocalFileSystem):
        protocol = "shaky"

        def _open(self, path: str, **options: Any) -> Any:
            file = super()._open(path, **options)
            real = file.f.read

            def read(size: int = -1) -> bytes:
                left[0] -= 1
                if left[0] < 0:
                    left[0] = 30 if steady else -1
                    raise ConnectionResetError("connection reset by peer")
                return real(size)

            file.read = read
            return file

    fsspec.register_implementation("shaky", Shaky, clobber=True)
    for k in range(3):
        write_tar(tmp_path / f"shard-{k}.tar", 4 * k, 4 * k + 4)
    steady = True
    stream = tars_source.load(f"shaky://{tmp_path}", "shard-{0..2}.tar")
    read = [row.where for row, _ in stream.rows(0)]
    assert len(read) == len(set(read)) == COUNT and len(caplog.records) > 3
    assert "connection reset by peer; again in 0.001 s" in caplog.text
    steady = False
    left[0] = 40
    got, states = [], []
    with pytest.raises(UserError) as raised:
        for row, state in stream.rows(0):
            got.append(row.where)
            states.append(state)
    assert 0 < len(got) < COUNT
    assert str(raised.value).startswith("data webdataset: reading broke off at shaky://") and "byte" in str(raised.value)
    assert str(raised.value).endswith("(connection reset by peer); nothing is lost: run the same command again")
    left[0] = 10**6
    assert got + [row.where for row, _ in stream.rows(0, states[-1])] == read


def test_a_damaged_row_group_in_a_stream_costs_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not taken for a network that breaks off, and waited for."""
    for name in ("a", "b"):
        write_parquet(tmp_path, size=6)
        (tmp_path / "rows.parquet").rename(tmp_path / f"{name}.parquet")
    damage(tmp_path / "b.parquet")
    read = [row for row, _ in feed({"source": "parquet", "path": f"file://{tmp_path}", "files": "*.parquet"}).stream.rows(0)]
    bad = [str(row) for row in read if isinstance(row, BadRow)]
    assert (
        len(bad) == 1 and bad[0].startswith("its file cannot be read on (") and COUNT <= len(read) - 1 <= COUNT + 6
    )  # datasets reads ahead
    assert "file 2 cannot be read on after row " in caplog.text and "again in" not in caplog.text


def test_a_damaged_file_in_a_stream_costs_its_own_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(3):
        write_tar(tmp_path / f"shard-{k}.tar", 4 * k, 4 * k + 4)
    data = (tmp_path / "shard-1.tar").read_bytes()
    (tmp_path / "shard-1.tar").write_bytes(data[: len(data) // 3])
    read = [row for row, _ in tars_source.load(f"file://{tmp_path}/shard-{{0..2}}.tar").rows(0)]
    good = sorted(row.where for row in read if not isinstance(row, BadRow))
    assert 8 < len(good) < 12 and {name.split(":")[0] for name in good} == {f"shard-{k}.tar" for k in range(3)}
    assert [str(row)[:24] for row in read if isinstance(row, BadRow)] == ["shard-1.tar: cut short, "]
    assert "its whole rows are used" in caplog.text


def test_braces() -> None:
    assert braces("a-{08..11}.{tar,idx}") == [f"a-{k:02d}.{end}" for k in range(8, 12) for end in ("tar", "idx")]
    assert (
        braces("a/{x}/b") == ["a/{x}/b"] and braces("{8..11}") == ["8", "9", "10", "11"] and braces("{000..002}") == ["000", "001", "002"]
    )


def refused(**tree: Any) -> str:
    with pytest.raises(UserError) as raised:
        feed({key: str(value) if isinstance(value, Path) else value for key, value in tree.items()})
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_what_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, ending in (("webdataset", ".tar"), ("parquet", ".parquet"), ("jsonl", ".jsonl")):
        assert refused(source=source, path="").startswith(f"data {source}.path: empty; give a file, a folder of {ending}")
        assert refused(source=source, path=tmp_path / "no").startswith(f"data {source}.path: {tmp_path}/no: no such file; give a file")
        assert refused(source=source, path=tmp_path / "empty").startswith(f"data {source}.path: {tmp_path}/empty: no {ending}")
        assert refused(source=source, path=tmp_path / "no", files="*").startswith(f"data {source}.path: {tmp_path}/no: no folder")
        assert refused(source=source, path=tmp_path, files=f"x-{{0..3}}{ending}").startswith(f"data {source}.files: x-{{0..3}}{ending} in")
    assert refused(source="folder", path="") == "data folder.path: empty: no such folder; give one that holds pictures"
    assert refused(source="folder", path=tmp_path / "empty").startswith(f"data folder.path: {tmp_path}/empty: no pictures in it (")
    assert refused(source="huggingface", path="").startswith("data huggingface.path: empty; give the id of a dataset")


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    tar_path = write_tar(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as shard:
        shard.add(tar_path)
    assert refused(source="webdataset", path=tmp_path / "a.tar.gz") == (
        f"data webdataset.path: {tmp_path}/a.tar.gz: compressed, so single rows cannot be read; gunzip it (pictures hardly shrink anyway)"
    )
    (tmp_path / "pointer.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert refused(source="webdataset", path=tmp_path / "pointer.tar").endswith("pointer.tar: no tar; give .tar files, downloaded in full")
    with tarfile.open(tmp_path / "plain.tar", "w") as shard:
        add(shard, "README", b"no rows")
    assert refused(source="webdataset", path=tmp_path / "plain.tar").startswith(
        f"data webdataset.path: {tmp_path}/plain.tar: no rows in it;"
    )
    assert refused(source="webdataset", path=f"{tmp_path}/{{a,b,c}}.tar") == (
        f"data webdataset.path: {tmp_path}/b.tar: no such file, nor 1 others of {tmp_path}/{{a,b,c}}.tar; name those that are there"
    )
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert refused(source="parquet", path=tmp_path / "a.parquet").startswith(
        f"data parquet.path: {tmp_path}/a.parquet: no Parquet file, or"
    )
    (tmp_path / "a.json").write_text("[1, 2]")
    assert refused(source="jsonl", path=tmp_path / "a.json") == "data jsonl: none of its 2 rows can be read; the first: no JSON object"
    (tmp_path / "p").mkdir()
    write_parquet(tmp_path / "p")
    write_parquet(tmp_path, [{"prompt": "a", "data": 1}])
    (tmp_path / "rows.parquet").rename(tmp_path / "p" / "z.parquet")
    assert refused(source="parquet", path=tmp_path / "p").endswith(
        "z.parquet has the columns prompt, data, rows.parquet has prompt, target, images, thought, history; "
        "give files of one kind, as a source each"
    )
    (tmp_path / "f").mkdir()
    picture(0).save(tmp_path / "f" / "a.jpg")
    assert refused(source="folder", path=tmp_path / "f").startswith(
        f"data folder.path: {tmp_path}/f: 1 pictures and no captions; write NAME"
    )
    (tmp_path / "f" / "metadata.jsonl").write_text('{"text": "a"}\n')
    assert refused(source="folder", path=tmp_path / "f").endswith("metadata.jsonl: row 1 names no picture; give each row a file_name")
    (tmp_path / "f" / "metadata.jsonl").write_text("{")
    assert "metadata.jsonl: cannot be read (" in refused(source="folder", path=tmp_path / "f")


def test_datasets_that_are_not_there(tmp_path: Path) -> None:
    assert refused(source="huggingface", path="nobody/nothing") == (
        "data huggingface: nobody/nothing: cannot be opened (Couldn't reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled)); "
        "HF_HUB_OFFLINE is set: give a folder, or unset it"
    )
    assert refused(source="huggingface", path="./nothing").startswith("data huggingface.path: ./nothing: no such folder; give a folder, or")
    assert "cannot be listed (" in refused(source="webdataset", path="hf://datasets/nobody/nothing", files="*.tar")
    assert "cannot be listed; name its files, as http://x/y/part-{000..009}.tar" in refused(source="webdataset", path="http://x/y")
    saved = write_saved(tmp_path)
    assert refused(**saved, streaming=True).endswith("streaming, name and data_files have no effect; leave them out")
    repo = write_repo(tmp_path)
    assert "Unknown split \"tset\". Should be one of ['train']" in refused(**repo, split="tset")
