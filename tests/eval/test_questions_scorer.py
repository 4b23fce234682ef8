"""The scorer of questions through a judge that follows a script: what counts, what is left out, what stays unscored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import JudgeError
from metabridge.eval.judges.asking import REPAIR
from metabridge.eval.scorers import questions
from tests.eval.scripted_judge import Said, ScriptedJudge

PICTURE = Image.new("RGB", (8, 8), "red")
CAR = {"Is there a car?": (), "Is the car red?": (1,), "Is the red car parked?": (2,), "Is it day?": ()}
FACETS = ("entity", "attribute", "relation", "global")


def item(first_row: bool = False) -> Item:
    rows = [
        {"id": place, "text": text, "parents": list(parents), "facets": [facet]}
        for place, ((text, parents), facet) in enumerate(zip(CAR.items(), FACETS, strict=True), start=1)
    ]
    if first_row:
        rows[0]["first_row"] = True
    return Item(0, "car", "dense", "A red car is parked by day.", {"questions": rows})


def scored(
    said: Mapping[str, Said], compat: str = "none", of: Item | None = None, **options: Any
) -> tuple[Verdict | Unscored, ScriptedJudge]:
    judge = ScriptedJudge(said)
    scorer = questions.load(options, Services(None, judge, compat=compat))
    (verdict,) = scorer.score([(of or item(), PICTURE)])
    return verdict, judge


def verdict(*args: Any, **options: Any) -> Verdict:
    found, _ = scored(*args, **options)
    assert isinstance(found, Verdict), found
    return found


def said(*answers: Said) -> dict[str, Said]:
    return dict(zip(CAR, answers, strict=True))


def test_a_no_takes_its_children_with_it() -> None:
    found = verdict(said("Yes.", "No", "**Yes**", "Answer: yes"))
    assert found.values == {"score": 50.0, "score.of": 1.0}
    assert found.facets == {"entity": (1, 1), "attribute": (0, 1), "relation": (0, 1), "global": (1, 1)}
    assert found.reason == "no: Is the car red? Is the red car parked?"
    assert found.detail["answers"][2] == {"id": 3, "yes": True, "points": 0.0, "asked": 1, "texts": ["**Yes**"]}
    json.dumps(dict(found.detail))


def test_every_question_is_asked_once_in_a_request_of_its_own() -> None:
    _, judge = scored(said("no", "no", "no", "no"))
    assert [(question, attempt) for question, attempt, _ in judge.asked] == [(question, 0) for question in CAR]
    assert questions.calls({}, item()) == 4 == len(judge.asked)
    request = judge.asked[1][2]
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[1].content == (PICTURE, "Is the car red?\nAnswer with one word in lower case, yes or no.")
    assert (request.temperature, request.max_tokens) == (0.0, 2048)


def test_the_prompt_beside_the_question() -> None:
    _, judge = scored(said("yes", "yes", "yes", "yes"), wording="prompt_question")
    assert judge.asked[0][2].messages[1].content[1] == 'Prompt: "A red car is parked by day."\nQuestion: "Is there a car?"'


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_repaired() -> None:
    found, judge = scored(said("yes", ["well", "hm", "yes"], "yes", "yes"))
    assert isinstance(found, Verdict) and found.values["score"] == 100
    assert [attempt for question, attempt, _ in judge.asked if question == "Is the car red?"] == [0, 1, 2]
    assert judge.asked[3][2].messages[-1].content == (REPAIR.format(why="it says neither yes nor no"),)
    assert found.detail["answers"][1]["texts"] == ["well", "hm", "yes"] and found.detail["answers"][1]["asked"] == 3


def test_no_answer_is_never_a_score() -> None:
    found, judge = scored(said("yes", "well", "yes", "yes"))
    assert isinstance(found, Unscored) and len(judge.asked) == 6
    assert str(found).startswith("'Is the car red?': no answer of 3 could be read: it says neither yes nor no; the last one: 'well'")
    for compat in ("none", "official"):
        away, _ = scored(said("yes", JudgeError("timed out"), "yes", "yes"), compat)
        assert isinstance(away, Unscored) and str(away) == "the judge gave no answer: timed out"


def test_what_a_parent_settles_need_not_be_readable() -> None:
    """A judge that is asked for the color of a car that is not there often says so, and neither yes nor no."""
    found = verdict(said("no", "There is none.", "yes", "yes"))
    assert found.values["score"] == 25.0 and found.detail["answers"][1]["yes"] is None
    assert isinstance(scored(said("yes", "It cannot be seen.", "no", "yes"))[0], Unscored)


def test_one_picture_without_an_answer_leaves_the_others() -> None:
    judge = ScriptedJudge({**said("yes", "yes", "yes", "yes"), "Is it night?": JudgeError("refused")})
    night = Item(1, "night", "dense", "Night.", {"questions": [{"id": 1, "text": "Is it night?", "facets": []}]})
    scorer = questions.load({}, Services(None, judge))
    first, second, third = scorer.score([(item(), PICTURE), (night, PICTURE), (item(), PICTURE)])
    assert isinstance(second, Unscored) and first == third and isinstance(first, Verdict)
    assert (scorer.workers, scorer.batch) == (4, 1)


def test_official_vectors_through_the_scorer(test_data: Path) -> None:
    """compat official gives every official average, and on the last picture the official categories.

    Ours differs where an answer is Yes or yes., which it takes for a yes, and where questions depend on each other in a circle.
    """
    rows = [json.loads(line) for line in (test_data / "golden" / "dpg_dependency.jsonl").read_text().splitlines()]
    higher = circles = 0
    for row in rows:
        graph = {int(key): [parent for parent in parents if parent] for key, parents in row["dependency"].items()}
        asked = [{"id": key, "text": f"question {key}?", "parents": parents, "facets": [str(key)]} for key, parents in graph.items()]
        of = Item(0, "x", "dense", "x", {"questions": asked})
        scripts = [{f"question {key}?": answer for key, answer in tile.items()} for tile in row["answers"]]
        official = [verdict(script, "official", of) for script in scripts]
        assert sum(one.values["score"] for one in official) / len(official) == pytest.approx(100 * row["official_average"], abs=1e-9)
        assert {name: got / n for name, (got, n) in official[-1].facets.items()} == row["official_category_scores"]
        try:
            ours = [verdict(script, of=of) for script in scripts]
        except UserError as error:
            assert "depend on each other in a circle; " in str(error)
            circles += 1
            continue
        lower = all(answer in ("yes", "no") for tile in row["answers"] for answer in tile.values())
        pairs = [(a.values["score"], b.values["score"]) for a, b in zip(ours, official, strict=True)]
        higher += any(a > b for a, b in pairs)
        assert not lower or all(a <= b for a, b in pairs)
    assert circles > 0 and higher > 0


def test_official_reading_is_exact_and_asks_once() -> None:
    found, judge = scored(said("yes", "Yes", "maybe", "yes."), "official")
    assert isinstance(found, Verdict) and found.values["score"] == 25.0 and len(judge.asked) == 4
    assert found.facets == {"entity": (1, 1), "attribute": (0, 1), "relation": (0, 1), "global": (0, 1)}


def test_official_categories_do_not_know_of_dependencies() -> None:
    answers = said("no", "yes", "yes", "yes")
    assert verdict(answers).facets["attribute"] == (0, 1)
    assert verdict(answers, "official").facets["attribute"] == (1, 1)


def test_the_official_scorer_misses_the_first_row() -> None:
    answers = said("yes", "yes", "yes", "no")
    assert verdict(answers, of=item(first_row=True)).values == {"score": 75.0, "score.of": 1.0}
    found, judge = scored(answers, "official", of=item(first_row=True))
    assert isinstance(found, Verdict) and found.values == {"score": 0.0, "score.of": 0.0} and judge.asked == []
    assert found.reason == "left out, as the official scorer does: a question depends on the file's first row"
    alone = item(first_row=True)
    alone.want["questions"][1]["parents"] = []  # then nothing depends on it, and it is just not there
    assert verdict(answers, "official", of=alone).values["score"] == pytest.approx(200 / 3)


def test_official_words_in_lower_case_alone() -> None:
    """Yes is dropped: two answers are left, one of them a yes."""
    answers = said("Yes", "it is yes", "no", "No.")
    free = Item(0, "x", "x", "x", {"questions": [{"id": n, "text": text, "facets": ["t"]} for n, text in enumerate(CAR)]})
    found = verdict(answers, "official", of=free, official="word")
    assert found.values == {"score": 50.0, "score.of": 1.0} and found.facets == {"t": (1, 2)}
    assert [row["points"] for row in found.detail["answers"]] == [None, 1.0, 0.0, None]
    none = verdict(said("Yes", "YES", "?", "No"), "official", of=free, official="word")
    assert none.values == {"score": 0.0, "score.of": 0.0}


def test_a_circle_is_refused_by_name() -> None:
    turned = item()
    turned.want["questions"][0]["parents"] = [3]
    with pytest.raises(UserError) as error:
        scored(said("yes", "yes", "yes", "yes"), of=turned)
    assert str(error.value) == (
        "car: questions 1 -> 3 -> 2 -> 1 depend on each other in a circle; mend the file, or count in its own order with --compat official"
    )


def test_identity_says_what_decides_a_score(tmp_path: Path) -> None:
    judge = ScriptedJudge({})

    def identity(compat: str = "none", **options: Any) -> Mapping[str, Any]:
        return questions.load(options, Services(None, judge, compat=compat)).identity

    assert identity()["variant"] == "scripted-1" and identity()["judge"] == judge.identity
    assert identity("official")["variant"] == "scripted-1 compat=official"
    assert identity("official") != identity("official", official="word")
    assert identity()["prompt_sha256"] != identity(wording="prompt_question")["prompt_sha256"]
    file = tmp_path / "own.txt"
    file.write_text("Be strict.\n---\nQ: {question} of {prompt} {other}\n")
    own = identity(template=str(file))
    assert own["variant"] == f"scripted-1 template={own['prompt_sha256'][:8]}"
    file.write_text("Be kind.\n---\nQ: {question} of {prompt} {other}\n")
    assert identity(template=str(file))["prompt_sha256"] != own["prompt_sha256"]
    json.dumps(own)


def test_a_users_own_words(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("Be strict.\n---\nQ: {question} of {prompt} {other}\n")
    braces = Item(0, "x", "x", "a {question} mark", {"questions": [{"id": 1, "text": "Is there {prompt}?", "facets": []}]})
    _, judge = scored({"Is there": "yes"}, of=braces, template=str(file))
    system, user = judge.asked[0][2].messages
    assert (system.content, user.content) == (("Be strict.",), (PICTURE, "Q: Is there {prompt}? of a {question} mark {other}"))
    file.write_text("{question}")
    _, judge = scored(said("yes", "yes", "yes", "yes"), template=str(file))
    assert [message.role for message in judge.asked[0][2].messages] == ["user"]


def test_bad_options(tmp_path: Path) -> None:
    services, file = Services(None, ScriptedJudge({})), tmp_path / "own.txt"
    file.write_text("{question}\n---\nWhat of it?")
    for options, line in [
        ({"wording": "questions"}, "scoring.wording: 'questions' given; did you mean question? it is one of: question, prompt_question"),
        ({"official": "regex"}, "scoring.official: 'regex' given; it is one of: exact, word"),
        ({"max_token": 4}, "scoring.max_token: no such setting; did you mean max_tokens?"),
        ({"template": str(file)}, f"scoring.template: {file}: no {{question}} in the user's part of it; put it where the question belongs"),
        ({"template": str(tmp_path / "none")}, f"scoring.template: {tmp_path / 'none'}: cannot be read (No such file or directory); "),
    ]:
        with pytest.raises(UserError) as error:
            questions.load(options, services)
        assert str(error.value).startswith(line)
    with pytest.raises(UserError, match=r"^scoring: a judge answers the questions, and none is given; name one with --judge$"):
        questions.load({}, Services(None))


def test_a_blind_judge_is_stopped_before_the_first_score() -> None:
    blind = ScriptedJudge({"Is there a red circle in the picture?": "yes"})
    with pytest.raises(UserError, match="it does not see pictures, and nothing was scored"):
        questions.load({}, Services(None, blind)).check()
