"""A hand that denoises: loss and draw from one `predict` and a scheduler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metabridge.bridge import objective as equations
from metabridge.bridge.interfaces import Condition, Hand
from metabridge.bridge.sampling import denoise, guide, initial_noise
from metabridge.bridge.settings import Objective


class DiffusionHand(Hand):
    """Gives `loss` and `draw`; an adapter gives `predict`, `encode`, `decode` and the scheduler of its checkpoint."""

    scheduler: Any  # diffusers' own, as the checkpoint's folder describes it; never changed, each draw takes a copy
    masked: bool = True  # False: the denoiser has no mask and attends to all it is given

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """[B, C, h, w], timestep [B] in 0..1000 with 1000 = noise -> what the checkpoint predicts, float32, in the scheduler's sign."""
        raise NotImplementedError

    def guide(self, predictions: Sequence[Tensor], guidance: Sequence[float]) -> Tensor:
        """Predictions from the weakest condition to the full one -> one; hands whose official pipeline rescales it override it."""
        return guide(predictions, guidance)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        """A fresh scheduler with its timesteps set; hands whose schedule depends on the picture's size override it."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps, device=device)
        return scheduler

    def loss(
        self,
        latents: Tensor,
        condition: Condition,
        objective: Objective,
        noise_seeds: Sequence[int],
        teacher: Condition | None = None,
        taught: Tensor | None = None,
    ) -> Tensor:
        noisy, timestep, target = self._noised(latents, objective, noise_seeds)
        prediction = self.predict(noisy, timestep, condition)
        data = equations.squared_error(prediction, target)
        if teacher is None:
            return data
        rows = torch.arange(len(data), device=data.device) if taught is None else taught
        with torch.no_grad(), self.untouched():
            native = self.predict(noisy[rows], timestep[rows], teacher)
        distilled = equations.squared_error(prediction[rows], native)
        return data.index_copy(0, rows, equations.mix_distillation(data[rows], distilled, objective.distill))

    def respond(self, latents: Tensor, condition: Condition, objective: Objective, noise_seeds: Sequence[int]) -> Tensor:
        noisy, timestep, _ = self._noised(latents, objective, noise_seeds)
        return self.predict(noisy, timestep, condition)

    def draw(
        self,
        condition: Condition,
        nulls: Sequence[Condition],
        shape: tuple[int, int, int],
        steps: int,
        guidance: Sequence[float],
        generators: Sequence[torch.Generator],
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        adjust: Callable[[Any, int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        if not self.masked and not all(bool(told.mask.all()) for told in (condition, *nulls)):
            raise ValueError("this denoiser has no mask: conditions of different lengths cannot be drawn in one batch")
        device = condition.embeds.device
        scheduler = self.schedule(steps, shape, device)
        latents = initial_noise(shape, generators, device)
        return denoise(self.predict, self.guide, scheduler, latents, condition, nulls, guidance, generators, callback, adjust)

    def _noised(self, latents: Tensor, objective: Objective, noise_seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, timestep [B] and target."""
        sigma, noise = self._draw_noise(latents, objective, noise_seeds)
        return self._targets(latents, noise, sigma)

    def _draw_noise(self, latents: Tensor, objective: Objective, noise_seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sigma [B, 1, 1, 1] and noise [B, C, h, w]; row i knows nothing but its seed."""
        sigmas, noises = [], []
        for seed in noise_seeds:
            generator = torch.Generator().manual_seed(seed)
            sigmas.append(equations.sample_sigma(generator, objective))
            noises.append(torch.randn(latents.shape[1:], generator=generator))
        sigma, noise = (torch.stack(drawn).to(latents, non_blocking=True) for drawn in (sigmas, noises))  # the host runs ahead
        return sigma.view(-1, 1, 1, 1), noise

    def _targets(self, x0: Tensor, eps: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, timestep [B] and target, by what the checkpoint predicts."""
        if self.prediction == "flow":
            timestep = equations.TRAIN_TIMESTEPS * sigma.flatten()
            return equations.flow_noisy(x0, eps, sigma), timestep, equations.flow_target(x0, eps)
        timestep = (equations.TRAIN_TIMESTEPS * sigma.flatten()).long().clamp(max=equations.TRAIN_TIMESTEPS - 1)
        alpha_bar = self.scheduler.alphas_cumprod.to(x0, non_blocking=True)[timestep].view(-1, 1, 1, 1)
        target = eps if self.prediction == "epsilon" else equations.v_target(x0, eps, alpha_bar)
        return equations.diffusion_noisy(x0, eps, alpha_bar), timestep, target
