"""A diffusers pipeline as the subject: what its own users get by calling it, and what the hand's native drawing gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from hand_families import FAMILIES
from PIL import Image
from safetensors.torch import load_file, save_file

from metabridge.adapters import assemble
from metabridge.bridge.errors import UserError
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.eval import plan
from metabridge.eval.generate import drawn, generate
from metabridge.eval.items import MODEL_ERROR, OK
from metabridge.eval.plan import Sample
from metabridge.eval.subjects.bridge import BridgeSubject
from metabridge.eval.subjects.pipeline import PipelineSubject, load
from tests.eval.small_benchmark import NOTHING, planned, small


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_sd_hand(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="module")
def editor_folder(sd_folder: Path) -> Path:
    folder = sd_folder.parent / "editor"
    open_official(sd_folder, diffusers.StableDiffusionImg2ImgPipeline).save_pretrained(folder)
    return folder


def open_official(folder: Path, kind: Any = diffusers.DiffusionPipeline) -> Any:
    pipeline = kind.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples_of(subject: PipelineSubject, **options: Any) -> list[Sample]:
    return planned(small(images=1, **options), subject).samples()


def arrays(drawings: Any) -> list[np.ndarray]:
    assert all(drawing.state == OK for drawing in drawings), [drawing.reason for drawing in drawings]
    return [np.asarray(drawing.image) for drawing in drawings]


def test_draws_what_the_hand_draws_under_its_own_text_encoder(sd_folder: Path, brain_folder: Path) -> None:
    tree = {**tiny.recipe_tree(brain_folder, sd_folder), "hand": {"name": "stable_diffusion", "repo": str(sd_folder)}}
    bridge = BridgeSubject(BridgePipeline(assemble(Recipe.from_dict(tree))), {})
    subject = load(str(sd_folder), benchmark=small())
    samples = samples_of(subject)
    asked = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 48, "width": 64}
    ours, native = (arrays(one.draw(row, samples, [()] * 4, asked)) for one, row in ((subject, "bridge"), (bridge, "native")))
    for a, b in zip(ours, native, strict=True):
        assert a.shape == (48, 64, 3) and np.abs(a.astype(int) - b).max() <= 1
    assert len({a.tobytes() for a in ours}) == 4


def test_sana_is_called_as_its_users_call_it(hand_folder: Path) -> None:
    """Its instruction before the prompt, its steps and its guidance, which the plan says."""
    subject = load(str(hand_folder), benchmark=small())
    settings = subject.generation({**NOTHING, "num_inference_steps": 2, "height": 64, "width": 64})
    assert settings == {"num_inference_steps": 2, "guidance_scale": 4.5, "height": 64, "width": 64}
    sample = samples_of(subject)[1]
    (found,) = arrays(subject.draw("bridge", [sample], [()], settings))
    official = open_official(hand_folder)
    (expected,) = official(sample.item.text, generator=seeded(sample.seed), num_inference_steps=2, height=64, width=64).images
    assert (found == np.asarray(expected)).all()


def test_guidance_goes_to_where_the_pipeline_is_guided(tmp_path: Path) -> None:
    """Qwen-Image's own guidance_scale does nothing, and its true_cfg_scale nothing without a negative prompt."""
    FAMILIES["qwen_image"].make(tmp_path / "qwen")
    subject = load(str(tmp_path / "qwen"), benchmark=small())
    assert subject.generation(NOTHING)["guidance_scale"] == 4.0
    sample, size = samples_of(subject)[0], {"height": 32, "width": 32, "num_inference_steps": 2}
    official = open_official(tmp_path / "qwen")
    for scale in (1.0, 3.0):
        (found,) = arrays(subject.draw("bridge", [sample], [()], subject.generation({"guidance_scale": scale, **size})))
        guided = {"negative_prompt": " "} if scale > 1 else {}
        (expected,) = official(sample.item.text, generator=seeded(sample.seed), true_cfg_scale=scale, **guided, **size).images
        assert (found == np.asarray(expected)).all()


def test_guidance_that_no_denoiser_is_told_is_refused(tmp_path: Path) -> None:
    """FLUX.1 [schnell] goes by no guidance, and its pipeline would take one all the same."""
    for name, guidance in [("flux", 3.5), ("flux_schnell", None)]:
        FAMILIES[name].make(tmp_path / name)
        subject = load(str(tmp_path / name), benchmark=small())
        assert subject.generation(NOTHING).get("guidance_scale") == guidance
    line = refused(lambda: subject.generation({**NOTHING, "guidance_scale": 3.0}))
    assert line == "--guidance: has no effect on a FluxPipeline; leave it out"


def test_parts_that_a_folder_was_saved_without(tmp_path: Path) -> None:
    """Stable Diffusion 3.5 without its T5, which diffusers loads only when told so."""
    FAMILIES["sd35"].make(tmp_path / "sd35")
    subject = load(str(tmp_path / "sd35"), benchmark=small())
    (one,) = arrays(subject.draw("bridge", samples_of(subject)[:1], [()], {"num_inference_steps": 1, "height": 64, "width": 64}))
    assert one.shape == (64, 64, 3)


def test_the_plan_holds_the_defaults_of_the_signature(sd_folder: Path) -> None:
    subject = load(str(sd_folder), benchmark=small())
    assert subject.generation(NOTHING) == {"num_inference_steps": 50, "guidance_scale": 7.5, "height": None, "width": None}
    assert (subject.identity["kind"], subject.identity["pipeline"]) == ("diffusers", "StableDiffusionPipeline")
    assert (subject.identity["dtype"], subject.identity["revision"]) == ("float32", "main")
    (one,) = arrays(subject.draw("bridge", samples_of(subject)[:1], [()], {"num_inference_steps": 1, "height": None}))
    assert one.shape == (64, 64, 3)  # what it makes of its parts


def test_a_run_that_was_stopped_ends_as_a_whole_one(sd_folder: Path, tmp_path: Path) -> None:
    """Only what lacks is drawn again, to the same bits."""
    subject = load(str(sd_folder), benchmark=small())
    made = planned(small(), subject, num_inference_steps=1)
    generate(made, tmp_path / "whole", subject)
    generate(made, tmp_path / "parts", subject)
    lost = made.samples()[3]
    (tmp_path / "parts" / lost.file).unlink()

    class Counted(PipelineSubject):
        asked: list[str]

        def draw(self, row: str, samples: Any, *rest: Any) -> Any:
            self.asked = [sample.key for sample in samples]
            return super().draw(row, samples, *rest)

    again = Counted("sd", subject._pipeline, {"fingerprint": ""})
    heard: list[tuple[int, bool]] = []
    generate(made, tmp_path / "parts", again, lambda *said: heard.append(said))
    assert again.asked == [lost.key] and heard == [(7, False), (1, True)]
    for sample in made.samples():
        assert (tmp_path / "parts" / sample.file).read_bytes() == (tmp_path / "whole" / sample.file).read_bytes()


def test_edits_start_from_the_picture(editor_folder: Path, sd_folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    benchmark = small(images=1, task="edit", edit=True)
    subject = load(str(editor_folder), benchmark=benchmark)
    made = planned(benchmark, subject, num_inference_steps=2)
    assert made.identity["generation"]["guidance_scale"] == 7.5 and "height" not in made.identity["generation"]
    picture.save(tmp_path / "source.png")
    generate(made, tmp_path / "out", subject, data=tmp_path)
    sample = made.samples()[2]
    official = open_official(editor_folder)
    (expected,) = official(sample.item.text, image=picture, generator=seeded(sample.seed), num_inference_steps=2).images
    with Image.open(tmp_path / "out" / sample.file) as image:
        assert (np.asarray(image) == np.asarray(expected)).all()

    assert refused(lambda: load(str(sd_folder), benchmark=benchmark)) == (
        f"diffusers:{sd_folder}: a StableDiffusionPipeline takes no picture, and one comes with each prompt; give a pipeline that edits"
    )
    # a suite may begin with prompts alone
    drawer = load(str(sd_folder), benchmark=small())
    assert "takes no picture" in refused(lambda: drawer.draw("bridge", [sample], [[picture]], {}))


def test_nan_counts_as_the_models_error(sd_folder: Path, tmp_path: Path) -> None:
    subject = load(str(sd_folder), benchmark=small())
    with torch.no_grad():
        subject._pipeline.vae.decoder.conv_out.bias[0] = torch.nan
    made = planned(small(images=1), subject, num_inference_steps=1)
    generate(made, tmp_path, subject)
    said = {(record["state"], record["reason"]) for record in drawn(tmp_path).values()}
    assert said == {(MODEL_ERROR, "the picture has NaN or infinite pixels")}


def test_what_the_safety_checker_takes_away_is_the_models_error(sd_folder: Path) -> None:
    """A checker whose threshold everything is above."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0)
    official = open_official(sd_folder)
    official.register_modules(
        safety_checker=checker, feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    )
    subject = PipelineSubject("sd", official, {})
    (drawing,) = subject.draw("bridge", samples_of(subject)[:1], [()], {"num_inference_steps": 1})
    assert (drawing.image, drawing.state) == (None, MODEL_ERROR)
    assert drawing.reason == "the pipeline's safety checker took the picture away"


def fingerprint(folder: Path, **options: Any) -> str:
    return load(str(folder), benchmark=small(), **options).identity["fingerprint"]


def test_fingerprint_is_of_weights_and_settings(sd_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(sd_folder, tmp_path / "moved")
    before = fingerprint(sd_folder)
    assert fingerprint(moved) == before != fingerprint(moved, dtype="bfloat16")
    scheduler = moved / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    other = fingerprint(moved)
    assert other != before
    (weights,) = (moved / "text_encoder").glob("*.safetensors")
    tensors = load_file(weights)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first] + 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert fingerprint(moved) not in (before, other)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_that_lacks_a_weight_is_refused(part: str, sd_folder: Path, tmp_path: Path) -> None:
    """It would be drawn at random."""
    folder = shutil.copytree(sd_folder, tmp_path / "damaged")
    (weights,) = (folder / part).glob("*.safetensors")
    tensors = load_file(weights)
    lost = sorted(name for name in tensors if tensors[name].dim() > 1)[0]
    del tensors[lost]
    save_file(tensors, weights, metadata={"format": "pt"})
    line = refused(lambda: load(str(folder), benchmark=small()))
    assert line.startswith(f"diffusers:{folder}: cannot be loaded (") and lost.removeprefix("text_model.") in line
    assert line.endswith("); see that the folder is whole and that all it needs is installed")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(sd_folder: Path, editor_folder: Path, tmp_path: Path) -> None:
    subject, editor = load(str(sd_folder), benchmark=small()), load(str(editor_folder), benchmark=small(task="edit", edit=True))
    line = refused(lambda: editor.generation({**NOTHING, "height": 64, "width": 64}))
    assert line == "--size: has no effect on a StableDiffusionImg2ImgPipeline; leave it out"
    rows = plan.make(small(), subject.identity, {}, {}, rows=["rewrite"]).samples()
    line = refused(lambda: subject.draw("rewrite", rows, [()] * 8, {}))
    assert line == "--rows rewrite: only a bridge draws in several ways; leave it out"
    line = refused(lambda: subject.draw("bridge", samples_of(subject)[:1], [()], {"height": 50, "width": 64}))
    assert line.startswith(
        f"diffusers:{sd_folder}: a StableDiffusionPipeline refuses bridge/animals/cat-0 (`height` and `width` have to be"
    )
    line = refused(lambda: load(str(sd_folder), benchmark=small(), dtype="int8"))
    assert line == "--dtype int8: no such type; it may be one of: bfloat16, float16, float32"
    assert refused(lambda: load(str(tmp_path), benchmark=small())) == (
        f"diffusers:{tmp_path}: no model_index.json there; give a pipeline's folder, or a hub id"
    )
    line = refused(lambda: load("nobody/nothing@v1", benchmark=small()))
    assert line.startswith("diffusers:nobody/nothing@v1: cannot be loaded (")
    assert line.endswith("); check the name, the network and your access to it")


def test_pipelines_of_another_kind_are_refused(sd_folder: Path, tmp_path: Path) -> None:
    mute = tiny.make_sd_hand(tmp_path / "mute", text_encoder=False)
    assert refused(lambda: load(str(mute), benchmark=small())) == (
        f"diffusers:{mute}: a StableDiffusionPipeline without its text encoder cannot read prompts; give the whole pipeline"
    )
    parts = open_official(sd_folder)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    assert refused(lambda: load(str(tmp_path / "ddpm"), benchmark=small())) == (
        f"diffusers:{tmp_path}/ddpm: a DDPMPipeline takes no prompt; give a pipeline that draws from text, by a seed"
    )
    parts = {name: part for name, part in parts.components.items() if name != "image_encoder"}
    diffusers.StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "attend")
    assert refused(lambda: load(str(tmp_path / "attend"), benchmark=small())) == (
        f"diffusers:{tmp_path}/attend: a StableDiffusionAttendAndExcitePipeline needs token_indices as well, which small does not have"
    )
