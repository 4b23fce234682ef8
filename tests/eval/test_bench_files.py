"""The files of benchmarks, from a server that can break off, lie and refuse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, data, download
from metabridge.eval.data import DataFile, DataSpec, FileState

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BYTES = bytes(range(256)) * 2048  # 512 KiB
SHA256 = hashlib.sha256(BYTES).hexdigest()
FILE = DataFile("prompts.jsonl", "some/body", COMMIT, "a b/prompts.jsonl", SHA256, bytes=len(BYTES))
SPEC = DataSpec("some_bench", "MIT", url="https://example.org/bench", files=(FILE,))
PATH = f"/some/body/{COMMIT}/a%20b/prompts.jsonl"


@dataclass
class Server:
    """Answers each request as the next word of `script` says: whole | break (after `after` bytes) | hang | a status. Then whole."""

    base: str = ""
    content: bytes = BYTES
    script: list[str] = field(default_factory=list)
    after: int = 100_000
    ranges: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        given = request.headers.get("Range")
        self.seen.append((request.path, given))
        word = self.script.pop(0) if self.script else "whole"
        if word.isdecimal():
            request.send_error(int(word))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given and self.ranges else 0
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        rest = self.content[start:]
        request.wfile.write(rest if word == "whole" else rest[: self.after])
        request.wfile.flush()
        if word == "hang":
            self.reached.set()
            self.release.wait(30)
        request.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.answer(self)

        def log_message(self, *args: Any) -> None:
            """Nothing on the tests' own output."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    script.base = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield script
    script.release.set()
    http.shutdown()
    http.server_close()


def fetch(server: Server, root: Path, spec: DataSpec = SPEC, **options: Any) -> Path:
    return data.ready(spec, root, base=server.base, **options)


def refused(server: Server, root: Path, spec: DataSpec = SPEC, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        fetch(server, root, spec, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_fetched_and_what_is_there_is_not(server: Server, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int | None]] = []
    folder = fetch(server, tmp_path, progress=lambda *told: heard.append(told))
    assert folder == tmp_path / "some_bench"
    assert (folder / "prompts.jsonl").read_bytes() == BYTES
    assert data.verify(SPEC, folder) == [FileState("prompts.jsonl", "ok", SHA256, SHA256)]
    assert heard[-1] == ("prompts.jsonl", len(BYTES), len(BYTES)) and [h[1] for h in heard] == sorted(h[1] for h in heard)
    fetch(server, tmp_path)
    assert server.seen == [(PATH, None)]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "prompts.jsonl"]


def test_a_folder_that_is_whole_is_only_read(tmp_path: Path) -> None:
    """No server, no lock: a data folder may be shared and read-only."""
    folder = tmp_path / "some_bench"
    folder.mkdir()
    (folder / "prompts.jsonl").write_bytes(BYTES)
    assert data.ready(SPEC, tmp_path, base="http://127.0.0.1:9") == folder
    assert [path.name for path in folder.iterdir()] == ["prompts.jsonl"]


def test_each_try_goes_on_where_the_last_broke_off(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.script = ["break", "503", "break", "429"]
    folder = fetch(server, tmp_path)
    assert (folder / "prompts.jsonl").read_bytes() == BYTES
    assert [given for _, given in server.seen] == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-", "bytes=200000-"]
    assert [record.getMessage() for record in caplog.records][1] == f"{server.base}{PATH}: HTTP 503; again in 0 s"


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.script, server.ranges = ["break"], False
    assert (fetch(server, tmp_path) / "prompts.jsonl").read_bytes() == BYTES


def test_killed_in_the_middle_a_later_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.script = ["hang"]
    code = (
        "import sys; from pathlib import Path; from metabridge.eval import data\n"
        f"data.ready(data.DataSpec('some_bench', files=(data.DataFile{(FILE.name, FILE.repo, FILE.commit, FILE.path, FILE.sha256)!r},)), "
        "Path(sys.argv[1]), base=sys.argv[2])"
    )
    part = tmp_path / "some_bench" / ".prompts.jsonl.part"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.base])
    try:
        assert server.reached.wait(60)
        while not part.exists() or not part.stat().st_size:
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    begun = part.stat().st_size
    assert 0 < begun <= 100_000 and not (tmp_path / "some_bench" / "prompts.jsonl").exists()
    assert (fetch(server, tmp_path) / "prompts.jsonl").read_bytes() == BYTES
    assert server.seen[-1] == (PATH, f"bytes={begun}-")
    assert not part.exists()


def test_killed_after_the_last_byte(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "some_bench" / ".prompts.jsonl.part"
    part.parent.mkdir()
    part.write_bytes(BYTES)
    assert (fetch(server, tmp_path) / "prompts.jsonl").read_bytes() == BYTES
    assert server.seen == [(PATH, f"bytes={len(BYTES)}-")]


def test_a_beginning_that_does_not_fit_is_thrown_away(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = tmp_path / "some_bench" / ".prompts.jsonl.part"
    part.parent.mkdir()
    part.write_bytes(b"of another file")
    assert (fetch(server, tmp_path) / "prompts.jsonl").read_bytes() == BYTES
    assert "what an earlier run had begun does not fit" in caplog.text


def test_wrong_bytes_are_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    found = hashlib.sha256(server.content).hexdigest()
    path = tmp_path / "some_bench" / "prompts.jsonl"
    assert refused(server, tmp_path) == (
        f"{server.base}{PATH}: not the file that was pinned: its hash is {found}, wanted is {SHA256}; "
        f"nothing was kept; get the right one and put it at {path}"
    )
    assert [p.name for p in path.parent.iterdir()] == [".lock"]


def test_a_wrong_file_that_is_there_is_not_replaced(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "some_bench" / "prompts.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    found = hashlib.sha256(b"mine").hexdigest()
    assert data.verify(SPEC, path.parent) == [FileState("prompts.jsonl", "wrong", found, SHA256)]
    assert refused(server, tmp_path) == (
        f"{path}: not the file that was pinned: its hash is {found}, wanted is {SHA256}; move it away, and the right one will be fetched"
    )
    assert path.read_bytes() == b"mine" and server.seen == []


def test_not_found_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    server.script = ["404"]
    path = tmp_path / "some_bench" / "prompts.jsonl"
    assert refused(server, tmp_path) == (
        f"{server.base}{PATH}: cannot be fetched (HTTP 404); run the same command again, or put the file at {path}"
    )
    assert len(server.seen) == 1


def test_a_server_that_stays_away(server: Server, tmp_path: Path) -> None:
    server.script = ["500"] * 10
    assert "cannot be fetched (HTTP 500)" in refused(server, tmp_path)
    assert len(server.seen) == download.TRIES


def test_no_network(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "some_bench" / "prompts.jsonl"
    server.base = "http://127.0.0.1:9"
    said = refused(server, tmp_path)
    assert said.startswith(f"http://127.0.0.1:9{PATH}: cannot be fetched (") and said.endswith(f"or put the file at {path}")


def test_a_place_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert refused(server, tmp_path / "file") == (
        f"{tmp_path / 'file' / 'some_bench'}: cannot be written (Not a directory); make room there, or give another place with --data"
    )


def test_licence_is_accepted_once(server: Server, tmp_path: Path) -> None:
    spec = replace(SPEC, licence="CC BY-NC 4.0", accept=True)
    folder = tmp_path / "some_bench"
    said = (
        "some_bench: its data is not fetched before you accept its licence (CC BY-NC 4.0; https://example.org/bench): "
        "give --accept-licence some_bench"
    )
    assert refused(server, tmp_path, spec) == refused(server, tmp_path, spec, accepted=["another"]) == said
    assert server.seen == [] and not folder.exists() and not data.may_fetch(spec, folder)
    fetch(server, tmp_path, spec, accepted=["some_bench"])
    (folder / "prompts.jsonl").unlink()
    fetch(server, tmp_path, spec)
    assert (folder / "ACCEPTED").read_text() == "some_bench: CC BY-NC 4.0 (https://example.org/bench)\n"
    assert data.may_fetch(spec, folder) and not data.may_fetch(replace(spec, licence="none stated"), folder)


def test_files_that_were_had_elsewhere_need_no_acceptance(tmp_path: Path) -> None:
    (tmp_path / "some_bench").mkdir()
    (tmp_path / "some_bench" / "prompts.jsonl").write_bytes(BYTES)
    assert data.ready(replace(SPEC, accept=True), tmp_path) == tmp_path / "some_bench"


def test_by_hand(server: Server, tmp_path: Path) -> None:
    spec = DataSpec("hub_only", by_hand="the Parquet files\nof https://example.org")
    folder = tmp_path / "hub_only"
    assert refused(server, tmp_path, spec) == (
        f"{folder}: no such folder; put the data there by hand: the Parquet files of https://example.org"
    )
    folder.mkdir()
    assert fetch(server, tmp_path, spec) == folder


def test_pinned_by_gits_hash(server: Server, tmp_path: Path) -> None:
    """What `git hash-object` says: sha1 of "blob", the length, a zero and the bytes."""
    pin = subprocess.run(["git", "hash-object", "--stdin"], input=BYTES, capture_output=True, check=True).stdout.decode().strip()
    spec = replace(SPEC, files=(replace(FILE, sha256="", git_blob_sha1=pin, bytes=None),))
    folder = fetch(server, tmp_path, spec)
    assert data.verify(spec, folder) == [FileState("prompts.jsonl", "ok", pin, pin)]


def test_two_runs_at_the_same_time_fetch_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "some_bench" / "prompts.jsonl").read_bytes() == BYTES
    assert len(server.seen) == 1


def test_where_the_files_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(data.ROOT, raising=False)
    assert data.locate(SPEC) == tmp_path / ".cache/metabridge/benchmarks/some_bench"
    monkeypatch.setenv(data.ROOT, "~/elsewhere")
    assert data.locate(SPEC) == tmp_path / "elsewhere/some_bench"
    assert data.locate(SPEC, Path("given")) == Path("given/some_bench")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"folder": "../up"}, "x.data.folder: '../up' given; it is the name of a folder below the data folder"),
        ({"folder": "/etc"}, "x.data.folder: '/etc' given; it is the name of a folder below the data folder"),
        ({"folder": None}, "x.data.folder: missing"),
        ({"accept": "yes please"}, "x.data.accept: 'yes please' given; it is true or false"),
        ({"licens": "MIT"}, "x.data.licens: no such setting; did you mean licence?"),
        ({"files": "all"}, "x.data.files: text given; it is a list"),
        ({"files": ["all"]}, "x.data.files.0: text given; it is a mapping of name, repo, commit, path, sha256, git_blob_sha1, bytes"),
        ({"name": "../up.jsonl"}, "x.data.files.0.name: '../up.jsonl' given; it is a path inside the data folder"),
        ({"repo": None}, "x.data.files.0.repo: missing"),
        ({"commit": "main"}, "x.data.files.0.commit: 'main' given; it is the 40 hex digits of a commit, so that the file cannot change"),
        ({"sha256": None}, "x.data.files.0: give sha256 or git_blob_sha1, one of the two"),
        ({"git_blob_sha1": "0" * 40}, "x.data.files.0: give sha256 or git_blob_sha1, one of the two"),
        ({"sha256": "00"}, "x.data.files.0: '00' is no sha256 in hex digits"),
        ({"files": []}, "x.data: neither files nor by_hand given; leave data out where nothing is needed"),
    ],
)
def test_what_a_benchmark_says_of_its_data_is_checked(change: dict[str, Any], says: str) -> None:
    file = {"name": "a.jsonl", "repo": "some/body", "commit": COMMIT, "path": "a.jsonl", "sha256": SHA256}
    tree = {"folder": "some_bench", "files": [file]}
    for key, value in change.items():
        place = tree if key in ("folder", "accept", "licens", "files") else file
        place.pop(key, None)
        if value is not None:
            place[key] = value
    with pytest.raises(UserError) as error:
        DataSpec.parse(tree, "x.data")
    assert str(error.value).startswith(says)


def test_a_name_twice() -> None:
    file = {"name": "a.jsonl", "repo": "some/body", "commit": COMMIT, "path": "a.jsonl", "sha256": SHA256}
    with pytest.raises(UserError, match=r"^x\.files: a\.jsonl is there twice; give each file its own name$"):
        DataSpec.parse({"folder": "f", "files": [file, file]}, "x")


@pytest.mark.parametrize("name", benchmarks.names())
def test_shipped_benchmarks_pin_what_was_pinned(name: str, test_data: Path) -> None:
    """The pins of the benchmarks' files are those that were taken from the repositories, as far as these are at hand."""
    pins = {(pin["repo"], pin["commit"], pin["path"]): pin for pin in json.loads((test_data / "bench_data" / "PINS.json").read_text())}
    spec = benchmarks.load(name).data
    for file in spec.files if spec else ():
        if (pin := pins.get((file.repo, file.commit, file.path))) is None:
            continue
        assert (file.sha256, file.git_blob_sha1) == (pin.get("sha256", ""), pin.get("git_blob_sha1", ""))
        assert file.bytes in (None, pin.get("bytes"))
        assert spec.accept or not re.search("none stated|NC", pin["licence"]), f"{file.path}: {pin['licence']}: the user must accept it"


@pytest.mark.parametrize("name", benchmarks.names())
def test_shipped_weights_are_one_in_sum(name: str) -> None:
    from metabridge.eval import stats

    benchmark = benchmarks.load(name)
    for metric in benchmark.metrics:
        if metric.within != "set":
            assert sum(stats.shares(dict.fromkeys(benchmark.groups, 1), metric.weights).values()) == pytest.approx(1)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").mkdir()
    with pytest.raises(UserError, match=r"prompts\.jsonl: cannot be read \(Is a directory\); mend it$"):
        data.verify(SPEC, tmp_path)
