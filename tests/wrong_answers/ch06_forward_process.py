"""Plausible mistakes in chapter 06's exercises; each docstring is what the check should say."""

import math

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


def alpha_bar_of__subtracted_first(beta: Tensor) -> Tensor:
    """1 − β was subtracted in float32"""
    return torch.cat([_one(beta), torch.cumprod((1 - beta).double(), 0)])


def alpha_bar_of__one_at_the_end(beta: Tensor) -> Tensor:
    """the 1 stands at the end"""
    return torch.cat([torch.cumprod(1 - beta.double(), 0), _one(beta)])


def _jumps(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The right C and D²."""
    factors, variances = [1.0], [0.0]
    for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        variance = 0.0
        for t in range(start + 1, end + 1):
            variance = c[t].item() ** 2 * variance + d[t].item() ** 2
        factors.append(c[start + 1 : end + 1].prod().item())
        variances.append(variance)
    return torch.tensor(factors, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)


def merged__picked(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """that is c at the chosen times"""
    return c[times], d[times]


def merged__early(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """does the steps s + 1 … t"""
    return _jumps(torch.cat([c[:1], c[:-1]]), torch.cat([d[:1], d[:-1]]), times)


def merged__index_before(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """does the steps s + 1 … t"""
    product = c.cumprod(0)[times - 1]
    return torch.cat([c[:1], product[1:] / product[:-1]]), _jumps(c, d, times)[1].sqrt()


def merged__from_the_start(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """all factors since t = 0"""
    return c.cumprod(0)[times], _jumps(c, d, times)[1].sqrt()


def merged__factor_squared(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """that is C_k²"""
    factor, variance = _jumps(c, d, times)
    return factor**2, variance.sqrt()


def merged__deviation_picked(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """that is d at the chosen times"""
    return _jumps(c, d, times)[0], d[times]


def merged__only_added(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """noise that came early is multiplied by the later c"""
    return _jumps(c, d, times)[0], torch.diff(d.square().cumsum(0)[times], prepend=d[:1]).sqrt()


def merged__variance(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """that is D_k², the variance"""
    return _jumps(c, d, times)


def merged__variance_preserved(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """right only for a chain with c² + d² = 1"""
    factor = _jumps(c, d, times)[0]
    return factor, (1 - factor**2).clamp(min=0).sqrt()


def _since_the_start(c: Tensor, d: Tensor, times: Tensor) -> Tensor:
    return torch.stack([_jumps(c, d, torch.tensor([0, t]))[1][1] for t in times.tolist()])


def merged__all_noise(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """all noise since t = 0"""
    return _jumps(c, d, times)[0], _since_the_start(c, d, times).sqrt()


def merged__difference(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """a difference of the noise at both ends"""
    return _jumps(c, d, times)[0], _since_the_start(c, d, times).diff(prepend=d[:1]).clamp(min=0).sqrt()


def merged__without_zero(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """the shape is (5,)"""
    factor, variance = _jumps(c, d, times)
    return factor[1:], variance[1:].sqrt()


def merged__one_thing(c: Tensor, d: Tensor, times: Tensor) -> Tensor:
    """2 things are to be returned"""
    return _jumps(c, d, times)[0]


def merged__in_float32(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """float64 is wanted"""
    factor, variance = _jumps(c, d, times)
    return factor.float(), variance.sqrt().float()


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


def time_of_snr__weight_reversed(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """the weight is the wrong way round"""
    t = _place(_log_snr(alpha_bar), 0.5 * torch.log(snr))
    return t.floor() + 1 - (t - t.floor())


def time_of_snr__root_forgotten(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """the signal rate is the root of ᾱ"""
    return _place(torch.log(alpha_bar[1:] / (1 - alpha_bar[1:]).sqrt()), 0.5 * torch.log(snr))


def time_of_snr__in_float32(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """float64 is wanted"""
    return _place(_log_snr(alpha_bar), 0.5 * torch.log(snr)).float()


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


def exploding_twin__signal_lost(alpha_bar: Tensor) -> Tensor:
    """a difference of ᾱ is the signal that x loses"""
    return torch.cat([alpha_bar.new_zeros(1), (alpha_bar[:-1] - alpha_bar[1:]).sqrt()])


def exploding_twin__in_float32(alpha_bar: Tensor) -> Tensor:
    """float64 is wanted"""
    return torch.diff(1 / alpha_bar, prepend=alpha_bar[:1]).sqrt().float()


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


def shifted__limited(alpha_bar: Tensor, factor: float) -> Tensor:
    """was a limit put under"""
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8) / factor**2
    return snr / (1 + snr)


def shifted__sigmoid_of_lambda(alpha_bar: Tensor, factor: float) -> Tensor:
    """a² = sigmoid(2λ)"""
    return torch.sigmoid(0.5 * torch.logit(alpha_bar) - math.log(factor))


def shifted__in_float32(alpha_bar: Tensor, factor: float) -> Tensor:
    """float64 is wanted"""
    return (alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar))).float()
