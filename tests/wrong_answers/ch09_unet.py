"""Plausible mistakes in chapter 09's exercises; each docstring is what the check should say."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def _stack(size, layers, span, out, widen):
    reach, step = 1, 1
    for layer in layers:
        size = out(size, *layer)
        reach, step = widen(reach, step, span(layer), layer[1])
    return size, reach


def _span(layer):
    return layer[3] * (layer[0] - 1)


def _out(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _widen(reach, step, span, stride):
    return reach + span * step, step * stride


def size_and_reach__size_without_gaps(size: int, layers: list) -> tuple[int, int]:
    """the size as if no kernel had gaps"""
    return _stack(size, layers, _span, lambda n, k, s, p, d: (n + 2 * p - k) // s + 1, _widen)


def size_and_reach__reach_without_gaps(size: int, layers: list) -> tuple[int, int]:
    """the reach as if no kernel had gaps"""
    return _stack(size, layers, lambda layer: layer[0] - 1, _out, _widen)


def size_and_reach__gap_after_the_last(size: int, layers: list) -> tuple[int, int]:
    """not D K"""
    return _stack(size, layers, lambda layer: layer[3] * layer[0] - 1, _out, _widen)


def size_and_reach__floats(size: int, layers: list) -> tuple[int, int]:
    """two integers are wanted"""
    size, reach = _stack(size, layers, _span, lambda *given: float(_out(*given)), _widen)
    return size + 0.0, reach + 0.0


def size_and_reach__without_strides(size: int, layers: list) -> tuple[int, int]:
    """strides make no difference"""
    return _stack(size, layers, _span, _out, lambda reach, step, span, stride: (reach + span, 1))


def size_and_reach__own_stride(size: int, layers: list) -> tuple[int, int]:
    """a layer's own stride was counted"""
    return _stack(size, layers, _span, _out, lambda reach, step, span, stride: (reach + span * step * stride, step * stride))


def size_and_reach__one_too_small(size: int, layers: list) -> tuple[int, int]:
    """the size is one too small"""
    return _stack(size, layers, _span, lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) // s, _widen)


def size_and_reach__sees_not_itself(size: int, layers: list) -> tuple[int, int]:
    """a pixel sees itself"""
    size, reach = _stack(size, layers, _span, _out, _widen)
    return size, reach - 1


def _numbers(time: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = (F.silu(time) @ weight.T + bias)[:, :, None, None].chunk(2, 1)
    return scale, shift


def adaptive_norm__no_one(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """not by 1 + s"""
    scale, shift = _numbers(time, weight, bias)
    return scale * F.group_norm(h, groups, eps=eps) + shift


def adaptive_norm__exchanged(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """s comes first"""
    shift, scale = _numbers(time, weight, bias)
    return (1 + scale) * F.group_norm(h, groups, eps=eps) + shift


def adaptive_norm__no_silu(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """time without its SiLU"""
    scale, shift = (time @ weight.T + bias)[:, :, None, None].chunk(2, 1)
    return (1 + scale) * F.group_norm(h, groups, eps=eps) + shift


def adaptive_norm__no_bias(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """without its bias"""
    scale, shift = _numbers(time, weight, 0 * bias)
    return (1 + scale) * F.group_norm(h, groups, eps=eps) + shift


def adaptive_norm__shift_first(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """the shift is not to be scaled"""
    scale, shift = _numbers(time, weight, bias)
    return (1 + scale) * (F.group_norm(h, groups, eps=eps) + shift)


def adaptive_norm__by_turns(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """taken by turns"""
    scale, shift = (F.silu(time) @ weight.T + bias)[:, :, None, None].unflatten(1, (-1, 2)).unbind(2)
    return (1 + scale) * F.group_norm(h, groups, eps=eps) + shift


def adaptive_norm__each_channel(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """each channel was normalised by itself"""
    scale, shift = _numbers(time, weight, bias)
    return (1 + scale) * F.instance_norm(h, eps=eps) + shift


def adaptive_norm__one_group(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """there are groups"""
    scale, shift = _numbers(time, weight, bias)
    return (1 + scale) * F.layer_norm(h, h.shape[1:], eps=eps) + shift


def adaptive_norm__batch(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """each example is normalised by itself"""
    scale, shift = _numbers(time, weight, bias)
    return (1 + scale) * F.batch_norm(h, None, None, training=True, eps=eps) + shift


def adaptive_norm__unbiased(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """divided by n − 1"""
    scale, shift = _numbers(time, weight, bias)
    x = h.reshape(len(h), groups, -1)
    x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True) + eps).sqrt()
    return (1 + scale) * x.view_as(h) + shift


def adaptive_norm__eps_outside(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """under the root"""
    scale, shift = _numbers(time, weight, bias)
    x = h.reshape(len(h), groups, -1)
    x = (x - x.mean(2, keepdim=True)) / (x.std(2, keepdim=True, correction=0) + eps)
    return (1 + scale) * x.view_as(h) + shift


def _turn(features: Tensor, angle: Tensor) -> Tensor:
    cos, sin = features.chunk(2, 1)
    return torch.cat([cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin()], 1)


def _angle(features: Tensor, delta: Tensor) -> Tensor:
    m = features.shape[1] // 2
    return delta[:, None] * 10000.0 ** (-torch.arange(m, dtype=torch.float64) / m)


def turned__back(features: Tensor, delta: Tensor) -> Tensor:
    """turned back"""
    return _turn(features, -_angle(features, delta))


def turned__exchanged(features: Tensor, delta: Tensor) -> Tensor:
    """cosines come first"""
    return _turn(features, _angle(features, delta)).roll(features.shape[1] // 2, 1)


def turned__added(features: Tensor, delta: Tensor) -> Tensor:
    """angles add, not their cosines"""
    angle = _angle(features, delta)
    return features + torch.cat([angle.cos(), angle.sin()], 1)


def turned__from_zero(features: Tensor, delta: Tensor) -> Tensor:
    """that is e(δ)"""
    angle = _angle(features, delta)
    return torch.cat([angle.cos(), angle.sin()], 1)


def turned__interleaved(features: Tensor, delta: Tensor) -> Tensor:
    """columns 2k and 2k + 1 were paired"""
    angle, cos, sin = _angle(features, delta), features[:, ::2], features[:, 1::2]
    return torch.stack([cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin()], 2).flatten(1)


def turned__too_slow(features: Tensor, delta: Tensor) -> Tensor:
    """the frequencies fall too slowly"""
    width = features.shape[1]
    return _turn(features, delta[:, None] * 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / width))


def _read_off(features: Tensor) -> Tensor:
    m = features.shape[1] // 2
    return torch.atan2(features[:, -1], features[:, m - 1]) * 10000.0 ** ((m - 1) / m)


def turned__read_off(features: Tensor, delta: Tensor) -> Tensor:
    """read off the slowest hand"""
    angle = _angle(features, _read_off(features) + delta)
    return torch.cat([angle.cos(), angle.sin()], 1)


def turned__read_off_once_round(features: Tensor, delta: Tensor) -> Tensor:
    """read off the slowest hand"""
    m = features.shape[1] // 2
    angle = _angle(features, _read_off(features) % (2 * torch.pi * 10000.0 ** ((m - 1) / m)) + delta)
    return torch.cat([angle.cos(), angle.sin()], 1)


def turned__sign_of_the_cosine(features: Tensor, delta: Tensor) -> Tensor:
    """cos α cos β − sin α sin β"""
    angle, (cos, sin) = _angle(features, delta), features.chunk(2, 1)
    return torch.cat([cos * angle.cos() + sin * angle.sin(), sin * angle.cos() + cos * angle.sin()], 1)


def turned__sign_of_the_sine(features: Tensor, delta: Tensor) -> Tensor:
    """sin α cos β + cos α sin β"""
    angle, (cos, sin) = _angle(features, delta), features.chunk(2, 1)
    return torch.cat([cos * angle.cos() - sin * angle.sin(), sin * angle.cos() - cos * angle.sin()], 1)


def attend_to_stream__no_root(query: Tensor, pieces: Iterator) -> Tensor:
    """not divided by √d"""
    key, value = (torch.cat(each) for each in zip(*pieces, strict=True))
    return (query @ key.T).softmax(1) @ value


def attend_to_stream__by_d(query: Tensor, pieces: Iterator) -> Tensor:
    """divided by d"""
    key, value = (torch.cat(each) for each in zip(*pieces, strict=True))
    return (query @ key.T / query.shape[1]).softmax(1) @ value


def attend_to_stream__mean(query: Tensor, pieces: Iterator) -> Tensor:
    """a mean of each piece's attention"""
    return torch.stack([(query @ key.T / query.shape[1] ** 0.5).softmax(1) @ value for key, value in pieces]).mean(0)


def attend_to_stream__sum(query: Tensor, pieces: Iterator) -> Tensor:
    """a sum of each piece's attention"""
    return torch.stack([(query @ key.T / query.shape[1] ** 0.5).softmax(1) @ value for key, value in pieces]).sum(0)


def attend_to_stream__last(query: Tensor, pieces: Iterator) -> Tensor:
    """only the last piece"""
    for key, value in pieces:
        answer = (query @ key.T / query.shape[1] ** 0.5).softmax(1) @ value
    return answer


def attend_to_stream__overflow(query: Tensor, pieces: Iterator) -> Tensor:
    """not finite for large logits"""
    above, below = 0.0, 0.0
    for key, value in pieces:
        weight = torch.exp(query @ key.T / query.shape[1] ** 0.5)
        above, below = above + weight @ value, below + weight.sum(1, keepdim=True)
    return above / below


def attend_to_stream__not_rescaled(query: Tensor, pieces: Iterator) -> Tensor:
    """has to be scaled down"""
    above, below, largest = 0.0, 0.0, query.new_full((len(query), 1), -torch.inf)
    for key, value in pieces:
        logits = query @ key.T / query.shape[1] ** 0.5
        largest = torch.maximum(largest, logits.amax(1, keepdim=True))
        weight = torch.exp(logits - largest)
        above, below = above + weight @ value, below + weight.sum(1, keepdim=True)
    return above / below


def _streamed(query: Tensor, pieces: Iterator, start: float, largest_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Running sums, measured from the largest logit so far, which begins somewhere."""
    above, below, largest = 0.0, 0.0, query.new_full((len(query), 1), start)
    for key, value in pieces:
        logits = query @ key.T / query.shape[1] ** 0.5
        new = torch.maximum(largest, largest_of(logits))
        weight, correction = torch.exp(logits - new), torch.exp(largest - new)
        above, below, largest = correction * above + weight @ value, correction * below + weight.sum(1, keepdim=True), new
    return above / below


def attend_to_stream__from_zero(query: Tensor, pieces: Iterator) -> Tensor:
    """begins at −∞, not at 0"""
    return _streamed(query, pieces, 0.0, lambda logits: logits.amax(1, keepdim=True))


def attend_to_stream__one_largest(query: Tensor, pieces: Iterator) -> Tensor:
    """the largest of each query"""
    return _streamed(query, pieces, -torch.inf, lambda logits: logits.max())


def _at_once(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return (query @ keys.T / query.shape[1] ** 0.5).softmax(1) @ values


def attend_to_stream__all_held(query: Tensor, pieces: Iterator) -> Tensor:
    """earlier pieces are still held"""
    keys, values = zip(*list(pieces), strict=True)
    return _at_once(query, torch.cat(keys), torch.cat(values))


def attend_to_stream__collected(query: Tensor, pieces: Iterator) -> Tensor:
    """pieces are collected"""
    keys, values = next(pieces)
    for key, value in pieces:
        keys, values = torch.cat([keys, key]), torch.cat([values, value])
    return _at_once(query, keys, values)


def _fold(weight: Tensor, rows: list) -> Tensor:
    fold = weight.new_tensor(rows)
    return torch.einsum("apk,bql,ockl->abocpq", fold, fold, weight)


def four_kernels__exchanged(weight: Tensor) -> Tensor:
    """the corners are exchanged"""
    return _fold(weight, [[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])


def four_kernels__mean(weight: Tensor) -> Tensor:
    """their mean was taken"""
    return _fold(weight, [[[1, 0, 0], [0, 0.5, 0.5]], [[0.5, 0.5, 0], [0, 0, 1]]])


def four_kernels__alike(weight: Tensor) -> Tensor:
    """all four kernels are alike"""
    return _fold(weight, [[[1, 0, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 1]]])


def four_kernels__transposed(weight: Tensor) -> Tensor:
    """rows and columns"""
    return _fold(weight, [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]).mT


def four_kernels__cut(weight: Tensor) -> Tensor:
    """cut out"""
    return _fold(weight, [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]])


def four_kernels__a_and_b(weight: Tensor) -> Tensor:
    """a belongs to the rows"""
    return _fold(weight, [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]).transpose(0, 1)


def four_kernels__turned(weight: Tensor) -> Tensor:
    """kernels turned round"""
    return _fold(weight, [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]).flip(-1, -2)


def four_kernels__turned_before(weight: Tensor) -> Tensor:
    """kernels turned round"""
    return _fold(weight.flip(-1, -2), [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
