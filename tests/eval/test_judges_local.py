"""A model of transformers in this process, beside its own generate()."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from metabridge.adapters.processors import load_processor
from metabridge.bridge.errors import UserError
from metabridge.eval.judges import JudgeError, Message, Request, load
from metabridge.eval.judges.budget import Budget
from metabridge.eval.judges.local import Local

LENGTH = 24


def request(*content: str | Image.Image, **settings: Any) -> Request:
    messages = (Message("system", ("a cat",)), Message("user", content))
    return Request(messages, **{"max_tokens": LENGTH, **settings})


def greedy(folder: Path, *content: str | Image.Image) -> tuple[list[int], str]:
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
    return said, processor.tokenizer.decode(said)


@pytest.fixture(scope="module")
def shown() -> Image.Image:
    return Image.radial_gradient("L").resize((48, 64)).convert("RGB")


@pytest.fixture(scope="module")
def talker(brain_folder: Path, shown: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an end of its own: a token that it comes to after a few others."""
    folder = tmp_path_factory.mktemp("judge") / "talker"
    shutil.copytree(brain_folder, folder)
    said, _ = greedy(folder, shown, "the dog")
    end = next(token for place, token in enumerate(said) if place >= 3 and token not in said[:place])
    settings = json.loads((folder / "generation_config.json").read_text())
    # a judge must not inherit the penalty: it would give other tokens
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [end], "repetition_penalty": 5.0}))
    return folder


@pytest.fixture(scope="module")
def judge(talker: Path) -> Local:
    return Local(str(talker), device="cpu")


def test_says_what_the_model_says(judge: Local, talker: Path, shown: Image.Image) -> None:
    said, _ = greedy(talker, shown, "the dog")
    (end,) = json.loads((talker / "generation_config.json").read_text())["eos_token_id"]
    tokens = said[: said.index(end)]
    assert len(tokens) > len(set(tokens)) - 1 >= 2
    answer = judge.ask(request(shown, "the dog"))
    assert answer == load_processor(str(talker)).tokenizer.decode([*tokens, end]).strip()
    assert judge.ask(request(shown, "the dog"), attempt=1) == answer
    assert answer.model == "talker"
    assert answer.usage == {"completion_tokens": len(tokens) + 1}
