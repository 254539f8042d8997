"""Plausible mistakes in chapter 06's exercises; each docstring is what the check should say."""

import torch
from torch import Tensor


def _one(like: Tensor) -> Tensor:
    return torch.ones(1, dtype=torch.float64)


def alpha_bar_of__no_zero(beta: Tensor) -> Tensor:
    """ᾱ_0 = 1 is missing"""
    return torch.cumprod(1 - beta.double(), 0)


def alpha_bar_of__alpha(beta: Tensor) -> Tensor:
    """that is α_t, what one step leaves"""
    return torch.cat([_one(beta), 1 - beta.double()])


def alpha_bar_of__root(beta: Tensor) -> Tensor:
    """that is the signal rate a_t"""
    return torch.cat([_one(beta), torch.cumprod(1 - beta.double(), 0).sqrt()])


def alpha_bar_of__exponential(beta: Tensor) -> Tensor:
    """exp(−Σβ) is near"""
    return torch.cat([_one(beta), torch.exp(-torch.cumsum(beta.double(), 0))])


def alpha_bar_of__sum(beta: Tensor) -> Tensor:
    """factors multiply"""
    return torch.cat([_one(beta), 1 - torch.cumsum(beta.double(), 0)])


def alpha_bar_of__late(beta: Tensor) -> Tensor:
    """one place late"""
    return torch.cat([_one(beta), _one(beta), torch.cumprod(1 - beta.double(), 0)[:-1]])


def alpha_bar_of__of_beta(beta: Tensor) -> Tensor:
    """it is one of 1 − β"""
    return torch.cat([_one(beta), torch.cumprod(beta.double(), 0)])


def alpha_bar_of__converted_last(beta: Tensor) -> Tensor:
    """the product was taken in float32"""
    return torch.cumprod(torch.cat([torch.ones(1), 1 - beta]), 0).double()


def alpha_bar_of__never_converted(beta: Tensor) -> Tensor:
    """float64 is wanted"""
    return torch.cumprod(torch.cat([torch.ones(1), 1 - beta]), 0)


def alpha_bar_of__in_place(beta: Tensor) -> Tensor:
    """the argument itself was changed"""
    return torch.cat([_one(beta), torch.cumprod(beta.neg_().add_(1).double(), 0)])


def _left(beta: Tensor, times: Tensor) -> Tensor:
    return torch.cumprod(1 - beta, 0)[times]


def merged__picked(beta: Tensor, times: Tensor) -> Tensor:
    """that is β at the chosen times"""
    return beta[times]


def merged__sum(beta: Tensor, times: Tensor) -> Tensor:
    """noise that came early is shrunk"""
    total = torch.cumsum(beta, 0)[times]
    return torch.diff(total, prepend=total[:1])


def merged__mean(beta: Tensor, times: Tensor) -> Tensor:
    """a mean of β"""
    total = torch.cumsum(beta, 0)[times]
    return torch.cat([beta.new_zeros(1), total.diff() / times.diff()])


def merged__from_the_start(beta: Tensor, times: Tensor) -> Tensor:
    """all noise since t = 0"""
    return 1 - _left(beta, times)


def merged__what_is_left(beta: Tensor, times: Tensor) -> Tensor:
    """that is 1 − b_k"""
    left = _left(beta, times)
    return torch.cat([beta.new_zeros(1), left[1:] / left[:-1]])


def merged__rates(beta: Tensor, times: Tensor) -> Tensor:
    """no root of ᾱ_t/ᾱ_s"""
    left = _left(beta, times).sqrt()
    return torch.cat([beta.new_zeros(1), 1 - left[1:] / left[:-1]])


def merged__early(beta: Tensor, times: Tensor) -> Tensor:
    """does the steps s + 1 … t"""
    before = torch.cat([beta.new_ones(1), torch.cumprod(1 - beta, 0)])[times]
    return torch.cat([beta.new_zeros(1), 1 - before[1:] / before[:-1]])


def merged__without_zero(beta: Tensor, times: Tensor) -> Tensor:
    """the shape is (5,)"""
    left = _left(beta, times)
    return 1 - left[1:] / left[:-1]


def _place(table: Tensor, value: Tensor) -> Tensor:
    """Where a falling table, its first entry at t = 1, has these values, on straight lines."""
    above = torch.searchsorted(-table, -value).clamp(1, len(table) - 1)
    return above + (table[above - 1] - value) / (table[above - 1] - table[above])


def _log_snr(alpha_bar: Tensor) -> Tensor:
    return 0.5 * torch.log(alpha_bar[1:] / (1 - alpha_bar[1:]))


def time_of_snr__whole(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """a whole number"""
    ratio = alpha_bar / (1 - alpha_bar)
    return (ratio[None] >= snr[:, None]).sum(1).double() - 1


def time_of_snr__index(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """one too early"""
    return _place(_log_snr(alpha_bar), 0.5 * torch.log(snr)) - 1


def time_of_snr__line_in_alpha_bar(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """a straight line in ᾱ"""
    return _place(alpha_bar[1:], snr / (1 + snr))


def time_of_snr__line_in_snr(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """a straight line in the SNR"""
    return _place(alpha_bar[1:] / (1 - alpha_bar[1:]), snr)


def time_of_snr__not_halved(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """λ is half the logarithm"""
    return _place(_log_snr(alpha_bar), torch.log(snr))


def time_of_snr__with_the_infinite_entry(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """or the λ of t = 0"""
    log_snr = 0.5 * torch.log(alpha_bar / (1 - alpha_bar))
    return _place(log_snr, 0.5 * torch.log(snr)) - 1


def exploding_twin__in_all(alpha_bar: Tensor) -> Tensor:
    """g_t is what the step adds"""
    return torch.sqrt((1 - alpha_bar) / alpha_bar)


def exploding_twin__deviations_subtracted(alpha_bar: Tensor) -> Tensor:
    """deviations were subtracted"""
    total = torch.sqrt((1 - alpha_bar) / alpha_bar)
    return torch.diff(total, prepend=total[:1])


def exploding_twin__variance(alpha_bar: Tensor) -> Tensor:
    """take the root"""
    return torch.diff(1 / alpha_bar, prepend=torch.ones(1, dtype=torch.float64))


def _beta(alpha_bar: Tensor) -> Tensor:
    return torch.cat([alpha_bar.new_zeros(1), 1 - alpha_bar[1:] / alpha_bar[:-1]])


def exploding_twin__not_magnified(alpha_bar: Tensor) -> Tensor:
    """magnifies it"""
    return _beta(alpha_bar).sqrt()


def exploding_twin__by_the_rate_before(alpha_bar: Tensor) -> Tensor:
    """divided by a_{t−1}"""
    return _beta(alpha_bar).sqrt() / torch.cat([alpha_bar[:1], alpha_bar[:-1]]).sqrt()


def exploding_twin__by_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """the signal rate is its root"""
    return _beta(alpha_bar).sqrt() / alpha_bar


def exploding_twin__without_zero(alpha_bar: Tensor) -> Tensor:
    """the shape is (10,)"""
    return torch.diff(1 / alpha_bar).sqrt()


def shifted__not_squared(alpha_bar: Tensor, factor: float) -> Tensor:
    """a block has factor² pixels"""
    return alpha_bar / (alpha_bar + factor * (1 - alpha_bar))


def shifted__the_wrong_way(alpha_bar: Tensor, factor: float) -> Tensor:
    """a large picture needs more noise"""
    return alpha_bar / (alpha_bar + (1 - alpha_bar) / factor**2)


def shifted__twice(alpha_bar: Tensor, factor: float) -> Tensor:
    """shifted twice"""
    return alpha_bar / (alpha_bar + factor**4 * (1 - alpha_bar))


def shifted__weaker_signal_alone(alpha_bar: Tensor, factor: float) -> Tensor:
    """asks for the noise rate to change too"""
    return alpha_bar / factor**2


def shifted__divided_by_zero(alpha_bar: Tensor, factor: float) -> Tensor:
    """infinite or no number at an end"""
    snr = alpha_bar / (1 - alpha_bar) / factor**2
    return snr / (1 + snr)


def shifted__unchanged(alpha_bar: Tensor, factor: float) -> Tensor:
    """nothing has changed"""
    return alpha_bar
