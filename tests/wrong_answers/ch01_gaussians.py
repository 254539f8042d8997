"""Plausible mistakes in chapter 01's exercises; each docstring is what the check must say."""

import torch
from torch import Tensor


def mutual_information__nats(joint: Tensor) -> Tensor:
    """in nats"""
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, apart)).sum()


def mutual_information__directions(joint: Tensor) -> Tensor:
    """the other direction"""
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (apart * torch.log2(apart / joint)).sum()


def mutual_information__joint_entropy(joint: Tensor) -> Tensor:
    """entropy of the joint distribution"""
    return -(joint * torch.log2(joint)).sum()


def mutual_information__zeros(joint: Tensor) -> Tensor:
    """0 log 0 = 0"""
    return (joint * torch.log2(joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)))).sum()


def mutual_information__shape(joint: Tensor) -> Tensor:
    """one number is wanted"""
    return joint * torch.log2(joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)))


def fit_weighted__no_weights(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """does not look at the weights"""
    return x.mean(0), x.var(0, correction=0).log()


def fit_weighted__divides_by_n(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """sum of the weights, not by the number of examples"""
    mean = (weights[:, None] * x).mean(0)
    return mean, (weights[:, None] * (x - mean) ** 2).mean(0).log()


def fit_weighted__log_sigma(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """that is log σ;"""
    w = (weights / weights.sum())[:, None]
    mean = (w * x).sum(0)
    return mean, (w * (x - mean) ** 2).sum(0).sqrt().log()


def fit_weighted__unbiased(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """unbiased variance"""
    w = weights[:, None]
    mean = (w * x).sum(0) / w.sum()
    return mean, ((w * (x - mean) ** 2).sum(0) / (w.sum() - 1)).log()


def fit_weighted__unweighted_variance(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """squared distances carry the weights"""
    mean = (weights[:, None] * x).sum(0) / weights.sum()
    return mean, ((x - mean) ** 2).mean(0).log()


def kl_gaussians__mean(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """mean over the dimensions"""
    return 0.5 * (log_var2 - log_var1 + (log_var1.exp() + (mean1 - mean2) ** 2) / log_var2.exp() - 1).mean(1)


def kl_gaussians__directions(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """directions are exchanged"""
    return 0.5 * (log_var1 - log_var2 + (log_var2.exp() + (mean1 - mean2) ** 2) / log_var1.exp() - 1).sum(1)


def kl_gaussians__log_sigma(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """log σ², not log σ"""
    v1, v2 = log_var1.exp() ** 2, log_var2.exp() ** 2
    return 0.5 * (v2.log() - v1.log() + (v1 + (mean1 - mean2) ** 2) / v2 - 1).sum(1)


def kl_gaussians__constant(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """−1 in the bracket is missing"""
    return 0.5 * (log_var2 - log_var1 + (log_var1.exp() + (mean1 - mean2) ** 2) / log_var2.exp()).sum(1)


def kl_gaussians__one_for_all(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """the shape is ()"""
    return 0.5 * (log_var2 - log_var1 + (log_var1.exp() + (mean1 - mean2) ** 2) / log_var2.exp() - 1).sum()


def combine__no_prior(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """prior is missing"""
    new = 1 / (scales**2 / noise_vars).sum()
    return new * (scales * x / noise_vars).sum(), new


def combine__linear_scale(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """a²/s², not a/s²"""
    new = 1 / (1 / var + (scales / noise_vars).sum())
    return new * (mean / var + (scales * x / noise_vars).sum()), new


def combine__averaged(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """not averaged"""
    new = 1 / (1 / var + (scales**2 / noise_vars).mean())
    return new * (mean / var + (scales * x / noise_vars).mean()), new


def combine__squared_variance(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """variances already"""
    new = 1 / (1 / var + (scales**2 / noise_vars**2).sum())
    return new * (mean / var + (scales * x / noise_vars**2).sum()), new


def combine__unscaled_pull(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """pulls with a x/s²"""
    new = 1 / (1 / var + (scales**2 / noise_vars).sum())
    return new * (mean / var + (x / noise_vars).sum()), new


def kl_correlated__diagonal(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """off the diagonal"""
    v1, v2 = torch.diag(covariance1), torch.diag(covariance2)
    return 0.5 * (v2.log() - v1.log() + (v1 + (mean1 - mean2) ** 2) / v2 - 1).sum()


def kl_correlated__directions(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """directions are exchanged"""
    inverse, d = torch.linalg.inv(covariance1), mean1 - mean2
    square = torch.trace(inverse @ covariance2) + d @ inverse @ d
    return 0.5 * (torch.logdet(covariance1) - torch.logdet(covariance2) + square - len(mean1))


def kl_correlated__sign(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """sign of the log-determinants"""
    inverse, d = torch.linalg.inv(covariance2), mean1 - mean2
    square = torch.trace(inverse @ covariance1) + d @ inverse @ d
    return 0.5 * (torch.logdet(covariance1) - torch.logdet(covariance2) + square - len(mean1))


def kl_correlated__one_dimension(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """one for each dimension"""
    inverse, d = torch.linalg.inv(covariance2), mean1 - mean2
    square = torch.trace(inverse @ covariance1) + d @ inverse @ d
    return 0.5 * (torch.logdet(covariance2) - torch.logdet(covariance1) + square - 1)
