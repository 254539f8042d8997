"""The diagonal Gaussian against PyTorch's distributions and against quadrature."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from minildm.gaussian import Gaussian, per_example, sum_per_example

SHAPES = [(5,), (4, 3), (3, 2, 4, 5)]


def random_gaussian(shape: tuple[int, ...], seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Gaussian(mean, torch.randn(shape, generator=generator, dtype=torch.float64))


def reference(gaussian: Gaussian) -> Independent:
    scale = gaussian.log_var.exp().sqrt().expand(gaussian.mean.shape)
    return Independent(Normal(gaussian.mean, scale), gaussian.mean.ndim - 1)


def density(x: Tensor, mean: float, var: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_torch_distributions(shape):
    p, q = random_gaussian(shape, 0), random_gaussian(shape, 1)
    x = random_gaussian(shape, 2).mean
    standard = Gaussian(torch.zeros_like(p.mean), torch.zeros_like(p.mean))
    for got, wanted in [
        (p.log_prob(x), reference(p).log_prob(x)),
        (p.entropy(), reference(p).entropy()),
        (p.kl(q), kl_divergence(reference(p), reference(q))),
        (p.kl(), kl_divergence(reference(p), reference(standard))),
    ]:
        assert got.shape == shape[:1]
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_var_shape", [(), (3, 1, 1, 1), (1, 2, 1, 1), (4, 5)])
def test_a_log_var_that_broadcasts_counts_for_every_dimension(log_var_shape):
    mean = random_gaussian((3, 2, 4, 5), 3).mean
    log_var = torch.randn(log_var_shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    narrow, wide = Gaussian(mean, log_var), Gaussian(mean, log_var.expand(mean.shape).clone())
    other = random_gaussian((3, 2, 4, 5), 5)
    x = other.mean
    for got, wanted in [
        (narrow.log_prob(x), reference(wide).log_prob(x)),
        (narrow.entropy(), reference(wide).entropy()),
        (narrow.kl(other), kl_divergence(reference(wide), reference(other))),
        (other.kl(narrow), kl_divergence(reference(other), reference(wide))),
        (narrow.kl(), kl_divergence(reference(wide), reference(Gaussian(0 * mean, 0 * mean)))),
    ]:
        assert got.shape == (3,)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mean", "var", "other_mean", "other_var"), [(0.3, 0.5, -0.7, 2.0), (-2.0, 3.0, 0.0, 0.9), (0, 1, 0, 1)])
def test_agrees_with_quadrature_in_one_dimension(mean, var, other_mean, other_var):
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    p, q = density(x, mean, var), density(x, other_mean, other_var)

    def column(value: float) -> Tensor:
        return torch.tensor([[value]], dtype=torch.float64)

    first = Gaussian(column(mean), column(var).log())
    second = Gaussian(column(other_mean), column(other_var).log())

    def integral(values: Tensor) -> float:
        return torch.trapezoid(values, x).item()

    one = torch.exp(Gaussian(first.mean.expand(len(x), 1), first.log_var).log_prob(x[:, None]))
    assert integral(one) == pytest.approx(1, abs=1e-12)
    assert integral(one * x) == pytest.approx(mean, abs=1e-10)
    assert integral(one * (x - mean) ** 2) == pytest.approx(var, abs=1e-10)
    assert first.entropy().item() == pytest.approx(integral(-torch.special.xlogy(p, p)), abs=1e-9)
    logs = -((x - mean) ** 2) / (2 * var) + ((x - other_mean) ** 2) / (2 * other_var) + 0.5 * math.log(other_var / var)
    assert first.kl(second).item() == pytest.approx(integral(p * logs), abs=1e-9)
    assert integral(p * (p / q.clamp(min=1e-300)).clamp(min=1e-300).log()) == pytest.approx(first.kl(second).item(), abs=1e-6)


def test_kl_is_zero_on_itself_and_positive_elsewhere():
    p, q = random_gaussian((50, 6), 6), random_gaussian((50, 6), 7)
    torch.testing.assert_close(p.kl(p), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (p.kl(q) > 0).all()


def test_samples_have_the_mean_and_variance():
    count, mean, var = 200_000, 0.7, 0.4
    torch.manual_seed(0)
    x = Gaussian(torch.full((count, 1), mean, dtype=torch.float64), torch.tensor(math.log(var), dtype=torch.float64)).sample()
    error_of_mean, error_of_var = math.sqrt(var / count), var * math.sqrt(2 / count)
    print(f"mean {x.mean():.4f} ± {error_of_mean:.4f}, variance {x.var():.4f} ± {error_of_var:.4f}")
    assert abs(x.mean().item() - mean) < 4 * error_of_mean
    assert abs(x.var().item() - var) < 4 * error_of_var


def test_gradients_reach_mean_and_log_var():
    """d/dμ E[x²] = 2μ and d/dlog σ² E[x²] = σ²; sample by sample dx/dμ = 1 and dx/dlog σ² = σ ε/2."""
    mean = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    log_var = torch.tensor([[0.2], [-0.6]], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    x = Gaussian(mean, log_var).sample(noise)
    (x**2).sum().backward()
    scale = log_var.detach().exp().sqrt()
    values = mean.detach() + scale * noise
    torch.testing.assert_close(x.detach(), values)
    torch.testing.assert_close(mean.grad, 2 * values)
    torch.testing.assert_close(log_var.grad, (2 * values * scale * noise / 2).sum(1, keepdim=True))


def test_a_point_mass_samples_its_mean_and_has_no_density():
    mean = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    point = Gaussian(mean, torch.tensor([[0.0], [-math.inf], [0.0]]))
    assert torch.equal(point.sample(torch.ones(3, 2))[1], mean[1])
    spread = Gaussian(mean, torch.zeros(3, 2))
    for ask in (lambda: point.log_prob(mean), point.entropy, point.kl, lambda: point.kl(spread), lambda: spread.kl(point)):
        with pytest.raises(ValueError, match="variance 0"):
            ask()


def test_noise_of_another_shape_is_refused():
    gaussian = random_gaussian((3, 2), 0)
    for shape in [(3,), (1, 2), (3, 1), (2, 3)]:  # two of these would broadcast in silence
        with pytest.raises(ValueError, match=r"noise of shape"):
            gaussian.sample(torch.zeros(shape))


def test_per_example_and_sum_per_example():
    like = torch.zeros(3, 2, 4, 4)
    values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    shaped = per_example(values, like)
    assert shaped.shape == (3, 1, 1, 1) and shaped.dtype == like.dtype
    assert torch.equal((shaped * (like + 1))[:, 1, 2, 3], values.float())
    assert per_example(torch.tensor(2.0), like).shape == ()
    for wrong in (values[:2], values[:1], values[:, None]):
        with pytest.raises(ValueError, match="one value per example"):
            per_example(wrong, like)
    ones = torch.ones(3, 2, 4, 4)
    assert torch.equal(sum_per_example(ones), torch.full((3,), 32.0))
    assert torch.equal(sum_per_example(values), values)
