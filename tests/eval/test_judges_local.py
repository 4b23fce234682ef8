"""A model of transformers in this process, beside its own generate()."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from brain_families import FAMILIES
from PIL import Image
from safetensors.torch import load_file, save_file

from metabridge.adapters.processors import load_processor
from metabridge.bridge.errors import UserError
from metabridge.eval.calls import Budget
from metabridge.eval.judges import JudgeError, Message, Request, load
from metabridge.eval.judges.local import Local

LENGTH = 24


def request(*content: str | Image.Image, **settings: Any) -> Request:
    messages = (Message("system", ("a cat",)), Message("user", content))
    return Request(messages, **{"max_tokens": LENGTH, **settings})


def greedy(folder: Path, *content: str | Image.Image) -> list[int]:
    """What the model says, token by token the likeliest, one full forward each; its processor is loaded another way."""
    processor = load_processor(str(folder))
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in content]
    messages = [{"role": "system", "content": [{"type": "text", "text": "a cat"}]}, {"role": "user", "content": parts}]
    inputs = processor.apply_chat_template([messages], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt")
    said: list[int] = []
    for _ in range(LENGTH):
        token = model(**inputs, use_cache=False).logits[0, -1].argmax()
        said.append(int(token))
        for name, value in (("input_ids", token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
            inputs[name] = inputs[name].new_tensor([[*inputs[name][0].tolist(), int(value)]])
    return said


@pytest.fixture(scope="module")
def shown() -> Image.Image:
    return Image.radial_gradient("L").resize((48, 64)).convert("RGB")


@pytest.fixture(scope="module")
def talker(brain_folder: Path, shown: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an end of its own: a token that it comes to after a few others."""
    folder = tmp_path_factory.mktemp("judge") / "talker"
    shutil.copytree(brain_folder, folder)
    said = greedy(folder, shown, "the dog")
    end = next(token for place, token in enumerate(said) if place >= 3 and token not in said[:place])
    settings = json.loads((folder / "generation_config.json").read_text())
    # a judge must not inherit the penalty: it would give other tokens
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [end], "repetition_penalty": 5.0}))
    return folder


@pytest.fixture(scope="module")
def judge(talker: Path) -> Local:
    return Local(str(talker), device="cpu")


def test_says_what_the_model_says(judge: Local, talker: Path, shown: Image.Image) -> None:
    said = greedy(talker, shown, "the dog")
    (end,) = json.loads((talker / "generation_config.json").read_text())["eos_token_id"]
    tokens = said[: said.index(end)]
    assert len(tokens) > len(set(tokens))  # a repetition, which the penalty would have suppressed
    answer = judge.ask(request(shown, "the dog"))
    assert answer == load_processor(str(talker)).tokenizer.decode(tokens).strip()
    assert judge.ask(request(shown, "the dog"), attempt=1) == answer
    assert answer.model == "talker"
    assert answer.usage == {"completion_tokens": len(tokens) + 1}


def test_the_picture_matters_and_its_size_is_the_protocols(judge: Local, shown: Image.Image) -> None:
    tokens = judge._reply(request(shown, "the dog"))
    assert judge._reply(request(shown.rotate(90), "the dog")) != tokens
    large = shown.resize((480, 640), Image.Resampling.NEAREST)
    assert judge._reply(request(large, "the dog", max_side=64)) == judge._reply(
        request(large.resize((48, 64), Image.Resampling.LANCZOS), "the dog")
    )


def test_an_answer_that_is_cut_off_is_none(judge: Local, shown: Image.Image) -> None:
    with pytest.raises(JudgeError, match=r"cut off at max_tokens=2; allow more of them"):
        judge.ask(request(shown, "the dog", max_tokens=2))


def test_the_template_gets_its_settings(judge: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% if enable_thinking is defined and not enable_thinking %}no thought {% endif %}" + judge._processor.chat_template
    plain = judge._reply(request("the dog"))
    monkeypatch.setattr(judge._processor, "chat_template", template)
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert judge._reply(request("the dog")) == plain
    assert judge._reply(request("the dog", extra=off)) != plain


def test_what_it_cannot_do_is_refused(judge: Local) -> None:
    with pytest.raises(UserError, match="judge local: answers greedily, but temperature 1 is asked for; use an endpoint"):
        judge.ask(request("the dog", temperature=1.0))
    with pytest.raises(UserError, match="judge local: top_p of a request means nothing to it"):
        judge.ask(request("the dog", extra={"top_p": 0.5}))


def test_a_picture_that_its_processor_refuses_is_no_score(judge: Local) -> None:
    with pytest.raises(JudgeError, match="absolute aspect ratio must be smaller than 200"):
        judge.ask(request(Image.new("RGB", (3000, 8)), "the dog"))


def test_the_word_on_the_command_line(talker: Path, judge: Local, tmp_path: Path, shown: Image.Image) -> None:
    """Named by its folder and by its weights, not by where it lies; answers are kept; the budget holds."""
    found = load(f"local:{talker}", folder=tmp_path, max_calls=1, device="cpu")
    assert found.identity == judge.identity
    assert found.identity["id"] == "talker"
    assert found.identity["dtype"] == "float32"
    assert found.concurrency == 1
    assert found.ask(request(shown, "the dog")) == found.ask(request(shown, "the dog")) == judge.ask(request(shown, "the dog"))
    with pytest.raises(JudgeError, match="budget: the 1 calls"):
        found.ask(request(shown, "a cat"))
    assert str(talker.parent) not in (tmp_path / "judge.jsonl").read_text()


def test_other_weights_are_another_judge(talker: Path, judge: Local, tmp_path: Path) -> None:
    folder = tmp_path / "talker"
    shutil.copytree(talker, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file({**tensors, name: tensors[name] * 1.5}, folder / "model.safetensors", metadata={"format": "pt"})
    other = Local(str(folder), device="cpu", budget=Budget())
    assert other.identity["id"] == judge.identity["id"]
    assert other.identity["revision"] != judge.identity["revision"]


def test_checkpoints_that_are_no_judges(talker: Path, causal_folder: Path, tmp_path: Path) -> None:
    for place, line in (
        (str(tmp_path / "nowhere"), "cannot be loaded ("),
        ("acme/unknown", "cannot be loaded ("),
        (str(causal_folder), "a qwen2 sees no pictures; name an image-text-to-text model"),
    ):
        with pytest.raises(UserError, match=f"^judge local:{place}: ") as caught:
            load(f"local:{place}", folder=tmp_path)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_with_a_hole_in_it_is_refused(talker: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hole"
    shutil.copytree(talker, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file(
        {other: tensor for other, tensor in tensors.items() if other != name}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(UserError, match=r"cannot be loaded \(1 tensors missing, the first is .*norm.weight\); give the folder of a whole"):
        Local(str(folder))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen3_5", "internvl", "llava_onevision", "gemma3"])
def test_families(family: str, tmp_path: Path, shown: Image.Image) -> None:
    """The first token is the likeliest one after the prompt, as another way of loading the processor makes it."""
    folder = FAMILIES[family].make(tmp_path / family)
    judge = Local(str(folder), device="cpu")
    processor = load_processor(str(folder))
    messages = [{"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": "the dog"}]}]
    inputs = processor.apply_chat_template([messages], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt")
    tokens = judge._reply(Request((Message("user", (shown, "the dog")),), max_tokens=3))
    assert tokens[0] == int(judge._model(**inputs).logits[0, -1].argmax())


@pytest.mark.parametrize("family", ["gemma4", "smolvlm", "mistral3"])
def test_families_that_insist_on_torchvision(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family].make(tmp_path / family)
    with pytest.raises(
        UserError, match=f"the processor of a {family} cannot be had without torchvision .*; serve the model and give URL#MODEL"
    ):
        Local(str(folder))
