"""Instruments: Fréchet distance, precision and recall, accuracy with its interval, nearest neighbours (chapter 19)."""

import math

import torch
from torch import Tensor


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """The squared 2-Wasserstein distance between Gaussians fitted to two sets of features.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½), in float64.

    Args:
        features, reference: N×D and M×D, N and M at least 2. The distance is biased upwards by small sets, so compare
            it only with one taken between sets of the same sizes.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.

    Source: Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.
    """
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(f"features must be N×D and M×D, not {tuple(features.shape)} and {tuple(reference.shape)}")
    if min(len(features), len(reference)) < 2:
        raise ValueError(f"a covariance needs at least 2 examples; got {len(features)} and {len(reference)}")
    if not (features.isfinite().all() and reference.isfinite().all()):
        raise ValueError("some features are not finite: look at the pictures they were taken from")
    first, second = features.double(), reference.double()
    cov1, cov2 = torch.atleast_2d(torch.cov(first.T)), torch.atleast_2d(torch.cov(second.T))
    root = matrix_square_root(cov1)
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return max(0.0, float(means + cov1.trace() + cov2.trace() - 2 * cross))


def matrix_square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric, positive semi-definite matrix, D×D."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval for a probability from `successes` out of `trials`; 95% for the default z.

    Unlike p ± z √(p(1 − p)/n) it stays inside [0, 1] and has width when every trial succeeds.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes out of {trials} trials")
    p, n = successes / trials, trials
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))  # p lies inside: at 0 and at 1, without rounding


def prompt_accuracy(verdicts: Tensor) -> tuple[float, tuple[float, float]]:
    """The share of images with every attribute that their prompt asked for, and its 95% interval.

    Args:
        verdicts: N×A, True where an attribute is right.
    """
    right = int(verdicts.all(1).sum())
    return right / len(verdicts), wilson_interval(right, len(verdicts))


def nearest_distances(images: Tensor, reference: Tensor, chunk: int = 2000) -> tuple[Tensor, Tensor]:
    """For each image, the root mean squared difference to its nearest neighbour in `reference`, and which one that is.

    Args:
        images, reference: N×… and M×…, in any one unit; the distance has the same. N results each.

    Raises:
        ValueError: no reference, or one of another shape.

    Uses ‖a − b‖² = ‖a‖² − 2 a·b + ‖b‖² to find the neighbour, both moved so that the images' mean is 0, which keeps the
    squares small enough for float32; and the difference itself to measure it.
    """
    if not len(reference) or images.shape[1:] != reference.shape[1:]:
        raise ValueError(f"no neighbours of {tuple(images.shape)} in {tuple(reference.shape)}: give pictures of the same shape")
    flat, pool = images.flatten(1).float(), reference.flatten(1)
    centre = flat.mean(0)
    least = torch.full((len(flat),), torch.inf, device=flat.device)
    nearest = torch.zeros_like(least, dtype=torch.long)
    for start in range(0, len(pool), chunk):
        some = pool[start : start + chunk].float() - centre
        distance, place = (some.square().sum(1) - 2 * (flat - centre) @ some.T).min(1)  # ‖a‖² is the same for all
        nearest = torch.where(distance < least, start + place, nearest)
        least = torch.minimum(distance, least)
    return (flat - pool[nearest].float()).square().mean(1).sqrt(), nearest


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of generated examples that look real, and the share of real ones that the generated reach.

    Around each example of a set lies a ball that reaches to its k-th nearest neighbour in the same set; together they stand
    for where the set lives. Precision is the share of generated examples inside a real ball, recall the reverse.

    Args:
        real, generated: features N×D and M×D, N and M larger than k. Both numbers depend on N, M and k, so compare them only
            with those of sets of the same sizes.

    Raises:
        ValueError: shapes that do not fit, too few examples, or features that are not finite.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), Eqs. 1 and 2.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features must be N×D and M×D, not {tuple(real.shape)} and {tuple(generated.shape)}")
    if not 1 <= k < min(len(real), len(generated)):
        raise ValueError(f"k={k} of {len(real)} and {len(generated)} examples: there must be more than k, and k at least 1")
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise ValueError("some features are not finite: look at the pictures they were taken from")
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def _share_inside(points: Tensor, reference: Tensor, k: int) -> float:
    """The share of the points that lie in one of the balls around `reference`, each up to its k-th neighbour there."""
    exact = "donot_use_mm_for_euclid_dist"  # the fast way loses digits exactly where points are close
    among = torch.cdist(reference, reference, compute_mode=exact)
    radius = among.kthvalue(k + 1, dim=1).values  # k + 1, since the nearest is the point itself
    return (torch.cdist(points, reference, compute_mode=exact) <= radius).any(1).double().mean().item()
