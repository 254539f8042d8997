"""What a latent costs and what it buys, where both can be computed: principal components, rate and distortion (chapter 15).

Everything here is about Gaussian data, direction by direction. A direction's variance λ is an eigenvalue of the covariance.
"""

import torch
from torch import Tensor


def pca_error(variances: Tensor, latents: int) -> Tensor:
    """The least squared error of a linear autoencoder with so many latents, Eq. (15.1): the sum of the eigenvalues left out.

    Args:
        variances: λ, the eigenvalues of the data's covariance, in any order, shape D, at least 0.
        latents: L, how many numbers pass, 0 ≤ L ≤ D.

    Returns: E‖x − x̂‖², summed over the D dimensions, a single number in the data's unit squared.

    Raises:
        ValueError: L outside 0..D.

    Source: Baldi and Hornik 1989, Neural Networks 2:53.
    """
    if not 0 <= latents <= len(variances):
        raise ValueError(f"latents={latents} must lie in 0..{len(variances)}: there are so many directions")
    return variances.sort(descending=True).values[latents:].sum()


def water_filling(variances: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The cheapest code of Gaussian data at a water level θ, Eq. (15.2): R = max(0, ½ log λ/θ) nats and D = min(θ, λ).

    Each direction keeps an error of θ and pays for the rest; directions that vary less than θ are not sent at all.

    Args:
        variances: λ, shape D or any other, positive.
        level: θ, in the data's unit squared, positive.

    Returns: rates in nats and squared errors, each shaped like `variances`.

    Raises:
        ValueError: a level that is not positive: an exact copy of a real number costs infinitely many nats.

    Source: Shannon 1959, Coding theorems for a discrete source with a fidelity criterion; Cover and Thomas 2006 (Elements of
    Information Theory), Theorem 10.3.3.
    """
    if level <= 0:
        raise ValueError(f"level={level} must be positive: without any error the rate is infinite")
    distortions = variances.clamp(max=level)
    return 0.5 * torch.log(variances / distortions), distortions


def water_level(kl_weight: float) -> float:
    """The water level that a KL weight stands for, Eq. (15.3): the loss ‖x − x̂‖² + w KL leaves θ = w/2 in every open direction.

    Both terms are summed, or both are divided by the same number; if only the error is divided by D, give w D.
    """
    return kl_weight / 2
