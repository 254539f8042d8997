"""Principal components against every other subspace, and rate and distortion against codes that are found by descent."""

import math

import pytest
import torch
from torch import Tensor

from minildm.rate import pca_error, water_filling, water_level

VARIANCES = torch.tensor([2.0, 0.05, 1.0, 0.4, 0.01], dtype=torch.float64)


def correlated(count: int = 400, dimensions: int = 6) -> Tensor:
    """Centred data whose directions vary differently, and not along the axes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, dimensions, generator=generator, dtype=torch.float64) * torch.arange(1, dimensions + 1)
    x = x @ torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return x - x.mean(0)


@pytest.mark.equation("15.1")
@pytest.mark.parametrize("latents", [0, 1, 3])
def test_the_best_matrix_of_a_rank_misses_the_eigenvalues_left_out(latents):
    """Eckart and Young: the nearest matrix of rank L is the truncated singular value decomposition."""
    x = correlated()
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    nearest = left[:, :latents] * values[:latents] @ right[:latents]
    eigenvalues = torch.linalg.eigvalsh(x.T @ x / len(x)).clamp(min=0)
    found = (x - nearest).square().sum(1).mean()
    assert pca_error(eigenvalues, latents) == pytest.approx(found.item(), rel=1e-9, abs=1e-9)
    for seed in range(20):
        frame = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0][
            :, :latents
        ]
        assert (x - x @ frame @ frame.T).square().sum(1).mean() >= found - 1e-9


def test_a_number_of_latents_that_does_not_exist_is_refused():
    for latents in (-1, 6):
        with pytest.raises(ValueError, match=r"0\.\.5"):
            pca_error(VARIANCES, latents)
    assert pca_error(VARIANCES, 5) == 0


def best_code(variance: float, kl_weight: float) -> tuple[float, float]:
    """KL and squared error of the best linear encoder z ~ N(a x, s²) and decoder x̂ = d z of x ~ N(0, variance), by descent."""
    parameters = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)

    def terms() -> tuple[Tensor, Tensor]:
        a, log_var, d = parameters
        error = variance * (1 - d * a) ** 2 + d**2 * torch.exp(log_var)
        return 0.5 * (a**2 * variance + torch.exp(log_var) - 1 - log_var), error

    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        kl, error = terms()
        loss = error + kl_weight * kl
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    kl, error = terms()
    return kl.item(), error.item()


@pytest.mark.equation("15.2", "15.3")
@pytest.mark.parametrize("kl_weight", [0.04, 0.2, 1.2])
def test_the_best_linear_code_fills_water_to_half_the_weight(kl_weight):
    rates, distortions = water_filling(VARIANCES, water_level(kl_weight))
    found = torch.tensor([best_code(variance, kl_weight) for variance in VARIANCES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found[:, 0], rates, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(found[:, 1], distortions, rtol=1e-4, atol=1e-6)
    assert water_level(kl_weight) == pytest.approx(kl_weight / 2)


def test_a_nat_more_buys_the_level_and_one_direction_alone_is_shannons_formula():
    """The slope of total error against total rate is −2θ, so no nat could be better spent elsewhere."""
    level, step = 0.3, 1e-6
    (rate, error), (rate_after, error_after) = (
        (each.sum() for each in water_filling(VARIANCES, at)) for at in (level, level + step)
    )
    assert (error_after - error) / (rate_after - rate) == pytest.approx(-2 * level, rel=1e-4)
    rate, error = water_filling(torch.tensor([4.0], dtype=torch.float64), 0.25)
    assert rate.item() == pytest.approx(math.log(4)) and error.item() == 0.25


def test_water_must_have_a_level():
    for level in (0.0, -1.0):
        with pytest.raises(ValueError, match="must be positive"):
            water_filling(VARIANCES, level)
