"""Pretrain Flatland's hand: the Sana architecture with a small Gemma2 text encoder of its own, on plain captions only.

    python scripts/pretrain_flatland_hand.py --work ../flatland/hand --out adapters/flatland/hand

The autoencoder is read from OUT/vae (pretrain_flatland_vae.py comes first); the result is a SanaPipeline folder.
Several processes: torchrun --nproc-per-node N. Run the same command again to resume.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionPipeline,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from metabridge.adapters.pretrained import latents_of
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.objective import TRAIN_TIMESTEPS, flow_noisy, flow_target, squared_error
from metabridge.eval.detect.flatland import correct
from metabridge.scripts.pretrain_flatland_vae import SIZE
from metabridge.scripts.pretraining import Row, Settings, finish, once, pixels_of, pretrain, processes, settings_from_command_line
from metabridge.training.flatland.captions import TAGS, bare, captioned, dress
from metabridge.training.flatland.prompts import composition_prompts
from metabridge.training.flatland.world import draw

TOKENS = 16  # of a caption, begin token and padding included
POOL = 65_536  # scenes whose latents are computed once; their captions are dressed anew each time a scene comes up
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
    """Flow matching under the text encoder, both trained; s is logit-normal."""

    def __init__(self, transformer: SanaTransformer2DModel, text_encoder: Gemma2Model) -> None:
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latents, input_ids, mask = (x.to(self.transformer.device) for x in batch)
        embeds = self.text_encoder(input_ids, attention_mask=mask).last_hidden_state
        noise = torch.randn_like(latents)
        s = torch.sigmoid(torch.randn(len(latents), 1, 1, 1, device=latents.device))
        velocity = self.transformer(
            flow_noisy(latents, noise, s),
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            timestep=TRAIN_TIMESTEPS * s.flatten(),
        ).sample
        return squared_error(velocity.float(), flow_target(latents, noise)).mean()


class Studio:
    """Batches of (latents, input_ids, mask) from a pool of scenes. The pool's file is this VAE's, of this name."""

    def __init__(self, vae: AutoencoderDC | AutoencoderKL, tokenizer: PreTrainedTokenizerBase, work: Path, pool: int) -> None:
        self.tokenizer = tokenizer
        name = f"pool-{pool}-{fingerprint(vae.state_dict())[:12]}.pt"
        saved = torch.load(once(work / name, lambda draft: torch.save(fill_pool(vae, pool), draft)), weights_only=True)
        self.latents, self.texts = saved["latents"], saved["texts"]

    def batch(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        texts, picks = [], []
        for row in rows:
            rng = random.Random(row.seed)
            picks.append(rng.randrange(len(self.texts)))
            texts.append("" if rng.random() < DROP_TEXT else dress(rng, self.texts[picks[-1]], "train"))
        tokens = self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return self.latents[picks], tokens.input_ids, tokens.attention_mask


@torch.no_grad()
def fill_pool(vae: AutoencoderDC | AutoencoderKL, pool: int, chunk: int = 256) -> dict[str, Tensor | list[str]]:
    """Latents [pool, C, h, w] and bare captions."""
    parts: list[Tensor] = []
    texts: list[str] = []
    for k in range(0, pool, chunk):
        rows = [captioned(random.Random(r)) for r in range(k, min(k + chunk, pool))]
        pixels = pixels_of([draw(row.scene) for row in rows])
        parts.append((latents_of(vae, pixels.to(vae.device)) * vae.config.scaling_factor).cpu())
        texts += [bare(row.text) for row in rows]
    return {"latents": torch.cat(parts), "texts": texts}


def make_pipeline(model: Drawing, vae: AutoencoderDC, tokenizer: PreTrainedTokenizerFast) -> SanaPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return SanaPipeline(tokenizer, model.text_encoder, vae, model.transformer, scheduler)


@torch.no_grad()
def examine(
    pipeline: SanaPipeline | StableDiffusionPipeline, count: int, steps: int = 10, guidance_scale: float = 2.0, chunk: int = 50
) -> dict[str, float]:
    """Share of right drawings per tag on unseen prompts, and on the color x shape pairs that no training showed."""
    pipeline.set_progress_bar_config(disable=True)
    sana = isinstance(pipeline, SanaPipeline)
    config = (pipeline.transformer if sana else pipeline.unet).config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    own = {"max_sequence_length": TOKENS, "complex_human_instruction": None, "use_resolution_binning": False} if sana else {}

    def share(tag: str, held_out: bool) -> float:
        prompts = composition_prompts(tag, count, seed=1, held_out=held_out)
        right = 0
        for k in range(0, len(prompts), chunk):
            part = prompts[k : k + chunk]
            generators = [torch.Generator().manual_seed(1000 * (k + i)) for i in range(len(part))]
            latents = torch.stack([torch.randn(shape, generator=g) for g in generators])
            images = pipeline(
                [p.text for p in part],
                height=SIZE[0],
                width=SIZE[1],
                latents=latents.to(pipeline.device),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                **own,
            ).images
            right += sum(correct(image, p.want)[0] for image, p in zip(images, part, strict=True))
        return right / len(prompts)

    scores = {tag: share(tag, held_out=False) for tag in TAGS}
    return {**scores, **{f"{tag}_held_out": share(tag, held_out=True) for tag in ("colors", "color_attr")}}


def main() -> None:
    default = Settings(steps=4600, batch_size=64, lr=1e-3, warmup=200, ema=0.999)
    work, out, settings = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    vae = AutoencoderDC.from_pretrained(out / "vae", dtype=torch.float32)
    # of this run, also when the captions change later
    folder = once(work / "tokenizer", lambda draft: make_tokenizer().save_pretrained(draft))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Drawing(make_transformer(vae.config.latent_channels), make_text_encoder(tokenizer))
    model.text_encoder.set_attn_implementation("eager")  # the backward of torch's fused attention is slow on CPU at this size
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    print(f"{sizes}, {len(tokenizer)} tokens")
    studio = Studio(vae.to(processes().device), tokenizer, work, POOL)
    pipeline = make_pipeline(model, vae, tokenizer)
    scores = pretrain(model, studio.batch, settings, work, lambda _: examine(pipeline, 50), evaluate_every=1000)
    finish(work, out, settings, scores, pipeline.to(torch.bfloat16).save_pretrained)


if __name__ == "__main__":
    main()
