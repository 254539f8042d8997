"""The bound against the evidence, in worlds where both can be computed: by quadrature, by brute force, by Monte Carlo."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from minildm.elbo import LinearGaussian, Mixture, elbo, elbo_terms, gap, importance_bound, log_weight
from minildm.gaussian import Gaussian

HEIGHTS = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64),
    torch.tensor([-0.5, 0.3, -1.2], dtype=torch.float64),
)
X = torch.tensor([-2.0, -0.3, 0.4, 1.7, 3.1], dtype=torch.float64)
WORLD = LinearGaussian(1.7, -0.4, math.log(0.6))
Z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
PAIRS = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-1.4, 1.1]], dtype=torch.float64)  # N×D
Q = Gaussian(
    torch.tensor([[0.2, -0.5], [1.0, 0.4], [-0.3, 0.9]], dtype=torch.float64),
    torch.tensor([[-1.0, -2.0], [0.2, -0.7], [-1.5, 0.1]], dtype=torch.float64),
)


def random_log_q(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64).log_softmax(1)


def density(x: Tensor | float, mean: Tensor | float, variance: float) -> Tensor:
    """A Gaussian density, written out anew so that nothing of the module confirms itself."""
    return torch.exp(-((torch.as_tensor(x) - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def integral(values: Tensor) -> Tensor:
    """Over Z, by the trapezium rule: exact to rounding for functions as smooth as these."""
    return torch.trapezoid(values, Z)


def test_the_joint_is_prior_times_likelihood():
    for n, x in enumerate(X):
        for k in range(3):
            wanted = math.log(HEIGHTS.weights[k] * density(x, HEIGHTS.means[k], math.exp(HEIGHTS.log_vars[k])))
            assert HEIGHTS.log_joint(X)[n, k].item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.equation("03.1")
def test_the_evidence_is_a_mixture_density():
    components = Normal(HEIGHTS.means, torch.exp(HEIGHTS.log_vars / 2))
    wanted = MixtureSameFamily(Categorical(HEIGHTS.weights), components).log_prob(X)
    torch.testing.assert_close(HEIGHTS.log_evidence(X), wanted, rtol=0, atol=1e-12)


@pytest.mark.equation("03.2")
def test_the_posterior_is_what_repetition_of_the_world_shows():
    """Bayes' rule in the ratio form, component by component, and probabilities that sum to 1."""
    got = HEIGHTS.log_posterior(X)
    joint = torch.stack([HEIGHTS.weights[k] * density(X, HEIGHTS.means[k], math.exp(HEIGHTS.log_vars[k])) for k in range(3)], 1)
    torch.testing.assert_close(got.exp(), joint / joint.sum(1, keepdim=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.exp().sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.equation("03.3")
def test_the_bound_is_an_expectation_over_q():
    log_joint, log_q = HEIGHTS.log_joint(X), random_log_q(5)
    for n in range(5):
        q, joint = log_q[n].exp().tolist(), log_joint[n].exp().tolist()
        wanted = sum(weight * (math.log(p) - math.log(weight)) for weight, p in zip(q, joint, strict=True))
        assert elbo(log_joint, log_q)[n].item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.equation("03.4")
def test_evidence_is_bound_plus_gap():
    log_joint, log_q = HEIGHTS.log_joint(X), random_log_q(5)
    wanted = torch.stack(
        [torch.distributions.kl_divergence(Categorical(logits=log_q[n]), Categorical(logits=log_joint[n])) for n in range(5)]
    )
    torch.testing.assert_close(gap(log_joint, log_q), wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(elbo(log_joint, log_q) + gap(log_joint, log_q), HEIGHTS.log_evidence(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_never_passes_the_evidence_and_is_tight_at_the_posterior_alone(seed):
    log_joint, log_q = HEIGHTS.log_joint(X), random_log_q(5, seed)
    assert (elbo(log_joint, log_q) < HEIGHTS.log_evidence(X) - 1e-9).all()
    exact = HEIGHTS.log_posterior(X)
    torch.testing.assert_close(elbo(log_joint, exact), HEIGHTS.log_evidence(X), rtol=0, atol=1e-12)
    near = torch.log_softmax(exact + 1e-3 * random_log_q(5, seed), 1)
    assert (gap(log_joint, near) > 0).all() and (gap(log_joint, near) < 1e-5).all()


def test_a_belief_without_mass_somewhere_adds_nothing_there():
    sure = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log()
    log_joint = HEIGHTS.log_joint(X[:1])
    assert elbo(log_joint, sure).item() == pytest.approx(log_joint[0, 0].item())
    assert gap(log_joint, sure).item() == pytest.approx(-HEIGHTS.log_posterior(X[:1])[0, 0].item())
    torch.testing.assert_close(elbo(HEIGHTS.log_joint(X), sure[0]), HEIGHTS.log_joint(X)[:, 0])  # one belief for all x


@pytest.mark.parametrize("weights", [[0.5, 0.6], [0.5, 0.4], [1.0, 0.0], [1.5, -0.5]])
def test_weights_that_are_no_probabilities_are_refused(weights):
    with pytest.raises(ValueError, match="sum to 1"):
        Mixture(torch.tensor(weights), torch.zeros(2), torch.zeros(2))


# The linear-Gaussian world


def test_the_world_of_hidden_numbers_is_what_it_says():
    """Each density against quadrature over z, number by number."""
    for n in range(3):
        evidence = 1.0
        for d in range(2):
            joint = density(Z, 0.0, 1.0) * density(PAIRS[n, d], 1.7 * Z - 0.4, 0.6)
            each = integral(joint)
            evidence = evidence * each
            mean = integral(Z * joint) / each
            variance = integral((Z - mean) ** 2 * joint) / each
            assert WORLD.posterior(PAIRS).mean[n, d].item() == pytest.approx(mean.item(), abs=1e-9)
            assert WORLD.posterior(PAIRS).log_var[n, d].exp().item() == pytest.approx(variance.item(), abs=1e-9)
        assert WORLD.evidence(PAIRS).log_prob(PAIRS)[n].item() == pytest.approx(math.log(evidence), abs=1e-9)
    assert torch.equal(WORLD.prior(PAIRS).mean, torch.zeros_like(PAIRS)) and torch.equal(
        WORLD.prior(PAIRS).log_var, torch.zeros_like(PAIRS)
    )
    likelihood = WORLD.likelihood(PAIRS)
    torch.testing.assert_close(likelihood.mean, 1.7 * PAIRS - 0.4)
    assert likelihood.log_var.shape == PAIRS.shape and likelihood.log_var.eq(math.log(0.6)).all()


@pytest.mark.equation("03.5", "03.6")
def test_reconstruction_and_prior_matching_are_these_integrals():
    reconstruction, matching = elbo_terms(WORLD, Q, PAIRS)
    assert reconstruction.shape == matching.shape == (3,)
    for n in range(3):
        seen = lost = 0.0
        for d in range(2):
            q = density(Z, Q.mean[n, d], Q.log_var[n, d].exp().item())
            seen += integral(q * torch.log(density(PAIRS[n, d], 1.7 * Z - 0.4, 0.6))).item()
            lost += integral(q * torch.log(q.clamp(min=1e-300) / density(Z, 0.0, 1.0))).item()
        assert reconstruction[n].item() == pytest.approx(seen, abs=1e-8)
        assert matching[n].item() == pytest.approx(lost, abs=1e-8)


def test_evidence_is_bound_plus_gap_for_hidden_numbers():
    reconstruction, matching = elbo_terms(WORLD, Q, PAIRS)
    evidence = WORLD.evidence(PAIRS).log_prob(PAIRS)
    torch.testing.assert_close(reconstruction - matching + Q.kl(WORLD.posterior(PAIRS)), evidence, rtol=0, atol=1e-12)
    reconstruction, matching = elbo_terms(WORLD, WORLD.posterior(PAIRS), PAIRS)
    torch.testing.assert_close(reconstruction - matching, evidence, rtol=0, atol=1e-12)


def test_a_world_may_have_parameters_to_be_learned():
    """With q the posterior, the bound's gradient in the world's parameters is the evidence's (Fisher's identity)."""
    parameters = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.7, -0.4, math.log(0.6))]
    world = LinearGaussian(*parameters)
    fixed = Gaussian(world.posterior(PAIRS).mean.detach(), world.posterior(PAIRS).log_var.detach())
    reconstruction, matching = elbo_terms(world, fixed, PAIRS)
    got = torch.autograd.grad((reconstruction - matching).sum(), parameters)
    wanted = torch.autograd.grad(world.evidence(PAIRS).log_prob(PAIRS).sum(), parameters)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.equation("03.7")
def test_a_weight_is_joint_over_belief():
    z = torch.tensor([[0.1, 0.7], [-0.9, 1.2], [0.5, -0.2]], dtype=torch.float64)
    wanted = torch.ones(3, dtype=torch.float64)
    for d in range(2):
        joint = density(z[:, d], 0.0, 1.0) * density(PAIRS[:, d], 1.7 * z[:, d] - 0.4, 0.6)
        q = torch.stack([density(z[n, d], Q.mean[n, d], Q.log_var[n, d].exp().item()) for n in range(3)])
        wanted = wanted * joint / q
    torch.testing.assert_close(log_weight(WORLD, Q, PAIRS, z), wanted.log(), rtol=0, atol=1e-12)


def test_the_mean_log_weight_is_the_bound_and_the_mean_weight_the_evidence():
    """Within four standard errors; both from the same draws, from a belief wider than the posterior, so that weights are tame."""
    generator = torch.Generator().manual_seed(0)
    wide = Gaussian(WORLD.posterior(PAIRS).mean + 0.1, WORLD.posterior(PAIRS).log_var + 0.5)
    draws = 200_000
    many = Gaussian(wide.mean.repeat(draws, 1), wide.log_var.repeat(draws, 1))
    z = many.sample(torch.randn(many.mean.shape, generator=generator, dtype=torch.float64))
    log_w = log_weight(WORLD, many, PAIRS.repeat(draws, 1), z).view(draws, 3)
    reconstruction, matching = elbo_terms(WORLD, wide, PAIRS)
    for found, wanted in [
        (log_w, reconstruction - matching),
        (log_w.exp(), WORLD.evidence(PAIRS).log_prob(PAIRS).exp()),
    ]:
        error = found.std(0) / math.sqrt(draws)
        assert ((found.mean(0) - wanted).abs() < 4 * error).all(), (found.mean(0), wanted, error)
        assert (error < 0.01 * wanted.abs()).all()


@pytest.mark.equation("03.8")
def test_the_importance_bound_is_the_log_of_a_mean():
    log_w = torch.tensor([[0.3, -2.0, 500.0], [1.1, -1.0, 501.0], [-0.4, 0.7, 499.0], [0.0, 0.2, 500.5]], dtype=torch.float64)
    got = importance_bound(log_w)
    for place in range(2):
        assert got[place].item() == pytest.approx(math.log(sum(math.exp(w) for w in log_w[:, place].tolist()) / 4), abs=1e-12)
    rest = sum(math.exp(w - 500) for w in log_w[:, 2].tolist()) / 4
    assert got[2].item() == pytest.approx(500 + math.log(rest), abs=1e-9)  # weights beyond what exp can hold
    torch.testing.assert_close(importance_bound(log_w[:1]), log_w[0])


def test_more_draws_tighten_the_bound():
    """Exactly, in a world of three choices: L_1 ≤ L_2 ≤ L_3 ≤ log p(x), each a sum over all draws."""
    log_joint, log_q = HEIGHTS.log_joint(X)[1], random_log_q(1)[0]
    log_w = log_joint - log_q
    bounds = []
    for count in (1, 2, 3):
        draws = torch.cartesian_prod(*[torch.arange(3)] * count).view(-1, count).T  # count×3^count
        bounds.append((log_q[draws].sum(0).exp() * importance_bound(log_w[draws])).sum().item())
    assert bounds[0] == pytest.approx(elbo(log_joint[None], log_q[None]).item(), abs=1e-12)
    assert bounds[0] < bounds[1] < bounds[2] < HEIGHTS.log_evidence(X)[1].item()
