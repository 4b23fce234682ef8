"""Prompts of the data in benchmarks: what is found, and what must not be."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from metabridge.bridge.errors import UserError
from metabridge.training.contamination import GENEVAL, Benchmarks, geneval_template, grams, read_lists, read_prompts, words

LONG = (
    "An expansive field, blanketed by the soft light of morning, cradles a collection of eight cabbages, their green heads round and "
    "plump, nestled among rows of rich soil and dotted with glistening droplets of dew that cling to their crinkled leaves."
)
STARS = "a red star to the left of a blue circle"
BENCHMARK = Benchmarks({"long": [LONG], "short": [STARS, "a red star", "一只红色的猫"]})


def found(prompt: str) -> list[tuple[str, str]]:
    return [(hit.benchmark, hit.how) for hit in BENCHMARK.hits(prompt)]


@pytest.mark.parametrize(
    ("prompt", "hits"),
    [
        ("  A RED star!  ", [("short", "exact")]),
        ("red star", [("short", "near")]),  # articles alone
        ("a red, star to the left of the blue circle", [("short", "near")]),
        ("一只 红色的猫。", [("short", "exact")]),
        (LONG.replace("soft light", "gentle light"), [("long", "near")]),  # one word of 36
        (f"Generate an image: {LONG} 4k, highly detailed, artstation, masterpiece, sharp focus, studio light", [("long", "near")]),
    ],
)
def test_what_is_found(prompt: str, hits: list[tuple[str, str]]) -> None:
    assert found(prompt) == hits


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "...",
        "a blue star",  # every word of a short prompt is a thing to draw
        "a red star and a moon",
        "a blue circle to the left of a red star",  # the same words in another order
        "a red star to the right of a blue circle",
        "一只蓝色的猫",
        " ".join(LONG.split()[:20]),
        LONG.replace("eight cabbages", "two lambs").replace("green heads", "white backs").replace("crinkled leaves", "woolly coats"),
        " ".join(reversed(LONG.split())),
    ],
)
def test_what_is_not_found(prompt: str) -> None:
    assert not found(prompt)


def test_near_is_jaccard_of_at_least_four_fifths() -> None:
    """Against the definition, over prompts that share a growing part: the index loses none and finds no other."""
    vocabulary = [f"w{k}" for k in range(60)]
    theirs = [" ".join(vocabulary[start : start + 30]) for start in (0, 10, 25)]
    benchmark = Benchmarks({"b": theirs})
    for start in range(0, 30):
        for length in (5, 24, 28, 30):
            prompt = " ".join(vocabulary[start : start + length])
            held = set(grams(prompt.split()))
            jaccard = [len(held & set(grams(row.split()))) / len(held | set(grams(row.split()))) for row in theirs]
            inside = any(f" {row} " in f" {prompt} " for row in theirs)
            assert bool(benchmark.hits(prompt)) == (max(jaccard) >= 0.8 or inside), (start, length, jaccard)


def test_one_replaced_word_counts_from_25_words_on() -> None:
    for length, near in ((24, False), (25, True)):
        theirs = [f"w{k}" for k in range(length)]
        mine = [*theirs[:10], "other", *theirs[11:]]
        assert bool(Benchmarks({"b": [" ".join(theirs)]}).hits(" ".join(mine))) == near


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("A photo of an apple.", "single_object"),
        ("a photo of a fork and a tv remote", "two_object"),
        ("a photo of three benchs", "counting"),
        ("a photo of two knives", "counting"),
        ("a photo of a blue fire hydrant", "colors"),
        ("a photo of a dog right of a teddy bear", "position"),
        ("a photo of a purple wine glass and a black apple", "color_attr"),
        ("a photo of a church", None),
        ("a photo of a dog in the park", None),
        ("a photo of my dog", None),
        ("photo of a dog", None),
        ("a photo of a turquoise dog", None),
    ],
)
def test_genevals_templates(prompt: str, tag: str | None) -> None:
    assert geneval_template(words(prompt)) == tag
    hits = Benchmarks({}).hits(prompt)
    assert [(hit.benchmark, hit.theirs) for hit in hits] == ([(GENEVAL, tag)] if tag else [])


def test_every_prompt_of_geneval_is_of_its_template(test_data: Path) -> None:
    rows = [json.loads(line) for line in (test_data / "bench_data" / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()]
    assert Counter(geneval_template(words(row["prompt"])) == row["tag"] for row in rows) == {True: 553}


def test_lists_of_real_benchmarks(test_data: Path) -> None:
    """Each finds itself, word for word; no prompt of one is near a prompt of another."""
    lists = read_lists(test_data / "bench_data")
    assert len(lists["dpg_bench/dpg_prompts"]) == 1065 and len(lists["t2i_corebench/C-MI"]) == 90 and "PINS" not in lists
    benchmarks = Benchmarks(lists)
    for name, prompts in lists.items():
        for prompt in prompts[:20]:
            hits = [(hit.benchmark, hit.how) for hit in benchmarks.hits(prompt) if hit.benchmark != GENEVAL]
            assert (name, "exact") in hits and all(how == "exact" for _, how in hits)


def test_a_million_prompts_take_minutes(test_data: Path) -> None:
    benchmarks = Benchmarks(read_lists(test_data / "bench_data"))
    prompts = [f"a photo of a {k} year old {LONG[k % 90 : k % 90 + 90]}" for k in range(2000)]
    start = time.process_time()
    assert not any(benchmarks.hits(prompt) for prompt in prompts)
    assert (time.process_time() - start) / len(prompts) < 300e-6  # 5 minutes a million; 40 to 70 microseconds were measured


def test_files_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\n a dog \n")
    (tmp_path / "b.jsonl").write_text('{"Prompt": "a cat", "id": "x"}\n{"text": "a dog"}\n')
    (tmp_path / "c.json").write_text(
        '{"q-1": {"Prompt": "a cat", "Sub Class": "y", "Checklist": ["is it a cat?"]}, "q-2": {"prompt": "a dog"}}'
    )
    (tmp_path / "d.csv").write_text('id,prompt\n1,"a cat"\n2,a dog\n')
    (tmp_path / "e.json").write_text('["a cat", "a dog"]')
    for name in ("a.txt", "b.jsonl", "c.json", "d.csv", "e.json"):
        assert read_prompts(tmp_path / name) == ["a cat", "a dog"], name
    assert sorted(read_lists(tmp_path)) == ["b", "c", "e"]


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"repo": "x", "files": ["y"]}')
    (tmp_path / "b.jsonl").write_text("{broken\n")
    (tmp_path / "c.png").write_text("")

    def refused(name: str) -> str:
        with pytest.raises(UserError) as raised:
            read_lists(tmp_path / name)
        return str(raised.value).removeprefix(f"{tmp_path}/")

    assert refused("a.json") == "a.json: no prompts in it; its rows need one of prompt, text, caption"
    assert refused("b.jsonl").startswith("b.jsonl: cannot be read as .jsonl (Expecting property name")
    assert refused("c.png").startswith("c.png: no list of prompts; give .txt (a line each), ")
    assert refused("gone.txt") == "gone.txt: no such file; give a list of a benchmark's prompts"
