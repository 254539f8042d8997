"""Hierarchies: chains up and down, the bound level by level, chains of lines in closed form, chains that learn."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from minildm.gaussian import Gaussian
from minildm.hvae import (
    GaussianMLP,
    Line,
    backward_terms,
    climb,
    descend,
    elbo_draw,
    exact_posterior,
    expected_backward,
    expected_upward,
    given_data,
    level_marginals,
    log_evidence,
    log_inference,
    log_joint,
    maximise,
    noising,
    turn,
    turn_chain,
    upward_terms,
)

P = [Line(0.8, 0.3, math.log(0.5)), Line(-1.1, 0.2, math.log(0.7)), Line(0.6, -0.4, math.log(0.9))]
Q = [Line(0.5, 0.1, math.log(0.6)), Line(-0.7, 0.3, math.log(0.4)), Line(0.9, -0.2, math.log(0.8))]
X = torch.tensor([[0.3], [-1.2], [2.0], [0.9]], dtype=torch.float64)


def log_normal(value: Tensor, mean: Tensor, link: Line) -> Tensor:
    """PyTorch's density, summed over dimensions."""
    return Normal(mean, math.exp(0.5 * link.log_var)).log_prob(value).sum(1)


def levels_of(x: Tensor, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [x, *(torch.randn(x.shape, dtype=torch.float64) for _ in P)]


def joint_of(p: list[Line]) -> MultivariateNormal:
    """p(x, z_1, …, z_L) of a chain of lines as one Gaussian in L + 1 dimensions, by matrices.

    All levels are a constant plus a matrix times the noises of all levels, ordered as the levels are.
    """
    count = len(p) + 1
    mean, mixing = torch.zeros(count, dtype=torch.float64), torch.zeros(count, count, dtype=torch.float64)
    mixing[-1, -1] = 1
    for level in reversed(range(len(p))):
        mean[level] = p[level].weight * mean[level + 1] + p[level].bias
        mixing[level] = p[level].weight * mixing[level + 1]
        mixing[level, level] = math.exp(0.5 * p[level].log_var)
    return MultivariateNormal(mean, mixing @ mixing.T)


def posterior_given_x(q: list[Line], x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N×L) and covariance (L×L) of q(z_1 … z_L | x), by matrices, for x of shape N×1."""
    mean, mixing = [x], torch.zeros(len(q) + 1, len(q), dtype=torch.float64)
    for level, link in enumerate(q):
        mean.append(link.weight * mean[-1] + link.bias)
        mixing[level + 1] = link.weight * mixing[level]
        mixing[level + 1, level] = math.exp(0.5 * link.log_var)
    return torch.cat(mean[1:], 1), mixing[1:] @ mixing[1:].T


# Any chain


def test_climbing_and_descending_go_link_by_link():
    noise = [torch.full_like(X, value) for value in (1.0, -0.5, 2.0)]
    z = climb(Q, X, noise)
    assert len(z) == 4 and z[0] is X
    for level, link in enumerate(Q):
        torch.testing.assert_close(z[level + 1], link.weight * z[level] + link.bias + math.exp(0.5 * link.log_var) * noise[level])
    z = descend(P, X, noise)
    assert len(z) == 4 and z[-1] is X
    for level, link in enumerate(P):
        torch.testing.assert_close(z[level], link.weight * z[level + 1] + link.bias + math.exp(0.5 * link.log_var) * noise[level])


def test_without_noise_given_it_is_drawn_anew_at_every_level():
    torch.manual_seed(0)
    x = torch.zeros(20000, 1, dtype=torch.float64)
    plain = [Line(1.0, 0.0, 0.0), Line(1.0, 0.0, 0.0)]
    for z in (climb(plain, x), descend(plain, x)[::-1]):
        steps = torch.cat([z[1] - z[0], z[2] - z[1]], 1)
        torch.testing.assert_close(torch.cov(steps.T), torch.eye(2, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.equation("05.1")
def test_the_joint_is_that_of_one_large_gaussian():
    z = levels_of(X)
    torch.testing.assert_close(log_joint(P, z), joint_of(P).log_prob(torch.cat(z, 1)))


@pytest.mark.equation("05.2")
def test_the_inference_chain_is_one_large_gaussian_given_x():
    z = levels_of(X)
    mean, covariance = posterior_given_x(Q, X)
    torch.testing.assert_close(log_inference(Q, z), MultivariateNormal(mean, covariance).log_prob(torch.cat(z[1:], 1)))


@pytest.mark.equation("05.3")
def test_a_draw_of_the_bound_is_the_evidence_less_what_q_has_too_much():
    """log p(x, z) − log q(z | x) = log p(x) − [log q(z | x) − log p(z | x)], each density by matrices."""
    z = levels_of(X)
    joint, zs = joint_of(P), torch.cat(z[1:], 1)
    mean, covariance = posterior_given_x(Q, X)
    wanted = joint.log_prob(torch.cat(z, 1)) - MultivariateNormal(mean, covariance).log_prob(zs)
    torch.testing.assert_close(elbo_draw(P, Q, z), wanted)


def test_with_the_exact_posterior_every_draw_of_the_bound_is_the_evidence():
    q = exact_posterior(P, X)
    for seed in range(3):
        torch.testing.assert_close(elbo_draw(P, q, levels_of(X, seed)), log_evidence(P, X))


@pytest.mark.equation("05.4")
def test_upward_terms_are_the_densities_of_neighbours():
    z = levels_of(X)
    got = upward_terms(P, Q, z)
    top_mean, top_variance = Q[2].weight * z[2] + Q[2].bias, math.exp(Q[2].log_var)
    kl = torch.distributions.kl_divergence(Normal(top_mean, top_variance**0.5), Normal(0.0, 1.0)).sum(1)
    wanted = [
        log_normal(X, P[0].weight * z[1] + P[0].bias, P[0]),
        log_normal(z[1], P[1].weight * z[2] + P[1].bias, P[1]) - log_normal(z[1], Q[0].weight * X + Q[0].bias, Q[0]),
        log_normal(z[2], P[2].weight * z[3] + P[2].bias, P[2]) - log_normal(z[2], Q[1].weight * z[1] + Q[1].bias, Q[1]),
        -kl,
    ]
    torch.testing.assert_close(got, torch.stack(wanted, 1))


def test_one_level_is_the_vae_of_chapter_04():
    z = levels_of(X)[:2]
    terms = upward_terms(P[:1], Q[:1], z)
    assert terms.shape == (4, 2)
    torch.testing.assert_close(terms[:, 0], P[0](z[1]).log_prob(X))
    torch.testing.assert_close(terms[:, 1], -Q[0](X).kl())
    torch.testing.assert_close(backward_terms(P[:1], Q[0](X), [], z), terms)


@pytest.mark.equation("05.6")
def test_backward_terms_are_divergences_between_torch_normals():
    z = levels_of(X)
    mean, covariance = posterior_given_x(Q, X)
    got = backward_terms(P, *given_data(Q, X), z)
    wanted = [log_normal(X, P[0].weight * z[1] + P[0].bias, P[0])]
    for level in (1, 2):
        # q(z_l | z_{l+1}, x) from the joint Gaussian of the two, by the rule for conditional Gaussians
        ratio = covariance[level - 1, level] / covariance[level, level]
        inner = mean[:, level - 1, None] + ratio * (z[level + 1] - mean[:, level, None])
        spread = (covariance[level - 1, level - 1] - ratio * covariance[level - 1, level]).sqrt()
        below = Normal(P[level].weight * z[level + 1] + P[level].bias, math.exp(0.5 * P[level].log_var))
        wanted.append(-torch.distributions.kl_divergence(Normal(inner, spread), below).sum(1))
    top = Normal(mean[:, 2:], covariance[2, 2].sqrt())
    wanted.append(-torch.distributions.kl_divergence(top, Normal(0.0, 1.0)).sum(1))
    torch.testing.assert_close(got, torch.stack(wanted, 1))


def test_several_dimensions_are_summed_and_not_averaged():
    x = torch.cat([X, 2 * X, -X], 1)
    z = levels_of(x)
    apart = [[level[:, i : i + 1] for level in z] for i in range(3)]
    torch.testing.assert_close(upward_terms(P, Q, z), sum(upward_terms(P, Q, each) for each in apart))
    each_given = sum(backward_terms(P, *given_data(Q, each[0]), each) for each in apart)
    torch.testing.assert_close(backward_terms(P, *given_data(Q, x), z), each_given)


@pytest.mark.parametrize("function", [log_joint, log_inference, lambda p, z: upward_terms(p, p, z)])
def test_levels_and_links_must_fit(function):
    for z in (levels_of(X)[:3], [*levels_of(X), X]):
        with pytest.raises(ValueError, match=f"3 links join 4 levels, not {len(z)}: give z = \\[x, z_1"):
            function(P, z)


def test_each_list_of_links_is_counted():
    z = levels_of(X)
    with pytest.raises(ValueError, match="2 links join 3 levels, not 4"):
        upward_terms(P, Q[:2], z)
    with pytest.raises(ValueError, match="2 links join 3 levels, not 4"):
        upward_terms(P[:2], Q, z)
    with pytest.raises(ValueError, match="3 links join 4 levels, not 3"):
        backward_terms(P, Q[0](X), Q, z)
    with pytest.raises(ValueError, match="2 links join 3 levels, not 4"):
        backward_terms(P[:2], Q[0](X), Q[:2], z)


# Chains of lines


@pytest.mark.equation("05.5")
@pytest.mark.parametrize("weight", [0.7, -1.3])
def test_turning_a_link_is_conditioning_in_the_joint_gaussian(weight):
    """From the covariance of (a, b): the slope is cov/var(b), the variance var(a) − cov²/var(b)."""
    start = Gaussian(torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64), torch.tensor([[0.3], [-0.6], [0.1]]).double())
    link = Line(weight, 0.4, math.log(0.6))
    turned = turn(start, link)
    variance = start.log_var.exp()
    covariance, total = weight * variance, weight**2 * variance + 0.6
    slope = covariance / total
    torch.testing.assert_close(turned.weight, slope)
    torch.testing.assert_close(turned.bias, start.mean - slope * (weight * start.mean + 0.4))
    torch.testing.assert_close(turned.log_var, torch.log(variance - covariance**2 / total))


def test_levels_may_differ_in_size_and_a_link_does_not_change():
    torch.manual_seed(0)
    p = [GaussianMLP(2, 3, 4), GaussianMLP(1, 2, 4)]  # x of 3 numbers, z_1 of 2, z_2 of 1
    z = descend(p, torch.randn(5, 1))
    wanted = -0.5 * (math.log(2 * math.pi) + z[2][:, 0] ** 2) + p[0](z[1]).log_prob(z[0]) + p[1](z[2]).log_prob(z[1])
    torch.testing.assert_close(log_joint(p, z), wanted)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Line(1.0, 0.0, 0.0).weight = 2.0


def test_plain_numbers_are_as_exact_as_the_chain_they_turn():
    start = Gaussian(torch.full((1, 1), 0.3, dtype=torch.float64), torch.full((1, 1), 0.7, dtype=torch.float64))
    numbers = (0.1, 0.7, math.log(0.3))  # none of which float32 holds exactly
    plain, exact = turn(start, Line(*numbers)), turn(start, Line(*(torch.tensor(each, dtype=torch.float64) for each in numbers)))
    for name in ("weight", "bias", "log_var"):
        assert torch.equal(getattr(plain, name), getattr(exact, name)), name


def test_turning_twice_gives_the_link_back():
    start, link = Gaussian(X, torch.full_like(X, -0.2)), Line(0.7, 0.4, math.log(0.6))
    back = turn(level_marginals(start, [link])[1], turn(start, link))
    for name in ("weight", "bias", "log_var"):
        torch.testing.assert_close(getattr(back, name), torch.full_like(X, getattr(link, name)))


@pytest.mark.equation("05.7")
def test_the_levels_are_marginals_of_the_large_gaussian():
    mean, covariance = posterior_given_x(Q, X)
    start = Gaussian(X, torch.tensor([[-0.3], [0.1], [0.4], [-0.8]], dtype=torch.float64))
    found = level_marginals(start, Q)
    spread, scale = torch.diagonal(covariance), torch.cumprod(torch.tensor([link.weight for link in Q]).double(), 0)
    assert len(found) == 4
    torch.testing.assert_close(found[0].mean, X)
    torch.testing.assert_close(found[0].log_var, torch.tensor([[-0.3], [0.1], [0.4], [-0.8]], dtype=torch.float64))
    for level in range(3):
        torch.testing.assert_close(found[level + 1].mean, mean[:, level, None])
        # what x itself varies comes on top, scaled by all weights so far
        wanted = torch.log(spread[level] + scale[level] ** 2 * start.log_var.exp())
        torch.testing.assert_close(found[level + 1].log_var, wanted)


def test_a_chain_is_turned_link_by_link():
    start = Gaussian(X, torch.full_like(X, -0.3))
    places, turned = level_marginals(start, Q), turn_chain(start, Q)
    assert len(turned) == 3
    for place, link, got in zip(places, Q, turned, strict=False):
        torch.testing.assert_close(got.weight, turn(place, link).weight)
        torch.testing.assert_close(got.bias, turn(place, link).bias)


def test_the_evidence_is_the_first_marginal_of_the_large_gaussian():
    joint = joint_of(P)
    wanted = Normal(joint.mean[0], joint.covariance_matrix[0, 0].sqrt()).log_prob(X).sum(1)
    torch.testing.assert_close(log_evidence(P, X), wanted)


@pytest.mark.equation("05.8")
def test_expected_terms_are_the_integrals_that_draws_approach():
    """The mean over many draws lies within 4 standard errors, for both arrangements; their totals agree exactly."""
    torch.manual_seed(0)
    count, upward, backward = 40000, expected_upward(P, Q, X), expected_backward(P, Q, X)
    for row in range(len(X)):
        x = X[row].expand(count, 1)
        z = climb(Q, x)
        for drawn, exact in ((upward_terms(P, Q, z), upward), (backward_terms(P, *given_data(Q, x), z), backward)):
            error = drawn.std(0) / count**0.5
            assert ((drawn.mean(0) - exact[row]).abs() <= 4 * error + 1e-9).all(), (drawn.mean(0) - exact[row], error)
    torch.testing.assert_close(upward.sum(1), backward.sum(1))


@pytest.mark.equation("05.8")
def test_the_expected_bound_is_the_evidence_less_a_divergence_of_large_gaussians():
    mean, covariance = posterior_given_x(Q, X)
    joint = joint_of(P)
    whole, centre = joint.covariance_matrix, joint.mean
    slope = whole[1:, 0] / whole[0, 0]
    exact = MultivariateNormal(centre[1:] + slope * (X - centre[0]), whole[1:, 1:] - slope[:, None] * whole[0, 1:])
    gap = torch.distributions.kl_divergence(MultivariateNormal(mean, covariance), exact)
    for terms in (expected_upward(P, Q, X), expected_backward(P, Q, X)):
        assert terms.shape == (4, 4)
        torch.testing.assert_close(log_evidence(P, X) - terms.sum(1), gap)
    # and each column by itself: the last is a divergence of scalars
    top = Normal(mean[:, 2], covariance[2, 2].sqrt())
    torch.testing.assert_close(expected_backward(P, Q, X)[:, 3], -torch.distributions.kl_divergence(top, Normal(0.0, 1.0)))
    torch.testing.assert_close(expected_backward(P, Q, X)[:, 0], expected_upward(P, Q, X)[:, 0])


def test_the_exact_posterior_makes_the_bound_tight():
    x = torch.cat([X, -0.5 * X], 1)
    q = exact_posterior(P, x)
    assert len(q) == 3
    for terms in (expected_upward(P, q, x), expected_backward(P, q, x)):
        torch.testing.assert_close(terms.sum(1), log_evidence(P, x))


def test_given_data_both_routes_lead_to_the_same_draws():
    """The density of q(z_3 | x) q(z_2 | z_3, x) q(z_1 | z_2, x) is that of the chain upwards."""
    z = levels_of(X)
    top, links = given_data(Q, X)
    downward = top.log_prob(z[3]) + sum(link(z[level + 2]).log_prob(z[level + 1]) for level, link in enumerate(links))
    torch.testing.assert_close(downward, log_inference(Q, z))


# Diffusion as a special case


@pytest.mark.equation("05.9")
def test_noising_keeps_variance_one_and_shrinks_the_signal():
    betas = [0.1, 0.3, 0.6]
    links = noising(betas)
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    for beta, link in zip(betas, links, strict=True):
        given = link(x)
        torch.testing.assert_close(given.mean, x * math.sqrt(1 - beta))
        torch.testing.assert_close(given.log_var.exp(), torch.full_like(x, beta))
    unit = Gaussian(torch.zeros_like(x), torch.zeros_like(x))
    for place in level_marginals(unit, links):
        torch.testing.assert_close(place.log_var, torch.zeros_like(x))
    signal = math.sqrt(0.9 * 0.7 * 0.4)
    last = level_marginals(links[0](x), links[1:])[-1]
    torch.testing.assert_close(last.mean, signal * x)
    torch.testing.assert_close(last.log_var.exp(), torch.full_like(x, 1 - signal**2))
    torch.testing.assert_close(noising(torch.tensor(betas))[1].log_var, math.log(0.3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5])
def test_a_noise_outside_of_0_to_1_is_refused(beta):
    with pytest.raises(ValueError, match=r"every β must lie in \(0, 1\), but they span"):
        noising([0.5, beta])
    with pytest.raises(ValueError, match="span -1 to 2"):
        noising([-1.0, 0.5, 2.0])


def test_diffusion_with_the_best_reverse_chain_loses_at_its_top_alone():
    """p runs the data's own noising backwards; it differs from q in one thing, N(0, I) at the top instead of q(z_T)."""
    data = Gaussian(torch.full_like(X, 0.7), torch.full_like(X, math.log(0.3)))
    q = noising([0.05] * 30)
    p = turn_chain(data, q)
    got = expected_backward(p, q, X).sum(1)
    last, marginal = level_marginals(q[0](X), q[1:])[-1], level_marginals(data, q)[-1]
    torch.testing.assert_close(got, data.log_prob(X) + last.kl(marginal) - last.kl())
    assert (got < log_evidence(p, X)).all()


# Chains that learn


def test_a_learned_link_adds_its_skip_to_the_mean():
    torch.manual_seed(0)
    plain = GaussianMLP(2, 2, 8, log_var=-2.0)
    z = torch.randn(5, 2)
    assert plain.network[-1].bias[2:].tolist() == [-2, -2] and plain.network[-1].bias[0] != -2
    out = plain.network(z)
    torch.testing.assert_close(plain(z).mean, out[:, :2])
    torch.testing.assert_close(plain(z).log_var, out[:, 2:])
    assert plain(z).mean.shape == plain(z).log_var.shape == (5, 2)
    plain.skip = 0.5
    torch.testing.assert_close(plain(z).mean, out[:, :2] + 0.5 * z)
    standard = GaussianMLP(2, 3, 8)
    assert standard.network[-1].bias[3:].tolist() == [0, 0, 0] and standard(z).mean.shape == (5, 3)
    assert standard.network[0].out_features == 8 and GaussianMLP(2, 2, 8, skip=1.0).skip == 1.0


def test_a_skip_between_unequal_levels_is_refused():
    with pytest.raises(ValueError, match="skip=0.5 needs levels of equal size, not 2 and 3: set it to 0"):
        GaussianMLP(2, 3, 8, skip=0.5)


def test_maximise_climbs_to_the_top_of_a_parabola():
    module, seen = nn.Linear(1, 1, bias=False), []
    nn.init.constant_(module.weight, 1.0)

    def draw(count: int) -> Tensor:
        seen.append(count)
        return torch.ones(count, 1)

    values = maximise(lambda x: -((module(x) - 1.3)[:, 0] ** 2), module, draw, 400)
    assert values.shape == (400,) and seen == [256] * 400 and not values.requires_grad
    assert values[0].item() == pytest.approx(-0.09, abs=1e-6) and values[-1] > -1e-4
    assert module.weight.item() == pytest.approx(1.3, abs=1e-2)


def test_maximise_takes_adams_steps_at_a_rate_that_falls_to_0():
    """Adam's steps on a constant slope are the rate itself: 0.005 (1 + ¾ + ½ + ¼) in four steps."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    maximise(lambda x: module(x)[:, 0], module, lambda count: torch.ones(count, 1), 4)
    assert module.weight.item() == pytest.approx(1 + 0.005 * 2.5, abs=1e-6)


@pytest.mark.slow
def test_a_learned_chain_reaches_the_exact_evidence_of_a_gaussian():
    torch.manual_seed(0)
    q, p = (nn.ModuleList(GaussianMLP(1, 1, 16) for _ in range(2)) for _ in range(2))
    maximise(lambda x: upward_terms(p, q, climb(q, x)).sum(1), nn.ModuleList([p, q]), lambda n: 2 + 0.5 * torch.randn(n, 1), 1500)
    x = 2 + 0.5 * torch.randn(4000, 1)
    with torch.no_grad():
        bound = upward_terms(p, q, climb(q, x)).sum(1).mean().item()
    best = Normal(2.0, 0.5).log_prob(x).mean().item()
    assert best - 0.05 < bound < best + 0.02
