"""Plausible mistakes in chapter 10's exercises; each docstring is what the check should say."""

import torch
from torch import Tensor


def _bars(beta: Tensor, t: int) -> tuple[Tensor, Tensor]:
    alpha_bar = torch.cumprod(1 - beta, 0)
    return alpha_bar[t], alpha_bar[t - 1]


def _mean(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor) -> Tensor:
    now, _ = _bars(beta, t)
    return (x_t - beta[t] / (1 - now).sqrt() * noise_hat) / (1 - beta[t]).sqrt()


def _small(beta: Tensor, t: int) -> Tensor:
    now, before = _bars(beta, t)
    return beta[t] * (1 - before) / (1 - now)


def ancestral_step__no_noise(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """where is the noise z"""
    return _mean(beta, t, x_t, noise_hat)


def ancestral_step__large(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """that is the variance β_t"""
    return _mean(beta, t, x_t, noise_hat) + beta[t].sqrt() * z


def ancestral_step__not_rooted(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """multiplies noise by its root"""
    return _mean(beta, t, x_t, noise_hat) + _small(beta, t) * z


def ancestral_step__sign(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """mind the sign"""
    return _mean(beta, t, x_t, -noise_hat) + _small(beta, t).sqrt() * z


def ancestral_step__alpha(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """under the root stands ᾱ_t"""
    return (x_t - beta[t] / beta[t].sqrt() * noise_hat) / (1 - beta[t]).sqrt() + _small(beta, t).sqrt() * z


def ancestral_step__one_off(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """ᾱ_{t−1} where ᾱ_t belongs"""
    _, before = _bars(beta, t)
    return (x_t - beta[t] / (1 - before).sqrt() * noise_hat) / (1 - beta[t]).sqrt() + _small(beta, t).sqrt() * z


def ancestral_step__jump(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """all of the noise was taken out at once"""
    now, _ = _bars(beta, t)
    return (x_t - (1 - now).sqrt() * noise_hat) / now.sqrt() + _small(beta, t).sqrt() * z


def ancestral_step__whole_root(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """not by √ᾱ_t"""
    now, _ = _bars(beta, t)
    return (x_t - beta[t] / (1 - now).sqrt() * noise_hat) / now.sqrt() + _small(beta, t).sqrt() * z


def ancestral_step__upside_down(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """β̃_t upside down"""
    now, before = _bars(beta, t)
    upside = beta[t] * (1 - now) / (1 - before) if t > 1 else beta.new_zeros(())
    return _mean(beta, t, x_t, noise_hat) + upside.sqrt() * z


def ancestral_step__clipped(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """noise on the last step"""
    return _mean(beta, t, x_t, noise_hat) + _small(beta, max(t, 2)).sqrt() * z


def _decays(decay: float, updates: int, first: int = 0) -> Tensor:
    n = torch.arange(first, first + updates, dtype=torch.float64)
    return (n / (10 + n)).clamp(max=decay)


def _after(d: Tensor) -> Tensor:
    return torch.cat([d[1:], d.new_ones(1)]).flip(0).cumprod(0).flip(0)


def average_shares__constant(decay: float, updates: int) -> Tensor:
    """the same d at every update"""
    d = torch.full((updates,), decay, dtype=torch.float64)
    return (1 - d) * _after(d)


def average_shares__reversed(decay: float, updates: int) -> Tensor:
    """the latest weights have the largest share"""
    d = _decays(decay, updates)
    return ((1 - d) * _after(d)).flip(0)


def average_shares__from_one(decay: float, updates: int) -> Tensor:
    """d_0 is 0"""
    d = _decays(decay, updates, 1)
    return (1 - d) * _after(d)


def average_shares__not_shrunk(decay: float, updates: int) -> Tensor:
    """later updates shrink it"""
    return 1 - _decays(decay, updates)


def average_shares__own_power(decay: float, updates: int) -> Tensor:
    """later updates have later d's"""
    d = _decays(decay, updates)
    return (1 - d) * d ** (updates - 1 - torch.arange(updates))


def average_shares__own_update(decay: float, updates: int) -> Tensor:
    """not shrunk by its own update"""
    d = _decays(decay, updates)
    return (1 - d) * d.flip(0).cumprod(0).flip(0)


def average_shares__with_the_copy(decay: float, updates: int) -> Tensor:
    """the first copy has none left"""
    d = _decays(decay, updates)
    return torch.cat([d.prod().reshape(1), (1 - d) * _after(d)])


def average_shares__single(decay: float, updates: int) -> Tensor:
    """float64 is wanted"""
    d = _decays(decay, updates)
    return ((1 - d) * _after(d)).float()


def average_shares__one_plus_n(decay: float, updates: int) -> Tensor:
    """not (1 + n)/(10 + n)"""
    n = torch.arange(updates, dtype=torch.float64)
    d = ((1 + n) / (10 + n)).clamp(max=decay)
    return (1 - d) * _after(d)


def average_shares__constant_but_first(decay: float, updates: int) -> Tensor:
    """bit by bit"""
    d = torch.full((updates,), decay, dtype=torch.float64)
    d[0] = 0
    return (1 - d) * _after(d)


def _best(beta: Tensor, error: Tensor, power: int = 2, late: bool = False, alone: bool = False) -> tuple[Tensor, Tensor]:
    alpha_bar = torch.cumprod(1 - beta, 0)
    now, before = alpha_bar[2:], alpha_bar[1:-1]
    small = beta[2:] * (1 - before) / (1 - now)
    extra = ((now if late else before).sqrt() * beta[2:] / (1 - now)) ** power * error[2:]
    return small, extra if alone else small + extra


def _share(beta: Tensor, small: Tensor, best: Tensor) -> Tensor:
    v = (best / small).log() / (beta[2:] / small).log()
    return torch.cat([v.new_zeros(2), v])


def best_share__turned(beta: Tensor, error: Tensor) -> Tensor:
    """turned round"""
    v = 1 - _share(beta, *_best(beta, error))
    v[:2] = 0
    return v


def best_share__line_in_the_variance(beta: Tensor, error: Tensor) -> Tensor:
    """a straight line in the variance"""
    small, best = _best(beta, error)
    v = (best - small) / (beta[2:] - small)
    return torch.cat([v.new_zeros(2), v])


def best_share__unsquared(beta: Tensor, error: Tensor) -> Tensor:
    """by that share's square"""
    return _share(beta, *_best(beta, error, power=1))


def best_share__late(beta: Tensor, error: Tensor) -> Tensor:
    """not with a_t"""
    return _share(beta, *_best(beta, error, late=True))


def best_share__error_alone(beta: Tensor, error: Tensor) -> Tensor:
    """what the error of x̂_0 adds"""
    return _share(beta, *_best(beta, error, alone=True))


def best_share__cut(beta: Tensor, error: Tensor) -> Tensor:
    """cut at 1"""
    return _share(beta, *_best(beta, error)).clamp(0, 1)


def best_share__no_signal(beta: Tensor, error: Tensor) -> Tensor:
    """a_{t−1} was forgotten"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    now, before = alpha_bar[2:], alpha_bar[1:-1]
    small = beta[2:] * (1 - before) / (1 - now)
    return _share(beta, small, small + (beta[2:] / (1 - now)) ** 2 * error[2:])


def _cdf(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return torch.sigmoid((x - mean[:, None]) / scale[:, None])


def logistic_levels__closed(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """the outer intervals reach to infinity"""
    x, half = torch.linspace(-1, 1, levels, dtype=torch.float64), 1 / (levels - 1)
    return _cdf(x + half, mean, scale) - _cdf(x - half, mean, scale)


def logistic_levels__normalised(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """belongs to the outer levels alone"""
    found = logistic_levels__closed(mean, scale, levels)
    return found / found.sum(1, keepdim=True)


def _density(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    below = _cdf(torch.linspace(-1, 1, levels, dtype=torch.float64), mean, scale)
    return below * (1 - below) / scale[:, None]


def logistic_levels__density(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """a density times a width is not the integral"""
    return _density(mean, scale, levels) * 2 / (levels - 1)


def logistic_levels__softmax(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """a density, made to sum to 1"""
    found = _density(mean, scale, levels)
    return found / found.sum(1, keepdim=True)


def logistic_levels__two_over_levels(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """not 2/levels"""
    x, half = torch.linspace(-1, 1, levels, dtype=torch.float64), 1 / levels
    above, below = _cdf(x + half, mean, scale), _cdf(x - half, mean, scale)
    above[:, -1], below[:, 0] = 1, 0
    return above - below


def logistic_levels__reversed(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """darkest first"""
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    below = _cdf((x[1:] + x[:-1]) / 2, mean, scale)
    return torch.cat([torch.zeros_like(below[:, :1]), below, torch.ones_like(below[:, :1])], 1).diff().flip(1)


def _between(below: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(below[:, :1]), below, torch.ones_like(below[:, :1])], 1).diff()


def logistic_levels__edges_on_levels(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """half-way between the levels"""
    return _between(_cdf(torch.linspace(-1, 1, levels, dtype=torch.float64)[1:], mean, scale))


def logistic_levels__bytes(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """for 256 levels only"""
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    above, below = _cdf(x + 1 / 255, mean, scale), _cdf(x - 1 / 255, mean, scale)
    above[:, -1], below[:, 0] = 1, 0
    return above - below


def _edges(levels: int) -> Tensor:
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    return (x[1:] + x[:-1]) / 2


def logistic_levels__gaussian(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """the Gaussian's distribution function"""
    return _between(torch.special.ndtr((_edges(levels) - mean[:, None]) / scale[:, None]))


def logistic_levels__no_digits(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """take the lower tail"""
    return _between(_cdf(_edges(levels), mean, scale))


def _weighted(root: Tensor, per: float | None = None) -> tuple[Tensor, Tensor]:
    p = torch.cat([root.new_zeros(1), root / root.sum()])
    w = torch.cat([root.new_zeros(1), 1 / ((len(root) if per is None else per) * p[1:])])
    return p, w


def importance_times__uniform(losses: Tensor) -> tuple[Tensor, Tensor]:
    """uniform: nothing is gained"""
    return _weighted(torch.ones(len(losses) - 1, dtype=torch.float64))


def importance_times__mean(losses: Tensor) -> tuple[Tensor, Tensor]:
    """in proportion to E[L]:"""
    return _weighted(losses[1:].mean(1))


def importance_times__deviation(losses: Tensor) -> tuple[Tensor, Tensor]:
    """in proportion to the deviation"""
    return _weighted(losses[1:].std(1))


def importance_times__no_root(losses: Tensor) -> tuple[Tensor, Tensor]:
    """in proportion to E[L²]"""
    return _weighted(losses[1:].square().mean(1))


def importance_times__inverse(losses: Tensor) -> tuple[Tensor, Tensor]:
    """the wrong way"""
    return _weighted(1 / losses[1:].square().mean(1).sqrt())


def importance_times__unweighted(losses: Tensor) -> tuple[Tensor, Tensor]:
    """weights of 1"""
    p, w = _weighted(losses[1:].square().mean(1).sqrt())
    return p, (w > 0).double()


def importance_times__sum(losses: Tensor) -> tuple[Tensor, Tensor]:
    """for the mean there is a T too"""
    return _weighted(losses[1:].square().mean(1).sqrt(), per=1)


def importance_times__one_too_many(losses: Tensor) -> tuple[Tensor, Tensor]:
    """not T + 1"""
    return _weighted(losses[1:].square().mean(1).sqrt(), per=len(losses))


def importance_times__normalised(losses: Tensor) -> tuple[Tensor, Tensor]:
    """weights that sum to 1"""
    p, w = _weighted(losses[1:].square().mean(1).sqrt())
    return p, w / w.sum()


def importance_times__zero_drawn(losses: Tensor) -> tuple[Tensor, Tensor]:
    """t = 0 is never drawn"""
    root = losses.square().mean(1).sqrt()
    p = root / root.sum()
    return p, 1 / (len(p) * p)
