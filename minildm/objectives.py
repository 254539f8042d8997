"""What the network predicts, how its error is weighed, and what it learns: the mean, and with it the score (chapter 08).

Noise, image, velocity and flow are four coordinates of one unknown: given x_t = a x_0 + σ ε, each is a linear
function of x_0, so each can be turned into any other. The score is a fifth.
"""

import torch
from torch import Tensor

from minildm.config import Prediction
from minildm.elbo import Mixture
from minildm.gaussian import per_example, sum_per_example
from minildm.posterior import x0_weight
from minildm.schedule import NoiseSchedule, noisy_mixture

KINDS = ("epsilon", "x0", "v", "flow")


def target(x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """What a network of this kind should say about x_t = a x_0 + σ ε, Eq. (08.1).

    epsilon: ε.   x0: x_0.   v: a ε − σ x_0.   flow: ε − x_0.

    Args:
        x0, noise: clean data and ε, N×....
        t: times in 0..T, shape N.

    Source: v: Salimans & Ho 2022 (arXiv:2202.00512), appendix D; flow: Liu et al. 2022 (arXiv:2209.03003).
    """
    a, s = _rates(x0, t, schedule, kind)
    if kind == "epsilon":
        return noise
    if kind == "x0":
        return x0
    return a * noise - s * x0 if kind == "v" else noise - x0


def to_x0(prediction: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """The estimate x̂_0 that a prediction of this kind implies, Eq. (08.2).

    epsilon: (x_t − σ ε)/a.   v: (a x_t − σ v)/(a² + σ²).   flow: (x_t − σ u)/(a + σ).

    Args:
        prediction, x_t: the network's output and its input, N×....
        t: times in 0..T, shape N.

    Raises:
        ValueError: an unknown kind; epsilon where a_t = 0, since pure noise says nothing about x_0.
    """
    a, s = _rates(x_t, t, schedule, kind)
    if kind == "epsilon":
        _refuse_zero_signal(t, schedule)
        return (x_t - s * prediction) / a
    if kind == "x0":
        return prediction
    return (a * x_t - s * prediction) / (a**2 + s**2) if kind == "v" else (x_t - s * prediction) / (a + s)


def from_x0(x0: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """The prediction of this kind that x̂_0 implies: the inverse of `to_x0`.

    Every kind but x0 goes through ε̂ = (x_t − a x̂_0)/σ, Eq. (08.3), so t must be at least 1.

    Raises:
        ValueError: t = 0, where x_t is x_0 and the noise can be anything.
    """
    if kind == "x0":
        return x0
    _refuse_clean(t, "and the noise cannot be told")
    a, s = _rates(x_t, t, schedule, kind)
    return target(x0, (x_t - a * x0) / s, t, schedule, kind)


def convert(prediction: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction, wanted: Prediction) -> Tensor:
    """A prediction of one `kind` in the coordinates of the `wanted` one."""
    return from_x0(to_x0(prediction, x_t, t, schedule, kind), x_t, t, schedule, wanted)


def score(x0_hat: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The slope of a log-density of x_t, Eq. (08.4): (a x̂_0 − x_t)/σ², which is −ε̂/σ.

    With x̂_0 = x_0 it is ∇ log q(x_t | x_0), with x̂_0 = E[x_0 | x_t] it is ∇ log q(x_t); both gradients are in x_t.

    Args:
        x0_hat, x_t: N×….
        t: times in 1..T, shape N.

    Raises:
        ValueError: t = 0, where σ = 0.

    Source: Vincent 2011 (A connection between score matching and denoising autoencoders), for a = 1.
    """
    _refuse_clean(t, "and the score cannot be told")
    a, s = per_example(schedule.signal(t), x_t), per_example(schedule.noise(t), x_t)
    return (a * x0_hat - x_t) / s**2


def x0_error_scale(t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """How far an error of 1 in the prediction moves x̂_0: |∂x̂_0/∂prediction|, Eq. (08.5), float64, shaped like t."""
    a, s = schedule.signal(t), schedule.noise(t)
    return {"epsilon": s / a, "x0": torch.ones_like(a), "v": s / (a**2 + s**2), "flow": s / (a + s)}[_known(kind)]


def bound_weight(t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """What the variational bound pays for a squared error of this kind in the step from t to t − 1, Eq. (08.6).

    ½ (SNR(t−1) − SNR(t)) on ‖x_0 − x̂_0‖² is, for epsilon, β²/(2 β̃ α (1 − ᾱ)) on ‖ε − ε̂‖². L_simple puts 1 in its place.

    Args:
        t: integer times in 2..T, shape N; at t = 1 the bound has L_0, and this is infinite.

    Returns: nats per squared unit of the prediction, float64, shape N.

    Raises:
        ValueError: epsilon where a_t = 0.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 12 with β̃ for the variance; Kingma et al. 2021 (arXiv:2107.00630).
    """
    if kind == "epsilon":
        _refuse_zero_signal(t, schedule)
    return x0_weight(schedule, t) * x0_error_scale(t, schedule, kind) ** 2


def min_snr_weight(t: Tensor, schedule: NoiseSchedule, kind: Prediction, gamma: float = 5.0) -> Tensor:
    """The weight that makes the squared error of any kind count as min(SNR, γ) ‖x̂_0 − x_0‖², Eq. (08.7), shape N.

    An error e in the prediction is an error (∂x̂_0/∂prediction) e in x̂_0, so the weight is min(SNR, γ) times the
    square of that factor: min(SNR, γ)/SNR for epsilon, min(SNR, γ)/(SNR + 1) for v.

    Raises:
        ValueError: epsilon where a_t = 0.

    Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4.
    """
    if kind == "epsilon":
        _refuse_zero_signal(t, schedule)
    return schedule.snr(t).clamp(max=gamma) * x0_error_scale(t, schedule, kind) ** 2


def expected_x0(schedule: NoiseSchedule, data: Mixture, x_t: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t], the best guess there is, for numbers x_0 drawn from a mixture, Eq. (08.8).

    Σ_k q(k | x_t) [μ_k + a s_k²/(a² s_k² + σ²) (x_t − a μ_k)]: the guess of each component, and how likely each is.

    Args:
        data: of K components, with means μ_k and variances s_k².
        x_t: numbers, shape N.
        t: one time in 1..T for all.

    Returns: shape N.
    """
    noisy = noisy_mixture(schedule, data, t)
    a = schedule.signal(t).to(x_t)
    slope = a * torch.exp(data.log_vars - noisy.log_vars)  # K: how far x_t is to be trusted
    guesses = data.means + slope * (x_t[:, None] - noisy.means)  # N×K
    return (torch.exp(noisy.log_posterior(x_t)) * guesses).sum(1)


def tweedie(slope: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """E[x_0 | x_t] = (x_t + σ² ∇ log q(x_t))/a, Eq. (08.9): Tweedie's formula, the inverse of `score`.

    Args:
        slope, x_t: ∇ log q(x_t), and where it was taken, N×….
        t: times in 0..T, shape N.

    Raises:
        ValueError: a_t = 0, where x_t says nothing about x_0.

    Source: Robbins 1956 (An empirical Bayes approach to statistics); Efron 2011 (Tweedie's formula and selection bias).
    """
    _refuse_zero_signal(t, schedule)
    a, s = per_example(schedule.signal(t), x_t), per_example(schedule.noise(t), x_t)
    return (x_t + s**2 * slope) / a


def denoising_score_loss(estimate: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """‖estimate + ε/σ‖², Eq. (08.10): denoising score matching, summed over dimensions, one per example, shape N.

    On average over x_0 and ε it differs from ‖estimate − ∇ log q(x_t)‖² by a constant, whatever the estimate.

    Args:
        estimate: of the score at x_t = a x_0 + σ ε, N×….
        noise: that ε, N×….
        t: times in 1..T, shape N.

    Source: Vincent 2011 (A connection between score matching and denoising autoencoders).
    """
    _refuse_clean(t, "and the noise cannot be told")
    return sum_per_example((estimate + noise / per_example(schedule.noise(t), noise)) ** 2)


def forward_sde(x: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """The forward process in continuous time, dx = f dt + g dW, Eq. (08.11): f = −½ β x and g = √β.

    Args:
        x: N×….
        beta: β(t), variance per unit of time, in a shape that multiplies x; with t counted in steps it is β_t.

    Returns: drift f, shaped like x, and rate of noise g, shaped like beta.

    Source: Song et al. 2021 (arXiv:2011.13456), Eq. 11.
    """
    beta = torch.as_tensor(beta, dtype=x.dtype, device=x.device)
    return -0.5 * beta * x, torch.sqrt(beta)


def reverse_sde(x: Tensor, slope: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """The same process run backwards, dx = (f − g² ∇ log q) dt + g dW with dt < 0, Eq. (08.12).

    A step back of length h is x − h · drift + √h · rate · ε.

    Args:
        slope: ∇ log q(x) at the time in question, shaped like x.
        x, beta: as for `forward_sde`, and so is what is returned.

    Source: Anderson 1982 (Reverse-time diffusion equation models); Song et al. 2021 (arXiv:2011.13456), Eq. 6.
    """
    drift, rate = forward_sde(x, beta)
    return drift - rate**2 * slope, rate


def probability_flow(x: Tensor, slope: Tensor, beta: Tensor | float) -> Tensor:
    """dx/dt = f − ½ g² ∇ log q, Eq. (08.13): no noise, and at each time the same density as the SDE.

    Args, Source: as for `reverse_sde`, Eq. 13 there.
    """
    drift, rate = forward_sde(x, beta)
    return drift - 0.5 * rate**2 * slope


def _rates(like: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> tuple[Tensor, Tensor]:
    _known(kind)
    return per_example(schedule.signal(t), like), per_example(schedule.noise(t), like)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"prediction kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    return kind


def _refuse_clean(t: Tensor, consequence: str) -> None:
    if bool((t == 0).any()):
        raise ValueError(f"at t = 0 the data are clean {consequence}; use t ≥ 1")


def _refuse_zero_signal(t: Tensor, schedule: NoiseSchedule) -> None:
    if schedule.zero_terminal_snr and bool((schedule.signal(t) == 0).any()):
        raise ValueError("epsilon-prediction at zero terminal SNR: x_T is pure noise and cannot tell x_0; predict v or x0")
