"""The variational autoencoder, and two ways to differentiate an expectation (chapter 04)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.elbo import importance_bound
from minildm.families import mlp
from minildm.gaussian import Gaussian, sum_per_example

LogLikelihood = Callable[[Tensor, Tensor], Tensor]  # (x, what the decoder gives) → log p(x | z), shape N


def score_function_gradient(
    f: Callable[[Tensor], Tensor], q: Gaussian, noise: Tensor, baseline: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """The gradient of E_q[f(z)] as a mean of f(z) ∇ log q(z), Eq. (04.1); with a baseline b, (f(z) − b) ∇ log q(z), Eq. (04.2).

    f is only evaluated, never differentiated.

    Args:
        f: from N numbers to N numbers.
        q: N(μ, σ²), one for each draw: mean and log_var of shape N.
        noise: ε ~ N(0, 1), shape N; the draws are z = μ + σ ε.
        baseline: b, a number or N of them; it must not depend on the draw that it is subtracted from.

    Returns: one estimate a draw of the derivatives with respect to μ and to log σ (half of log_var), shape N each.

    Source: Williams 1992, Machine Learning 8:229.
    """
    weight = f(q.sample(noise)) - baseline
    return weight * noise * torch.exp(-0.5 * q.log_var), weight * (noise**2 - 1)


def pathwise_gradient(f: Callable[[Tensor], Tensor], q: Gaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of E_q[f(z)] through the draw z = μ + σ ε, Eq. (04.3): f′(z) for μ and f′(z) σ ε for log σ.

    Args:
        f: from N numbers to N numbers, each from its own; differentiable (autograd supplies f′).
        q: N(μ, σ²), one for each draw: mean and log_var of shape N.
        noise: ε ~ N(0, 1), shape N.

    Returns: one estimate a draw of the derivatives with respect to μ and to log σ (half of log_var), shape N each.

    Source: Kingma and Welling 2014 (arXiv:1312.6114), Section 2.4.
    """
    z = q.sample(noise).detach().requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope, slope * torch.exp(0.5 * q.log_var) * noise


class VAE(nn.Module):
    """An encoder that gives q(z | x) and a decoder that gives the parameters of p(x | z); the prior is N(0, I).

    Args:
        encoder: from x to N×2L: L means, then L log-variances.
        decoder: from z, N×L, to what the likelihood needs: logits, or means.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Gaussian:
        """q(z | x), a Gaussian over N×L. Raises ValueError when the encoder's output cannot be halved."""
        parameters = self.encoder(x)
        if parameters.shape[1] % 2:
            raise ValueError(f"the encoder gives {parameters.shape[1]} values; it must give 2L: L means, then L log-variances")
        return Gaussian(*parameters.chunk(2, dim=1))

    def decode(self, z: Tensor) -> Tensor:
        """The parameters of p(x | z) for latents z, N×L."""
        return self.decoder(z)


def plane_vae(latent: int = 2, width: int = 64, dimensions: int = 2) -> VAE:
    """A VAE for points in the plane (or in `dimensions` dimensions), N×D, of networks with two hidden layers of one width."""
    return VAE(mlp(dimensions, width, 2 * latent), mlp(latent, width, dimensions))


def image_vae(latent: int, width: int = 256, size: int = 32) -> VAE:
    """A VAE for grey pictures, N×1×size×size; the decoder gives one logit (or mean) a pixel."""
    encoder = nn.Sequential(nn.Flatten(), mlp(size**2, width, 2 * latent))
    return VAE(encoder, nn.Sequential(mlp(latent, width, size**2), nn.Unflatten(1, (1, size, size))))


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x | z) when each pixel is 1 with probability sigmoid(logit), Eq. (04.6): Σ x log π + (1 − x) log(1 − π), shape N.

    Args:
        x: N×…, from 0 to 1 (else ValueError). Only for x in {0, 1} is this the logarithm of a probability.
        logits: log π/(1 − π), same shape (else ValueError).

    Source: Kingma and Welling 2014 (arXiv:1312.6114), Appendix C.1.
    """
    if x.shape != logits.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for data of shape {tuple(x.shape)}")
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"Bernoulli data must lie in [0, 1], not in [{low:g}, {high:g}]; pictures in [-1, 1] need (x + 1)/2")
    return -sum_per_example(F.binary_cross_entropy_with_logits(logits, x, reduction="none"))


def gaussian_log_prob(x: Tensor, mean: Tensor, variance: float = 0.5) -> Tensor:
    """log p(x | z) = log N(x; mean, σ² I) with a fixed variance, Eq. (04.7), shape N.

    −‖x − mean‖²/(2σ²) − (D/2) log 2πσ² for x and mean of shape N×…: at σ² = ½ minus the squared error, but for a constant.
    Raises ValueError for a variance that is not positive, or x shaped unlike the mean.
    """
    if x.shape != mean.shape:
        raise ValueError(f"means of shape {tuple(mean.shape)} for data of shape {tuple(x.shape)}")
    if variance <= 0:
        raise ValueError(f"variance={variance} must be positive, for example 0.5")
    return Gaussian(mean, torch.full_like(mean, math.log(variance))).log_prob(x)


def implied_variance(beta: float, variance: float = 0.5) -> float:
    """The variance that a KL weight stands for, Eq. (04.8): weight β at variance σ² trains like weight 1 at β σ².

    The default variance is that of a squared error summed over dimensions. If it is averaged over D of them, give D/2.

    Source: Rybkin et al. 2021 (arXiv:2006.13202).
    """
    return beta * variance


def vae_terms(vae: VAE, x: Tensor, noise: Tensor, log_likelihood: LogLikelihood) -> tuple[Tensor, Tensor]:
    """The two terms of the ELBO, Eq. (04.4): log p(x | z) at one draw z = μ + σ ε, and KL(q(z | x) ‖ p(z)).

    Args:
        x: data, N×….
        noise: ε ~ N(0, I), N×L.
        log_likelihood: from x and what the decoder gives to N numbers, in nats, such as `bernoulli_log_prob`.

    Returns: reconstruction and kl, shape N each. ELBO = reconstruction − kl.

    Source: Kingma and Welling 2014 (arXiv:1312.6114), Eq. 7.
    """
    q = vae.encode(x)
    return log_likelihood(x, vae.decode(q.sample(noise))), q.kl()


def kl_per_dimension(q: Gaussian) -> Tensor:
    """KL(q ‖ N(0, 1)) of each latent dimension by itself, ½ (σ² + μ² − 1 − log σ²), Eq. (04.5): N×L.

    Source: Kingma and Welling 2014 (arXiv:1312.6114), Appendix B.
    """
    log_var = q.log_var.expand_as(q.mean)
    return Gaussian(q.mean.reshape(-1, 1), log_var.reshape(-1, 1)).kl().view_as(q.mean)


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Σ over dimensions of max(κ, the batch's mean KL), Eq. (04.11): below κ nats a dimension costs nothing more.

    Args:
        kl: of each example and dimension, N×L.
        floor: κ, in nats, at least 0; with 0 this is the batch's mean KL.

    Source: Kingma et al. 2016 (arXiv:1606.04934), appendix, "objective with free bits".
    """
    if floor < 0:
        raise ValueError(f"floor={floor} must be at least 0 nats: a KL is never negative")
    return kl.mean(0).clamp(min=floor).sum()


def vae_loss(
    vae: VAE, x: Tensor, noise: Tensor, log_likelihood: LogLikelihood, *, beta: float = 1.0, floor: float = 0.0
) -> Tensor:
    """What is minimised: the batch's mean of β KL − reconstruction, or minus the ELBO for β = 1 and floor = 0.

    `floor` gives each latent dimension that many nats for nothing, as in `free_bits`; the rest is as in `vae_terms`.
    """
    q = vae.encode(x)
    reconstruction = log_likelihood(x, vae.decode(q.sample(noise)))
    return beta * free_bits(kl_per_dimension(q), floor) - reconstruction.mean()


def importance_weighted(vae: VAE, x: Tensor, noise: Tensor, log_likelihood: LogLikelihood) -> Tensor:
    """An estimate of log p(x) from K draws for each example, Eq. (04.10): log of the mean of p(x | z) p(z)/q(z | x), shape N.

    Its mean is at most log p(x), grows with K, and is the ELBO for K = 1.

    Args:
        x, log_likelihood: as for `vae_terms`.
        noise: K×N×L.

    Source: Burda et al. 2016 (arXiv:1509.00519), Eq. 8.
    """
    q = vae.encode(x)
    prior = Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    draws = [q.sample(each) for each in noise]
    return importance_bound(torch.stack([log_likelihood(x, vae.decode(z)) + prior.log_prob(z) - q.log_prob(z) for z in draws]))


def linear_vae_kl(data_variances: Tensor, variance: float) -> Tensor:
    """The mean KL of each latent of the best linear VAE, max(0, ½ log λ/σ²), Eq. (04.9): collapsed where λ ≤ σ².

    Args:
        data_variances: λ, the data's variance along each principal direction.
        variance: σ², the likelihood's.

    Source: Lucas et al. 2019 (arXiv:1911.02469).
    """
    return 0.5 * torch.log(data_variances / variance).clamp(min=0)


def train_vae(
    vae: VAE,
    data: Tensor,
    log_likelihood: LogLikelihood,
    *,
    epochs: int,
    batch: int = 100,
    lr: float = 3e-3,
    beta: float = 1.0,
    warm_up: int = 0,
    floor: float = 0.0,
) -> list[float]:
    """Train in place, by Adam on shuffled batches; the learning rate falls evenly to 0. Returns the loss of every step.

    Args:
        data: all examples, N×…, at least one batch; what does not fill a last batch waits for the next epoch.
        beta, floor: as for `vae_loss`.
        warm_up: steps in which the KL's weight grows evenly from 0 to β.
    """
    if len(data) < batch:
        raise ValueError(f"batch={batch} is more than the {len(data)} examples: choose a smaller one")
    optimizer, losses = torch.optim.Adam(vae.parameters(), lr, fused=True), []
    latent, steps = vae.encode(data[:1]).mean.shape[1], epochs * (len(data) // batch)
    while len(losses) < steps:
        for rows in torch.randperm(len(data))[: len(data) // batch * batch].split(batch):
            done = len(losses)
            optimizer.param_groups[0]["lr"] = lr * (1 - done / steps)
            weight = beta * min(1.0, done / warm_up) if warm_up else beta
            noise = torch.randn(batch, latent, dtype=data.dtype, device=data.device)
            loss = vae_loss(vae, data[rows], noise, log_likelihood, beta=weight, floor=floor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
