"""Pretrain the autoencoder of Flatland's second hand: AutoencoderKL, 64 x 64 pixels -> 16 x 16 latents.

    python scripts/pretrain_flatland_sd_vae.py --work ../flatland/sd_vae --out adapters/flatland/hand_sd/vae

Several processes: torchrun --nproc-per-node N. Run the same command again to resume.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from metabridge.scripts.pretrain_flatland_vae import train_vae
from metabridge.scripts.pretraining import Settings, settings_from_command_line

CHANNELS = 4


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
    )


class Reconstruction(nn.Module):
    """Pixels from a sample of the posterior, which a small divergence holds near the unit normal (Rombach et al. 2022)."""

    def __init__(self, vae: AutoencoderKL, divergence: float = 1e-3) -> None:
        super().__init__()
        self.vae, self.divergence = vae, divergence

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.vae.device)
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        per_number: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(decoded, pixels) + 4 * F.mse_loss(decoded, pixels) + self.divergence * per_number


def main() -> None:
    default = Settings(steps=2000, batch_size=32, lr=2e-3, ema=0.995, checkpoint_every=250)
    work, out, settings = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    vae = make_vae()
    train_vae(vae, Reconstruction(vae), work, out, settings, evaluate_every=250)


if __name__ == "__main__":
    main()
