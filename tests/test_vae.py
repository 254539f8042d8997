"""The variational autoencoder: every formula against quadrature, enumeration, autograd, or an exact world."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from minildm.gaussian import Gaussian
from minildm.vae import (
    VAE,
    bernoulli_log_prob,
    free_bits,
    gaussian_log_prob,
    image_vae,
    implied_variance,
    importance_weighted,
    kl_per_dimension,
    linear_vae_kl,
    pathwise_gradient,
    plane_vae,
    score_function_gradient,
    train_vae,
    vae_loss,
    vae_terms,
)

NODES, WEIGHTS = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(30))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
MEAN, STD = 0.7, 1.3


def q_for(noise: torch.Tensor) -> Gaussian:
    return Gaussian(torch.full_like(noise, MEAN), torch.full_like(noise, 2 * math.log(STD)))


def cubic(z: torch.Tensor) -> torch.Tensor:
    return z**3 + 2 * z + 1


EXACT = (3 * (MEAN**2 + STD**2) + 2, 6 * MEAN * STD**2)  # of E = μ³ + 3 μ σ² + 2 μ + 1, for μ and log σ


def small_vae(inputs: int = 3, latent: int = 2, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(nn.Linear(inputs, 2 * latent), nn.Linear(latent, inputs)).double()


def linear_world(weight: float = 1.5, variance: float = 0.4) -> VAE:
    """z ~ N(0, 1), x ~ N(w z, s²), with the exact posterior as its encoder."""
    vae = VAE(nn.Linear(1, 2), nn.Linear(1, 1)).double()
    with torch.no_grad():
        total = weight**2 + variance
        vae.encoder.weight.copy_(torch.tensor([[weight / total], [0.0]], dtype=torch.float64))
        vae.encoder.bias.copy_(torch.tensor([0.0, math.log(variance / total)], dtype=torch.float64))
        vae.decoder.weight.fill_(weight)
        vae.decoder.bias.fill_(0.0)
    return vae


def assert_close(got, wanted, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


# Gradients of expectations: Gauss-Hermite quadrature averages the estimates exactly, and the integral is known


@pytest.mark.equation("04.1")
def test_the_score_function_estimates_average_to_the_gradient():
    got = score_function_gradient(cubic, q_for(NODES), NODES)
    for estimates, score, exact in zip(got, (NODES / STD, NODES**2 - 1), EXACT, strict=True):
        assert_close(estimates, cubic(MEAN + STD * NODES) * score)
        assert_close((WEIGHTS * estimates).sum(), exact)


@pytest.mark.equation("04.2")
def test_a_baseline_takes_its_multiple_of_the_score_away_and_changes_no_average():
    q = Gaussian(*(torch.full_like(NODES, value).requires_grad_() for value in (MEAN, 2 * math.log(STD))))
    score = torch.autograd.grad(q.log_prob(q.sample(NODES).detach()).sum(), (q.mean, q.log_var))
    got = score_function_gradient(cubic, q_for(NODES), NODES, baseline=4.0)
    for estimates, slope, exact, half in zip(got, score, EXACT, (1, 2), strict=True):  # d/d log σ = 2 d/d log σ²
        assert_close(estimates, (cubic(MEAN + STD * NODES) - 4) * slope * half)
        assert_close((WEIGHTS * estimates).sum(), exact)


@pytest.mark.equation("04.3")
def test_the_pathwise_estimates_average_to_the_gradient_and_are_its_integrand():
    got = pathwise_gradient(cubic, q_for(NODES), NODES)
    slope = 3 * (MEAN + STD * NODES) ** 2 + 2
    for estimates, integrand, exact in zip(got, (slope, slope * STD * NODES), EXACT, strict=True):
        assert_close(estimates, integrand)
        assert_close((WEIGHTS * estimates).sum(), exact)


def test_each_draw_may_have_its_own_gaussian_and_its_own_baseline():
    q = Gaussian(torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 1.0, -1.0]))
    noise, baseline = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])
    together = score_function_gradient(cubic, q, noise, baseline)
    for row in range(3):
        alone = score_function_gradient(
            cubic, Gaussian(q.mean[row : row + 1], q.log_var[row : row + 1]), noise[row : row + 1], baseline[row].item()
        )
        assert_close(torch.cat([part[row : row + 1] for part in together]), torch.cat(alone), 1e-6)
    with pytest.raises(ValueError, match="noise of shape"):
        pathwise_gradient(cubic, q, torch.zeros(2))


def test_only_the_score_function_estimates_the_gradient_of_a_step():
    """P(z > 1) has the derivative N(1; μ, σ²) in μ; its integrand has slope 0 wherever it has one."""
    torch.manual_seed(0)
    noise = torch.randn(200_000, dtype=torch.float64)
    estimates, _ = score_function_gradient(lambda z: (z > 1).double(), q_for(noise), noise)
    error = estimates.std() / len(noise) ** 0.5
    exact = math.exp(Normal(MEAN, STD).log_prob(torch.tensor(1.0)).item())
    assert abs(estimates.mean() - exact) < 4 * error < 0.02


# The two terms


@pytest.mark.equation("04.4")
def test_the_terms_are_the_log_likelihood_of_a_draw_and_the_divergence_from_the_prior():
    vae, x = small_vae(), torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.float64)
    noise = torch.randn(4, 2, dtype=torch.float64)
    reconstruction, kl = vae_terms(vae, x, noise, bernoulli_log_prob)
    parameters = vae.encoder(x)
    q = Normal(parameters[:, :2], torch.exp(parameters[:, 2:] / 2))
    assert_close(reconstruction, Bernoulli(logits=vae.decoder(q.loc + q.scale * noise)).log_prob(x).sum(1))
    assert_close(kl, kl_divergence(q, Normal(torch.zeros(2), torch.ones(2))).sum(1))
    assert reconstruction.shape == kl.shape == (4,)


@pytest.mark.equation("04.5")
def test_the_divergence_of_each_dimension_is_its_integral():
    mean = torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.1, 0.3]], dtype=torch.float64)
    log_var = torch.tensor([[0.3, -2.0, 0.1], [-1.0, 1.0, -0.5]], dtype=torch.float64)
    z = torch.linspace(-16, 16, 20001, dtype=torch.float64)[:, None, None]
    q = Normal(mean, torch.exp(log_var / 2)).log_prob(z)
    integral = torch.trapezoid(q.exp() * (q - Normal(0.0, 1.0).log_prob(z)), z, dim=0)
    got = kl_per_dimension(Gaussian(mean, log_var))
    assert got.shape == (2, 3)
    assert_close(got, integral, 1e-8)
    assert_close(kl_per_dimension(Gaussian(mean, log_var[:, :1])), kl_per_dimension(Gaussian(mean, log_var[:, :1].expand(2, 3))))


# Likelihoods


@pytest.mark.equation("04.6")
def test_a_bernoulli_log_probability_is_that_of_the_picture_and_all_pictures_sum_to_one():
    pictures = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    probability = torch.tensor([0.1, 0.5, 0.8, 0.97], dtype=torch.float64)
    product = torch.where(pictures == 1, probability, 1 - probability).prod(1)
    got = bernoulli_log_prob(pictures.view(-1, 1, 2, 2), torch.logit(probability).view(1, 1, 2, 2).expand(16, -1, -1, -1))
    assert_close(got.exp(), product)
    assert_close(got.exp().sum(), 1.0)


def test_grey_values_between_0_and_1_are_taken_and_others_are_refused_with_the_remedy():
    logits = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    both = [bernoulli_log_prob(torch.full_like(logits, value), logits) for value in (0.0, 1.0)]
    assert_close(bernoulli_log_prob(torch.full_like(logits, 0.25), logits), 0.75 * both[0] + 0.25 * both[1])
    for x, span in [([[-0.5, 0.0]], r"\[-0.5, 0\]"), ([[0.5, 1.5]], r"\[0.5, 1.5\]")]:
        with pytest.raises(ValueError, match=rf"not in {span}; .*\(x \+ 1\)/2"):
            bernoulli_log_prob(torch.tensor(x), logits)
    with pytest.raises(ValueError, match=r"logits of shape \(1, 2\) for data of shape \(1, 1\)"):
        bernoulli_log_prob(torch.zeros(1, 1), logits)


@pytest.mark.equation("04.7")
def test_a_gaussian_log_likelihood_is_the_squared_error_but_for_a_constant():
    torch.manual_seed(0)
    x, mean = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64).unbind(0)
    error = (x - mean).square().sum((1, 2, 3))
    assert_close(gaussian_log_prob(x, mean), -error - 2 * math.log(math.pi))
    assert_close(gaussian_log_prob(x, mean, 0.09), Normal(mean, 0.3).log_prob(x).sum((1, 2, 3)))


def test_a_gaussian_likelihood_refuses_what_has_no_density():
    x = torch.zeros(2, 3)
    for variance in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"variance={variance} must be positive"):
            gaussian_log_prob(x, x, variance)
    with pytest.raises(ValueError, match=r"means of shape \(2, 1\) for data of shape \(2, 3\)"):
        gaussian_log_prob(x, x[:, :1])
    assert gaussian_log_prob(x, x, 0.5).shape == (2,)


@pytest.mark.equation("04.8")
@pytest.mark.parametrize(("beta", "variance"), [(4.0, None), (0.25, 0.5), (3.0, 0.2)])
def test_a_weight_on_the_divergence_trains_like_another_variance(beta, variance):
    vae, x, noise = small_vae(), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    kept = () if variance is None else (variance,)
    other = implied_variance(beta, *kept)

    def gradient(loss):
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(vae.parameters()))])

    weighted = gradient(vae_loss(vae, x, noise, lambda a, b: gaussian_log_prob(a, b, *kept), beta=beta))
    plain = gradient(vae_loss(vae, x, noise, lambda a, b: gaussian_log_prob(a, b, other)))
    assert_close(weighted, beta * plain)


# The world in which the best VAE is known


@pytest.mark.equation("04.9")
def test_the_best_linear_vae_keeps_what_varies_more_than_the_likelihoods_noise():
    """Against a numerical minimum of the expected loss, one direction at a time."""
    spread, variance = torch.tensor([4.0, 1.0, 0.6, 0.2], dtype=torch.float64), 0.5
    w, k, log_var = (torch.full((4,), value, dtype=torch.float64, requires_grad=True) for value in (0.7, 0.5, -0.5))

    def divergence() -> torch.Tensor:
        return 0.5 * (torch.exp(log_var) + k**2 * spread - 1 - log_var)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        error = spread * (1 - w * k) ** 2 + w**2 * torch.exp(log_var)  # E (x − w z)², z ~ N(k x, v), x ~ N(0, λ)
        loss = (error / (2 * variance) + divergence()).sum()
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS(
        [w, k, log_var], max_iter=2000, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )
    optimizer.step(closure)
    assert_close(linear_vae_kl(spread, variance), divergence().detach(), 1e-6)
    assert linear_vae_kl(spread, variance)[-1] == 0


@pytest.mark.equation("04.10")
def test_with_the_exact_posterior_every_weight_is_the_evidence():
    vae, x = linear_world(), torch.tensor([[0.3], [-2.0], [1.7]], dtype=torch.float64)
    got = importance_weighted(vae, x, torch.randn(5, 3, 1).double(), lambda a, b: gaussian_log_prob(a, b, 0.4))
    assert_close(got, Normal(torch.zeros_like(x), math.sqrt(1.5**2 + 0.4)).log_prob(x).squeeze(1))


def test_importance_weights_of_any_encoder_are_averaged_before_the_logarithm():
    vae, x, noise = small_vae(seed=3), torch.randn(4, 3).double(), torch.randn(6, 4, 2).double()
    with torch.no_grad():
        parameters = vae.encoder(x)
        q = Normal(parameters[:, :2], torch.exp(parameters[:, 2:] / 2))
        z = q.loc + q.scale * noise
        log_p = Normal(vae.decoder(z), 0.6).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
        wanted = torch.log(torch.exp(log_p - q.log_prob(z).sum(-1)).mean(0))
        assert_close(importance_weighted(vae, x, noise, lambda a, b: gaussian_log_prob(a, b, 0.36)), wanted)


# Training


@pytest.mark.equation("04.11")
def test_a_dimension_below_its_free_bits_costs_the_floor():
    kl = torch.tensor([[0.1, 2.0, 0.9], [0.3, 4.0, 0.0]], dtype=torch.float64)  # means 0.2, 3, 0.45
    assert_close(free_bits(kl, 0.4), 0.4 + 3 + 0.45)
    assert_close(free_bits(kl, 0.0), kl.sum(1).mean())
    assert_close(free_bits(kl, 5.0), 15.0)
    with pytest.raises(ValueError, match="floor=-1 must be at least 0 nats"):
        free_bits(kl, -1)


def test_a_dimension_below_its_floor_is_not_pulled_towards_the_prior():
    mean = torch.tensor([[0.1, 2.0], [-0.1, -2.0]], dtype=torch.float64, requires_grad=True)
    free_bits(kl_per_dimension(Gaussian(mean, torch.zeros_like(mean))), 0.5).backward()
    assert mean.grad[:, 0].tolist() == [0, 0] and mean.grad[:, 1].tolist() == [1, -1]


def test_the_loss_is_minus_the_elbo_with_the_divergence_weighted():
    vae, x, noise = small_vae(), torch.rand(4, 3).double(), torch.randn(4, 2).double()
    reconstruction, kl = vae_terms(vae, x, noise, bernoulli_log_prob)
    assert_close(vae_loss(vae, x, noise, bernoulli_log_prob), (kl - reconstruction).mean())
    assert_close(vae_loss(vae, x, noise, bernoulli_log_prob, beta=3.0), (3 * kl - reconstruction).mean())
    floored = kl_per_dimension(vae.encode(x)).mean(0).clamp(min=0.2).sum()
    assert_close(vae_loss(vae, x, noise, bernoulli_log_prob, beta=3.0, floor=0.2), 3 * floored - reconstruction.mean())


def test_an_encoder_gives_means_then_log_variances():
    vae = VAE(nn.Identity(), nn.Identity())
    q = vae.encode(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert q.mean.tolist() == [[1, 2]] and q.log_var.tolist() == [[3, 4]]
    assert vae.decode(q.mean) is q.mean
    with pytest.raises(ValueError, match=r"gives 3 values; it must give 2L"):
        vae.encode(torch.zeros(1, 3))


def test_networks_have_the_sizes_that_are_asked_for():
    for vae, x, latent in [
        (plane_vae(), torch.zeros(4, 2), 2),
        (plane_vae(3, 8, 5), torch.zeros(4, 5), 3),
        (image_vae(6), torch.zeros(4, 1, 32, 32), 6),
        (image_vae(2, 8, 16), torch.zeros(4, 1, 16, 16), 2),
    ]:
        q = vae.encode(x)
        assert q.mean.shape == q.log_var.shape == (4, latent) and vae.decode(q.mean).shape == x.shape
    widths = [vae.decoder[0].out_features for vae in (plane_vae(), plane_vae(2, 8))]
    assert widths == [64, 8] and [image_vae(2).encoder[1][0].out_features, image_vae(2, 8).encoder[1][0].out_features] == [256, 8]


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"beta": 2.0, "floor": 0.3}, [2, 2, 2, 2, 2, 2]),
        ({"beta": 2.0, "warm_up": 4}, [0, 0.5, 1, 1.5, 2, 2]),
    ],
)
def test_training_is_adam_on_shuffled_batches_with_a_falling_rate(options, weights):
    """Step by step by hand: 7 examples in batches of 2, so 3 steps an epoch, and one example waits."""
    data = torch.rand(7, 3).double()
    vae, twin = small_vae(), small_vae()
    torch.manual_seed(5)
    losses = train_vae(vae, data, bernoulli_log_prob, epochs=2, batch=2, lr=0.1, **options)
    torch.manual_seed(5)
    optimizer, wanted = torch.optim.Adam(twin.parameters(), 0.1), []
    for epoch in range(2):
        order = torch.randperm(7)
        for place in range(3):
            step = 3 * epoch + place
            x, noise = data[order[2 * place : 2 * place + 2]], torch.randn(2, 2, dtype=torch.float64)
            floor = options.get("floor", 0.0)
            loss = vae_loss(twin, x, noise, bernoulli_log_prob, beta=weights[step], floor=floor)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (6 - step) / 6
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            wanted.append(loss.item())
    assert_close(losses, wanted)
    for got, right in zip(vae.parameters(), twin.parameters(), strict=True):
        assert_close(got.detach(), right.detach())


def test_training_needs_a_whole_batch_and_by_default_takes_a_hundred_and_steps_of_0_003():
    data, vae = torch.rand(100, 3).double(), small_vae()
    assert len(train_vae(vae, data, bernoulli_log_prob, epochs=1)) == 1
    moved = [(new - old).abs().max().item() for new, old in zip(vae.parameters(), small_vae().parameters(), strict=True)]
    assert max(moved) == pytest.approx(0.003, rel=1e-3)  # Adam's first step is the learning rate
    with pytest.raises(ValueError, match="batch=100 is more than the 99 examples"):
        train_vae(small_vae(), data[:99], bernoulli_log_prob, epochs=1)


def test_a_trained_linear_vae_reaches_the_evidence():
    """x ~ N(0, 4): the largest ELBO is the log-likelihood under N(0, 4), and the latent keeps ½ log(4/½) nats."""
    torch.manual_seed(0)
    x = 2 * torch.randn(2000, 1)
    vae = VAE(nn.Linear(1, 2), nn.Linear(1, 1))
    train_vae(vae, x, gaussian_log_prob, epochs=20, lr=0.02)
    with torch.no_grad():
        draws = [vae_terms(vae, x, torch.randn(2000, 1), gaussian_log_prob) for _ in range(20)]
    elbo = torch.stack([reconstruction - kl for reconstruction, kl in draws]).mean(0)
    exact = Normal(0.0, x.std()).log_prob(x).squeeze(1)
    error = (elbo - exact).std() / len(x) ** 0.5
    assert -0.05 - 4 * error < (elbo - exact).mean() < 4 * error
    assert abs(draws[0][1].mean() - linear_vae_kl(x.var(), 0.5)) < 0.1
