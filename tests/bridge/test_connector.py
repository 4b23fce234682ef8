from __future__ import annotations

import pytest
import torch

from metabridge.bridge.connector import Connector, rotary, rotate


def connector(**changes: object) -> Connector:
    settings = dict(in_width=12, out_width=10, pooled_width=None, num_queries=5, width=24, layers=2, heads=2, scale=1.0) | changes
    torch.manual_seed(0)
    return Connector(**settings)  # type: ignore[arg-type]


def test_shapes_and_mask() -> None:
    condition = connector()(torch.randn(3, 5, 12))
    assert condition.embeds.shape == (3, 5, 10)
    assert condition.mask.shape == (3, 5) and condition.mask.all()
    assert condition.pooled is None


def test_every_query_sees_every_query() -> None:
    hidden = torch.randn(1, 5, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(connector()(hidden).embeds[0, 0].sum(), hidden)
    assert (gradient.abs().amax(dim=-1) > 0).all()


def test_order_matters() -> None:
    """RoPE: the same rows in another order are not the same rows in that order."""
    hidden, order = torch.randn(1, 5, 12), torch.tensor([4, 3, 2, 1, 0])
    assert not torch.allclose(connector()(hidden).embeds[:, order], connector()(hidden[:, order]).embeds, atol=1e-3)


def test_rope_turns_by_position() -> None:
    """<R_m q, R_n k> depends on m - n only, and lengths stay."""
    rope = rotary(6, 8).float()
    q, k = torch.randn(2, 8)
    turned_q, turned_k = rotate(q.expand(6, 8), rope), rotate(k.expand(6, 8), rope)
    scores = turned_q @ turned_k.T
    assert torch.allclose(scores.diagonal(1), scores[0, 1].expand(5), atol=1e-5)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(6), atol=1e-5)
    assert torch.equal(turned_q[0], q)


@pytest.mark.parametrize("layers", [0, 1, 8])
def test_output_starts_at_the_scale(layers: int) -> None:
    embeds = connector(in_width=96, out_width=64, width=96, heads=4, layers=layers, scale=5.0)(torch.randn(8, 5, 96)).embeds
    assert embeds.square().mean().sqrt().item() == pytest.approx(5.0, rel=0.15)


def test_pooled_head_starts_constant_and_learns() -> None:
    module = connector(pooled_width=7)
    pooled = module(torch.randn(4, 5, 12)).pooled
    assert pooled.shape == (4, 7) and not pooled.any()
    (pooled - torch.randn(4, 7)).square().sum().backward()
    assert module.pooled_head.weight.grad.abs().max() > 0 and module.pooled_head.bias.grad.abs().max() > 0


def test_bfloat16_hidden_states_meet_float32_weights() -> None:
    assert connector()(torch.randn(1, 5, 12, dtype=torch.bfloat16)).embeds.dtype == torch.float32


def test_float64_throughout() -> None:
    assert connector().double()(torch.randn(1, 5, 12)).embeds.dtype == torch.float64
