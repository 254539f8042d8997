"""Solutions of chapter 09. They stand alone: nothing is imported from minildm."""

from collections.abc import Iterator

import torch
from torch import Tensor


def size_and_reach(size: int, layers: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """ch09.1: a kernel with gaps is as wide as its span, for the size and for the reach alike."""
    reach, step = 1, 1
    for kernel, stride, padding, dilation in layers:
        span = dilation * (kernel - 1)  # from the first weight to the last
        size = (size + 2 * padding - span - 1) // stride + 1
        reach += span * step
        step *= stride
    return size, reach


def adaptive_norm(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """ch09.2: (09.3) with a scale and a shift for each example and channel."""
    together = h.reshape(len(h), groups, -1)
    mean, variance = together.mean(2, keepdim=True), together.var(2, keepdim=True, correction=0)
    normed = ((together - mean) / torch.sqrt(variance + eps)).reshape(h.shape)
    scale, shift = (time * torch.sigmoid(time) @ weight.T + bias).chunk(2, 1)
    return (1 + scale[:, :, None, None]) * normed + shift[:, :, None, None]


def turned(features: Tensor, delta: Tensor) -> Tensor:
    """ch09.3: cos(α + β) = cos α cos β − sin α sin β, and sin(α + β) = sin α cos β + cos α sin β."""
    cos, sin = features.chunk(2, 1)
    m = cos.shape[1]
    angle = delta[:, None] * 10000.0 ** (-torch.arange(m, dtype=features.dtype) / m)
    return torch.cat([cos * torch.cos(angle) - sin * torch.sin(angle), sin * torch.cos(angle) + cos * torch.sin(angle)], 1)


def attend_to_stream(query: Tensor, pieces: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """ch09.4: running sums, measured from the largest logit so far."""
    largest = query.new_full((len(query), 1), -torch.inf)
    above, below = 0.0, 0.0  # the sums of exp(logit − largest) value, and of exp(logit − largest)
    for key, value in pieces:
        logits = query @ key.T / query.shape[1] ** 0.5
        new = torch.maximum(largest, logits.amax(1, keepdim=True))
        weight, correction = torch.exp(logits - new), torch.exp(largest - new)
        above, below = correction * above + weight @ value, correction * below + weight.sum(1, keepdim=True)
        largest = new
    return above / below


def four_kernels(weight: Tensor) -> Tensor:
    """ch09.5: add up the weights that meet the same pixel, first along one side, then along the other."""
    # Output 2i reads the copies 2i − 1, 2i, 2i + 1, which are pixels i − 1, i, i; output 2i + 1 reads i, i, i + 1
    fold = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # a, p, k
    return torch.einsum("apk,bql,ockl->abocpq", fold, fold, weight)
