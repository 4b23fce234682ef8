"""Tiny real checkpoints in the hub's layout: the real classes of transformers and diffusers, random weights, no download."""

from __future__ import annotations

import string
from pathlib import Path

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from metabridge.adapters.processors import image_only

CORPUS = [
    "a photo of a red cat on the green mat",
    "draw the same dog but blue, in the snow",
    "a small yellow bird to the left of a large purple square",
    "user assistant system describe this picture 0123456789 .,:;!?'\"()-",
]
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
PATCH = 8


def tokenizer(specials: list[str], padding_side: str, **named: str) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE of some 320 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310 + len(specials), special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, padding_side=padding_side, **named)


def qwen_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return tokenizer(QWEN_TOKENS, "left", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_brain(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL of some 100 thousand parameters, with its tokenizer, chat template and image-only processor."""
    words = qwen_tokenizer()
    ids = {
        name: words.convert_tokens_to_ids(token)
        for name, token in zip(("pad", "bos", "eos", "start", "end", "image", "video"), QWEN_TOKENS, strict=True)
    }
    text = TEXT | {
        "vocab_size": len(words),
        "pad_token_id": ids["pad"],
        "eos_token_id": ids["eos"],
        "bos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": PATCH,
        "out_hidden_size": 32,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = spread(transformers.Qwen2_5_VLForConditionalGeneration(config))
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 4 * PATCH**2, "longest_edge": 64 * PATCH**2}
    )
    processor = image_only(transformers.Qwen2_5_VLProcessor)(image_processor=pictures, tokenizer=words, chat_template=CHAT_TEMPLATE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_causal_lm(folder: Path, seed: int = 0) -> Path:
    """A text-only Qwen2."""
    words = qwen_tokenizer()
    words.chat_template = CHAT_TEMPLATE
    config = transformers.Qwen2Config(
        **TEXT, vocab_size=len(words), pad_token_id=0, eos_token_id=words.eos_token_id, bos_token_id=None, tie_word_embeddings=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = spread(transformers.Qwen2ForCausalLM(config))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def gemma() -> tuple[transformers.PreTrainedTokenizerFast, transformers.Gemma2Model]:
    """The text encoder of Sana and Lumina 2, of width 16, with its tokenizer."""
    words = tokenizer(["<pad>", "<eos>", "<bos>"], "right", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    # as Gemma's: the empty caption has a token to attend to
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    config = transformers.Gemma2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=512,
    )
    return words, transformers.Gemma2Model(config)


def make_hand(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    """A SanaPipeline folder: 64x64 pixels, latents 4 x 16 x 16, conditioning width 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=16,
            patch_size=1,
        )
        vae = diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types=("ResBlock",) * 3,
            decoder_block_types=("ResBlock",) * 3,
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
            scaling_factor=0.5,
        )
        words, encoder = gemma()
        for model in (transformer, vae, encoder):
            spread(model)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
    diffusers.SanaPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **encoders).save_pretrained(folder)
    return folder


def make_sd_hand(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    """A StableDiffusionPipeline folder: 64x64 pixels, latents 4 x 16 x 16, conditioning width 16, captions of 16 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = diffusers.AutoencoderKL(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        letters = {letter: k for k, letter in enumerate(["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase])}
        vocab = letters | {f"{letter}</w>": len(letters) + k for k, letter in enumerate(string.ascii_lowercase)}
        words = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)
        clip = transformers.CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        encoder = transformers.CLIPTextModel(clip)
        for model in (unet, vae, encoder):
            spread(model)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    diffusers.StableDiffusionPipeline(unet=unet, vae=vae, scheduler=scheduler, **encoders, **unused).save_pretrained(folder)
    return folder


def recipe_tree(brain: Path, hand: Path) -> dict[str, object]:
    """The smallest recipe over them."""
    return {
        "name": "tiny",
        "brain": {"name": "auto", "repo": str(brain)},
        "hand": {"name": "sana", "repo": str(hand), "max_sequence_length": 16, "guidance_scale": 3.0, "steps": 3},
        "connector": {"queries": 5, "taps": [-1], "width": 24, "layers": 2, "heads": 2},
        "data": [{"source": "flatland"}],
    }


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that start at zero or nearly so, drawn anew, so that a test can see every path."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embed" not in name:
            fan_in = parameter.shape[-1] if "experts" in name else parameter[0].numel()  # experts are stacked
            torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval()
