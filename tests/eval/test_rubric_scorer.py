"""From a judge's answers to verdicts, through the scorers of the shipped benchmarks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import JudgeError
from metabridge.eval.scorers import rubric
from tests.eval.rubric_judge import Answers, one, scorer

MOONCAKE = Item(0, "1", "culture", "What is eaten at the Mid-Autumn Festival", {"explanation": "mooncakes", "subcategory": "Festival"})
GOOD = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
OURS = ("wise", "wise_rewrite", "wise_verified", "imgedit", "imgedit_v1", "gedit_en", "gedit_cn", "rise")


def edit(data: Path, size: tuple[int, int] = (40, 24), color: str = "red", **want: Any) -> Item:
    Image.new("RGB", size, color).save(data / "source.png")
    return Item(0, "k1", "color_alter", "Make it blue", {"intersection": True, "language": "en", **want}, ("source.png",))


def test_wise() -> None:
    made, judge = scorer("wise", GOOD)
    verdict = one(made, MOONCAKE)
    assert isinstance(verdict, Verdict)
    assert verdict.values == {"consistency": 2, "realism": 1, "aesthetic_quality": 0, "wiscore": (0.7 * 2 + 0.2 * 1 + 0.1 * 0) / 2}
    assert verdict.facets == {"Festival": (verdict.values["wiscore"], 1.0)}
    assert verdict.reason == "realism 1 of 2, aesthetic quality 0 of 2"
    scores = {"consistency": 2, "realism": 1, "aesthetic_quality": 0}
    assert verdict.detail == {"answers": [{"call": "picture", "asked": 1, "scores": scores, "texts": [GOOD]}]}
    (text,), ((picture,),) = judge.texts(), judge.pictures()
    assert "Prompt: What is eaten at the Mid-Autumn Festival\n" in text and "has to show: mooncakes\n" in text and "{" not in text
    assert picture.size == (8, 8)
    (request,) = judge.requests
    assert (request.max_tokens, request.temperature, request.extra) == (2000, 0.0, {})


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_unscored() -> None:
    made, judge = scorer("wise", "fine", "Consistency: 3", GOOD)
    verdict = one(made, MOONCAKE)
    assert isinstance(verdict, Verdict) and verdict.detail["answers"][0]["texts"] == ["fine", "Consistency: 3", GOOD]
    made, judge = scorer("wise", "fine", "Consistency: 3", "2 of 2, wonderful")
    unscored = one(made, MOONCAKE)
    assert isinstance(unscored, Unscored) and "no score for consistency" in str(unscored)
    assert len(judge.requests) == 3


def test_a_judge_that_is_away_is_no_score(tmp_path: Path) -> None:
    made, judge = scorer("gedit_en", '{"score": [8, 9]}', JudgeError("timeout"), data=tmp_path)
    unscored = one(made, edit(tmp_path))
    assert isinstance(unscored, Unscored) and "timeout" in str(unscored) and len(judge.requests) == 2


def test_a_source_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    item = edit(tmp_path)
    (tmp_path / "source.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"source\.png: the source of k1 cannot be read"):
        one(scorer("gedit_en", data=tmp_path)[0], item)


def test_verified() -> None:
    made, judge = scorer("wise_verified", "Score: 1")
    verdict = one(made, MOONCAKE)
    assert isinstance(verdict, Verdict) and (verdict.values, verdict.reason) == ({"score": 1.0}, "")
    assert judge.requests[0].extra == {"chat_template_kwargs": {"enable_thinking": False}}


def test_gedit_asks_twice_and_takes_the_lower_of_each(tmp_path: Path) -> None:
    item = edit(tmp_path)
    made, judge = scorer("gedit_en", '{"score": [8, 9], "reasoning": "done"}', '{"score": [7.5, 2], "reasoning": "seams"}', data=tmp_path)
    verdict = one(made, item, Image.new("RGB", (64, 64), "blue"))
    assert isinstance(verdict, Verdict)
    overall = math.sqrt(8 * 2)
    assert verdict.values == {
        "success": 8, "overedit": 9, "natural": 7.5, "artifacts": 2,
        "semantics": 8, "quality": 2, "overall": overall, "intersection": overall, "intersection.of": 1,
    }  # fmt: skip
    assert verdict.reason == "success 8 of 10, overedit 9 of 10, natural 7.5 of 10, artifacts 2 of 10; done; seams"
    (source, result), (alone,) = judge.pictures()
    assert (source.size, result.size, alone.size) == ((40, 24), (40, 24), (40, 24))  # brought to the source's
    assert (source.getpixel((0, 0)), result.getpixel((0, 0)), alone.getpixel((0, 0))) == ((255, 0, 0), (0, 0, 255), (0, 0, 255))
    assert "Instruction: Make it blue\n" in judge.texts()[0] and "Make it blue" not in judge.texts()[1]


def test_gedit_intersection_counts_its_own_items_alone(tmp_path: Path) -> None:
    item = edit(tmp_path, intersection=False)
    verdict = one(scorer("gedit_en", '{"score": [8, 9]}', '{"score": [7, 2]}', data=tmp_path)[0], item)
    assert isinstance(verdict, Verdict)
    assert (verdict.values["overall"], verdict.values["intersection"], verdict.values["intersection.of"]) == (4, 0, 0)


def test_the_judge_may_see_another_source_than_the_model(tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), "green").save(tmp_path / "shown.png")
    made, judge = scorer("gedit_en", '{"score": [8, 9]}', '{"score": [7, 2]}', data=tmp_path)
    one(made, edit(tmp_path, source="shown.png"))
    assert [picture.size for picture in judge.pictures()[0]] == [(20, 12), (20, 12)]


@pytest.mark.parametrize("compat", ["none", "official"])
@pytest.mark.parametrize("nonsense", ["", "it is a nice edit", "{score: [4, 4]}", "rate_limit_exceeded"])
def test_gedit_never_draws_a_random_score(nonsense: str, compat: str, tmp_path: Path) -> None:
    attempts = 2 if compat == "official" else 3
    made, judge = scorer("gedit_en", *[nonsense] * attempts, data=tmp_path, compat=compat)
    assert isinstance(one(made, edit(tmp_path)), Unscored)
    assert len(judge.requests) == attempts


def test_compat_takes_what_the_official_script_takes_and_says_so(tmp_path: Path) -> None:
    made, _ = scorer("wise", "Consistency: 3\nRealism: 2\nAesthetic Quality: 2", compat="official")
    verdict = one(made, MOONCAKE)
    assert isinstance(verdict, Verdict) and verdict.values["wiscore"] == (0.7 * 3 + 0.2 * 2 + 0.1 * 2) / 2 > 1
    assert verdict.reason == "consistency 3, off its scale of 0 to 2"

    made, _ = scorer("gedit_en", '{"score": [12, 13]}', "9", data=tmp_path, compat="official")
    verdict = one(made, edit(tmp_path))
    assert isinstance(verdict, Verdict)
    assert verdict.values == {
        "semantics": 12,
        "quality": 9,
        "overall": math.sqrt(108),
        "intersection": math.sqrt(108),
        "intersection.of": 1,
    }
    assert verdict.reason == "12, off the scale of 0 to 10; System: output is simply a number"


def test_identity_names_all_that_decides_a_score(tmp_path: Path) -> None:
    made, _ = scorer("wise")
    other = tmp_path / "text.txt"
    other.write_text("[user] is no line of its own here\n[user]\nJudge {prompt}, that is {explanation}.")
    theirs, judge = scorer("wise", GOOD, template=str(other))
    official, _ = scorer("wise", compat="official")
    assert made.identity["variant"] == "judge-1 template=ours"
    assert official.identity["variant"] == "judge-1 template=ours compat=official"
    assert theirs.identity["variant"] == f"judge-1 template={theirs.identity['prompt_sha256'][:8]}"
    assert made.identity["judge"]["revision"] == "r" and made.identity["decoding"]["max_tokens"] == 2000
    assert len({one.identity["prompt_sha256"] for one in (made, theirs, scorer("wise_verified")[0])}) == 3
    one(theirs, MOONCAKE)
    system, user = judge.requests[0].messages
    assert (system.role, system.content) == ("system", ("[user] is no line of its own here",))
    assert user.content[0] == "Judge What is eaten at the Mid-Autumn Festival, that is mooncakes."
    assert (made.workers, made.batch) == (3, 1)


def test_a_prompt_with_braces_is_not_filled_in_again() -> None:
    made, judge = scorer("wise", GOOD)
    one(made, dataclasses.replace(MOONCAKE, text="a {explanation} of {braces}"))
    assert "Prompt: a {explanation} of {braces}\n" in judge.texts()[0]


def test_several_calls_have_a_folder_of_texts(tmp_path: Path) -> None:
    for name in ("semantics", "quality"):
        (tmp_path / f"{name}.txt").write_text(f"{name} of {{prompt}}?")
    made, judge = scorer("gedit_en", '{"score": [8, 9]}', '{"score": [7, 2]}', data=tmp_path, template=str(tmp_path))
    one(made, edit(tmp_path))
    assert judge.texts() == ["semantics of Make it blue?", "quality of Make it blue?"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "Judge {promt}.",
            "the judge's text: {promt}: no such place; did you mean {prompt}? it may be one of: {explanation}, {prompt}, {subcategory}",
        ),
        (None, "scoring.template: {path} cannot be read (No such file or directory); give a file of text"),
    ],
)
def test_a_text_that_cannot_be_used(text: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        one(scorer("wise", template=str(path))[0], MOONCAKE)
    assert str(error.value) == why.replace("{path}", str(path))


def test_a_third_partys_parser() -> None:
    verdict = one(scorer("wise", "good", parser="tests.eval.rubric_judge")[0], MOONCAKE)
    assert isinstance(verdict, Verdict) and verdict.values["consistency"] == 2


def test_calls_and_worst() -> None:
    for name, calls, worst in [
        ("wise", 1, {"wiscore": 0.0}),
        ("wise_verified", 1, {"score": 0.0}),
        ("imgedit", 1, {"score": 1.0}),
        ("gedit_en", 2, {"overall": 0.0, "semantics": 0.0, "intersection": 0.0, "intersection.of": 1.0}),
    ]:
        benchmark, item = benchmarks.load(name), dataclasses.replace(MOONCAKE, want={"intersection": True})
        assert rubric.calls(benchmark.scorer_options, item) == calls
        lowest = rubric.worst(benchmark.scorer_options, item)
        assert {key: lowest[key] for key in worst} == worst
        assert all(metric.source in lowest for metric in benchmark.metrics)


def test_every_metric_is_a_value_and_every_group_has_a_weight() -> None:
    for name in OURS:
        benchmark = benchmarks.load(name)
        for metric in benchmark.metrics:
            assert isinstance(metric.weights, str) or (
                set(metric.weights) == set(benchmark.groups) and math.isclose(sum(metric.weights.values()), 1, abs_tol=1e-9)
            )
        assert {row.metric for row in benchmark.published} <= {metric.name for metric in benchmark.metrics}
        assert benchmark.layout_module() is not None


@pytest.mark.parametrize("pair", [("wise", "wise_rewrite"), ("imgedit", "imgedit_v1"), ("gedit_en", "gedit_cn")])
def test_two_sets_of_prompts_of_one_benchmark_are_scored_alike(pair: tuple[str, str]) -> None:
    first, second = map(benchmarks.load, pair)
    assert (first.scorer, first.scorer_options, first.metrics, first.groups) == (
        second.scorer,
        second.scorer_options,
        second.metrics,
        second.groups,
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parsr": 1}, "scoring.parsr: no such setting; did you mean parser?"),
        ({"parser": "line"}, "line: no such parser; did you mean lines? it may be one of: any_lines, json, lines"),
        ({"values": {"x": "consistency + realsm"}}, "scoring.values.x: realsm: no such score; did you mean realism?"),
        ({"calls": []}, "scoring.calls: nothing given; metabridge.eval.scorers.rubric_spec shows how it is written"),
        ({"facet": {"by": "subcategory", "value": "wiscor"}}, "scoring.facet.value: wiscor: no such value; did you mean wiscore?"),
        ({"facet": {"value": "wiscore"}}, "scoring.facet: {'value': 'wiscore'} given; it is a mapping of value and by"),
        ({"attempts": 0}, "scoring.attempts: 0 given; it is a whole number, 1 at least"),
        ({"resize": "512"}, "scoring.resize: '512' given; source is the only size to bring a result to"),
        ({"decoding": {"max_token": 5}}, "scoring.decoding.max_token: no such setting; did you mean max_tokens?"),
        (
            {"calls": [{"name": "a", "pictures": ["result"], "scales": {"b": [2, 1]}, "text": "x"}]},
            "scoring.calls.0.scales.b: [2, 1] given; it is the lowest and the highest score, as [0, 2]",
        ),
        (
            {"calls": [{"name": "a", "pictures": ["results"], "scales": {"b": [1, 2]}, "text": "x"}]},
            "scoring.calls.0.pictures: results: no such picture; did you mean result? it may be one of: result, source",
        ),
    ],
)
def test_a_file_that_is_wrong(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as error:
        scorer("wise", **change)
    assert str(error.value).startswith(why)


def test_what_must_be_there() -> None:
    options = benchmarks.load("wise").scorer_options
    with pytest.raises(UserError) as error:
        rubric.load(options, Services(None))
    assert str(error.value) == "scoring: a judge is needed; name one with --judge URL#MODEL"
    with pytest.raises(UserError) as error:
        rubric.load({**options, "official": {}}, Services(None, Answers([]), compat="official"))
    assert str(error.value).startswith("scoring.official.parser: None: no such official parser;")


def test_a_judge_that_does_not_see_is_refused_before_the_first_picture() -> None:
    made, judge = scorer("wise", "yes", "no")
    made.check()
    assert len(judge.requests) == 2
    with pytest.raises(UserError, match=r"judge judge-1: says yes to .* so it does not see pictures, and nothing was scored"):
        scorer("wise", "yes", "yes")[0].check()
