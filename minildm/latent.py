"""Two models stacked: what the likelihood says to an autoencoder whose prior is a diffusion model (chapter 16).

Everything is in nats and per example. q is the encoder's Gaussian over latents, p(x | z) the decoder, p(z) the diffusion model.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minildm.gaussian import Gaussian
from minildm.posterior import Reverse, bound_terms
from minildm.schedule import NoiseSchedule

LogDensity = Callable[[Tensor], Tensor]  # z of shape N×… → nats, shape N
Draw = Callable[[Tensor], Tensor]  # like → standard normal noise of the same shape


def elbo_parts(q: Gaussian, log_likelihood: LogDensity, log_prior: LogDensity, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ELBO in three parts, Eq. (16.1): E_q[log p(x | z)] + H(q) + E_q[log p(z)].

    The first knows the decoder alone, the last the prior alone; the entropy is the encoder's own and in closed form.

    Args:
        q: q(z | x), N×….
        log_likelihood: z → log p(x | z) of the N examples that q belongs to.
        log_prior: z → log p(z).
        noise: K draws of ε, K×N×….

    Returns: reconstruction, entropy, prior, nats, shape N each: means over the K draws.

    Source: Vahdat et al. 2021 (arXiv:2106.05931), section 3.1.
    """
    draws = [q.sample(each) for each in noise]
    first, last = (torch.stack([log_density(z) for z in draws]).mean(0) for log_density in (log_likelihood, log_prior))
    return first, q.entropy(), last


def aggregate(q: Gaussian, z: Tensor) -> Tensor:
    """log q(z) of the aggregate posterior, Eq. (16.2): q(z) = (1/N) Σ_i q(z | x_i), the density of all latents together.

    Args:
        q: q(z | x_i) of N pictures, N×….
        z: where to look, M×….

    Returns: nats, shape M. It takes N·M densities.

    Source: Hoffman and Johnson 2016, ELBO surgery.
    """
    of_each = torch.stack([Gaussian(mean, log_var).log_prob(z) for mean, log_var in _one_by_one(q)])  # N×M
    return torch.logsumexp(of_each, 0) - math.log(len(of_each))


def rate_terms(q: Gaussian, log_prior: LogDensity, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The mean rate in two, Eq. (16.3): E_x KL(q(z | x) ‖ p(z)) = I(x; z) + KL(q(z) ‖ p(z)).

    The information that latents hold about pictures, E[log q(z | x) − log q(z)], is the encoder's choice. The mismatch,
    E[log q(z) − log p(z)], is all that a better prior can lower.

    Args:
        q: q(z | x_i) of N pictures, N×….
        log_prior: z → log p(z).
        noise: K draws of ε, K×N×….

    Returns: information and mismatch, nats, single numbers.

    Source: Hoffman and Johnson 2016, ELBO surgery.
    """
    draws = [q.sample(each) for each in noise]
    given, together, wanted = (
        torch.stack([log_density(z) for z in draws]).mean() for log_density in (q.log_prob, lambda z: aggregate(q, z), log_prior)
    )
    return given - together, together - wanted


def latent_bound(
    log_likelihood: LogDensity, q: Gaussian, schedule: NoiseSchedule, reverse: Reverse, draw: Draw = torch.randn_like
) -> Tensor:
    """The bound on −log p(x) of both models together, Eq. (16.4): −log p(x | z) − H(q) + Σ_t L_t(z), at one draw of z.

    Args:
        log_likelihood: z → log p(x | z).
        q: q(z | x), N×….
        schedule, reverse: the diffusion model of latents, as for `bound_terms`.
        draw: asked for the noise of z first, then for that of each t.

    Returns: nats, shape N; the mean over draws is the bound.
    """
    z = q.sample(draw(q.mean))
    return bound_terms(schedule, reverse, z, draw).sum(1) - log_likelihood(z) - q.entropy()


def least_noise_error(schedule: NoiseSchedule, deviation: float, t: Tensor) -> Tensor:
    """The smallest squared error of ε̂ for Gaussian latents of this deviation, Eq. (16.5): s² SNR/(1 + s² SNR).

    It depends on s and t through s²·SNR(t) alone: latents of another deviation are latents of deviation 1 on another
    schedule, whose λ is shifted by log s. And it goes to 0 with s, whatever the latents should have said.

    Args:
        deviation: s, above 0.
        t: integer times in 1..T.

    Returns: shaped like t; 1 is what the answer ε̂ = 0 gets.
    """
    snr = deviation**2 * schedule.snr(t)
    return snr / (1 + snr)


def break_even(pixel_step: float, latent_step: float, before: float) -> float:
    """After how many steps latent training has paid for what comes before it, Eq. (16.6): before/(pixel_step − latent_step).

    Args:
        pixel_step, latent_step: the cost of a training step in each space, in one unit: FLOPs, or seconds.
        before: the cost of training the autoencoder and of encoding the data once, in the same unit.

    Returns: steps; infinite if a step in the latent space is no cheaper.
    """
    return before / (pixel_step - latent_step) if pixel_step > latent_step else math.inf


def _one_by_one(q: Gaussian) -> list[tuple[Tensor, Tensor]]:
    """Mean and log-variance of each example, 1×…."""
    return list(zip(q.mean.split(1), q.log_var.expand_as(q.mean).split(1), strict=True))
