"""Objectives and sampling against closed forms, on a hand whose best prediction is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import diffusers
import pytest
import torch
from torch import Tensor

from metabridge.bridge import objective as equations
from metabridge.bridge.diffusion import DiffusionHand
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.sampling import denoise, guide, initial_noise
from metabridge.bridge.settings import Objective

SHAPE = (2, 3, 3)
POINT = torch.linspace(-1, 1, 18).view(1, *SHAPE)


def condition(value: float = 0.0, rows: int = 1) -> Condition:
    return Condition(torch.full((rows, 1, 1), value), torch.ones(rows, 1, dtype=torch.long))


class PointHand(DiffusionHand):
    """Best prediction where the data are the single picture POINT; off by what the condition says."""

    def __init__(self, prediction: str, scheduler: object) -> None:
        super().__init__()
        self.prediction, self.scheduler = prediction, scheduler

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self._best(latents, timestep.view(-1, 1, 1, 1)) + condition.embeds.view(-1, 1, 1, 1)

    def _best(self, x: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction == "flow":
            return (x - POINT) / (timestep / 1000)  # v = eps - x0 = (x_t - x0) / s
        alpha_bar = self.scheduler.alphas_cumprod[timestep.long()]  # type: ignore[attr-defined]
        eps = (x - alpha_bar.sqrt() * POINT) / (1 - alpha_bar).sqrt()
        return eps if self.prediction == "epsilon" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * POINT


class ConstantHand(DiffusionHand):
    """Predicts the condition's number everywhere."""

    prediction = "flow"

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return condition.embeds.view(-1, 1, 1, 1).expand_as(latents)


class LinearHand(DiffusionHand):
    """v(x) = a x, a from the condition."""

    prediction = "flow"

    def __init__(self, scheduler: object) -> None:
        super().__init__()
        self.scheduler = scheduler

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return condition.embeds.view(-1, 1, 1, 1) * latents


def hands() -> list[PointHand]:
    return [
        PointHand("flow", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)),
        PointHand("epsilon", diffusers.DDPMScheduler()),
        PointHand("v", diffusers.DDPMScheduler(prediction_type="v_prediction")),
    ]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("hand", hands(), ids=lambda hand: hand.prediction)
def test_the_best_prediction_has_no_loss(hand: PointHand) -> None:
    """x_t, t and the target fit together: the closed-form prediction gives 0, and one that is off by d gives d^2."""
    seeds = tuple(range(50))
    x0 = POINT.expand(50, *SHAPE)
    objective = Objective(name=hand.prediction, timesteps="uniform")
    assert hand.loss(x0, condition(), objective, seeds).max() < 1e-4
    assert torch.allclose(hand.loss(x0, condition(0.5), objective, seeds), torch.tensor(0.25), atol=1e-2)


def test_flow_loss_in_closed_form() -> None:
    """A constant prediction p: l = mean (p - (eps - x0))^2 with eps drawn from the row's seed after its timestep."""
    x0, seeds = torch.randn(3, *SHAPE), (4, 5, 6)
    expected = []
    for row, seed in enumerate(seeds):
        (generator,) = generators([seed])
        torch.randn((), generator=generator)
        expected.append((0.7 - (torch.randn(SHAPE, generator=generator) - x0[row])).square().mean())
    assert torch.allclose(ConstantHand().loss(x0, condition(0.7), Objective(), seeds), torch.stack(expected))


def test_distillation_in_closed_form() -> None:
    """l = (1 - w) data + w (p - q)^2, p under the bridge, q under the native conditioning; rows without a teacher keep the data loss."""
    x0, seeds, p, q = torch.randn(2, *SHAPE), (1, 2), 0.7, -0.3
    hand = ConstantHand()
    data = hand.loss(x0, condition(p), Objective(), seeds)
    taught = torch.tensor([1])
    for weight in (0.0, 0.25, 1.0):
        objective = Objective(distill=weight)
        mixed = (1 - weight) * data + weight * (p - q) ** 2
        assert torch.allclose(hand.loss(x0, condition(p), objective, seeds, condition(q)), mixed)
        some = hand.loss(x0, condition(p), objective, seeds, condition(q), taught)
        assert torch.allclose(some, torch.stack([data[0], mixed[1]]))


def test_no_gradient_through_the_teacher() -> None:
    own, native = torch.zeros(1, 1, 1, requires_grad=True), torch.ones(1, 1, 1, requires_grad=True)
    mask = torch.ones(1, 1)
    ConstantHand().loss(
        torch.zeros(1, *SHAPE), Condition(own, mask), Objective(distill=1.0), (0,), Condition(native, mask)
    ).sum().backward()
    assert own.grad.item() == pytest.approx(-2.0)  # type: ignore[union-attr]
    assert native.grad is None


def test_rows_know_only_their_seed() -> None:
    hand, x0 = hands()[0], torch.randn(3, *SHAPE)
    together = hand.loss(x0, condition(0.1, 3), Objective(), (7, 8, 9))
    alone = torch.cat([hand.loss(x0[k : k + 1], condition(0.1), Objective(), (7 + k,)) for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.equal(hand.loss(x0, condition(0.1, 3), Objective(), (7, 8, 9)), together)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_follow_their_law(shift: float) -> None:
    """Logit-normal: logit(s) ~ N(log shift, 1); uniform: s before the shift is uniform."""
    draws = generators(range(4000))
    logit = torch.stack([equations.sample_sigma(g, Objective(shift=shift)) for g in draws]).logit()
    assert logit.mean() == pytest.approx(math.log(shift), abs=0.06)
    assert logit.std() == pytest.approx(1.0, abs=0.04)
    s = torch.stack([equations.sample_sigma(g, Objective(timesteps="uniform", shift=shift)) for g in generators(range(4000))])
    unshifted = s / (shift - (shift - 1) * s)
    assert unshifted.mean() == pytest.approx(0.5, abs=0.02) and unshifted.var() == pytest.approx(1 / 12, abs=0.005)


def test_shift_is_the_schedulers() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain = torch.arange(1, 1001) / 1000
    assert torch.allclose(equations.shift_sigma(plain.flip(0), 3.0), scheduler.sigmas.float(), atol=1e-6)


def test_noising_is_the_schedulers() -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
    x0, eps, t = torch.randn(4, *SHAPE), torch.randn(4, *SHAPE), torch.tensor([0, 10, 500, 999])
    alpha_bar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    assert torch.allclose(equations.diffusion_noisy(x0, eps, alpha_bar), scheduler.add_noise(x0, eps, t), atol=1e-6)
    assert torch.allclose(equations.v_target(x0, eps, alpha_bar), scheduler.get_velocity(x0, eps, t), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("prediction", "scheduler"),
    [
        ("flow", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)),
        ("epsilon", diffusers.DDIMScheduler(clip_sample=False)),
        ("epsilon", diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")),
        ("v", diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_sampling_finds_the_point(prediction: str, scheduler: object, steps: int) -> None:
    """Where the data are one picture, every solver ends on it: paths are straight."""
    hand = PointHand(prediction, scheduler)
    drawn = hand.draw(condition(0.0, 2), [], SHAPE, steps, [], generators([1, 2]))
    assert torch.allclose(drawn, POINT.expand(2, *SHAPE), atol=2e-3)


def test_sampling_a_linear_field_in_closed_form() -> None:
    """Euler on v = a x gives x_T prod_i (1 + a (s_{i+1} - s_i)); guidance mixes the a's: a_0 + g (a_1 - a_0)."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    weak, full, scale = 0.2, 0.5, 3.0
    a = weak + scale * (full - weak)
    scheduler.set_timesteps(7)
    factor = (1 + a * scheduler.sigmas.diff()).prod()
    seen: list[tuple[int, float]] = []

    def callback(step: int, timestep: Tensor, latents: Tensor) -> None:
        seen.append((step, float(timestep)))

    drawn = LinearHand(scheduler).draw(condition(full, 2), [condition(weak)], SHAPE, 7, [scale], generators([1, 2]), callback)
    expected = initial_noise(SHAPE, generators([1, 2]), torch.device("cpu")) * factor
    assert torch.allclose(drawn, expected, atol=1e-5)
    assert seen == [(step, pytest.approx(float(t))) for step, t in enumerate(scheduler.timesteps)]


def test_drawing_leaves_the_scheduler_alone() -> None:
    hand = hands()[0]
    before = hand.scheduler.timesteps.clone()  # type: ignore[attr-defined]
    first = hand.draw(condition(), [], SHAPE, 3, [], generators([1]))
    assert torch.equal(hand.scheduler.timesteps, before)  # type: ignore[attr-defined]
    assert torch.equal(hand.draw(condition(), [], SHAPE, 3, [], generators([1])), first)


def test_a_sampler_that_adds_noise_uses_each_rows_generator() -> None:
    hand = PointHand("epsilon", diffusers.EulerAncestralDiscreteScheduler())
    together = hand.draw(condition(0.3, 2), [], SHAPE, 4, [], generators([1, 2]))
    assert torch.allclose(together[1:], hand.draw(condition(0.3), [], SHAPE, 4, [], generators([2])), atol=1e-5)


def test_guidance_of_three_rows() -> None:
    v00, v0i, vti = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(5.0)
    assert guide([v00, v0i, vti], [1.5, 3.0]) == 1 + 1.5 * 1 + 3.0 * 3
    assert guide([v00, vti], [0.0]) == v00
    assert guide([v00, vti], [1.0]) == vti
    assert guide([vti], []) == vti


def test_every_null_needs_its_scale() -> None:
    with pytest.raises(ValueError, match="1 null conditions but 2 scales"):
        denoise(hands()[0].predict, guide, None, POINT, condition(), [condition()], [1.0, 2.0], generators([1]))


def test_predict_is_an_adapters_to_give() -> None:
    with pytest.raises(NotImplementedError):
        DiffusionHand().predict(POINT, torch.ones(1), condition())
