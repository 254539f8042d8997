"""Training by predicting the corruption, sampling by ancestral steps (chapter 10)."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minildm.config import Prediction
from minildm.gaussian import sum_per_example
from minildm.objectives import min_snr_weight, target, to_x0
from minildm.posterior import posterior
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
    """L_simple: the squared error of the prediction at x_t, averaged over dimensions, one per example, shape N.

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
    """Training times in 1..T for a batch: each uniform (for power 1), together spread evenly.

    One draw u is shared: u_i = (u + i/N) mod 1 and t_i = 1 + ⌊T u_i^power⌋. The loss depends on t far more than on anything
    else, so independent times would make its mean over a small batch jump with the luck of the draw; these leave the
    mean's expectation as it is and take most of that noise away.

    A power below 1 draws noisy times more often: P(t ≤ s) = (s/T)^(1/power). That weighs L_simple towards the times at
    which the text decides what will be seen, and away from those at which only fine grain is left.

    Args:
        count: N, the examples in the batch.
        generator: on the CPU.
        power: positive.

    Returns: int64, shape N.

    Source: Kingma et al. 2021 (arXiv:2107.00630), the low-discrepancy sampler; that the choice of times matters as much
    as the loss: Esser et al. 2024 (arXiv:2403.03206), section 3.1.
    """
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    u = (u + torch.arange(count, dtype=torch.float64) / count) % 1  # N
    return 1 + (T * u**power).long().clamp(max=T - 1)


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
