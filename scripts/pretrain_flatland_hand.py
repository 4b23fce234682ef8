"""Pretrain Flatland's hand: the Sana architecture with a small Gemma2 text encoder of its own, on plain captions only.

    python scripts/pretrain_flatland_hand.py --work ../flatland/hand --out adapters/flatland/hand

The autoencoder is read from OUT/vae (pretrain_flatland_vae.py comes first); the result is a SanaPipeline folder.
Several processes: torchrun --nproc-per-node N (with ACCELERATE_USE_CPU=true on CPU). Run the same command again to resume.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from metabridge.eval.detect.flatland import correct
from metabridge.scripts.pretrain_flatland_vae import to_images, to_pixels
from metabridge.scripts.pretraining import Settings, pretrain, settings_from_command_line
from metabridge.training.flatland.captions import TAGS, captioned
from metabridge.training.flatland.prompts import composition_prompts
from metabridge.training.flatland.world import draw
from metabridge.training.seeds import row_seed

TOKENS = 16  # of a caption, begin token and padding included
POOL = 65_536  # scenes whose latents are computed once; captions are dressed anew each time a scene comes up
DROP_TEXT = 0.1


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over captions; a begin token, so that the empty caption has a token to attend to."""
    specials = ["<pad>", "<eos>", "<bos>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((captioned(random.Random(k)).text for k in range(10_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", padding_side="right", model_max_length=TOKENS
    )


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> Gemma2Model:
    """Rotary positions and a causal mask: "red star ... blue circle" has an order from the first layer on."""
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=256,
        sliding_window=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2Model(config)


def make_transformer(channels: int) -> SanaTransformer2DModel:
    return SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=6,
        num_cross_attention_heads=6,
        cross_attention_head_dim=32,
        cross_attention_dim=192,
        caption_channels=128,
        mlp_ratio=2.0,
        sample_size=8,
        patch_size=1,
        interpolation_scale=1,
    )


class Drawing(nn.Module):
    """Flow matching under the text encoder, both trained: x_s = (1 - s) x_0 + s eps, v = eps - x_0, s logit-normal."""

    def __init__(self, transformer: SanaTransformer2DModel, text_encoder: Gemma2Model) -> None:
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latents, input_ids, mask = (x.to(self.transformer.device) for x in batch)
        embeds = self.text_encoder(input_ids, attention_mask=mask).last_hidden_state
        noise = torch.randn_like(latents)
        sigma = torch.sigmoid(torch.randn(len(latents), device=latents.device))
        s = sigma.view(-1, 1, 1, 1)
        velocity = self.transformer(
            (1 - s) * latents + s * noise, encoder_hidden_states=embeds, encoder_attention_mask=mask, timestep=sigma * 1000
        ).sample
        return F.mse_loss(velocity.float(), noise - latents)


class Studio:
    """Batches of (latents, input_ids, mask) from a pool of scenes."""

    def __init__(self, vae: AutoencoderDC, tokenizer: PreTrainedTokenizerFast, work: Path, pool: int) -> None:
        self.tokenizer, self.pool = tokenizer, pool
        file = work / f"latents-{pool}.pt"
        if not file.exists():
            torch.save(self._encode(vae), file)
        self.latents = torch.load(file, weights_only=True)

    @torch.no_grad()
    def _encode(self, vae: AutoencoderDC, chunk: int = 256) -> Tensor:
        parts = []
        for k in range(0, self.pool, chunk):
            pixels = to_pixels([draw(captioned(random.Random(r)).scene) for r in range(k, min(k + chunk, self.pool))])
            parts.append((vae.encode(pixels.to(vae.device)).latent * vae.config.scaling_factor).cpu())
        return torch.cat(parts)

    def batch(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        texts, picks = [], []
        for r in rows:
            index = r % self.pool
            picks.append(index)
            texts.append("" if row_seed(r, 1, 0) % 1000 < 1000 * DROP_TEXT else captioned(random.Random(index)).text)
        tokens = self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return self.latents[picks], tokens.input_ids, tokens.attention_mask


def make_pipeline(model: Drawing, vae: AutoencoderDC, tokenizer: PreTrainedTokenizerFast) -> SanaPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return SanaPipeline(tokenizer, model.text_encoder, vae, model.transformer, scheduler)


@torch.no_grad()
def examine(pipeline: SanaPipeline, count: int, guidance_scale: float, chunk: int = 50) -> dict[str, float]:
    """Share of right drawings per tag on unseen prompts, and on the color x shape pairs that no training showed."""
    pipeline.set_progress_bar_config(disable=True)

    def share(tag: str, held_out: bool) -> float:
        prompts = composition_prompts(tag, count, seed=1, held_out=held_out)
        right = 0
        for k in range(0, len(prompts), chunk):
            part = prompts[k : k + chunk]
            generators = [torch.Generator().manual_seed(1000 * (k + i)) for i in range(len(part))]
            latents = torch.stack([torch.randn(pipeline.transformer.config.in_channels, 8, 8, generator=g) for g in generators])
            images = pipeline(
                [p.text for p in part],
                height=64,
                width=64,
                latents=latents.to(pipeline.device),
                num_inference_steps=20,
                guidance_scale=guidance_scale,
                max_sequence_length=TOKENS,
                complex_human_instruction=None,
                use_resolution_binning=False,
                output_type="pt",
            ).images
            right += sum(correct(image, p.want)[0] for image, p in zip(to_images(images * 2 - 1), part, strict=True))
        return right / len(prompts)

    scores = {tag: share(tag, held_out=False) for tag in TAGS}
    return {**scores, **{f"{tag}_held_out": share(tag, held_out=True) for tag in ("colors", "color_attr")}}


def main() -> None:
    default = Settings(steps=6000, batch_size=64, lr=1e-3, warmup=200, ema=0.999)
    work, out, settings, _ = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    vae = AutoencoderDC.from_pretrained(out / "vae", torch_dtype=torch.float32)
    tokenizer = make_tokenizer()
    model = Drawing(make_transformer(vae.config.latent_channels), make_text_encoder(tokenizer))
    model.text_encoder.set_attn_implementation("eager")  # the backward of torch's fused attention is slow on CPU at this size
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    print(f"{sizes}, {len(tokenizer)} tokens")
    studio = Studio(vae.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, work, POOL)
    pipeline = make_pipeline(model, vae, tokenizer)
    pretrain(model, studio.batch, settings, work, lambda _: examine(pipeline, 50, guidance_scale=2.5), evaluate_every=1000)
    pipeline.to(torch.bfloat16).save_pretrained(out)


if __name__ == "__main__":
    main()
