"""plan -> generate -> score -> result, from pixels, with a drawer that knows the answers."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.pipeline import PipelineOutput
from metabridge.eval import benchmarks, plan, report, result, score, store, tables
from metabridge.eval.generate import DRAWN, generate
from metabridge.eval.items import Services
from tests.eval.oracle import BRIDGE, CODE, GENERATION, Oracle
from tests.eval.small_benchmark import small


def evaluate(chosen: plan.Plan, folder: Path, drawer: Oracle) -> dict:
    chosen = plan.save(chosen, folder)
    generate(chosen, folder, drawer.subject)
    summary = scored(chosen, folder)
    result.write(summary, folder)
    return summary


def scored(chosen: plan.Plan, folder: Path) -> dict:
    services = Services(None)
    scorer = chosen.definition.scorer_module().load({}, services)
    score.score(chosen, folder, scorer)
    return result.summarize(chosen, score.read(chosen, folder, score.tag(score.identity_of(chosen, scorer))), scorer.identity, services, {})


def test_plan_counts_and_seeds(small_plan: plan.Plan) -> None:
    samples = small_plan.samples()
    seen = [s for s in samples if not s.item.held_out]
    # six tags drawn by bridge and hand, seven kinds drawn without and with think, four prompts of two pictures each
    assert len(seen) == (6 * 2 + 7 * 2) * 4 * 2
    assert all(s.seed == 1000 * s.item.number + s.k for s in samples)
    assert len({s.key for s in samples}) == len(samples)
    chunks = small_plan.chunks()
    assert [s for chunk in chunks for s in chunk] == samples
    assert all(len(chunk) <= plan.CHUNK and len({s.row for s in chunk}) == 1 for chunk in chunks)
    by_row = {row: {(s.item.id, s.k, s.seed) for s in samples if s.row == row} for row in small_plan.rows}
    assert by_row["think"] | by_row["native"] == by_row["bridge"]  # the same prompts and seeds


def test_a_limited_run_is_a_part_of_the_full_one() -> None:
    flatland = benchmarks.load("flatland")
    full = {item.id: item for item in flatland.items(None)}
    part = plan.make(flatland, BRIDGE, GENERATION, CODE, limit={"all": 3})
    assert len(part.items) == 3 * 13 + 9 and all(full[item.id] == item for item in part.items)  # one of each held-out tag or kind
    numbers = [item.number for item in full.values()]
    assert len(set(numbers)) == len(numbers) == flatland.count


def test_a_closer_limit_counts() -> None:
    made = plan.make(
        benchmarks.load("flatland"), BRIDGE, GENERATION, CODE, limit={"all": 3, "reasoning": 2, "single": 5, "negation": 1}, images=1
    )
    drawn = Counter((s.row, s.item.group) for s in made.samples() if not s.item.held_out)
    assert drawn["bridge", "single"] == drawn["native", "single"] == 5
    assert drawn["bridge", "colors"] == 3
    assert drawn["think", "two_hop"] == drawn["bridge", "two_hop"] == 2
    assert drawn["think", "negation"] == 1
    assert "5 of single; 3 of two objects, counting, " in report.size(made.definition, made.benchmark)


def test_right_pictures_score_one(small_plan: plan.Plan, tmp_path: Path) -> None:
    summary = evaluate(small_plan, tmp_path, Oracle())
    cells = [*summary["scores"]["composition"].values()]
    for mode in ("implicit", "think"):
        cells += summary["scores"]["reasoning"][mode].values()
    assert {cell["value"] for cell in cells} == {1.0}
    assert all(cell["low"] < 1.0 for cell in cells)
    assert summary["scores"]["composition"]["single"]["n"] == 8
    assert summary["scores"]["reasoning"]["think"]["color_fact"]["chance"] == pytest.approx(1 / 6, abs=1e-6)
    assert summary["thoughts"]["overall"]["value"] == 1.0
    assert summary["held_out"]["scores"]["composition"]["colors"]["value"] == 1.0
    assert summary["pictures"]["infra_error"] == summary["pictures"]["model_error"] == 0
    assert summary["identity"]["benchmark"]["images_per_prompt"] == 2


def test_wrong_pictures_score_zero_and_differences_are_paired(small_plan: plan.Plan, tmp_path: Path) -> None:
    """The bridge is wrong on every second picture, its baseline on none, thinking on none."""
    summary = evaluate(small_plan, tmp_path, Oracle(wrong=lambda text, seed, row: row == "bridge" and seed % 2 == 1))
    assert summary["scores"]["composition"]["overall"]["value"] == 0.5
    assert summary["baselines"]["hand_text_encoder"]["composition"]["overall"]["value"] == 1.0
    difference = summary["differences"]["bridge - hand_text_encoder"]["composition"]["overall"]
    assert (difference["value"], difference["low"], difference["high"]) == (-0.5, -0.5, -0.5)
    assert summary["differences"]["think - implicit"]["reasoning"]["negation"]["value"] == 0.5
    assert summary["scores"]["reasoning"]["think"]["overall"]["value"] == 1.0


def test_stop_and_resume_give_the_same_result(small_plan: plan.Plan, tmp_path: Path) -> None:
    def wrong(text: str, seed: int, row: str) -> bool:
        return (seed // 1000 + len(row)) % 3 == 0

    whole = tmp_path / "whole"
    evaluate(small_plan, whole, Oracle(wrong))
    parts = tmp_path / "parts"
    plan.save(small_plan, parts)
    with pytest.raises(KeyboardInterrupt):
        generate(small_plan, parts, Oracle(wrong, stop_after=2).subject)
    drawn = parts / DRAWN
    drawn.write_bytes(drawn.read_bytes()[:-9])  # a kill in the middle of a line
    (parts / "images" / "bridge" / "single" / ".single-000-0.png.tmp").write_bytes(b"half")

    resumed = Oracle(wrong)
    evaluate(small_plan, parts, resumed)
    assert len(resumed.calls) == len(small_plan.chunks()) - 1  # the first chunk was whole, the second lost a line
    assert (parts / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    for sample in small_plan.samples():
        assert (parts / sample.file).read_bytes() == (whole / sample.file).read_bytes()

    again = Oracle(wrong)
    evaluate(small_plan, parts, again)
    assert not again.calls
    assert (parts / "result.json").read_bytes() == (whole / "result.json").read_bytes()


def test_missing_and_corrupt_pictures_make_it_incomplete(small_plan: plan.Plan, tmp_path: Path) -> None:
    evaluate(small_plan, tmp_path, Oracle())
    whole = (tmp_path / "result.json").read_bytes()
    files = [tmp_path / s.file for s in small_plan.samples() if s.row == "bridge" and s.item.group == "single"]
    files[0].unlink()
    files[3].write_bytes(files[3].read_bytes()[:100])

    chosen = plan.load(tmp_path)
    summary = scored(chosen, tmp_path)
    single = summary["scores"]["composition"]["single"]
    assert (single["value"], single["unscored"], single["n"]) == (None, 2, 8)
    assert summary["scores"]["composition"]["overall"]["value"] is None
    assert summary["scores"]["composition"]["colors"]["value"] == 1.0
    assert summary["differences"]["bridge - hand_text_encoder"]["composition"]["single"]["value"] is None
    assert summary["pictures"]["infra_error"] == 2

    mended = Oracle()
    evaluate(small_plan, tmp_path, mended)
    assert len(mended.calls) == 1  # one chunk held both
    assert (tmp_path / "result.json").read_bytes() == whole


def test_nan_pictures_count_as_wrong(small_plan: plan.Plan, tmp_path: Path) -> None:
    class Broken(Oracle):
        def _draw(self, row: str, texts: list[str], seeds: list[int], thoughts: list[str | None]) -> PipelineOutput:
            drawn = super()._draw(row, texts, seeds, thoughts)
            return PipelineOutput(
                [torch.full_like(p, torch.nan) if s % 2 else p for p, s in zip(drawn.images, seeds, strict=True)], thoughts, seeds
            )

    summary = evaluate(small_plan, tmp_path, Broken())
    assert summary["scores"]["composition"]["overall"]["value"] == 0.5
    assert summary["pictures"]["model_error"] == len(small_plan.samples()) / 2
    again = Broken()
    generate(small_plan, tmp_path, again.subject)
    assert not again.calls  # it is the model's error, drawing again would not help


def test_pictures_say_what_they_are(small_plan: plan.Plan, tmp_path: Path) -> None:
    evaluate(small_plan, tmp_path, Oracle())
    sample = next(s for s in small_plan.samples() if s.row == "think")
    with Image.open(tmp_path / sample.file) as image:
        assert image.text == {"prompt": sample.item.text, "thought": sample.item.want["rewrite"], "seed": str(sample.seed)}


def test_another_evaluation_in_the_folder_is_refused(small_plan: plan.Plan, tmp_path: Path) -> None:
    plan.save(small_plan, tmp_path)
    (tmp_path / DRAWN).touch()
    other = plan.make(benchmarks.load("flatland"), {**BRIDGE, "fingerprint": "0" * 64}, GENERATION, CODE, limit={"all": 4}, images=2)
    with pytest.raises(
        UserError, match=r"holds another evaluation: its bridge fingerprint is f{16}, asked for is 0{16}; give another folder"
    ):
        plan.save(other, tmp_path)
    moved = plan.make(
        benchmarks.load("flatland"),
        {**BRIDGE, "name": "elsewhere"},
        GENERATION,
        {"version": "1", "commit": "x"},
        limit={"all": 4},
        images=2,
    )
    assert plan.save(moved, tmp_path).identity == small_plan.identity  # a name, a place or a commit is no difference


def test_a_plan_that_nothing_came_of_is_replaced(small_plan: plan.Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")  # of another age
    plan.save(small_plan, tmp_path)
    other = plan.make(benchmarks.load("flatland"), BRIDGE, {**GENERATION, "height": 96}, CODE, limit={"all": 1}, images=1)
    assert plan.save(other, tmp_path).identity == other.identity == plan.load(tmp_path).identity
    (tmp_path / "scored.jsonl").touch()  # an official scorer's results, which come without drawings
    with pytest.raises(UserError, match="holds another evaluation: its number of single prompts is 1, asked for is 4; give another folder"):
        plan.save(small_plan, tmp_path)


def test_what_was_drawn_for_a_plan_that_was_replaced_is_not_kept(small_plan: plan.Plan, tmp_path: Path) -> None:
    plan.save(small_plan, tmp_path)
    plan.save(plan.make(benchmarks.load("flatland"), BRIDGE, {**GENERATION, "height": 96}, CODE, limit={"all": 4}, images=2), tmp_path)
    with pytest.raises(UserError) as caught:
        generate(small_plan, tmp_path, Oracle().subject)
    assert str(caught.value) == (
        f"{tmp_path}: another evaluation was planned there while this one drew; give each a folder of its own with -o"
    )
    assert not (tmp_path / DRAWN).exists()


def test_rows_come_in_one_order_however_they_are_asked_for() -> None:
    made = plan.make(benchmarks.load("flatland"), BRIDGE, GENERATION, CODE, rows=["rewrite", "think", "bridge", "think"])
    assert made.rows == ["bridge", "think", "rewrite"]


def test_the_hands_own_encoder_sees_no_picture_to_edit() -> None:
    edits = small(task="edit", edit=True)
    assert plan.make(edits, BRIDGE, GENERATION, CODE, rows=["bridge", "think"]).rows == ["bridge", "think"]
    with pytest.raises(UserError) as caught:
        plan.make(edits, BRIDGE, GENERATION, CODE, rows=["bridge", "native"])
    assert str(caught.value) == (
        "--rows native: pictures come with the prompts of small, and the hand's own encoder reads text alone; leave it out"
    )


def test_changed_prompts_are_refused(small_plan: plan.Plan, tmp_path: Path) -> None:
    plan.save(small_plan, tmp_path)
    tree = json.loads((tmp_path / "plan.json").read_text())
    tree["identity"]["benchmark"]["data_sha256"] = "0" * 64
    (tmp_path / "plan.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"planned on flatland data 000000000000, its plan.json holds"):
        plan.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": {"all": 0}}, "--limit 0: flatland has 100 prompts a tag or kind; give 1 to 100"),
        ({"limit": {"single": 101}}, "--limit 101: flatland has 100 prompts a tag or kind; give 1 to 100"),
        ({"limit": {"singel": 4}}, "--limit singel: no such part, tag or kind of flatland; did you mean single? it may be one of: all, "),
        ({"images": 0}, "--images 0: a prompt has 1000 seeds; give 1 to 1000"),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan.make(benchmarks.load("flatland"), BRIDGE, GENERATION, CODE, **options)
    assert str(caught.value).startswith(message)


def test_unknown_benchmark() -> None:
    with pytest.raises(UserError, match=r"^flatlnd: no such benchmark; did you mean flatland[?] it may be one of: .*geneval, "):
        benchmarks.load("flatlnd")


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no plan.json there; `metabridge eval BRIDGE -o"):
        plan.load(tmp_path)


def test_records_survive_a_torn_line_but_not_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    store.append(path, [{"a": 1}, {"a": 2}])
    with path.open("ab") as file:
        file.write(b'{"a": 3')
    assert store.read(path) == [{"a": 1}, {"a": 2}]
    store.append(path, [{"a": 4}])
    assert store.read(path) == [{"a": 1}, {"a": 2}, {"a": 4}]
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(UserError, match="line 2 is no JSON"):
        store.read(path)


def test_a_group_with_nothing_to_count_is_left_out_and_named() -> None:
    """A ratio over a subset of which a group has no item: no cell, not in the overall number, and the reader is told."""
    longtext = benchmarks.load("longtext_en")
    metric = longtext.metrics[0]
    groups = list(longtext.groups)[:3]

    def scored(group: str, points: float, of: float) -> score.Scored:
        sample = plan.Sample("bridge", benchmarks.Item(0, "0", group, "x", {}), 0, 0)
        return score.Scored(sample, "ok", {metric.source: points, f"{metric.source}.of": of}, "", None)

    rows = [scored(groups[0], 1, 2), scored(groups[1], 0, 0), scored(groups[2], 1, 1)]
    found = result.group(rows, metric, longtext, {})
    assert groups[1] not in found and found["overall"]["without"] == [groups[1]]
    assert found["overall"]["value"] == pytest.approx(2 / 3 if metric.weights == "prompts" else 0.75, abs=1e-6)
    assert result.differences(rows, rows, metric, longtext).keys() == found.keys()
    assert tables.warnings({"pictures": {"infra_error": 0, "model_error": 0}, "scores": {"score": found}}) == [
        f"Nothing to count in {groups[1]}: not in every overall number."
    ]


def test_a_plan_remembers_how_it_is_to_be_scored_now(small_plan: plan.Plan, tmp_path: Path) -> None:
    plan.save(small_plan, tmp_path)
    asked = replace(small_plan, scoring={"judge": "brain"})
    assert plan.save(asked, tmp_path).scoring == plan.load(tmp_path).scoring == {"judge": "brain"}


def test_thoughts_that_were_not_thought_yet_are_not_wrong(small_plan: plan.Plan, tmp_path: Path) -> None:
    chosen = plan.save(small_plan, tmp_path)
    cell = scored(chosen, tmp_path)["thoughts"]["overall"]
    assert cell["value"] is None and cell["unscored"] == cell["n"]


def test_drawings_without_their_plan_are_not_taken_for_another_ones(small_plan: plan.Plan, tmp_path: Path) -> None:
    evaluate(small_plan, tmp_path, Oracle())
    (tmp_path / "plan.json").unlink()
    with pytest.raises(UserError, match="pictures of a plan that is not there any more; give another folder"):
        plan.save(small_plan, tmp_path)


def test_a_readers_slips_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    flatland = benchmarks.load("flatland")
    items = flatland.items(None)[:2]
    module = importlib.import_module("metabridge.eval.readers.flatland")
    for given, line in [
        ([], "flatland: its reader gives no prompts"),
        ([items[0], items[0]], "flatland: single/single-000 is there 2 times; give each prompt its own id"),
        ([replace(items[0], id="../../up")], "is no name for a picture's file; mend its reader"),
    ]:
        monkeypatch.setattr(module, "load", lambda options, data, given=given: given)
        with pytest.raises(UserError, match=re.escape(line)):
            flatland.items(None)
