"""Plausible mistakes in chapter 15's exercises; each docstring is what the check should say."""

import math

import torch
from torch import Tensor

ALL = (0, 2, 3)


def channel_scale__means_alone(mean: Tensor, log_var: Tensor):
    """the means alone"""
    return mean.mean(ALL), mean.var(ALL, correction=0).rsqrt()


def channel_scale__variances_alone(mean: Tensor, log_var: Tensor):
    """the variances alone"""
    return mean.mean(ALL), log_var.exp().mean(ALL).rsqrt()


def channel_scale__deviation(mean: Tensor, log_var: Tensor):
    """that is the deviation"""
    return mean.mean(ALL), (mean.var(ALL, correction=0) + log_var.exp().mean(ALL)).sqrt()


def channel_scale__no_root(mean: Tensor, log_var: Tensor):
    """take the root"""
    return mean.mean(ALL), 1 / (mean.var(ALL, correction=0) + log_var.exp().mean(ALL))


def channel_scale__one_for_all(mean: Tensor, log_var: Tensor):
    """every channel has its own"""
    return mean.mean(ALL), (mean.var(correction=0) + log_var.exp().mean()).rsqrt().expand(mean.shape[1])


def channel_scale__mean_deviation(mean: Tensor, log_var: Tensor):
    """is not the mean of σ²"""
    return mean.mean(ALL), (mean.var(ALL, correction=0) + (0.5 * log_var).exp().mean(ALL) ** 2).rsqrt()


def channel_scale__deviations_added(mean: Tensor, log_var: Tensor):
    """the variances add"""
    return mean.mean(ALL), 1 / (mean.std(ALL, correction=0) + log_var.exp().mean(ALL).sqrt())


def channel_scale__pictures_only(mean: Tensor, log_var: Tensor):
    """varies from place to place too"""
    return mean.mean(ALL), (mean.var(0, correction=0).mean((1, 2)) + log_var.exp().mean(ALL)).rsqrt()


def channel_scale__one_less(mean: Tensor, log_var: Tensor):
    """not by one less"""
    return mean.mean(ALL), (mean.var(ALL) + log_var.exp().mean(ALL)).rsqrt()


def patch_size__no_strides(kernels: list[int], strides: list[int]):
    """that forgets the strides"""
    return 1 + sum(kernel - 1 for kernel in kernels)


def patch_size__own_stride(kernels: list[int], strides: list[int]):
    """does not spread its own kernel"""
    n, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        jump *= stride
        n += (kernel - 1) * jump
    return n


def patch_size__forwards(kernels: list[int], strides: list[int]):
    """walk backwards"""
    n = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        n = (n - 1) * stride + kernel
    return n


def patch_size__n_strides(kernels: list[int], strides: list[int]):
    """n − 1 strides apart"""
    n = 1
    for kernel, stride in zip(kernels[::-1], strides[::-1], strict=True):
        n = n * stride + kernel
    return n


def patch_size__shrinking(kernels: list[int], strides: list[int]):
    """by how much the map shrinks"""
    return math.prod(strides)


def patch_size__kernels_multiplied(kernels: list[int], strides: list[int]):
    """kernels were multiplied"""
    return math.prod(kernels)


def level_of__evenly(variances: Tensor, error: float):
    """shared evenly"""
    return error / len(variances)


def level_of__share(variances: Tensor, error: float):
    """as a share of the whole variance"""
    return error / variances.sum().item()


def level_of__kept(variances: Tensor, error: float):
    """the variance that is kept"""
    return variances.sum().item() - error


def level_of__under_water_forgotten(variances: Tensor, error: float):
    """costs its own variance"""
    values, rest = variances.sort().values.tolist(), error
    for place, variance in enumerate(values):
        if rest <= (len(values) - place) * variance:
            return error / (len(values) - place)
        rest -= variance
    return values[-1]


def level_of__among_all(variances: Tensor, error: float):
    """not among all"""
    values, rest = variances.sort().values.tolist(), error
    for place, variance in enumerate(values):
        if rest <= (len(values) - place) * variance:
            return rest / len(values)
        rest -= variance
    return values[-1]


def level_of__by_search(variances: Tensor, error: float):
    """is right (entry 0"""
    levels = torch.linspace(0.001, 4, 100, dtype=torch.float64)
    errors = torch.stack([variances.clamp(max=level).sum() for level in levels])
    return levels[(errors - error).abs().argmin()].item()


def level_of__nothing(variances: Tensor, error: float):
    """is there a `return`"""


def _moved(codebook, counts, sums, z, keep, take, floor, distance=None):
    distance = torch.cdist(z, codebook) if distance is None else distance
    belongs = torch.nn.functional.one_hot(distance.argmin(1), len(codebook)).double()
    counts, sums = keep * counts + take * belongs.sum(0), keep * sums + take * belongs.T @ z
    return sums / counts.clamp(min=floor)[:, None], counts, sums


def moving_codes__decay_swapped(codebook, counts, sums, z, decay, floor):
    """changed places"""
    return _moved(codebook, counts, sums, z, 1 - decay, decay, floor)


def moving_codes__totals(codebook, counts, sums, z, decay, floor):
    """not totals"""
    return _moved(codebook, counts, sums, z, 1, 1, floor)


def moving_codes__whole_batch(codebook, counts, sums, z, decay, floor):
    """the batch enters with 1 − γ"""
    return _moved(codebook, counts, sums, z, decay, 1, floor)


def moving_codes__farthest(codebook, counts, sums, z, decay, floor):
    """the farthest code"""
    return _moved(codebook, counts, sums, z, decay, 1 - decay, floor, -torch.cdist(z, codebook))


def moving_codes__largest_product(codebook, counts, sums, z, decay, floor):
    """‖e‖² matters"""
    return _moved(codebook, counts, sums, z, decay, 1 - decay, floor, -z @ codebook.T)


def moving_codes__floor_kept(codebook, counts, sums, z, decay, floor):
    """for the division alone"""
    codebook, counts, sums = _moved(codebook, counts, sums, z, decay, 1 - decay, floor)
    return codebook, counts.clamp(min=floor), sums


def moving_codes__no_floor(codebook, counts, sums, z, decay, floor):
    """replaced by the floor"""
    return _moved(codebook, counts, sums, z, decay, 1 - decay, 0.0)


def moving_codes__floor_added(codebook, counts, sums, z, decay, floor):
    """is not added"""
    _, counts, sums = _moved(codebook, counts, sums, z, decay, 1 - decay, floor)
    return sums / (counts + floor)[:, None], counts, sums


def moving_codes__late(codebook, counts, sums, z, decay, floor):
    """one batch late"""
    return (sums / counts.clamp(min=floor)[:, None], *_moved(codebook, counts, sums, z, decay, 1 - decay, floor)[1:])


def _scalar(z: Tensor, levels: list[int], squeeze=torch.tanh, rounding=torch.round, order=1):
    half = torch.tensor([(level - 1) / 2 for level in levels], dtype=z.dtype).view(-1, 1, 1)
    y = half * squeeze(z)
    whole = y + (rounding(y) - y).detach()
    base, codes = 1, 0
    for channel in list(range(len(levels)))[::order]:
        codes = codes + (whole.detach() + half).round().long()[:, channel] * base
        base *= levels[channel]
    return whole / half, codes


def finite_scalar__whole(z: Tensor, levels: list[int]):
    """divide by m"""
    out, codes = _scalar(z, levels)
    return out * torch.tensor([(level - 1) / 2 for level in levels], dtype=z.dtype).view(-1, 1, 1), codes


def finite_scalar__not_squeezed(z: Tensor, levels: list[int]):
    """without tanh"""
    return _scalar(z, levels, squeeze=lambda x: x)


def finite_scalar__cut_off(z: Tensor, levels: list[int]):
    """z was cut off"""
    return _scalar(z, levels, squeeze=lambda x: x.clamp(-1, 1))


def finite_scalar__floor(z: Tensor, levels: list[int]):
    """rounded down"""
    return _scalar(z, levels, rounding=torch.floor)


def finite_scalar__no_gradient(z: Tensor, levels: list[int]):
    """`round` has none"""
    half = torch.tensor([(level - 1) / 2 for level in levels], dtype=z.dtype).view(-1, 1, 1)
    return (half * torch.tanh(z)).round() / half, _scalar(z, levels)[1]


def finite_scalar__all_straight_through(z: Tensor, levels: list[int]):
    """only the rounding is straight through"""
    out, codes = _scalar(z, levels)
    return z + (out - z).detach(), codes


def finite_scalar__last_fastest(z: Tensor, levels: list[int]):
    """channel 0 should"""
    return _scalar(z, levels, order=-1)


def finite_scalar__added(z: Tensor, levels: list[int]):
    """different codes get one number"""
    half = torch.tensor([(level - 1) // 2 for level in levels]).view(-1, 1, 1)
    return _scalar(z, levels)[0], ((half * torch.tanh(z)).round().long() + half).sum(1)


def finite_scalar__first_base(z: Tensor, levels: list[int]):
    """the first base is 1"""
    half = torch.tensor([(level - 1) // 2 for level in levels]).view(-1, 1, 1)
    digits = (half * torch.tanh(z)).round().long() + half
    return _scalar(z, levels)[0], (digits * torch.tensor(levels).cumprod(0).view(-1, 1, 1)).sum(1)


def finite_scalar__float_codes(z: Tensor, levels: list[int]):
    """int64"""
    out, codes = _scalar(z, levels)
    return out, codes.double()
