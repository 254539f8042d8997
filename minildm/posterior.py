"""One step back in the forward process, when x_0 is known and when it is not, and the bound made of such steps (chapter 07)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minildm.elbo import Mixture
from minildm.gaussian import Gaussian, per_example, sum_per_example
from minildm.schedule import NoiseSchedule, noisy_mixture, q_sample

Reverse = Callable[[Tensor, Tensor], Gaussian]  # (x_t, t) → p(x_{t−1} | x_t), t of shape N: what a model of the film has to say


def posterior(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
    """q(x_s | x_t, x_0) for s < t by Bayes' rule, Eq. (07.1); by default s = t − 1, the one step of DDPM.

    With α = ᾱ_t/ᾱ_s, the share of the signal that survives from s to t, and β = 1 − α,

        variance = β (1 − ᾱ_s)/(1 − ᾱ_t),  Eq. (07.2), for s = t − 1 called β̃_t;
        mean     = √ᾱ_s β/(1 − ᾱ_t) x_0 + √α (1 − ᾱ_s)/(1 − ᾱ_t) x_t,  Eq. (07.3).

    Args:
        x_t, x0: noisy and clean data (or its estimate), N×....
        t: integer times in 1..T, shape N or a single one.
        s: integer times in 0..t−1, shaped like t.

    Returns: a Gaussian over N×..., its log-variance N×1×…×1. At s = 0 the variance is 0: x_0 is known.

    Raises:
        ValueError: t or s out of range.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eqs. 6 and 7; for s < t − 1 Song et al. 2021 (arXiv:2010.02502).
    """
    s = _earlier(t, s)
    noise_s, noise_t = schedule.noise(s) ** 2, schedule.noise(t) ** 2  # 1 − ᾱ_s and 1 − ᾱ_t
    signal_s = schedule.signal(s)
    root_alpha = schedule.signal(t) / signal_s
    beta = 1 - root_alpha**2
    mean = per_example(signal_s * beta / noise_t, x0) * x0 + per_example(root_alpha * noise_s / noise_t, x_t) * x_t
    log_var = torch.log(beta * noise_s / noise_t)
    return Gaussian(mean, per_example(log_var, x_t))


def _earlier(t: Tensor, s: Tensor | None) -> Tensor:
    """s, by default t − 1. Raises ValueError unless s < t."""
    s = t - 1 if s is None else s
    if bool((s >= t).any()):
        raise ValueError(f"the posterior goes back in time, so s < t; got s = {s.tolist()}, t = {t.tolist()}")
    return s


def mean_from_noise(schedule: NoiseSchedule, x_t: Tensor, noise: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
    """The posterior's mean from the noise that is in x_t, Eq. (07.4): (x_t − β/σ_t ε)/√α, with α and β as in `posterior`.

    Args:
        x_t: N×….
        noise: the ε of x_t = a_t x_0 + σ_t ε, or its estimate, N×….
        t, s: as for `posterior`.

    Returns: N×….

    Raises:
        ValueError: t or s out of range; t with ᾱ_t = 0, where ε says nothing about x_0.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 11.
    """
    s = _earlier(t, s)
    if bool((schedule.signal(t) == 0).any()):
        raise ValueError(f"at t = {schedule.T}, ᾱ_t = 0 and x_t is the noise itself: the mean needs x_0 (or v), not epsilon")
    root_alpha = schedule.signal(t) / schedule.signal(s)
    share = (1 - root_alpha**2) / schedule.noise(t)
    return (x_t - per_example(share, x_t) * noise) / per_example(root_alpha, x_t)


def bridge(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
    """The posterior as a point on the way from x_0 to x_t, Eq. (07.5), with w = SNR(t)/SNR(s):

        mean = a_s [(1 − w) x_0 + w x_t/a_t],   variance = σ_s² (1 − w).

    Args, Returns and Raises: as for `posterior`, of which this is another way to say the same.

    Source: Kingma et al. 2021 (arXiv:2107.00630), appendix A, up to how it is written.
    """
    s = _earlier(t, s)
    a_s, a_t, sigma_s, sigma_t = schedule.signal(s), schedule.signal(t), schedule.noise(s), schedule.noise(t)
    over_a = a_t / sigma_t**2 * (sigma_s / a_s) ** 2  # w/a_t, which is finite also where a_t = 0
    w = over_a * a_t
    mean = per_example(a_s * (1 - w), x0) * x0 + per_example(a_s * over_a, x_t) * x_t
    return Gaussian(mean, per_example(torch.log(sigma_s**2 * (1 - w)), x_t))


def reverse_step(schedule: NoiseSchedule, data: Gaussian, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
    """q(x_s | x_t), x_0 unknown, for data that are Gaussian, x_0 ~ N(m, v), Eq. (07.6). By default s = t − 1.

    With r_t = ᾱ_t v + 1 − ᾱ_t, the variance of x_t, and α and β as in `posterior`:

        mean = a_s m + √α r_s/r_t (x_t − a_t m),   variance = β r_s/r_t.

    Args:
        data: N(m, v), N×… or 1×…; a log-variance of −∞ is a single point, and gives the posterior.
        x_t: N×….
        t, s: as for `posterior`.

    Returns: N×….
    """
    s = _earlier(t, s)
    a_s, a_t = per_example(schedule.signal(s), x_t), per_example(schedule.signal(t), x_t)
    v = torch.exp(data.log_var)
    r_s, r_t = (a**2 * v + per_example(schedule.noise(time) ** 2, x_t) for a, time in ((a_s, s), (a_t, t)))
    beta = per_example(1 - (schedule.signal(t) / schedule.signal(s)) ** 2, x_t)
    mean = a_s * data.mean + a_t / a_s * r_s / r_t * (x_t - a_t * data.mean)
    return Gaussian(mean, torch.log(beta * r_s / r_t))


def reverse_mixture(schedule: NoiseSchedule, data: Mixture, x_t: float, t: int, s: int | None = None) -> Mixture:
    """q(x_s | x_t) = Σ_k q(k | x_t) q(x_s | x_t, k), Eq. (07.7), for a number x_0 that is drawn from a mixture.

    Given the component k, the data are Gaussian, and `reverse_step` knows the step back. Which component it was is
    what x_t leaves open: q(k | x_t), by Bayes' rule.

    Args:
        data: of K components.
        x_t: the number that was seen at time t.
        t, s: times; by default s = t − 1.

    Returns: a mixture of K components over x_s.
    """
    components, t_k = Gaussian(data.means[:, None], data.log_vars[:, None]), torch.full((len(data.means),), t)
    seen = torch.full_like(components.mean, x_t)  # K×1
    step = reverse_step(schedule, components, seen, t_k, None if s is None else torch.full_like(t_k, s))
    chances = torch.exp(noisy_mixture(schedule, data, t_k[:1]).log_posterior(seen[0])[0])  # K
    return Mixture(chances.clamp(min=1e-300), step.mean[:, 0], step.log_var[:, 0])


def matched(q: Mixture) -> Gaussian:
    """The Gaussian with the mixture's mean Σ_k π_k μ_k and variance Σ_k π_k [v_k + (μ_k − mean)²], Eq. (07.8), of shape 1×1.

    Of all Gaussians g it has the smallest KL(q ‖ g).
    """
    mean = (q.weights * q.means).sum()
    variance = (q.weights * (torch.exp(q.log_vars) + (q.means - mean) ** 2)).sum()
    return Gaussian(mean.reshape(1, 1), torch.log(variance).reshape(1, 1))


def negentropy(q: Mixture, points: int = 4001) -> Tensor:
    """KL(q ‖ g) of a mixture from the Gaussian g that matches its moments, Eq. (07.9): how far from Gaussian it is.

    A sum over a grid, up to 10 standard deviations to either side; it wants components wider than a few hundredths of the whole.

    Returns: one number, nats; exact to rounding, also where it is tiny.
    """
    g = matched(q)
    x = g.mean[0] + torch.exp(0.5 * g.log_var[0]) * torch.linspace(-10, 10, points, dtype=g.mean.dtype)
    log_g = Gaussian(g.mean.expand(points, 1), g.log_var).log_prob(x[:, None])
    ratio = q.log_evidence(x) - log_g
    # q log(q/g) − q + g, whose last two integrate to 0, so that nothing large cancels
    return torch.trapezoid(torch.exp(log_g) * (ratio * torch.exp(ratio) - torch.expm1(ratio)), x)


def prior_term(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)) = ½ Σ [ᾱ_T (x_0² − 1) − log(1 − ᾱ_T)], Eq. (07.10): what the last frame still tells.

    Args:
        x0: N×….

    Returns: nats, summed over dimensions, shape N. Nothing in it is learned; it is 0 at zero terminal SNR.
    """
    alpha_bar = schedule.alpha_bar[-1].item()
    return sum_per_example(0.5 * alpha_bar * x0**2 - 0.5 * (alpha_bar + math.log1p(-alpha_bar)))


def step_term(schedule: NoiseSchedule, reverse: Reverse, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The bound's term of the step from t to t − 1, at one draw of x_t, Eq. (07.11).

    L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for t ≥ 2, and L_0 = −log p(x_0 | x_1) for t = 1, where the posterior
    has no density. The mean over the noise is the term itself.

    Args:
        reverse: (x_t, t) → p(x_{t−1} | x_t), with a variance above 0 at every t.
        x0: clean data, N×….
        t: integer times in 1..T, shape N.
        noise: ε of x_t = a_t x_0 + σ_t ε, N×….

    Returns: nats, summed over dimensions, shape N.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 5.
    """
    x_t = q_sample(schedule, x0, t, noise)
    p, q = reverse(x_t, t), posterior(schedule, x_t, x0, t)
    proper = Gaussian(q.mean, q.log_var.masked_fill(q.log_var.isneginf(), 0.0))  # any variance: at t = 1 it is not used
    return torch.where(t == 1, -p.log_prob(x0), proper.kl(p))


def bound_terms(
    schedule: NoiseSchedule, reverse: Reverse, x0: Tensor, draw: Callable[[Tensor], Tensor] = torch.randn_like
) -> Tensor:
    """L_0, L_1, …, L_{T−1}, L_T, Eq. (07.12): on average over the draws, −log p(x_0) is at most their sum.

    Column t − 1 is `step_term` for t = 1 … T, with L_0 in column 0; the last, column T, is `prior_term`.

    Args:
        reverse: (x_t, t) → p(x_{t−1} | x_t); it is called once for each t.
        x0: clean data, N×….
        draw: like → ε shaped like it, called for t = 1, 2, …, T in this order. Each term needs its own x_t alone, so the draws
            for different t may be independent.

    Returns: nats, summed over dimensions, N×(T+1).

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 5.
    """
    times = torch.arange(schedule.T + 1, device=x0.device)
    steps = [step_term(schedule, reverse, x0, t.expand(len(x0)), draw(x0)) for t in times[1:]]
    return torch.stack([*steps, prior_term(schedule, x0)], 1)


def x0_weight(schedule: NoiseSchedule, t: Tensor, s: Tensor | None = None) -> Tensor:
    """½ (SNR(s) − SNR(t)), Eq. (07.13): what a squared error in the guess x̂_0 costs in the step from t to s.

    L_{t−1} is this times |x_0 − x̂_0|² if p(x_{t−1} | x_t) is the posterior with x̂_0 in the place of x_0.

    Returns: nats per squared unit of x_0, shaped like t; infinite at s = 0.

    Source: Kingma et al. 2021 (arXiv:2107.00630), the loss in discrete time.
    """
    return 0.5 * (schedule.snr(_earlier(t, s)) - schedule.snr(t))
