"""Pretrain Flatland's second hand: a UNet that predicts noise, and a small CLIP text encoder of its own, on plain captions only.

    python scripts/pretrain_flatland_sd_hand.py --work ../flatland/sd_hand --out adapters/flatland/hand_sd

The autoencoder is read from OUT/vae (pretrain_flatland_sd_vae.py comes first); the result is a StableDiffusionPipeline folder.
Several processes: torchrun --nproc-per-node N. Run the same command again to resume.
"""

from __future__ import annotations

import json
import random
import string
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from metabridge.bridge.objective import TRAIN_TIMESTEPS, diffusion_noisy, squared_error
from metabridge.scripts.pretrain_flatland_hand import POOL, TOKENS, Studio, examine
from metabridge.scripts.pretraining import Settings, finish, once, pretrain, processes, settings_from_command_line
from metabridge.training.flatland.captions import captioned

# linear: no light of the picture is left at the last timestep, where drawing starts from pure noise (Lin et al. 2023)
SCHEDULE = {"num_train_timesteps": TRAIN_TIMESTEPS, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's own way of cutting words, with the world's words as its vocabulary."""
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    tokenizer = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, **specials)
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    corpus = [" ".join(string.printable), *(captioned(random.Random(k)).text for k in range(10_000))]  # any letter can end a word
    tokenizer.backend_tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS, **specials)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Learned positions as large as the tokens' embeddings, and a causal mask: "red star ... blue circle" has an order."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        projection_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    for embedding in (m for m in model.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(embedding.weight, std=0.5)
    return model


def make_unet(channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=96,
        attention_head_dim=4,  # a number of heads, by an old slip of diffusers
        norm_num_groups=16,
    )


class Drawing(nn.Module):
    """The noise in a noised picture (Ho et al. 2020) under the text encoder, both trained; timesteps are uniform."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.alphas_cumprod: Tensor
        self.register_buffer("alphas_cumprod", DDPMScheduler(**SCHEDULE).alphas_cumprod, persistent=False)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latents, input_ids, _ = (x.to(self.unet.device) for x in batch)
        # no mask over the padding, neither here nor in the official pipeline
        embeds = self.text_encoder(input_ids).last_hidden_state
        noise = torch.randn_like(latents)
        timestep = torch.randint(0, TRAIN_TIMESTEPS, (len(latents),), device=latents.device)
        alpha_bar = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        predicted = self.unet(diffusion_noisy(latents, noise, alpha_bar), timestep, embeds).sample
        return squared_error(predicted.float(), noise).mean()


def make_pipeline(model: Drawing, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1)
    return StableDiffusionPipeline(vae, model.text_encoder, tokenizer, model.unet, scheduler, **unused)


def main() -> None:
    default = Settings(steps=6500, batch_size=64, lr=1e-3, warmup=200, ema=0.999)
    work, out, settings = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    vae = AutoencoderKL.from_pretrained(out / "vae", dtype=torch.float32)
    # of this run, also when the captions change later
    tokenizer = CLIPTokenizer.from_pretrained(once(work / "tokenizer", lambda draft: make_tokenizer().save_pretrained(draft)))
    model = Drawing(make_unet(vae.config.latent_channels), make_text_encoder(tokenizer))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    print(f"{sizes}, {len(tokenizer)} tokens")
    studio = Studio(vae.to(processes().device), tokenizer, work, POOL)
    pipeline = make_pipeline(model, vae, tokenizer)
    scores = pretrain(model, studio.batch, settings, work, lambda _: examine(pipeline, 50, steps=15), evaluate_every=1000)
    finish(work, out, settings, scores, pipeline.to(torch.bfloat16).save_pretrained)


if __name__ == "__main__":
    main()
