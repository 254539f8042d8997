"""The evidence lower bound, in worlds where the evidence itself can be computed (chapter 03)."""

import dataclasses
import math

import torch
from torch import Tensor

from minildm.gaussian import Gaussian, add, affine, condition, sum_per_example


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A world with one hidden choice: z = k with probability π_k, then x ~ N(μ_k, σ_k²), a single number.

    Args:
        weights: π, positive, summing to 1; shape K.
        means, log_vars: μ and log σ² of the K components, in the unit of x; shape K.

    With K answers to "which component?" every sum over z can be carried out. Raises ValueError for weights that are no
    probabilities.
    """

    weights: Tensor
    means: Tensor
    log_vars: Tensor

    def __post_init__(self) -> None:
        if not (bool((self.weights > 0).all()) and abs(self.weights.sum().item() - 1) < 1e-6):
            raise ValueError(f"weights={self.weights.tolist()} must be positive and sum to 1: divide them by their sum")

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) = log π_z + log N(x; μ_z, σ_z²) for every z: x of shape N → N×K."""
        square = (x[:, None] - self.means) ** 2 * torch.exp(-self.log_vars)  # N×K
        return torch.log(self.weights) - 0.5 * (math.log(2 * math.pi) + self.log_vars + square)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log Σ_z p(x, z), Eq. (03.1), shape N: the sum that larger worlds put out of reach."""
        return torch.logsumexp(self.log_joint(x), 1)

    def log_posterior(self, x: Tensor) -> Tensor:
        """log p(z | x) = log p(x, z) − log p(x) for every z, Eq. (03.2): N → N×K. Bayes' rule."""
        return self.log_joint(x) - self.log_evidence(x)[:, None]


def elbo(log_joint: Tensor, log_q: Tensor) -> Tensor:
    """ELBO(q) = E_q[log p(x, z) − log q(z)], Eq. (03.3), as a sum over the K values of z.

    Args:
        log_joint: log p(x, z), N×K, in nats.
        log_q: log q(z), N×K or K; −∞ where q has no mass, which then adds nothing.

    Returns: nats, shape N.
    """
    q = torch.exp(log_q)
    return torch.where(q > 0, q * (log_joint - log_q), 0).sum(-1)


def gap(log_joint: Tensor, log_q: Tensor) -> Tensor:
    """KL(q(z) ‖ p(z | x)) = E_q[log q(z) − log p(z | x)], which is log p(x) − ELBO(q), Eq. (03.4).

    Args:
        log_joint, log_q: as for `elbo`.

    Returns: nats, at least 0, shape N; 0 where q is the posterior.
    """
    log_posterior = torch.log_softmax(log_joint, -1)  # what is left of the joint when it is divided by its sum
    q = torch.exp(log_q)
    return torch.where(q > 0, q * (log_q - log_posterior), 0).sum(-1)


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """A world with hidden numbers: z ~ N(0, 1), then x ~ N(a z + b, s²), D times over, each pair (z, x) by itself.

    Args:
        scale, shift: a and b.
        log_var: log s², s in the unit of x.

    The evidence and the posterior are Gaussians, so both can be written down. Data and latents are N×D.
    """

    scale: float | Tensor
    shift: float | Tensor
    log_var: float | Tensor

    def prior(self, like: Tensor) -> Gaussian:
        """p(z) = N(0, I), one for each row of `like`, N×D."""
        return Gaussian(torch.zeros_like(like), torch.zeros_like(like))

    def likelihood(self, z: Tensor) -> Gaussian:
        """p(x | z) for z of shape N×D."""
        return Gaussian(self.scale * z + self.shift, torch.zeros_like(z) + self.log_var)

    def evidence(self, like: Tensor) -> Gaussian:
        """p(x) = N(b, a² + s²): a z + b is a Gaussian, and so is its sum with independent noise. Chapter 01 derives both."""
        noise = Gaussian(torch.zeros_like(like), torch.zeros_like(like) + self.log_var)
        return add(affine(self.prior(like), self.scale, self.shift), noise)

    def posterior(self, x: Tensor) -> Gaussian:
        """p(z | x) for x of shape N×D: Bayes' rule for Gaussians, derived in chapter 01."""
        return condition(self.prior(x), x, self.scale, self.shift, self.log_var)


def elbo_terms(world: LinearGaussian, q: Gaussian, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of ELBO(q) = E_q[log p(x | z)] − KL(q(z) ‖ p(z)), Eq. (03.5), for q(z) = N(m, v).

    Reconstruction: Eq. (03.6), E_q[log p(x | z)] = log N(x; a m + b, s²) − a² v/(2 s²), summed over the D numbers.
    Prior matching: KL(N(m, v) ‖ N(0, 1)), in closed form (chapter 01).

    Args:
        q: N×D.
        x: N×D.

    Returns: reconstruction and prior matching, in nats, shape N each. The ELBO is their difference.
    """
    spread = 0.5 * (world.scale**2 * torch.exp(q.log_var - world.log_var)).expand_as(q.mean)
    return world.likelihood(q.mean).log_prob(x) - sum_per_example(spread), q.kl(world.prior(x))


def log_weight(world: LinearGaussian, q: Gaussian, x: Tensor, z: Tensor) -> Tensor:
    """log w(z) = log p(z) + log p(x | z) − log q(z), Eq. (03.7). Over draws of z from q, E[log w] is the ELBO and E[w] is p(x).

    Args:
        q: N×D.
        x, z: N×D.

    Returns: nats, shape N.
    """
    return world.prior(z).log_prob(z) + world.likelihood(z).log_prob(x) - q.log_prob(z)


def importance_bound(log_w: Tensor) -> Tensor:
    """log (1/K) Σ_k w(z_k), Eq. (03.8): one draw of the K-sample bound on log p(x); its expectation is the bound.

    Args:
        log_w: log weights of K independent draws from q, K×….

    Returns: nats, shape ….

    Source: Burda et al. 2016 (arXiv:1509.00519), Eq. 8.
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))
