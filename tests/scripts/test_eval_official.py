"""Official scorers and several suites: results taken in, held against ours, and numbers of several benchmarks on one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metabridge.eval import benchmarks, suites
from tests.eval import families
from tests.eval.judge_server import JudgeServer
from tests.scripts.conftest import Command


@pytest.fixture
def geneval(metabridge: Command, tmp_path: Path) -> tuple[str, ...]:
    """Eight prompts drawn and scored into `ours`; the words that every command on them needs."""
    words = ("--suite", str(families.geneval(tmp_path)), "--data", str(tmp_path / "data"), "--images", "1")
    code, _, err = metabridge("eval", "flatland", *words, "-o", "ours")
    assert code == 0, err
    return words


def official_results(path: Path, wrong: int) -> None:
    """What the official scorer would write of `ours`, of another opinion on the first `wrong` pictures."""
    plan = {item["id"]: item for item in json.loads(Path("ours/plan.json").read_text())["items"]}
    records = map(json.loads, Path("ours/scored.jsonl").read_text().splitlines())
    lines = []
    for number, record in enumerate(records):
        group, _, name = record["key"].removeprefix("bridge/").partition("/")
        ident, _, k = name.rpartition("-")
        right = bool(record["values"]["correct"]) != (number < wrong)
        row = {"filename": f"x/{ident}/samples/{int(k):04d}.png", "tag": group, "prompt": plan[ident]["text"], "correct": right}
        lines.append(json.dumps({**row, "reason": "" if right else "official reason"}))
    path.write_text("\n".join(lines))


def test_results_of_the_official_scorer(metabridge: Command, geneval: tuple[str, ...]) -> None:
    official_results(Path("results.jsonl"), wrong=0)
    code, out, err = metabridge("eval", "parity", "ours", "results.jsonl")
    assert code == 0 and "overall" in out and "1.00" in out, err
    assert metabridge("eval", "import", "results.jsonl", *geneval, "-o", "theirs")[0] == 0
    ours, theirs = (json.loads(Path(name, "result.json").read_text()) for name in ("ours", "theirs"))
    assert theirs["scores"] == ours["scores"] and theirs["variant"] == "small_geneval/official"
    page = Path("theirs/report.html").read_text()
    assert "BLIP3o-NEXT" in page and "BLIP3o-NEXT" not in Path("ours/report.html").read_text()  # published beside its own variant alone
    code, _, err = metabridge("eval", "compare", "ours", "theirs")
    assert code == 2 and "two variants of a score do not compare" in err


def test_a_file_of_ones_own_under_a_shipped_name_is_a_score_of_its_own(
    metabridge: Command, geneval: tuple[str, ...], tmp_path: Path
) -> None:
    """Its name is geneval and it has geneval's published rows; eight prompts of its own are not what those were measured on."""
    own = tmp_path / "mine" / "geneval.yaml"
    own.parent.mkdir()
    own.write_text((tmp_path / "small_geneval.yaml").read_text())
    official_results(Path("results.jsonl"), wrong=0)
    assert metabridge("eval", "import", "results.jsonl", "--suite", own, *geneval[2:], "-o", "theirs")[0] == 0
    variant = json.loads(Path("theirs/result.json").read_text())["variant"]
    assert variant.startswith("geneval/official own file ") and len(variant) == len("geneval/official own file 1a2b3c4d")
    page = Path("theirs/report.html").read_text()
    assert variant in page and "BLIP3o-NEXT" not in page and "Published numbers are of other variants" in page


def test_where_the_official_scorer_differs(metabridge: Command, geneval: tuple[str, ...]) -> None:
    official_results(Path("results.jsonl"), wrong=2)
    code, out, err = metabridge("eval", "parity", "ours", "results.jsonl")
    assert code == 0 and "75.0%" in out and "0.500" in out and "official reason" in out, err


def test_several_benchmarks_on_one_page(metabridge: Command, tmp_path: Path) -> None:
    suites = f"{families.geneval(tmp_path)},{families.corebench(tmp_path)}"
    with JudgeServer(families.judge()) as server:
        words = ("eval", "flatland", "--suite", suites, "--data", tmp_path / "data", "--images", 1, "-o", "both")
        code, _, err = metabridge(*words)
        assert code == 2 and "small_t2i_corebench is scored by a judge" in err and not Path("both").exists()  # before any work
        code, out, err = metabridge(*words, "--judge", server.word)
        assert code == 0, err
    assert "Overview: both/report.html" in out
    page = Path("both/report.html").read_text()
    assert 'href="small_geneval/report.html"' in page and "small_t2i_corebench/scripted-judge" in page
    assert metabridge("eval", "report", "both")[0] == 0
    code, _, err = metabridge("eval", "report", "both", "--allow-incomplete")
    assert code == 2 and err == (
        "metabridge: --allow-incomplete: has no effect on a report of several folders; give it to the report of one of them\n"
    )


def test_what_a_rewritten_prompt_adds(metabridge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite `knowledge`: the same ids with the answer in the prompt, which the bridge draws, and without it."""
    plain = families.wise(tmp_path)
    rewritten = families.wise(tmp_path, name="wise_rewrite", prompts=["a square with the color of a ripe banana"] * 6)
    entries = [suites.Entry(str(path), benchmarks.load(str(path)), None) for path in (rewritten, plain)]
    gap = suites.Difference("knowledge gap", "small_wise", "small_wise_rewrite", "what must be known")
    monkeypatch.setattr(suites, "find", lambda words: suites.Suite(tuple(entries), (gap,)))
    with JudgeServer(
        families.judge(
            {
                True: "Consistency: 2\nRealism: 2\nAesthetic Quality: 2",
                False: "Consistency: 0\nRealism: 2\nAesthetic Quality: 2",
            }.__getitem__
        )
    ) as server:
        words = ("eval", "flatland", "--suite", "knowledge", "--data", tmp_path / "data", "--judge", server.word, "-o", "gap")
        code, out, err = metabridge(*words)
        assert code == 0, err
        thought = metabridge(*words[:-1], "thought", "--rows", "think")
    assert "knowledge gap" in out and "+0.63" in out  # of six pictures, the one of weight 0.1 is right by chance
    assert thought[0] == 0 and "knowledge gap (the brain's" in thought[1] and "thought after the prompt)" in thought[1], thought[2]
    declared = json.loads(Path("gap/suite.json").read_text())["compare"]
    assert declared == [{"name": "knowledge gap", "first": "small_wise", "second": "small_wise_rewrite", "note": "what must be known"}]
    shown = metabridge("eval", "report", "gap")
    assert shown[0] == 0 and "+0.63" in shown[1], shown[2]
    members = [{"benchmark": name, "folder": name} for name in ("small_wise_rewrite", "small_wise", "small_wise_verified")]
    declared = [{"name": "knowledge gap", "first": "small_wise", "second": "small_wise_rewrite", "note": "what must be known"}]
    Path("gap/suite.json").write_text(json.dumps({"schema": 1, "suite": "knowledge", "members": members, "compare": declared}))
    code, out, err = metabridge("eval", "report", "gap")
    assert code == 0 and "knowledge gap" in out and "+0.63" in out, err
    assert "small_wise_verified: no result yet; finish it in gap/small_wise_verified, then make this page again" in out
    Path("gap/small_wise/result.json").unlink()
    code, out, err = metabridge("eval", "report", "gap")
    assert code == 0 and "knowledge gap: small_wise - small_wise_rewrite is not there, for there is no result of small_wise" in out, err
