"""The diagonal Gaussian against PyTorch's distributions and against quadrature."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from minildm.gaussian import Gaussian, add, affine, condition, fit, multiply, per_example, sum_per_example

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
        with pytest.raises(ValueError, match="one value per example is needed: 3 examples, values of shape"):
            per_example(wrong, like)
    ones = torch.ones(3, 2, 4, 4)
    assert torch.equal(sum_per_example(ones), torch.full((3,), 32.0))
    assert torch.equal(sum_per_example(values), values)


# The equations of chapter 01, each against something that knows nothing of Gaussian algebra

GRID = torch.linspace(-30, 30, 6001, dtype=torch.float64)


def on_grid(gaussian: Gaussian) -> Tensor:
    """The density of each of N Gaussians over one number, by PyTorch, on the grid: N×G."""
    return Normal(gaussian.mean, gaussian.log_var.exp().sqrt()).log_prob(GRID).exp()


@pytest.mark.equation("01.1")
def test_the_density_is_the_slope_of_the_distribution_function():
    p = random_gaussian((6, 1), 20)
    x, h = random_gaussian((6, 1), 21).mean, 1e-5
    z = [torch.special.ndtr((x + step - p.mean) / p.log_var.exp().sqrt()) for step in (h, -h)]
    torch.testing.assert_close(p.log_prob(x).exp(), ((z[0] - z[1]) / (2 * h)).squeeze(1), rtol=1e-6, atol=1e-8)


@pytest.mark.equation("01.3")
def test_no_other_gaussian_makes_the_examples_more_probable():
    """At the fit the likelihood's slope is zero in every direction, and every step away makes it less."""
    examples = 3 * random_gaussian((7, 4), 22).mean + 1
    found = fit(examples)
    assert found.mean.shape == found.log_var.shape == (1, 4)
    mean, log_var = found.mean.clone().requires_grad_(), found.log_var.clone().requires_grad_()
    best = Normal(mean, torch.exp(0.5 * log_var)).log_prob(examples).sum()
    slopes = torch.autograd.grad(best, (mean, log_var))
    for slope in slopes:
        torch.testing.assert_close(slope, torch.zeros(1, 4, dtype=torch.float64), rtol=0, atol=1e-10)
    for step in torch.randn(50, 2, 1, 4, generator=torch.Generator().manual_seed(23), dtype=torch.float64):
        other = Normal(found.mean + step[0], torch.exp(0.5 * (found.log_var + step[1]))).log_prob(examples).sum()
        assert other < best


def test_a_fit_needs_two_examples_that_are_finite_and_differ():
    assert fit(torch.tensor([[1.0], [3.0]])).log_var.item() == 0  # (1² + 1²)/2: N, not N − 1
    for count in (0, 1):
        with pytest.raises(ValueError, match=rf"fitted to {count} example.*at least 2"):
            fit(torch.zeros(count, 3))
    with pytest.raises(ValueError, match="2 of the examples' values are not finite"):
        fit(torch.tensor([[1.0, math.nan], [math.inf, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="agree in some dimension"):
        fit(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))


@pytest.mark.equation("01.2")
def test_a_draw_is_the_quantile_that_its_noise_is_of_the_standard_normal():
    p = random_gaussian((5, 3), 24)
    noise = random_gaussian((5, 3), 25).mean
    wanted = Normal(p.mean, p.log_var.exp().sqrt()).icdf(torch.special.ndtr(noise))
    torch.testing.assert_close(p.sample(noise), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.equation("01.10")
def test_entropy_is_the_integral_of_minus_p_log_p():
    p = random_gaussian((6, 1), 26)
    density = on_grid(p)
    torch.testing.assert_close(p.entropy(), torch.trapezoid(-torch.special.xlogy(density, density), GRID), rtol=1e-9, atol=1e-9)


@pytest.mark.equation("01.11")
def test_kl_is_the_integral_of_p_log_p_over_q():
    p, q = random_gaussian((6, 1), 27), random_gaussian((6, 1), 28)
    normal = Gaussian(torch.zeros_like(p.mean), torch.zeros_like(p.mean))
    for other, got in [(q, p.kl(q)), (normal, p.kl())]:
        logs = [Normal(each.mean, each.log_var.exp().sqrt()).log_prob(GRID) for each in (p, other)]
        torch.testing.assert_close(got, torch.trapezoid(logs[0].exp() * (logs[0] - logs[1]), GRID), rtol=1e-9, atol=1e-9)


@pytest.mark.equation("01.12")
def test_an_affine_map_moves_the_density_and_stretches_it():
    """Change of variables: p_y(a x + b) |a| = p_x(x)."""
    p, x = random_gaussian((5, 3), 29), random_gaussian((5, 3), 30).mean
    scale = torch.tensor([[0.5], [-2.0], [3.0], [-0.3], [1.5]], dtype=torch.float64).expand(5, 3)
    shift = random_gaussian((5, 3), 31).mean
    y = affine(p, scale, shift)
    got = Normal(y.mean, y.log_var.exp().sqrt()).log_prob(scale * x + shift) + scale.abs().log()
    torch.testing.assert_close(got, Normal(p.mean, p.log_var.exp().sqrt()).log_prob(x), rtol=1e-10, atol=1e-10)


def test_affine_takes_plain_numbers_and_can_put_out_all_spread():
    p = random_gaussian((4, 2), 32)
    torch.testing.assert_close(affine(p, -2.0).mean, -2 * p.mean)
    torch.testing.assert_close(affine(p, -2.0, 1).mean, 1 - 2 * p.mean)
    torch.testing.assert_close(affine(p, -2).log_var, p.log_var + math.log(4))
    point = affine(p, 0.0, 3.0)
    assert torch.equal(point.sample(), torch.full((4, 2), 3.0, dtype=torch.float64)) and torch.isneginf(point.log_var).all()


@pytest.mark.equation("01.13", "01.14")
def test_a_product_of_densities_is_a_density_times_a_constant():
    p, q = random_gaussian((5, 3), 33), random_gaussian((5, 3), 34)
    product, log_constant = multiply(p, q)
    assert log_constant.shape == (5,)
    for seed in (35, 36, 37):
        x = random_gaussian((5, 3), seed).mean
        parts = [Independent(Normal(each.mean, each.log_var.exp().sqrt()), 1).log_prob(x) for each in (p, q, product)]
        torch.testing.assert_close(parts[0] + parts[1], log_constant + parts[2], rtol=1e-10, atol=1e-10)


@pytest.mark.equation("01.14")
def test_the_constant_of_a_product_is_its_integral():
    p, q = random_gaussian((5, 1), 38), random_gaussian((5, 1), 39)
    wanted = torch.trapezoid(on_grid(p) * on_grid(q), GRID)
    product, log_constant = multiply(p, q)
    torch.testing.assert_close(log_constant.exp(), wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(on_grid(product) * wanted[:, None], on_grid(p) * on_grid(q), rtol=1e-8, atol=1e-12)


def test_a_product_with_narrow_log_vars_and_with_one_gaussian_for_all():
    p, q = random_gaussian((4, 3), 40), random_gaussian((4, 3), 41)
    wide = Gaussian(q.mean, q.log_var[:, :1])
    one = Gaussian(q.mean[:1], q.log_var[:1])
    for narrow, whole in [
        (wide, Gaussian(q.mean, wide.log_var.expand(4, 3))),
        (one, Gaussian(*(x.expand(4, 3) for x in vars(one).values()))),
    ]:
        got, wanted = multiply(p, narrow), multiply(p, whole)
        torch.testing.assert_close(got[1], wanted[1])
        torch.testing.assert_close(got[0].mean, wanted[0].mean)
        torch.testing.assert_close(multiply(narrow, p)[1], wanted[1])


@pytest.mark.equation("01.15")
def test_a_sum_has_the_convolution_of_the_densities():
    p, q = random_gaussian((5, 1), 42), random_gaussian((5, 1), 43)
    totals = torch.linspace(-4, 4, 9, dtype=torch.float64)
    x = totals[:, None, None] - GRID  # 9×1×G: what y must be for x + y to be the total
    other = Normal(q.mean, q.log_var.exp().sqrt()).log_prob(x).exp()
    wanted = torch.trapezoid(on_grid(p) * other, GRID).T
    total = add(p, q)
    torch.testing.assert_close(
        Normal(total.mean, total.log_var.exp().sqrt()).log_prob(totals).exp(), wanted, rtol=1e-9, atol=1e-12
    )


@pytest.mark.equation("01.16")
def test_conditioning_is_bayes_rule_on_a_grid():
    prior, x = random_gaussian((5, 1), 44), 2 * random_gaussian((5, 1), 45).mean
    scale = torch.tensor([[0.5], [-2.0], [1.3], [-0.3], [0.9]], dtype=torch.float64)
    shift, log_var = random_gaussian((5, 1), 46).mean, random_gaussian((5, 1), 47).log_var
    joint = on_grid(prior) * Normal(scale * GRID + shift, log_var.exp().sqrt()).log_prob(x).exp()
    wanted = joint / torch.trapezoid(joint, GRID)[:, None]
    got = condition(prior, x, scale, shift, log_var)
    torch.testing.assert_close(on_grid(got), wanted, rtol=1e-8, atol=1e-12)
    plain = condition(prior, x, -0.7, 0.4, -1.1)
    same = condition(prior, x, torch.full((5, 1), -0.7), torch.full((5, 1), 0.4), torch.full((5, 1), -1.1))
    torch.testing.assert_close(plain.mean, same.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.log_var, same.log_var, rtol=1e-6, atol=1e-6)


def test_what_does_not_depend_on_z_teaches_nothing_of_z():
    prior = random_gaussian((3, 2), 48)
    got = condition(prior, torch.ones(3, 2, dtype=torch.float64), 0.0, 0.3, 0.5)
    torch.testing.assert_close(got.mean, prior.mean)
    torch.testing.assert_close(got.log_var, prior.log_var)


def test_point_masses_are_refused_where_their_algebra_breaks():
    p = random_gaussian((3, 2), 49)
    point = Gaussian(p.mean, torch.full_like(p.mean, -math.inf))
    for ask, what in [
        (lambda: multiply(p, point), "the product"),
        (lambda: multiply(point, p), "the product"),
        (lambda: condition(point, p.mean, 1.0, 0.0, 0.0), "the posterior"),
    ]:
        with pytest.raises(ValueError, match=rf"{what} of a Gaussian with variance 0"):
            ask()
    with pytest.raises(ValueError, match="the noise has variance 0"):
        condition(p, p.mean, 1.0, 0.0, -math.inf)
    torch.testing.assert_close(add(p, point).log_var, p.log_var)  # a constant adds no spread


@pytest.mark.equation("01.17")
def test_independent_dimensions_add():
    """Log-density, entropy and KL of D dimensions are the sums of those of D one-dimensional Gaussians."""
    p, q = random_gaussian((4, 2, 3), 50), random_gaussian((4, 2, 3), 51)
    x = random_gaussian((4, 2, 3), 52).mean
    single, other = (Normal(each.mean, each.log_var.exp().sqrt()) for each in (p, q))
    for got, each in [
        (p.log_prob(x), single.log_prob(x)),
        (p.entropy(), single.entropy()),
        (p.kl(q), kl_divergence(single, other)),
        (sum_per_example(x), x),
    ]:
        wanted = sum(each[:, i, j] for i in range(2) for j in range(3))
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_gaussian_does_not_change_after_it_is_made():
    with pytest.raises(dataclasses.FrozenInstanceError):
        random_gaussian((2, 2), 53).mean = torch.zeros(2, 2)
