"""Solutions of chapter 14. They stand alone: nothing is imported from minildm."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def symmetric_loss(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """ch14.1: cosines times the scale; then each pair's row and its column."""
    u, w = (vectors / vectors.norm(dim=1, keepdim=True) for vectors in (pictures, captions))
    logits = log_scale.exp() * u @ w.T
    return (torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0)) / 2 - logits.diagonal()


def expected_floor(frequencies: Tensor, count: int) -> Tensor:
    """ch14.2: with probability f_k the pair has caption k, and B is binomial(N − 1, f_k)."""
    others, B = count - 1, torch.arange(count, dtype=torch.float64)
    log_choose = math.lgamma(count) - torch.lgamma(B + 1) - torch.lgamma(others - B + 1)
    f = frequencies[:, None]
    chances = log_choose.exp() * f**B * (1 - f) ** (others - B)  # K×N
    return (f * chances * torch.log1p(B)).sum()


def sigmoid_loss(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """ch14.3: 1 − sigmoid(ℓ) = sigmoid(−ℓ), so only the sign changes off the diagonal."""
    sign = 2 * torch.eye(len(cosines), dtype=cosines.dtype) - 1
    return -logsigmoid(sign * (log_scale.exp() * cosines + bias)).sum(1)


def best_scale(cosines: Tensor) -> Tensor:
    """ch14.4: halve the interval in log s in which the slope changes its sign."""

    def slope(log_scale: Tensor) -> Tensor:
        logits = log_scale.exp() * cosines
        believed = ((logits.softmax(1) + logits.softmax(0)) * cosines).sum() / 2
        return believed - cosines.diagonal().sum()

    low, high = torch.tensor([0.01, 100.0], dtype=torch.float64).log()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return ((low + high) / 2).exp()


def image_gradient(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """ch14.5: belief minus target, of the piece's rows and of all columns at the piece's pictures."""
    logits = scale * u @ w.T
    excess = (logits.softmax(1) + logits.softmax(0)) / 2 - torch.eye(len(u), dtype=u.dtype)
    return scale / len(u) * excess[start:stop] @ w
