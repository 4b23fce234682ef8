"""Pretrain Flatland's brain: the Qwen2.5-VL architecture with its own tokenizer, on captions, questions, facts, edits and dialogues.

    python scripts/pretrain_flatland_brain.py --work ../flatland/brain --out adapters/flatland/brain

Several processes: torchrun --nproc-per-node N. Run the same command again to resume.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from metabridge.adapters.processors import image_only
from metabridge.bridge.thinking import TEMPLATE as THINK_TEMPLATE
from metabridge.scripts.pretraining import Row, Settings, finish, once, pretrain, settings_from_command_line
from metabridge.training.flatland.captions import captioned
from metabridge.training.flatland.lessons import (
    DESCRIBE,
    LESSONS,
    Lesson,
    compose_lesson,
    decide_lesson,
    dialogue_lesson,
    edit_lesson,
    fact_lessons,
    picture_lesson,
    second_turn,
    text_lesson,
    two_picture_lesson,
)
from metabridge.training.flatland.places import describe
from metabridge.training.flatland.prompts import KINDS, reasoning_prompts
from metabridge.training.flatland.world import draw

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PATCH, MERGE, SIDE = 8, 2, 64
# Qwen2.5-VL's chat format, without its default system message
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Row i of a batch is of kind i mod 12. Of any two neighbours one has a picture, so that the vision tower has a gradient on every process.
COURSE = ("text", "edit", "text", "dialogue", "text", "edit", "text", "picture", "text", "dialogue", "text", "two_pictures")


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE; with the special tokens of Qwen2.5-VL. Any text can be read, the world's words are a token each."""
    lessons = [text_lesson(random.Random(k)) for k in range(20_000)] + [picture_lesson(random.Random(k)) for k in range(2_000)]
    corpus = [f"user\n{x.question}\nassistant\n{x.answer}\n {x.answer} system first second" for x in lessons]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1280,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left", model_max_length=1024
    )


def make_processor(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.ProcessorMixin:
    pixels = transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size={"shortest_edge": SIDE * SIDE, "longest_edge": 4 * SIDE * SIDE}
    )
    return image_only(transformers.Qwen2_5_VLProcessor)(image_processor=pixels, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def make_model(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.Qwen2_5_VLForConditionalGeneration:
    token = tokenizer.convert_tokens_to_ids
    text = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": 192,
        "window_size": SIDE,
        "fullatt_block_indexes": [1, 3],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


class Lecture(nn.Module):
    """Cross entropy of the answers' tokens (and of the end of turn), the question being given."""

    def __init__(self, model: transformers.Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, batches: list[dict[str, Tensor]]) -> Tensor:
        device = self.model.device
        total, count = torch.zeros((), device=device), 0
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            labels = batch.pop("labels")
            loss = self.model(**batch, labels=labels, use_cache=False).loss
            answered = int((labels != -100).sum())
            total, count = total + loss * answered, count + answered
        return total / count


class Reader:
    """Lessons -> the model's inputs, the tokens of the answers as labels."""

    def __init__(self, processor: transformers.ProcessorMixin) -> None:
        self.processor = processor
        self.starts = processor.tokenizer("<|im_start|>assistant\n")["input_ids"]

    def __call__(self, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        texts = [self.render(x) + f"{x.answer}<|im_end|>\n" for x in lessons]
        batch = dict(self.processor(text=texts, images=pictures_of(lessons), padding=True, return_tensors="pt"))
        ids, labels = batch["input_ids"], torch.full_like(batch["input_ids"], -100)
        width = len(self.starts)
        marks = (ids.unfold(1, width, 1) == torch.tensor(self.starts)).all(-1)
        first = marks.shape[1] - 1 - marks.flip(1).int().argmax(1) + width  # of the last turn
        answer = torch.arange(ids.shape[1])[None] >= first[:, None]
        labels[answer] = ids[answer]
        return {**batch, "labels": labels}

    def render(self, lesson: Lesson) -> str:
        before = [turn for x in lesson.before for turn in (asks(x), {"role": "assistant", "content": x.answer})]
        text: str = self.processor.apply_chat_template([*before, asks(lesson)], add_generation_prompt=True, tokenize=False)
        return text

    def batches(self, rows: Sequence[Row]) -> list[dict[str, Tensor]]:
        """Rows with as many pictures together: less padding."""
        groups: dict[int, list[Lesson]] = {}
        for lesson in draw_lessons(rows):
            groups.setdefault(min(1, len(lesson.images)) + len(lesson.before), []).append(lesson)
        return [self(group) for _, group in sorted(groups.items())]


def asks(lesson: Lesson) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}] * len(lesson.images) + [{"type": "text", "text": lesson.question}]}


def pictures_of(lessons: Sequence[Lesson]) -> list[Image.Image] | None:
    """In the order in which they are spoken of; None where there are none."""
    return [image for x in lessons for turn in (*x.before, x) for image in turn.images] or None


def draw_lessons(rows: Sequence[Row]) -> list[Lesson]:
    return [LESSONS[COURSE[row.index % len(COURSE)]](random.Random(row.seed)) for row in rows]


@torch.no_grad()
def answers(model: Any, reader: Reader, lessons: Sequence[Lesson], chunk: int = 50) -> list[str]:
    replies = []
    for k in range(0, len(lessons), chunk):
        part = lessons[k : k + chunk]
        texts, images = [reader.render(x) for x in part], pictures_of(part)
        batch = reader.processor(text=texts, images=images, padding=True, return_tensors="pt").to(model.device)
        out = model.generate(**batch, max_new_tokens=48, do_sample=False)
        replies += reader.processor.tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [r.strip() for r in replies]


def examine(model: nn.Module, reader: Reader, count: int = 200) -> dict[str, float]:
    """The brain's bars: facts, think-rewrites on seen and held-out pairings, captions and questions on unseen scenes."""
    model.eval()

    def share(lessons: Sequence[Lesson]) -> float:
        return sum(a == x.answer for a, x in zip(answers(model, reader, lessons), lessons, strict=True)) / len(lessons)

    def rewrites(held_out: bool) -> list[Lesson]:
        prompts = [p for kind in KINDS for p in reasoning_prompts(kind, count // len(KINDS), seed=1, held_out=held_out)]
        return [Lesson(THINK_TEMPLATE.format(prompt=p.text), p.rewrite) for p in prompts]

    edits = [edit_lesson(random.Random(5 * 10**9 + k), "eval") for k in range(count)]
    compositions = [compose_lesson(random.Random(6 * 10**9 + k), "eval") for k in range(count)]
    scenes = [captioned(random.Random(10**9 + k), allow_held_out=True).scene for k in range(count)]
    questions = [x for x in (picture_lesson(random.Random(2 * 10**9 + k)) for k in range(2 * count)) if x.question != DESCRIBE]
    scores = {
        "facts": share(fact_lessons()),
        "rewrites": share(rewrites(False)),
        "rewrites_held_out": share(rewrites(True)),
        "captions": share([Lesson(DESCRIBE, describe(s), (draw(s),)) for s in scenes]),
        "questions": share(questions),
        "positions": share([x for x in questions if x.question.startswith("Where")]),
        "decisions": share([decide_lesson(random.Random(8 * 10**9 + k)) for k in range(count)]),
        "second_turns": share([second_turn(random.Random(4 * 10**9 + k)) for k in range(count)]),
        "two_pictures": share([two_picture_lesson(random.Random(3 * 10**9 + k)) for k in range(count)]),
        "edits": share(edits),
        "compositions": share(compositions),
        "dialogues": share([dialogue_lesson(random.Random(7 * 10**9 + k), "eval") for k in range(count)]),
    }
    model.train()
    return scores


def main() -> None:
    default = Settings(steps=20_000, batch_size=64, lr=1e-3, warmup=200, ema=0.998)
    work, out, settings = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    # of this run, also when the lessons change later
    folder = once(work / "tokenizer", lambda draft: make_tokenizer().save_pretrained(draft))
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    reader = Reader(make_processor(tokenizer))
    model = make_model(tokenizer)
    model.set_attn_implementation("eager")  # the backward of torch's fused attention is slow on CPU at this size
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    scores = pretrain(Lecture(model), reader.batches, settings, work, lambda _: examine(model, reader), evaluate_every=1000)

    def write(out: Path) -> None:
        model.eval().to(torch.bfloat16).save_pretrained(out)
        reader.processor.save_pretrained(out)

    finish(work, out, settings, scores, write)


if __name__ == "__main__":
    main()
