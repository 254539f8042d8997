"""Exercises of chapter 12. Check your answers with `pytest exercises/test_ch12_guidance.py`."""

from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) → x̂_0, with t of shape N


def push_velocity(v: Tensor, class_slope: Tensor, alpha_bar: Tensor, w: float) -> Tensor:
    """ch12.1 · difficulty 2 of 5 · 15 minutes

    Classifier guidance for a network that predicts v = a ε − σ x_0: the guided velocity ṽ, without a detour over x̂_0.

    Args:
        v: v̂, what the network says without the condition, N×D.
        class_slope: ∇ log p(c | x_t), N×D.
        alpha_bar: ᾱ_t of each example, between 0 and 1, shape N; a² = ᾱ and a² + σ² = 1.
        w: how often the push is counted.

    Returns: ṽ, N×D.

    Hint: (12.3) and (12.4) say how ε̂ and x̂_0 change. How does a combination of them change? One square can be saved.
    """
    raise NotImplementedError("ch12.1 push_velocity: see the section 'Bayes' rule for scores'")


def two_conditions(eps_null: Tensor, eps_image: Tensor, eps_both: Tensor, w_image: float, w_text: float) -> Tensor:
    """ch12.2 · difficulty 2 of 5 · 15 minutes

    An editor is given a picture I and a text T. Guide by ∇ log p(x_t) + w_I ∇ log p(I | x_t) + w_T ∇ log p(T | x_t, I):
    how far to keep to the picture and how far to follow the text are two knobs.

    Args:
        eps_null, eps_image, eps_both: the predicted noise, told nothing, told I, told I and T, N×….
        w_image, w_text: w_I and w_T. With 1 and 1 the answer is eps_both.

    Returns: ε̃, N×….

    Hint: (12.6) turns a difference of two predictions into a classifier. Which two predictions differ by T alone, I being known?
    Source: Brooks et al. 2022 (arXiv:2211.09800), Eq. 3.
    """
    raise NotImplementedError("ch12.2 two_conditions: see the section 'Without a classifier'")


def in_interval(denoise_cond: Denoise, denoise_null: Denoise, w: float, first: int, last: int) -> Denoise:
    """ch12.3 · difficulty 2 of 5 · 15 minutes

    Guidance in the middle of the chain only: a denoiser that guides with w at times last ≤ t ≤ first, and is the conditional one
    before and after. The times of a batch may differ. Ask about the whole batch, since a denoiser may know each example's class
    by its place; but where no example is guided, `denoise_null` must not be asked: half of the work is saved there.

    Args:
        denoise_cond, denoise_null: (x_t, t) → x̂_0, N×….
        w: as in (12.7).
        first, last: the noisiest and the cleanest time at which to guide, first ≥ last.

    Returns: a function (x_t, t) → x̂_0, N×….

    Hint: plain conditional sampling is guidance, too, with another w.
    Source: Kynkäänniemi et al. 2024 (arXiv:2404.07724), section 3.
    """
    raise NotImplementedError("ch12.3 in_interval: see the section 'Where to guide'")


def rescaled(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """ch12.4 · difficulty 3 of 5 · 20 minutes

    Another remedy against too much contrast: multiply each guided prediction by one number, so that the standard deviation over
    all its entries is that of the conditional prediction; then go only a part φ of the way there.

    Args:
        guided, cond: the guided and the conditional prediction, N×C×H×W.
        phi: φ in [0, 1]; 0 changes nothing, 1 gives each example the deviation of its conditional prediction.

    Returns: N×C×H×W.

    Hint: one number for each example, from all of its entries and from no other example's.
    Source: Lin et al. 2023 (arXiv:2305.08891), Eqs. 15 and 16.
    """
    raise NotImplementedError("ch12.4 rescaled: see the section 'Out of range'")


def interval_end(var_cond: float, var_null: float, w: float, low: float, high: float) -> float:
    """ch12.5 · difficulty 4 of 5 · 30 minutes

    The world of (12.11), a class N(0, s²) among data N(0, S²), and the flow without noise, guided with w where the noise level
    r = σ/a lies between `low` and `high`, and conditional (w = 1) elsewhere. The variance of where it ends.

    Args:
        var_cond, var_null: s² and S².
        w: the guidance inside the interval.
        low, high: noise levels, 0 ≤ low ≤ high; high may be infinite.

    Returns: the variance, a number. With low = 0 and high = math.inf it is (12.11), with low = high it is s².

    Hint: in the derivation of (12.11) the logarithm of y is an integral over r. Cut it at `low` and `high`.
    """
    raise NotImplementedError("ch12.5 interval_end: see the section 'What does guidance sample from?'")
