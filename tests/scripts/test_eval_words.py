"""What `metabridge eval` refuses before any work, each in one line; and the page that lists the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metabridge.eval import benchmarks, suites
from metabridge.scripts import eval_docs
from tests.eval import families
from tests.scripts.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"


def refused(metabridge: Command, *words: object) -> str:
    code, _, err = metabridge("eval", *words)
    assert code == 2 and err.count("\n") == 1, err
    return err.removeprefix("metabridge: ").rstrip()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["flatland", "--rows", "bridge,thnk"], "--rows thnk: no such way to draw; did you mean think? it may be one of: "),
        (["flatland", "--judge", "brain"], "--judge brain: has no effect on flatland, which asks no judge; leave it out"),
        (["flatland", "--shard", "4/3"], "--shard 4/3: write the number of this part and of all, as 1/3, 2/3 and 3/3"),
        (["flatland", "--size", "big"], "--size big: write one side, as 512, or height and width, as 512x768"),
        (["flatland", "--model", "detector"], "--model detector: write ROLE=FOLDER_OR_REPO, as detector=models/mask2former"),
        (["flatland", "--seeds", "official"], "--seeds official: flatland fixes no seeds; leave it at image"),
        (["flatland", "--suite", "flatland,wize"], "wize: no such benchmark; did you mean wise? it may be one of: "),
        (["flatland", "--suite", "absent.yaml"], "absent.yaml: no such file; give a benchmark's YAML file, or one of: "),
        (["verify-data", "--judge", "brain"], "--judge: has no effect on verify-data; it looks at files alone"),
        (["report", "absent"], "absent: no plan.json there; `metabridge eval BRIDGE -o absent` starts an evaluation"),
        (["report"], "nothing given; write metabridge eval report DIR..."),
        (["export", "absent", "-o", "x"], "absent: no plan.json there; "),
        (["import", "absent", "--suite", "geneval"], "import: write metabridge eval import FILE --suite NAME -o DIR"),
        (["parity", "absent"], "absent given; write metabridge eval parity DIR OFFICIAL_RESULTS"),
        (["images:absent", "--suite", "flatland"], "images:absent: "),
        (
            ["flatland", "--rows", "native", "--no-baseline"],
            "--rows native: nothing is left to draw without the hand's own text encoder; leave out --no-baseline, or give --rows bridge",
        ),
        (["flatland", "--guidance", "nan"], "--guidance nan: it is a number, 0 at least"),
        (["flatland", "--guidance", "inf"], "--guidance inf: it is a number, 0 at least"),
        (["flatland", "--guidance", "-1"], "--guidance -1: it is a number, 0 at least"),
        (["flatland", "--judge-timeout", "inf"], "--judge-timeout inf: it is a number, 0.1 at least"),
        (
            ["flatland", "--compat", "official"],
            "--compat official: has no effect on flatland, where no defect of an official scorer is known; leave it out",
        ),
        (["flatland", "--max-judge-calls", "5"], "--max-judge-calls 5: has no effect on flatland, where no judge is asked; leave it out"),
        (["flatland", "--device", "banana"], "--device banana: has no effect on flatland, where it places no model; leave it out"),
        (["flatland", "--data", "x"], "--data x: has no effect on flatland, where no data is needed; leave it out"),
        (["diffusers:x", "--device", "banana"], "--device banana: no such device here; give cpu"),
        (["compare", "a", "b", "-o", "x"], "-o: has no effect on compare, which prints what it finds; leave it out"),
        (["verify-data", "-o", "x"], "-o: has no effect on verify-data, which prints what it finds; leave it out"),
        (["parity", "a", "b", "-o", "x"], "-o: has no effect on parity, which prints what it finds; leave it out"),
        (["list", "--images", "2"], "--images: has no effect on list; it lists what there is"),
        (["list", "-o", "x"], "-o: has no effect on list, which prints what it finds; leave it out"),
        (["score", "x", "--allow-incomplete"], "--allow-incomplete: has no effect on score; "),
        (["verify-data", "genevl"], "genevl: no such benchmark; did you mean geneval? it may be one of: "),
    ],
)
def test_words(metabridge: Command, words: list[str], line: str) -> None:
    assert refused(metabridge, *words).startswith(line)


def test_a_plan_names_all_that_is_missing(metabridge: Command, tmp_path: Path) -> None:
    line = refused(metabridge, "plan", "flatland", "--suite", "wise", "--data", tmp_path / "data")
    assert line.startswith("wise cannot be run yet: wise: its data is not fetched before you accept its licence (none stated")
    assert (
        "give --accept-licence wise" in line and "--judge: wise is scored by a judge; give --judge URL#MODEL (official: gpt-4o-2024" in line
    )


def test_a_file_that_is_not_what_was_pinned(metabridge: Command, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "geneval"
    folder.mkdir(parents=True)
    (folder / "evaluation_metadata.jsonl").write_text("{}\n")
    line = refused(metabridge, "flatland", "--suite", "geneval", "--data", tmp_path / "data")
    assert line.startswith(f"{folder / 'evaluation_metadata.jsonl'}: not the file that was pinned: its hash is ca3d163bab055381")
    code, out, _ = metabridge("eval", "verify-data", "geneval", "--data", tmp_path / "data")
    assert code == 1 and "wrong" in out and "missing" in out and "2 files are not as pinned" in out
    lines = " ".join(out.split())
    assert f"{folder / 'evaluation_metadata.jsonl'}: not what was pinned; move it away, and the right one will be fetched" in lines
    assert f"{folder}: 1 pinned files missing; an evaluation fetches them from https://github.com/djghosh13/geneval" in lines


def test_a_missing_source_picture(metabridge: Command, tmp_path: Path) -> None:
    path = families.benchmark(tmp_path, "imgedit", judge={"needed": True})
    data = tmp_path / "data/imgedit"
    (data / "basic_edit.json").write_text(json.dumps({"1": {"id": "a/1.png", "prompt": "make it red", "edit_type": "replace"}}))
    line = refused(metabridge, "flatland", "--suite", path, "--data", tmp_path / "data", "--judge", "brain")
    assert "1 of 1 source pictures are not there or empty: Benchmark/singleturn/a/1.png" in line


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_benchmark_can_be_read(name: str) -> None:
    one = benchmarks.load(name)
    assert one.badge_note and one.title and (one.judge or one.models or name.startswith("flatland"))
    assert all(row.metric in {metric.name for metric in one.metrics} for row in one.published)
    module = one.scorer_module()
    assert callable(module.load) and callable(module.calls)


def test_every_suite_names_what_there_is() -> None:
    for name in suites.names():
        suite = suites.find(name)
        there = {entry.benchmark.name for entry in suite.entries}
        assert all({one.first, one.second} <= there for one in suite.differences)


def test_the_page_lists_the_benchmarks_as_they_are() -> None:
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert "\n".join(eval_docs.lines()) in page, "run: python -m metabridge.scripts.eval_docs docs"


@pytest.mark.parametrize("name", ["t2i_corebench", "longtext_en", "longtext_zh"])
def test_the_calls_of_a_judge_are_counted(name: str, test_data: Path) -> None:
    one = benchmarks.load(name)
    assert one.data is not None and one.judge is not None
    items = one.items(test_data / "bench_data" / one.data.folder)
    assert sum(one.scorer_module().calls(one.scorer_options, item) for item in items) * one.images == one.judge.calls


def test_the_list_says_what_each_takes(metabridge: Command) -> None:
    code, out, _ = metabridge("ls", "benchmarks", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["geneval"] == {
        "name": "geneval",
        "status": "variant",
        "reason": "GenEval: composition by six tags, scored by a detector and fixed rules",
        "task": "t2i",
        "prompts": "553",
        "images": "4",
        "judge": "none",
        "scored by": "detector, clip",
        "licence": "MIT",
    }
    assert rows["wise"]["judge"] == rows["wise"]["scored by"] != "none" and rows["think"]["status"] == "suite"
    code, table, _ = metabridge("eval", "list")
    assert code == 0 and all(name in table for name in rows)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--judge", "http://bob:hunter2@127.0.0.1:9/v1#m"], "a name or password stands in the address"),
        (["--judge", "nonsense"], "no such kind of judge"),
        (["--judge", "brain", "--compat", "foo"], "--compat foo: it is none or official"),
        (["--judge", "brain", "--model", "detctor=x"], "--model detctor: small_wise has no such model"),
        (["--judge", "brain", "--processes", "2", "--shard", "1/2"], "--processes: takes neither --shard nor --max-image-calls"),
    ],
)
def test_what_scoring_would_refuse_is_refused_before_drawing(metabridge: Command, tmp_path: Path, words: list[str], line: str) -> None:
    said = refused(metabridge, "flatland", "--suite", families.wise(tmp_path), "--data", tmp_path / "data", *words, "-o", "out")
    assert line in said and "hunter2" not in said and not Path("out").exists()
