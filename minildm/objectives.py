"""What the network predicts, and how its error is weighed (chapter 08).

Noise, image, velocity and flow are four coordinates of one unknown: given x_t = a x_0 + σ ε, each is a linear
function of x_0, so each can be turned into any other.
"""

import torch
from torch import Tensor

from minildm.config import Prediction
from minildm.gaussian import per_example
from minildm.schedule import NoiseSchedule

KINDS = ("epsilon", "x0", "v", "flow")


def target(x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """What a network of this kind should say about x_t = a x_0 + σ ε.

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
    """The estimate x̂_0 that a prediction of this kind implies.

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

    Every kind but x0 goes through ε̂ = (x_t − a x̂_0)/σ, so t must be at least 1.

    Raises:
        ValueError: t = 0, where x_t is x_0 and the noise can be anything.
    """
    if kind == "x0":
        return x0
    if bool((t == 0).any()):
        raise ValueError("at t = 0 the data are clean and the noise cannot be told; use t ≥ 1")
    a, s = _rates(x_t, t, schedule, kind)
    return target(x0, (x_t - a * x0) / s, t, schedule, kind)


def convert(prediction: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction, wanted: Prediction) -> Tensor:
    """A prediction of one `kind` in the coordinates of the `wanted` one."""
    return from_x0(to_x0(prediction, x_t, t, schedule, kind), x_t, t, schedule, wanted)


def x0_error_scale(t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> Tensor:
    """How far an error of 1 in the prediction moves x̂_0: |∂x̂_0/∂prediction|, float64, shaped like t."""
    a, s = schedule.signal(t), schedule.noise(t)
    return {"epsilon": s / a, "x0": torch.ones_like(a), "v": s / (a**2 + s**2), "flow": s / (a + s)}[_known(kind)]


def min_snr_weight(t: Tensor, schedule: NoiseSchedule, kind: Prediction, gamma: float = 5.0) -> Tensor:
    """The weight that makes the squared error of any kind count as min(SNR, γ) ‖x̂_0 − x_0‖², shape N.

    An error e in the prediction is an error (∂x̂_0/∂prediction) e in x̂_0, so the weight is min(SNR, γ) times the
    square of that factor: min(SNR, γ)/SNR for epsilon, min(SNR, γ)/(SNR + 1) for v.

    Raises:
        ValueError: epsilon where a_t = 0.

    Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4.
    """
    if kind == "epsilon":
        _refuse_zero_signal(t, schedule)
    return schedule.snr(t).clamp(max=gamma) * x0_error_scale(t, schedule, kind) ** 2


def _rates(like: Tensor, t: Tensor, schedule: NoiseSchedule, kind: Prediction) -> tuple[Tensor, Tensor]:
    _known(kind)
    return per_example(schedule.signal(t), like), per_example(schedule.noise(t), like)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"prediction kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    return kind


def _refuse_zero_signal(t: Tensor, schedule: NoiseSchedule) -> None:
    if schedule.zero_terminal_snr and bool((schedule.signal(t) == 0).any()):
        raise ValueError("epsilon-prediction at zero terminal SNR: x_T is pure noise and cannot tell x_0; predict v or x0")
