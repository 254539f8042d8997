"""Training by predicting the corruption, sampling by ancestral steps, and the bits that a trained chain needs (chapter 10)."""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from minildm.config import Prediction
from minildm.ema import EMA
from minildm.gaussian import Gaussian, per_example, sum_per_example
from minildm.objectives import min_snr_weight, target, to_x0
from minildm.posterior import Reverse, posterior, prior_term, step_term
from minildm.schedule import NoiseSchedule, q_sample

Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) → prediction; any condition is already inside
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) → x̂_0, t of shape N: the one contract of sampling
Draw = Callable[[Tensor], Tensor]  # like → standard normal noise of the same shape
Step = tuple[int | float, Tensor, Tensor | None]  # t, x_t and x̂_0 as seen from the time before (None at the start)


def ddpm_loss(
    network: Network,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    kind: Prediction,
    min_snr: float | None = None,
) -> Tensor:
    """L_simple, Eq. (10.1): the squared error of the prediction at x_t, averaged over dimensions, one per example, shape N.

    Args:
        network: predicts `kind` from (x_t, t).
        x0, noise: clean data and ε, N×….
        t: integer times in 1..T, shape N.
        min_snr: γ of the min-SNR weights; None weighs every time alike.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 14; the weights: Hang et al. 2023 (arXiv:2303.09556).
    """
    prediction = network(q_sample(schedule, x0, t, noise), t).float()
    error = sum_per_example((prediction - target(x0, noise, t, schedule, kind)) ** 2) / x0[0].numel()
    return error if min_snr is None else error * min_snr_weight(t, schedule, kind, min_snr).to(error)


def spread_times(count: int, T: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """Training times in 1..T for a batch: each uniform (for power 1), together spread evenly. int64, shape N = count.

    One draw u is shared: u_i = (u + i/N) mod 1 and t_i = 1 + ⌊T u_i^power⌋. The loss depends on t far more than on anything
    else, so independent times would make its mean over a small batch jump with the luck of the draw; these leave the
    mean's expectation as it is and take most of that noise away.

    A power below 1 draws noisy times more often: P(t ≤ s) = (s/T)^(1/power). That weighs L_simple towards the times at
    which the text decides what will be seen, and away from those at which only fine grain is left.

    Source: Kingma et al. 2021 (arXiv:2107.00630), the low-discrepancy sampler; that the choice of times matters as much
    as the loss: Esser et al. 2024 (arXiv:2403.03206), section 3.1.
    """
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    u = (u + torch.arange(count, dtype=torch.float64) / count) % 1  # N
    return 1 + (T * u**power).long().clamp(max=T - 1)


def train_ddpm(
    network: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    kind: Prediction,
    steps: int,
    generator: torch.Generator,
    *,
    batch: int = 32,
    lr: float = 2e-3,
    loss: Callable[..., Tensor] = ddpm_loss,
) -> tuple[nn.Module, list[float]]:
    """Train in place: algorithm 1 of Ho et al. 2020, with a learning rate that rises, then falls to 0, and averaged weights.

    `generator` is on the CPU and decides all that is left to chance; `loss` is called like `ddpm_loss`.

    Returns: the averaged network, an EMA over about a twentieth of the steps; and the loss of every step.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr, fused=True)
    ema, losses = EMA(network, 1 - 20 / max(steps, 40)), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * (1 - step / steps)
        x0 = images[torch.randint(len(images), (batch,), generator=generator)]  # line 2: clean pictures
        t = spread_times(batch, schedule.T, generator).to(x0.device)  # line 3: times
        noise = torch.randn(x0.shape, generator=generator).to(x0)  # line 4: their noise
        value = loss(network, x0, t, noise, schedule, kind).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()  # line 5: a step down the gradient of the squared error
        ema.update(network)
        losses.append(value.item())
    return ema.average, losses


def denoiser(network: Network, schedule: NoiseSchedule, kind: Prediction) -> Denoise:
    """The network as a function (x_t, t) → x̂_0, whatever it predicts."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return to_x0(network(x_t, t), x_t, t, schedule, kind)

    return denoise


def ancestral(
    denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor, draw: Draw = torch.randn_like
) -> Iterator[Step]:
    """Sample by drawing from the posterior q(x_s | x_t, x̂_0), time after time.

    Args:
        denoise: (x_t, t) → x̂_0.
        x_T: data at times[0]: noise, N×….
        times: decreasing integer times from T (or less) to 0.
        draw: where the noise of each step comes from. None is drawn on the last step, whose variance is 0.

    Yields: (t, x_t, x̂_0) for every time; the last is (0, x_0, x̂_0).

    Source: Ho et al. 2020 (arXiv:2006.11239), algorithm 2, with the variance β̃; it becomes β̃ of the
    shortened chain when `times` leaves some out.
    """
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, t.expand(len(x)))
        step = posterior(schedule, x, x0, t, s)
        x = step.sample(draw(x)) if s > 0 else step.mean
        yield s.item(), x, x0


def discretized_log_prob(p: Gaussian, x: Tensor, levels: int = 256) -> Tensor:
    """How probable a Gaussian makes grey levels, Eq. (10.3): each gets the integral over its interval, 2/(levels − 1) wide.

    The lowest level's interval reaches down to −∞ and the highest's up to +∞, so that all probabilities sum to 1.

    Returns: nats, summed over dimensions, shape N, for x N×… on the grid of levels from −1 to 1.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 13.
    """
    scale, half = torch.exp(-0.5 * p.log_var), 1 / (levels - 1)
    above, below = (x + half - p.mean) * scale, (x - half - p.mean) * scale
    above, below = above.masked_fill(x > 1 - half, math.inf).double(), below.masked_fill(x < half - 1, -math.inf).double()
    flip = above + below > 0  # the upper tail is taken as the lower one of −z, where small probabilities keep their digits
    high, low = torch.where(flip, -below, above), torch.where(flip, -above, below)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return sum_per_example(log_high + torch.log1p(-torch.exp(log_low - log_high))).to(x.dtype)


def coded_step_term(schedule: NoiseSchedule, reverse: Reverse, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """`step_term` for pictures of 256 grey levels: at t = 1 it is −log P(x_0 | x_1), of a probability instead of a density."""
    x_t = q_sample(schedule, x0, t, noise)
    p = reverse(x_t, t)
    return torch.where(t == 1, -discretized_log_prob(p, x0), step_term(schedule, lambda *_: p, x0, t, noise))


def bits_per_dimension(schedule: NoiseSchedule, reverse: Reverse, x0: Tensor, draw: Draw = torch.randn_like) -> Tensor:
    """The bits that a picture takes for each of its D numbers, Eq. (10.4): the bound's terms over D log 2.

    Args: as for `bound_terms`, with x0 of 256 grey levels from −1 to 1, N×….

    Returns: of L_0, L_1, …, L_{T−1}, L_T in this order, N×(T+1).

    Source: Ho et al. 2020 (arXiv:2006.11239), section 3.3.
    """
    times = torch.arange(1, schedule.T + 1, device=x0.device)
    terms = [coded_step_term(schedule, reverse, x0, t.expand(len(x0)), draw(x0)) for t in times]
    return torch.stack([*terms, prior_term(schedule, x0)], 1) / (x0[0].numel() * math.log(2))


def learned_log_var(schedule: NoiseSchedule, v: Tensor, t: Tensor) -> Tensor:
    """A variance between the two fixed ones, Eq. (10.6): log V_t = ρ log β_t + (1 − ρ) log β̃_t.

    β̃_1 = 0 has no logarithm, and β̃_2 takes its place.

    Args:
        v: the place ρ (v in the paper), one number for each dimension, N×…, or N×1×…; 0 is β̃_t and 1 is β_t, and it may
            leave [0, 1].
        t: integer times in 1..T, shape N; T at least 2.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 15.
    """
    beta, late = schedule.beta.to(t.device), t.clamp(min=2)
    small = beta[late] * (schedule.noise(late - 1) / schedule.noise(late)) ** 2
    return v * per_example(beta[t].log(), v) + (1 - v) * per_example(small.log(), v)


def model_step(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor, v: Tensor) -> Gaussian:
    """p(x_{t−1} | x_t) = N(μ̃_t(x_t, x̂_0), V_t I), Eq. (10.2): the posterior's mean at the network's x̂_0, a variance from v.

    x0 is x̂_0, N×…; t and v as for `learned_log_var`. Source: Ho et al. 2020 (arXiv:2006.11239), section 3.2.
    """
    return Gaussian(posterior(schedule, x_t, x0, t).mean, learned_log_var(schedule, v, t))


def best_variance(schedule: NoiseSchedule, error: Tensor, t: Tensor) -> Tensor:
    """The variance that makes the bound's term at t ≥ 2 smallest, Eq. (10.5): β̃_t + (a_{t−1} β_t/σ_t²)² times the error of x̂_0.

    error is E|x_0 − x̂_0|²/D at each t, shaped like t. Source: Bao et al. 2022 (arXiv:2201.06503), in another form.
    """
    beta, noise = schedule.beta.to(t.device)[t], schedule.noise(t)
    share = schedule.signal(t - 1) * beta / noise**2  # of x̂_0 in the mean
    return beta * (schedule.noise(t - 1) / noise) ** 2 + share**2 * error


def hybrid_loss(
    network: Network, x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, kind: Prediction, weight: float = 0.001
) -> Tensor:
    """L_simple + λ L_vlb, Eq. (10.7), for a network of 2C channels: the second C say the variance, ρ = (1 + output)/2.

    L_vlb is estimated by T times the bound's term at the drawn t, in nats per dimension. The mean in it is held fixed, so
    that it teaches the variance alone. Args and shape as for `ddpm_loss`; `weight` is λ.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 16; the scale of ρ is that of their code.
    """
    x_t = q_sample(schedule, x0, t, noise)
    prediction, output = network(x_t, t).float().chunk(2, 1)
    p = model_step(schedule, x_t, to_x0(prediction.detach(), x_t, t, schedule, kind), t, (1 + output) / 2)
    bound = schedule.T * coded_step_term(schedule, lambda *_: p, x0, t, noise) / x0[0].numel()
    return ddpm_loss(lambda *_: prediction, x0, t, noise, schedule, kind) + weight * bound


def respaced(schedule: NoiseSchedule, times: Tensor) -> NoiseSchedule:
    """The chain that stops at some times only, rising from 0: its k-th β is 1 − ᾱ_{times[k]}/ᾱ_{times[k−1]}, Eq. (10.8).

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4.
    """
    alpha_bar = schedule.alpha_bar[times.cpu()]
    return NoiseSchedule(torch.cat([alpha_bar.new_zeros(1), 1 - alpha_bar[1:] / alpha_bar[:-1]]))


def reverse_of(
    network: Network, schedule: NoiseSchedule, kind: Prediction, times: Tensor, v: float | None = None, limit: float = math.inf
) -> Reverse:
    """The trained network as p(x_{k−1} | x_k) on the chain `respaced(schedule, times)`.

    v: 0 for the variance β̃, 1 for β, None for what the second half of the channels says. x̂_0 is kept in
    [−limit, limit]: with 1 for pictures, a network that predicts ε can be used where its x̂_0 divides by almost no signal.
    """
    chain = respaced(schedule, times)

    def reverse(x: Tensor, k: Tensor) -> Gaussian:
        t, channels = times.to(k.device)[k], x.shape[1]
        answer = network(x, t)  # N×C×… or N×2C×…: it was trained with the long chain's times
        x0 = to_x0(answer[:, :channels], x, t, schedule, kind).clamp(-limit, limit)
        return model_step(chain, x, x0, k, (1 + answer[:, channels:]) / 2 if v is None else torch.full_like(x[:, :1], v))

    return reverse
