"""The forward process: noise added step by step, or at once in closed form (chapter 06)."""

import dataclasses
import math

import torch
from torch import Tensor

from minildm.config import LatentDiffusionConfig
from minildm.elbo import Mixture
from minildm.gaussian import Gaussian, per_example


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """How fast data turns into noise: β_t and ᾱ_t for t = 0, 1, …, T, indexed by t itself.

    Args:
        beta: β_0 … β_T, float64, shape T+1; β_0 = 0 because t = 0 is clean data.

    Every variance and rate is unit-free: the data are taken to have unit variance.
    Source: Ho et al. 2020 (arXiv:2006.11239), section 2.
    """

    beta: Tensor

    def __post_init__(self) -> None:
        beta = self.beta
        if beta.ndim != 1 or len(beta) < 2 or beta[0] != 0:
            raise ValueError(
                f"beta must be β_0 = 0, β_1, …, β_T, not of shape {tuple(beta.shape)} starting with {beta[:1].tolist()}"
            )
        if not ((beta[1:] > 0) & (beta[1:] <= 1)).all():
            raise ValueError(f"every β_t must lie in (0, 1], but they span {beta[1:].min():.3g} to {beta[1:].max():.3g}")

    @classmethod
    def linear(cls, T: int = 1000, first: float = 1e-4, last: float = 0.02) -> "NoiseSchedule":
        """β rises linearly from `first` at t = 1 to `last` at t = T. Source: Ho et al. 2020, section 4."""
        return cls._from_steps(torch.linspace(first, last, steps(T), dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, T: int = 1000, first: float = 0.00085, last: float = 0.012) -> "NoiseSchedule":
        """√β rises linearly. Source: Rombach et al. 2022 (arXiv:2112.10752), whose code calls this "linear"."""
        return cls._from_steps(torch.linspace(first**0.5, last**0.5, steps(T), dtype=torch.float64) ** 2)

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, largest: float = 0.999) -> "NoiseSchedule":
        """ᾱ follows cos²; β is clipped at `largest`. Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17."""
        angle = (torch.arange(steps(T) + 1, dtype=torch.float64) / T + offset) / (1 + offset) * math.pi / 2
        f = torch.cos(angle) ** 2
        return cls._from_steps((1 - f[1:] / f[:-1]).clamp(max=largest))

    @classmethod
    def _from_steps(cls, beta: Tensor) -> "NoiseSchedule":
        return cls(torch.cat([beta.new_zeros(1), beta]))

    def rescaled_to_zero_snr(self) -> "NoiseSchedule":
        """The same schedule, shifted and stretched in a = √ᾱ so that ᾱ_T = 0 while ᾱ_1 stays.

        a'_t = a_1 (a_t − a_T)/(a_1 − a_T) for t = 1 … T, Eq. (06.8). The last step then holds no signal at all, as sampling
        assumes when it starts from pure noise.
        Source: Lin et al. 2023 (arXiv:2305.08891), algorithm 1.
        """
        root = self.alpha_bar[1:].sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = torch.cat([self.alpha_bar[:1], root**2])
        return self._from_steps(1 - alpha_bar[1:] / alpha_bar[:-1])

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.beta) - 1

    @property
    def alpha_bar(self) -> Tensor:
        """ᾱ_t = ∏_{s ≤ t} (1 − β_s), float64, shape T+1; ᾱ_0 = 1."""
        return torch.cumprod(1 - self.beta, 0)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether x_T holds no signal: ᾱ_T = 0."""
        return bool(self.beta[-1] == 1)

    def signal(self, t: Tensor) -> Tensor:
        """The signal rate a_t = √ᾱ_t with ᾱ_t = ∏_{s ≤ t} (1 − β_s), Eq. (06.2), float64, shaped like t."""
        return self._look_up("signal", t)

    def noise(self, t: Tensor) -> Tensor:
        """The noise rate σ_t = √(1 − ᾱ_t), Eq. (06.3), float64, shaped like t."""
        return self._look_up("noise", t)

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio a_t²/σ_t², Eq. (06.5); infinite at t = 0."""
        return (self.signal(t) / self.noise(t)) ** 2

    def log_snr(self, t: Tensor) -> Tensor:
        """λ_t = log(a_t/σ_t), half the logarithm of the SNR, Eq. (06.6); +∞ at t = 0, −∞ at zero terminal SNR."""
        return torch.log(self.signal(t)) - torch.log(self.noise(t))

    def _look_up(self, rate: str, t: Tensor) -> Tensor:
        """The table's entry for integer t; between integers, the rate whose λ is linearly interpolated, Eq. (06.7).

        Raises ValueError for t outside 0..T and for real t in (0, 1), where λ has no finite end.
        """
        table = self._tables()[rate]
        if t.numel() and not bool((t >= 0).all() and (t <= self.T).all()):
            raise ValueError(f"t must lie in 0..{self.T}, but spans {t.min().item():g} to {t.max().item():g}")
        if not t.is_floating_point():
            return table.to(t.device)[t]
        below, above = t.floor().long(), t.ceil().long()
        if bool((below == above).all()):
            return table.to(t.device)[below]
        if bool(((t > 0) & (t < 1)).any()):
            raise ValueError("real times must lie in [1, T]: between 0 and 1 the log-SNR runs to infinity")
        log_snr = self._tables()["log_snr"].to(t.device)
        weight = (t - below).double()
        between = log_snr[below] + weight * (log_snr[above] - log_snr[below])
        between = torch.sigmoid(2 * between if rate == "signal" else -2 * between).sqrt()
        return torch.where(below == above, table.to(t.device)[below], between)

    def _tables(self) -> dict[str, Tensor]:
        """The rates at t = 0..T, computed once (a frozen dataclass still has a dictionary)."""
        if "_rates" not in self.__dict__:
            signal, noise = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
            self.__dict__["_rates"] = {"signal": signal, "noise": noise, "log_snr": torch.log(signal) - torch.log(noise)}
        return self.__dict__["_rates"]


def steps(T: int) -> int:
    """T itself. Raises ValueError unless it is a whole number of at least 2."""
    if not math.isfinite(T) or int(T) != T or T < 2:
        raise ValueError(f"T={T}: a schedule needs a whole number of steps, at least 2")
    return int(T)


def schedule_of(config: LatentDiffusionConfig) -> NoiseSchedule:
    """The schedule that the configuration names, in memory whatever the default device."""
    with torch.device("cpu"):
        schedule = getattr(NoiseSchedule, config.schedule)(config.T, *(config.betas or ()))
        return schedule.rescaled_to_zero_snr() if config.zero_terminal_snr else schedule


def forward_step(schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Gaussian:
    """One step of the chain, q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t I), Eq. (06.1).

    Args:
        x: x_{t−1}, N×....
        t: integer times in 1..T, shape N or a single one: where the step ends.

    Returns: a Gaussian over N×..., its log-variance N×1×…×1, or a single number for a single t.

    Raises:
        ValueError: t outside 1..T, or no integer.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 2.
    """
    if t.is_floating_point() or (t.numel() and not bool((t >= 1).all() and (t <= schedule.T).all())):
        raise ValueError(f"a step ends at an integer t in 1..{schedule.T}, not at {t.tolist()}")
    beta = schedule.beta.to(t.device)[t]
    return Gaussian(per_example((1 - beta).sqrt(), x) * x, per_example(torch.log(beta), x))


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0), Eq. (06.4): x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.

    Args:
        x0: clean data, N×..., any scale (unit variance assumed by the schedules' SNR).
        t: times in 0..T, shape N; t = 0 returns x0 itself.
        noise: ε ~ N(0, I), same shape as x0.

    Returns: x_t, same shape as x0.

    Raises:
        ValueError: t outside 0..T, or noise shaped unlike x0.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 4.
    """
    if noise.shape != x0.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} for data of shape {tuple(x0.shape)}: they must agree")
    a, s = schedule.signal(t), schedule.noise(t)  # N
    return per_example(a, x0) * x0 + per_example(s, x0) * noise


def noisy_mixture(schedule: NoiseSchedule, data: Mixture, t: Tensor) -> Mixture:
    """The density of x_t when x_0 is drawn from a mixture, Eq. (06.9): q(x_t) = Σ_k π_k N(a_t μ_k, a_t² s_k² + σ_t²).

    Args:
        data: of x_0, with means μ_k and variances s_k²; a variance of 0 (log-variance −∞) is allowed for t > 0.
        t: a single time in 0..T.

    Returns: the mixture at t, in which everything that the chain does to the data can be computed.

    Raises ValueError for more than one time, or one out of range.
    """
    if t.numel() != 1:
        raise ValueError(f"a mixture has one time, not {t.numel()}: call this once for each")
    a, s = (rate.reshape(()).to(data.means) for rate in (schedule.signal(t), schedule.noise(t)))
    return Mixture(data.weights, a * data.means, torch.logaddexp(2 * torch.log(a) + data.log_vars, 2 * torch.log(s)))
