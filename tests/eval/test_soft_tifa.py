"""Soft-TIFA by hand, its model beside transformers' own forward, and GenEval 2's file as it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metabridge.adapters.processors import load_processor
from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item
from metabridge.eval.readers import geneval2 as reader
from metabridge.eval.scorers import soft_tifa
from metabridge.eval.scorers.soft_tifa_model import Model

PICTURE = Image.new("RGB", (8, 8), "red")
ROW: dict[str, Any] = {
    "prompt": "two red cats",
    "atom_count": 3,
    "vqa_list": [["How many cats?", "two"], ["Is it red?", "Yes"]],
    "skills": ["count", "attribute"],
}


@dataclass
class Says:
    """First words by question; a word of the table is a token, in the order of the table."""

    table: Mapping[str, Mapping[str, float]]
    asked: list[str] = field(default_factory=list)
    identity: Mapping[str, Any] = field(default_factory=lambda: {"id": "says"})
    words: tuple[str, ...] = ("yes", "Yes", " yes", " Yes", "two", "Two", "2", " two", " Two", " 2", "other")

    def probabilities(self, image: Image.Image, text: str) -> torch.Tensor:
        self.asked.append(text)
        said = next(said for question, said in self.table.items() if text.startswith(question))
        return torch.tensor([said.get(word, 0.0) for word in self.words])

    def first_token(self, text: str) -> int:
        return self.words.index(text)


def item() -> Item:
    rows = zip(ROW["vqa_list"], ROW["skills"], strict=True)
    return Item(
        0, "0000", "atoms_3", "two red cats", {"questions": [{"text": q, "answer": a, "facets": [skill]} for (q, a), skill in rows]}
    )


def test_every_form_of_an_answer_counts_by_hand() -> None:
    model = Says(
        {"How many": {"two": 0.1, "Two": 0.2, "2": 0.3, " two": 0.02, " 2": 0.02, "other": 0.36}, "Is it": {"Yes": 0.5, " yes": 0.31}}
    )
    (found,) = soft_tifa.SoftTifa(model, official=False).score([(item(), PICTURE)])
    assert model.asked == ["How many cats? Answer in one word.", "Is it red? Answer in one word."]
    assert found.detail["probabilities"] == pytest.approx([0.64, 0.81], abs=1e-6)
    assert found.values == {"gm": pytest.approx(72.0, abs=1e-4), "am": pytest.approx(72.5, abs=1e-4)}  # sqrt(0.64 * 0.81) = 0.72
    assert {name: pair[0] for name, pair in found.facets.items()} == pytest.approx({"count": 0.64, "attribute": 0.81}, abs=1e-6)
    assert found.reason == ""


def test_an_answer_out_of_the_question_makes_the_geometric_mean_zero() -> None:
    (found,) = soft_tifa.SoftTifa(Says({"How": {"other": 1.0}, "Is": {"yes": 1.0}}), official=False).score([(item(), PICTURE)])
    assert found.values == {"gm": 0.0, "am": 50.0} and found.reason == "How many cats? two: 0.00"


def test_a_token_counts_once_and_officially_twice() -> None:
    """A tokenizer that splits the blank off: all forms with one begin with the same token."""

    class Split(Says):
        def first_token(self, text: str) -> int:
            return 10 if text.startswith(" ") else super().first_token(text)

    model = Split({"How": {"two": 0.2, "other": 0.5}, "Is": {"yes": 0.4, "other": 0.6}})
    ours, official = (
        soft_tifa.SoftTifa(model, official).score([(item(), PICTURE)])[0].detail["probabilities"] for official in (False, True)
    )
    assert ours == pytest.approx([0.7, 1.0], abs=1e-6)
    assert official == pytest.approx([0.2 + 3 * 0.5, 0.4 + 2 * 0.6], abs=1e-6)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_geometric_mean(values: list[float]) -> None:
    assert soft_tifa.geometric_mean(values) == pytest.approx(math.prod(values) ** (1 / len(values)), rel=1e-9)


def test_forms() -> None:
    assert soft_tifa.forms("Yes") == ["yes", "Yes", " yes", " Yes"]
    assert soft_tifa.forms("seven") == ["seven", "Seven", "7", " seven", " Seven", " 7"]


def test_a_model_that_does_not_see_is_stopped() -> None:
    question = "Is there a red circle"
    with pytest.raises(UserError, match=r"^vqa says: finds yes no likelier where it is right \(0.900\) than where it is wrong \(0.900\), "):
        soft_tifa.SoftTifa(Says({question: {"yes": 0.9}}), official=False).check()


def test_probabilities_are_the_models_own(brain_folder: Path, picture: Image.Image, wide_picture: Image.Image) -> None:
    model, processor = Model(str(brain_folder), device="cpu"), load_processor(str(brain_folder))
    whole = transformers.AutoModelForImageTextToText.from_pretrained(brain_folder).eval()
    seen = []
    for image in (picture, wide_picture):
        content = [{"type": "image", "image": image}, {"type": "text", "text": "a cat?"}]
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": content}]], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.no_grad():
            expected = whole(**inputs).logits[0, -1].softmax(-1)
        seen.append(model.probabilities(image, "a cat?"))
        assert torch.allclose(seen[-1], expected, atol=1e-6) and seen[-1].sum().item() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(*seen)
    assert model.first_token("cat dog") == processor.tokenizer.encode("cat dog", add_special_tokens=False)[0]


def test_the_file_as_it_is_read(tmp_path: Path) -> None:
    (tmp_path / reader.FILE).write_text("".join(json.dumps({**ROW, "atom_count": count}) + "\n" for count in range(3, 11)))
    items = benchmarks.load("geneval2").items(tmp_path)
    assert [(item.number, item.id, item.group) for item in items[:2]] == [(0, "0000", "atoms_3"), (1, "0001", "atoms_4")]
    assert items[0].want["questions"][0] == {"text": "How many cats?", "answer": "two", "facets": ["count"]}
    assert soft_tifa.calls({}, items[0]) == 0


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("{", ": line 1: no valid JSON ("),
        ("[]", ": line 1: a list given; it is a mapping of prompt, atom_count, vqa_list and skills"),
        (json.dumps({**ROW, "prompt": ""}), ": line 1: prompt: nothing given; it is text"),
        (json.dumps({**ROW, "skills": ["count"]}), ": line 1: vqa_list and skills are lists of the same length, an entry a question"),
        (
            json.dumps({**ROW, "vqa_list": [["How many?", "nine"], ["Q?", "Yes"]]}),
            ": line 1: question 1: answer 'nine'; it is one of: Yes, one, ",
        ),
        (
            json.dumps({**ROW, "vqa_list": [["How many?", "two"], ["Q?"]]}),
            ": line 1: question 2: ['Q?'] given; it is a question and its answer",
        ),
    ],
)
def test_a_broken_line_is_named(row: str, line: str, tmp_path: Path) -> None:
    (tmp_path / reader.FILE).write_text(row + "\n")
    with pytest.raises(UserError) as error:
        reader.load({}, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / reader.FILE}{line}")


def test_the_pin_is_the_known_one(test_data: Path) -> None:
    spec = benchmarks.load("geneval2").data
    pin = next(
        pin for pin in json.loads((test_data / "bench_data" / "PINS.json").read_text()) if pin["repo"] == "facebookresearch/GenEval2"
    )
    assert spec is not None and spec.accept and spec.licence == pin["licence"]
    assert [(file.commit, file.path, file.sha256, file.bytes) for file in spec.files] == [
        (pin["commit"], pin["path"], pin["sha256"], pin["bytes"])
    ]
