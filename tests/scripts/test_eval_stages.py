"""Stages one at a time, and several benchmarks at once: what a plan remembers, what may be said anew, what is refused before drawing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from metabridge.eval import benchmarks, data, suites
from tests.eval import families
from tests.scripts.conftest import Command


def refused(metabridge: Command, *words: object) -> str:
    code, _, err = metabridge("eval", *words)
    assert code == 2 and err.count("\n") == 1, err
    return err.removeprefix("metabridge: ").rstrip()


@pytest.fixture
def words(tmp_path: Path) -> tuple[object, ...]:
    """GenEval of eight prompts, by paths that are good in this folder alone."""
    families.geneval(tmp_path)
    return ("flatland", "--suite", "small_geneval.yaml", "--data", "data", "--images", 1)


def test_stages_run_from_another_folder_with_the_data_in_another(
    metabridge: Command, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metabridge("eval", "plan", *words, "-o", "out")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for stage in ("generate", "score", "report"):
        code, _, err = metabridge("eval", stage, "../out", "--accept-licence", "geneval")
        assert code == 0, err
    shutil.move(tmp_path / "data", tmp_path / "moved")
    assert refused(metabridge, "score", "../out").startswith(f"{tmp_path}/data/geneval: no such folder; put the data there by hand: ")
    for stage in ("generate", "score", "report"):
        assert metabridge("eval", stage, "../out", "--data", "../moved")[0] == 0
    line = refused(metabridge, "generate", "../out", "--device", "cpu")
    assert line == "--device cpu: has no effect on small_geneval, where it places no model; leave it out"


def test_settings_that_the_hand_refuses_do_not_stay(metabridge: Command, words: tuple[object, ...]) -> None:
    assert "512x511" in refused(metabridge, *words, "--size", "512x511", "-o", "out")
    assert metabridge("eval", *words, "--size", "64", "-o", "out")[0] == 0
    assert "holds another evaluation: its height is 64, asked for is 32" in refused(metabridge, *words, "--size", "32x64", "-o", "out")


def test_a_result_of_other_scores_is_not_shown(metabridge: Command, words: tuple[object, ...]) -> None:
    assert metabridge("eval", *words, "-o", "out")[0] == 0
    lines = Path("out/scored.jsonl").read_text().splitlines(keepends=True)
    Path("out/scored.jsonl").write_text("".join(lines[1:]))
    assert refused(metabridge, "report", "out") == (
        "out: result.json is not of what is scored there now; make it anew by `metabridge eval score out`"
    )
    assert metabridge("eval", "score", "out")[0] == metabridge("eval", "report", "out")[0] == 0


def test_what_is_not_exported_is_said_with_its_reason(metabridge: Command, words: tuple[object, ...]) -> None:
    assert metabridge("eval", *words, "-o", "out")[0] == 0
    records = [json.loads(line) for line in Path("out/drawn.jsonl").read_text().splitlines()]
    records[2] |= {"state": "model_error", "reason": "refused (400: content filter)"}
    Path("out/drawn.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = metabridge("eval", "export", "out", "-o", "official")
    assert code == 0 and "7 pictures in official" in out
    assert f"1 pictures could not be drawn and are not there: {records[2]['key']}: refused (400: content filter)" in " ".join(out.split())


def test_no_picture_of_an_official_result_is_left_out(metabridge: Command, words: tuple[object, ...]) -> None:
    row = {"tag": "single_object", "prompt": "a red star", "correct": True, "reason": ""}
    lines = [json.dumps({"filename": f"x/00000/samples/{k:04d}.png", **row}) for k in range(2)]
    Path("results.jsonl").write_text("\n".join(lines))
    line = refused(metabridge, "import", "results.jsonl", *words[1:], "-o", "theirs")
    assert line == "--images 1: results.jsonl has 2 pictures of a prompt; give --images 2, or leave it out"
    assert not Path("theirs").exists()
    assert metabridge("eval", "import", "results.jsonl", *words[1:5], "-o", "theirs")[0] == 0


def test_every_benchmark_is_planned_before_one_is_drawn(metabridge: Command, tmp_path: Path) -> None:
    suite = f"{families.geneval(tmp_path).name},{families.wise(tmp_path).name}"
    both = ("flatland", "--suite", suite, "--data", "data", "--images", 1, "--judge", "brain")
    line = refused(metabridge, *both, "--limit", "single_object=1", "-o", "out")
    assert line.startswith("--limit single_object: no such part, tag or kind of small_wise; ") and not Path("out").exists()
    assert metabridge("eval", "plan", *both, "-o", "out")[0] == 0
    assert json.loads(Path("out/suite.json").read_text()) == {
        "schema": 1,
        "suite": f"{tmp_path}/small_geneval.yaml,{tmp_path}/small_wise.yaml",
        "members": [{"benchmark": name, "folder": name} for name in ("small_geneval", "small_wise")],
        "compare": [],
    }
    assert sorted(str(path) for path in Path("out").rglob("*.*")) == [
        "out/small_geneval/plan.json",
        "out/small_wise/plan.json",
        "out/suite.json",
    ]
    alone = ("flatland", "--suite", "small_geneval.yaml", "--data", "data")
    assert refused(metabridge, *alone, "-o", "out") == (
        "out holds a suite of several benchmarks; give another folder with -o, as out/small_geneval"
    )
    assert refused(metabridge, *both, "-o", "out/small_wise") == (
        "out/small_wise holds the evaluation of one benchmark; give another folder with -o"
    )


def test_suites_in_any_order_draw_the_same() -> None:
    rows = {
        words: {entry.word: entry.rows for entry in suites.find(words).entries} for words in ("flatland,think", "think,flatland", "think")
    }
    assert rows["flatland,think"] == rows["think,flatland"]
    assert rows["think"]["flatland"] == "bridge,think,rewrite" and rows["think,flatland"]["flatland"] == "bridge,think,rewrite,native"


def test_what_a_suite_sets_against_each_other_is_measured_alike() -> None:
    for name in suites.names():
        suite = suites.find(name)
        of = {entry.benchmark.name: entry for entry in suite.entries}
        for first, second in ((of[one.first], of[one.second]) for one in suite.differences):
            assert first.rows == second.rows
            assert (
                first.benchmark.metrics[0] == second.benchmark.metrics[0] and first.benchmark.parts.keys() == second.benchmark.parts.keys()
            )


def test_suites_of_a_folder_of_pictures(metabridge: Command, tmp_path: Path) -> None:
    (tmp_path / "single-000-0.png").write_bytes(b"x")
    line = refused(metabridge, f"images:{tmp_path}", "--suite", "flatland", "--rows", "bridge,think")
    assert line == "--rows bridge,think: only a bridge draws in several ways; leave it out"


def test_data_put_there_by_hand(metabridge: Command, tmp_path: Path) -> None:
    path = families.wise(tmp_path)
    code, out, _ = metabridge("eval", "verify-data", path, "flatland", "--data", tmp_path / "data")
    assert code == 0 and "there, by hand" in out and "none needed" in out
    code, out, _ = metabridge("eval", "verify-data", path, "--data", tmp_path / "nowhere")
    assert code == 1 and "missing, by hand" in out
    assert f"{tmp_path}/nowhere/wise: to be put there by hand: the test writes it" in " ".join(out.split())


def test_data_of_a_suite(metabridge: Command, tmp_path: Path) -> None:
    code, out, _ = metabridge("eval", "verify-data", "knowledge", "--data", tmp_path)
    said = " ".join(out.split())
    assert code == 1 and "wise_rewrite" in said and "6 files are not as pinned, or not there at all" in said
    assert f"{tmp_path}/wise: 3 pinned files missing; an evaluation fetches them by --accept-licence wise (none stated" in said


def test_a_file_is_hashed_once_in_a_process(tmp_path: Path) -> None:
    """Until its size or its time is another."""
    folder = tmp_path / "x"
    folder.mkdir()
    spec = benchmarks.load("geneval").data
    assert spec is not None
    path = folder / spec.files[0].name
    path.write_bytes(b"a")
    before = path.stat().st_mtime_ns
    (state, _) = data.verify(spec, folder)
    path.write_bytes(b"b")
    os.utime(path, ns=(before, before))
    assert data.verify(spec, folder)[0] == state
    os.utime(path, ns=(before, before + 1))
    assert data.verify(spec, folder)[0].found == "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
