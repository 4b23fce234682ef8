"""The models that ship reach their bars; small samples of what docs/flatland.md reports in full."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, SanaPipeline
from transformers import AutoConfig, AutoModelForImageTextToText

from metabridge.adapters import load_pipeline
from metabridge.adapters.locate import locate
from metabridge.adapters.processors import load_processor
from metabridge.eval.detect.flatland import correct
from metabridge.scripts.pretrain_flatland_brain import Reader, examine
from metabridge.scripts.pretrain_flatland_hand import examine as examine_hand
from metabridge.scripts.pretrain_flatland_vae import kept
from metabridge.training.flatland.prompts import composition_prompts, reasoning_prompts

FLATLAND = Path(__file__).parents[2] / "adapters" / "flatland"
pytestmark = pytest.mark.slow


def test_the_weights_are_bfloat16_and_small():
    files = list(FLATLAND.rglob("*.safetensors"))
    assert len(files) == 5  # brain, vae, transformer, text encoder, bridge
    assert sum(f.stat().st_size for f in files) <= 25e6


def test_the_brain_knows_its_facts_and_reads_pictures():
    path = locate("package:flatland/brain", "main")
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    scores = examine(model, Reader(load_processor(path, "main")), count=84)
    assert AutoConfig.from_pretrained(path).model_type == "qwen2_5_vl"
    assert scores["facts"] >= 0.98
    assert scores["rewrites"] >= 0.95
    assert scores["captions"] >= 0.85


def test_the_autoencoder_keeps_what_the_checker_reads():
    vae = AutoencoderDC.from_pretrained(FLATLAND / "hand" / "vae", dtype=torch.float32)
    assert min(kept(vae, count=50).values()) >= 0.98


def test_the_hand_draws_captions_under_its_own_text_encoder():
    pipeline = SanaPipeline.from_pretrained(FLATLAND / "hand", dtype=torch.float32)
    scores = examine_hand(pipeline, 25, guidance_scale=3.0)
    bars = {"single": 0.90, "colors": 0.90, "counting": 0.60, "two_object": 0.60}
    # 25 drawings a tag: two standard errors below the bar, so that the luck of a small sample does not fail the test
    assert all(scores[tag] >= bar - 2 * (bar * (1 - bar) / 25) ** 0.5 for tag, bar in bars.items()), scores


@pytest.mark.parametrize(("kind", "think", "bar"), [("single", False, 0.90), ("color_fact", True, 0.80), ("two_hop", True, 0.80)])
def test_the_bridge_draws_what_is_asked(kind, think, bar):
    pipeline = load_pipeline("flatland")
    prompts = reasoning_prompts(kind, 25, seed=2) if think else composition_prompts(kind, 25, seed=2)
    drawn = pipeline([p.text for p in prompts], think=think, seeds=range(25))
    right = [correct(image, p.want)[0] for image, p in zip(drawn.images, prompts, strict=True)]
    assert sum(right) / 25 >= bar - 2 * (bar * (1 - bar) / 25) ** 0.5
    if think:
        assert sum(thought == p.rewrite for thought, p in zip(drawn.thoughts, prompts, strict=True)) >= 24
