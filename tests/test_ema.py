"""The moving average of weights against its closed form."""

import math

import pytest
import torch
from torch import nn

from minildm.ema import EMA


class Scalar(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value: float, count: int = 0) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.count.fill_(count)


def follow(values: list[float], decay: float) -> list[float]:
    """The averages after each value, starting from a weight that no value repeats."""
    module = Scalar(-1e6)
    ema, averages = EMA(module, decay), []
    for value in values:
        module.set(value)
        ema.update(module)
        averages.append(ema.average.weight.item())
    return averages


def test_the_first_update_copies_exactly():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    ema = EMA(module, 0.999)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 1e3)
    ema.update(module)
    for kept, weight in zip(ema.average.parameters(), module.parameters(), strict=True):
        assert torch.equal(kept, weight)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_the_average_is_the_sum_with_explicit_shares(decay):
    """Value k weighs (1 − d_k) ∏_{n>k} d_n, with d_n = min(decay, n/(10 + n)); the shares sum to one."""
    values = [math.sin(3 * k) + k / 7 for k in range(60)]
    d = [min(decay, n / (10 + n)) for n in range(60)]
    averages = follow(values, decay)
    for last in (0, 1, 5, 59):
        shares = [(1 - d[k]) * math.prod(d[k + 1 : last + 1]) for k in range(last + 1)]
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        assert averages[last] == pytest.approx(sum(s * v for s, v in zip(shares, values[: last + 1], strict=True)), abs=1e-9)


def test_in_the_limit_the_decay_is_the_one_asked_for():
    """Long after the start a step from 0 to 1 is followed as 1 − decayⁿ."""
    decay, before, after = 0.9, 200, 30
    averages = follow([0.0] * before + [1.0] * after, decay)
    assert averages[before - 1] == 0
    for n in (1, 2, 10, 30):
        assert averages[before + n - 1] == pytest.approx(1 - decay**n, abs=1e-12)


def test_early_on_the_decay_is_smaller():
    assert follow([0.0, 1.0], 0.999)[1] == pytest.approx(10 / 11)  # d_1 = 1/11


def test_buffers_are_copied_not_averaged():
    module = Scalar()
    ema = EMA(module, 0.999)
    for step in range(1, 6):
        module.set(float(step), count=step)
        ema.update(module)
        assert ema.average.count.item() == step
    assert ema.average.weight.item() != module.weight.item()


def test_the_average_is_frozen_in_evaluation_mode_and_apart():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    ema = EMA(module)
    ema.update(module)
    assert module.training and not any(part.training for part in ema.average.modules())
    assert all(p.requires_grad for p in module.parameters()) and not any(p.requires_grad for p in ema.average.parameters())
    kept = [p.clone() for p in ema.average.state_dict().values()]
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(kept, ema.average.state_dict().values(), strict=True))
    weights = [p.clone() for p in module.parameters()]
    ema.update(module)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, math.nan])
def test_a_bad_decay_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay}"):
        EMA(Scalar(), decay)
