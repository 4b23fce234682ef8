"""What may stand beside what: a file of one's own, runs of other sizes, published numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metabridge.eval import benchmarks, leaderboard, plan, report, result, runs, tables
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.compare import Side
from metabridge.eval.definition import digest, own_file
from metabridge.eval.items import Services
from metabridge.eval.score import Scored
from metabridge.eval.suites import Difference
from tests.eval import small_benchmark
from tests.eval.oracle import CODE
from tests.eval.rubric_judge import Answers

METRICS = [{"name": "correct", "title": "right"}, {"name": "second", "high": 10}]
PUBLISHED = [
    {"name": "Peer", "metric": "second", "value": 0.0, "variant": "checker", "source": "a paper"},
    {"name": "Other", "metric": "correct", "value": 0.9, "variant": "checker b", "source": "a paper"},
]


def small(name: str = "small", **changes: Any) -> Benchmark:
    return benchmarks.parse(name, {**small_benchmark.tree(), "metrics": METRICS, "published": PUBLISHED, **changes}, name)


def side(
    benchmark: Benchmark, model: str = "mine", folder: str = "a", steps: int = 20, by: str = "checker", right: float = 1.0, **asked: Any
) -> Side:
    """A run whose pictures are all right, and 4 of 10 by the second metric."""
    generation = {"num_inference_steps": steps}
    identity = {"kind": "images", "name": model, "fingerprint": "f" * 64}
    made = plan.make(benchmark, identity, generation, CODE, rows=asked.pop("rows", ["bridge"]), **asked)
    scored = [Scored(sample, "ok", {"correct": right, "second": 4.0}, "", None) for sample in made.samples()]
    scoring = {"variant": by, "definition": digest(benchmark)}
    return Side(Path(folder), made, result.summarize(made, scored, scoring, Services(None), {}), scored)


def rows(table: tables.Table) -> dict[str, list[str]]:
    return {label: [one.value for one in entries] for label, entries in table.rows}


def own_geneval(**changes: Any) -> Benchmark:
    return replace(benchmarks.load("geneval"), **changes)


@pytest.mark.parametrize("name", benchmarks.names())
def test_a_shipped_file_is_not_ones_own(name: str) -> None:
    assert own_file(benchmarks.load(name)) == ""


def test_a_file_of_ones_own_that_bears_a_shipped_name_says_so() -> None:
    shipped = benchmarks.load("geneval")
    others = [
        own_geneval(scorer_options={**shipped.scorer_options, "rules": {"counting_threshold": 0.5}}),
        own_geneval(metrics=(replace(shipped.metrics[0], weights="prompts"),)),
        own_geneval(count=8),
        own_geneval(images=1),
        own_geneval(models={**shipped.models, "detector": "some/other"}),
        own_geneval(reader="flatland"),
    ]
    words = [own_file(other) for other in others]
    assert len(set(words)) == len(others) and all(word.startswith("own file ") and len(word) == len("own file 1a2b3c4d") for word in words)
    assert result.variant(others[0], {"variant": "official"}, []) == f"geneval/official {words[0]}"
    assert result.variant(shipped, {"variant": "official"}, []) == "geneval/official"
    assert own_file(own_geneval(title="In other words", published=(), notes=("a note",))) == ""  # nothing of this decides a number
    assert own_file(small()) == ""  # no shipped benchmark is called so


def test_a_template_is_named_by_its_scorer_alone() -> None:
    """Official words are had by a file of one's own with nothing but `template` in it: the judge's variant names their hash."""
    wise = benchmarks.load("wise")
    told = replace(wise, scorer_options={**wise.scorer_options, "template": "official.txt"})
    assert own_file(told) == "" and digest(told) == digest(wise)
    assert digest(replace(wise, scorer_options={**wise.scorer_options, "attempts": 9})) != digest(wise)


def test_published_rows_of_one_s_own_file_of_a_shipped_name_are_not_shown() -> None:
    shipped = benchmarks.load("geneval")
    own = own_geneval(metrics=(replace(shipped.metrics[0], weights="prompts"),))
    identity = {"benchmark": {"prompts": {"all": 553}, "images_per_prompt": 4}}
    shown = [
        [row.name for row in runs.published(one, {"variant": result.variant(one, {"variant": "official"}, []), "identity": identity})]
        for one in (shipped, own)
    ]
    assert "Qwen-Image" in shown[0] and shown[1] == []


def test_published_rows_stand_beside_the_whole_benchmark_alone() -> None:
    benchmark = small()
    whole, fewer, single = side(benchmark), side(benchmark, limit={"all": 1}), side(benchmark, images=1)
    assert [row.name for row in runs.published(benchmark, whole.result)] == ["Peer"]
    assert runs.why_no_published(benchmark, whole.result) == ""
    for limited, size in ((fewer, "2 prompts x 2"), (single, "4 prompts x 1")):
        assert runs.published(benchmark, limited.result) == report.published(benchmark, limited.result) == []
        line = f"Published numbers are of the whole benchmark (4 prompts x 2); this run has {size}, and they do not stand beside it."
        assert line in report.notes(benchmark, limited.result)
        assert f"small: {line}" in leaderboard.page([([limited], ())], Path()).notes
    judged = side(benchmark, by="another")
    assert report.notes(benchmark, judged.result)[1] == (
        "Published numbers are of other variants (checker, checker b); they do not stand beside small/another."
    )


def test_a_published_number_stands_in_the_column_of_its_metric() -> None:
    (table,) = leaderboard.tables([side(small())])
    assert table.columns == ("model", "right", "second")
    assert rows(table) == {"mine": ["1.00", "4.00"], "Peer (published)": ["", "0.00"]}


def test_runs_of_other_sizes_say_their_size() -> None:
    """Published rows come after the whole run, which they stand beside, and before the others."""
    benchmark = small()
    sides = [side(benchmark, "few", limit={"all": 1}), side(benchmark, "whole"), side(benchmark, "single", images=1)]
    (table,) = leaderboard.tables(sides)
    assert list(rows(table)) == [
        "whole, 4 prompts x 2",
        "Peer (published, 4 prompts x 2)",
        "few, 2 prompts x 2",
        "single, 4 prompts x 1",
    ]
    (table,) = leaderboard.tables([sides[0], side(benchmark, "as few", limit={"all": 1})])
    assert list(rows(table)) == ["few", "as few"]


def test_runs_on_other_prompts_seeds_or_settings_say_so() -> None:
    one, other = side(small()), side(small(prompts={**small_benchmark.tree()["prompts"], "edit": True}))
    hashes = [each.plan.benchmark["data_sha256"][:8] for each in (one, other)]
    assert runs.labels([(each.result, each.folder) for each in (one, other)]) == [f"mine, prompts {h}" for h in hashes]
    seeded = small(seed={"official": 7})
    found = [side(seeded), side(seeded, seeds="official")]
    assert runs.labels([(each.result, each.folder) for each in found]) == ["mine, image seeds", "mine, official seeds"]
    found = [side(small(), steps=20), side(small(), steps=50), side(small(), "yours")]
    names = ["mine, num_inference_steps=20", "mine, num_inference_steps=50", "yours"]
    assert runs.labels([(each.result, each.folder) for each in found]) == names
    twice = [side(small(), folder="x"), side(small(), folder="y")]
    assert runs.labels([(each.result, each.folder) for each in twice]) == ["mine, x", "mine, y"]
    weighted = small(metrics=[{**METRICS[0], "weights": "prompts"}, METRICS[1]])
    labels = runs.labels([(each.result, each.folder) for each in (side(small()), side(weighted))])
    assert labels == [f"mine, file {digest(small())[:8]}", f"mine, file {digest(weighted)[:8]}"]


def test_links_are_to_every_report() -> None:
    """Runs of two benchmarks are of two sizes anyhow: only those of one variant say theirs."""
    first, second = small("first"), small("second")
    sides = [side(first, folder="out/a"), side(second, folder="out/b", limit={"all": 1}), side(first, "few", "out/c", limit={"all": 1})]
    page = leaderboard.page([(sides, ())], Path("out"))
    assert page.links == [
        ("first: mine, 4 prompts x 2", "a/report.html"),
        ("first: few, 2 prompts x 2", "c/report.html"),
        ("second: mine", "b/report.html"),
    ]


def test_what_a_suite_cannot_subtract_is_said() -> None:
    first, second = side(small("first")), side(small("second"))
    gap, other = Difference("what is added", "first", "second", "note"), Difference("what is lost", "first", "third")
    page = leaderboard.page([([first, second], [gap, other])], Path(), [("third", Path("out/third"))])
    assert rows(page.tables[-1][0])["what is added"][:2] == ["+0.00", "first - second"]
    assert page.warnings == [
        "third: no result yet; finish it in out/third, then make this page again",
        "what is lost: first - third is not there, for there is no result of third",
    ]
    unlike = leaderboard.page([([first, side(small("second"), folder="b", by="another")], [gap])], Path())
    assert unlike.warnings == ["what is added: a is scored by checker, b by another; score one of them again, by the other's judge"]


def test_each_suite_subtracts_its_own_runs() -> None:
    gap = Difference("what is added", "first", "second")
    one = [side(small("first"), "one", right=1.0), side(small("second"), "one", right=0.0)]
    two = [side(small("first"), "two", right=0.0), side(small("second"), "two", right=1.0)]
    page = leaderboard.page([(one, [gap]), (two, [gap])], Path())
    found = {label: values[0] for label, values in rows(page.tables[-1][0]).items()}
    assert found == {"what is added, one": "+1.00", "what is added, two": "-1.00"}


def test_a_difference_is_taken_in_the_way_that_both_were_drawn() -> None:
    gap = Difference("what is added", "first", "second")
    page = leaderboard.page([([side(small(name), rows=["think"]) for name in ("first", "second")], [gap])], Path())
    assert list(rows(page.tables[-1][0])) == ["what is added (the brain's thought after the prompt)"]
    page = leaderboard.page([([side(small("first")), side(small("second"), folder="b", rows=["think"])], [gap])], Path())
    assert page.warnings == ["what is added: a and b are drawn in no way that both have; nothing can be subtracted"]


@pytest.mark.parametrize("name", [name for name in benchmarks.names() if benchmarks.load(name).scorer in ("rubric", "rise")])
def test_published_numbers_of_a_judge_are_by_its_official_words(name: str, tmp_path: Path) -> None:
    """Our own words, or any others, never bear their variant; words of the benchmark's own data do."""
    benchmark = benchmarks.load(name)
    (tmp_path / "prompts.json").write_text('{"add": "Rate <edit_prompt>"}')
    for variant in {row.variant for row in benchmark.published}:
        judge = Answers([], identity={"id": variant.split()[0], "revision": None, "host": None, "kind": "test"})
        scorer = benchmark.scorer_module().load(benchmark.scorer_options, Services(tmp_path, judge))
        assert (scorer.identity["variant"] == variant) == name.startswith("imgedit")


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_published_row_has_a_metric_of_its_benchmark(name: str) -> None:
    one = benchmarks.load(name)
    assert {row.metric for row in one.published} <= {metric.name for metric in one.metrics}
