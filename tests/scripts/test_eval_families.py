"""Every family of scorers from the command line to the report: Flatland's bridge draws, its checker stands in for detector and judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.eval import families, tiny_features
from tests.eval.judge_server import JudgeServer, fails
from tests.scripts.conftest import Command

LINES = {True: "Consistency: 2\nRealism: 2\nAesthetic Quality: 1", False: "Consistency: 0\nRealism: 2\nAesthetic Quality: 1"}


def evaluate(metabridge: Command, suite: Path, *words: object) -> dict[str, Any]:
    code, out, err = metabridge("eval", "flatland", "--suite", suite, "--data", suite.parent / "data", "--images", 1, *words, "-o", "out")
    assert code == 0, err
    assert Path("out/report.html").stat().st_size > 10_000 and Path("out/report.md").exists() and "report: out/report.html" in out
    result: dict[str, Any] = json.loads(Path("out/result.json").read_text())
    return result


def test_detection_rules(metabridge: Command, tmp_path: Path) -> None:
    """The bridge draws all eight prompts rightly; two of them are held against rules of another picture."""
    result = evaluate(metabridge, families.geneval(tmp_path))
    scores = result["scores"]["score"]["correct"]
    assert result["variant"] == "small_geneval/tests.eval.families"
    assert {tag: cell["value"] for tag, cell in scores.items()} == {
        "overall": pytest.approx(5 / 6, abs=1e-6),
        "single_object": 0.5,
        "two_object": 1.0,
        "counting": 1.0,
        "colors": 0.5,
        "position": 1.0,
        "color_attr": 1.0,
    }
    reasons = {record["key"]: record["reason"] for record in map(json.loads, Path("out/scored.jsonl").read_text().splitlines())}
    assert "expected star>=1, found 0" in reasons["bridge/single_object/00006-0"]
    assert "expected red circle>=1, found 0 red; and 1 blue" in reasons["bridge/colors/00007-0"]


def test_questions_answered_by_a_judge(metabridge: Command, tmp_path: Path) -> None:
    with JudgeServer(families.judge()) as server:
        result = evaluate(metabridge, families.corebench(tmp_path), "--judge", server.word)
        asked = len(server.seen)
        assert asked == 12 * 3 + 20  # questions and known pictures
        assert metabridge("eval", "score", "out", "--judge", server.word)[0] == 0
        assert len(server.seen) == asked  # nothing is asked twice
    assert result["variant"] == "small_t2i_corebench/scripted-judge"
    assert result["scores"]["score"]["score"]["overall"]["value"] == pytest.approx(200 / 3, abs=1e-4)  # no dog anywhere
    assert result["facets"]["bridge"]["entity"]["value"] == 0.5 and result["facets"]["bridge"]["attribute"]["value"] == 1.0
    assert result["judged"]["canary"] == {"right": 20, "of": 20, "wrong": [], "unanswered": []}
    replayed = json.loads(Path("out/result.json").read_text())
    assert metabridge("eval", "score", "out", "--judge", "replay:out/judge.jsonl")[0] == 0
    again = json.loads(Path("out/result.json").read_text())
    assert again["scores"] == replayed["scores"] and again["variant"] == replayed["variant"]


def test_a_rubric_judged(metabridge: Command, tmp_path: Path) -> None:
    with JudgeServer(families.judge(LINES.__getitem__)) as server:
        result = evaluate(metabridge, families.wise(tmp_path), "--judge", server.word, "--rows", "bridge,think")
    scores = result["scores"]["score"]["implicit"]
    assert scores["wiscore"]["overall"]["value"] == pytest.approx((0.7 * 2 + 0.2 * 2 + 0.1) / 2)
    assert result["differences"]["think - implicit"]["score"]["wiscore"]["overall"]["value"] <= 0


def test_edits_judged_beside_their_source(metabridge: Command, tmp_path: Path) -> None:
    with JudgeServer(families.judge(lambda right: f"Compliance: {5 if right else 1}\nNaturalness: 4\nIntegrity: 3")) as server:
        result = evaluate(metabridge, families.imgedit(tmp_path), "--judge", server.word)
        judged = [seen for seen in server.seen if "Rate the edit" in seen.text]
        assert len(judged) == 9 and {len(seen.images) for seen in judged} == {2}
    cells = result["scores"]["score"]["score"]
    assert {round(cells[kind]["value"], 2) for kind in cells if kind != "overall"} <= {4.0, 2.67}  # 5 or 1, 4 and 3
    with Image.open("out/sheets/bridge-add.png") as sheet:
        assert sheet.width > 150
    export = metabridge("eval", "export", "out", "-o", "official")
    assert export[0] == 0, export[2]


@pytest.mark.slow
def test_a_distance_of_all_pictures_and_one_of_each(metabridge: Command, tmp_path: Path) -> None:
    """FID needs its file of weights and the reference; a picture's own score stands beside it."""
    models = [f"inception={tiny_features.inception(tmp_path / 'inception.pth')}", f"clip={tiny_features.clip(tmp_path / 'clip')}"]
    words = [word for model in models for word in ("--model", model)]
    suite = families.fid(tmp_path)
    result = evaluate(metabridge, suite, *words)
    scores = result["scores"]["score"]
    assert scores["fid"]["overall"]["value"] >= 0 and scores["fid"]["overall"]["n"] == 12
    assert scores["clip_score"].keys() >= {"overall", "animals"} and "N=12" in result["variant"]
    features = [path for path in Path("out/features").rglob("*.npy")]
    assert len(features) == 12
    features[0].unlink()  # looked at again, with the same result
    assert metabridge("eval", "score", "out", *words)[0] == 0
    assert json.loads(Path("out/result.json").read_text()) == result
    Path("out/images/bridge/animals/p0-0.png").unlink()
    code, _, err = metabridge("eval", "score", "out", *words)
    assert code == 0, err
    assert json.loads(Path("out/result.json").read_text())["scores"]["score"]["fid"]["overall"]["value"] is None


def test_text_read_by_a_judge(metabridge: Command, tmp_path: Path) -> None:
    with JudgeServer(families.judge(lambda right: "three one one")) as server:
        result = evaluate(metabridge, families.longtext(tmp_path), "--judge", server.word)
    assert result["scores"]["score"]["overall"]["value"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_judge_that_is_away_is_never_a_score(metabridge: Command, tmp_path: Path) -> None:
    """Nonsense to one question: one picture is unscored, the number is n/a, and the next run asks again."""
    nonsense, seen = families.says("perhaps"), []

    def answer(question: families.Seen) -> families.Reply:
        if "yellow square" in question.text and not seen[3:]:
            seen.append(question.number)
            return nonsense
        return families.judge()(question)

    suite = families.corebench(tmp_path)
    words = ("eval", "flatland", "--suite", suite, "--data", tmp_path / "data", "--images", 1, "--limit", 1, "-o", "out")
    with JudgeServer(answer) as server:
        code, out, err = metabridge(*words, "--judge", server.word)
        assert code == 0, err
        assert "n/a (1 of 12 unscored)" in out and "1 of 12 pictures are not scored. Run the same command again" in out
        result = json.loads(Path("out/result.json").read_text())
        cell = result["scores"]["score"]["score"]["overall"]
        assert cell["value"] is None and cell["bounds"]["least"] < 200 / 3 < cell["bounds"]["most"]
        assert metabridge(*words, "--judge", server.word, "--allow-incomplete")[0] == 0
        assert json.loads(Path("out/result.json").read_text())["scores"]["score"]["score"]["overall"]["value"] is not None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (families.says("banana"), "fails on a picture of a single shape, so nothing was scored"),
        (
            families.says("yes"),
            "says yes to 'Is there a red circle in the picture?' of a red circle and of a blue square, so it does not see",
        ),
        (fails(401, "no such key: sk-secret"), "METABRIDGE_JUDGE_KEY"),
    ],
)
def test_a_judge_that_cannot_judge_stops_before_the_first_score(
    metabridge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: families.Reply, said: str
) -> None:
    monkeypatch.setenv("METABRIDGE_JUDGE_KEY", "sk-secret")
    suite = families.corebench(tmp_path)
    words = ("eval", "flatland", "--suite", suite, "--data", tmp_path / "data", "--images", 1, "--limit", "C-MI=1", "-o", "out")
    with JudgeServer(reply) as server:
        code, out, err = metabridge(*words, "--judge", server.word)
        assert server.seen[0].headers["authorization"] == "Bearer sk-secret"
    assert code == 2 and said in err and err.count("\n") == 1 and not Path("out/result.json").exists()
    kept = b"".join(path.read_bytes() for path in Path("out").rglob("*") if path.is_file())
    assert b"sk-secret" not in kept + out.encode() + err.encode()


def test_pictures_of_somebody_else(metabridge: Command, tmp_path: Path) -> None:
    """Exported in the official layout, read back from there, and scored alike; a missing and an empty picture leave it incomplete."""
    suite = families.geneval(tmp_path)
    first = evaluate(metabridge, suite)
    assert metabridge("eval", "export", "out", "-o", "official")[0] == 0
    with Image.open("official/00003/samples/0000.png") as image:
        assert image.size == (64, 64)
    words = ("--suite", suite, "--data", tmp_path / "data", "--images", 1)
    assert metabridge("eval", "images:official", *words, "-o", "theirs")[0] == 0
    theirs = json.loads(Path("theirs/result.json").read_text())
    assert theirs["scores"] == first["scores"] and theirs["identity"]["model"]["kind"] == "images"
    code, out, err = metabridge("eval", "compare", "out", "theirs")
    assert code == 0 and "no difference between the two is shown" in out, err
    Path("official/00003/samples/0000.png").write_bytes(b"")
    Path("official/00005/samples/0000.png").unlink()
    code, out, err = metabridge("eval", "images:official", *words, "-o", "broken")
    assert code == 0 and "2 of 8 pictures are not scored" in out, err


def test_variants_do_not_compare(metabridge: Command, tmp_path: Path) -> None:
    with JudgeServer(families.judge()) as server:
        evaluate(metabridge, families.corebench(tmp_path), "--judge", server.word)
        words = ("eval", "images:out", "--suite", tmp_path / "small_t2i_corebench.yaml", "--data", tmp_path / "data", "--images", 1)
        assert metabridge(*words, "--judge", server.word, "--compat", "official", "-o", "other")[0] == 0
    code, _, err = metabridge("eval", "compare", "out", "other")
    assert code == 2 and "two variants of a score do not compare" in err and err.count("\n") == 1
