"""Exercises of chapter 16. Check your answers with `pytest exercises/test_ch16_latent_diffusion.py`."""

from torch import Tensor


def matched_alpha_bar(alpha_bar: Tensor, deviation: float) -> Tensor:
    """ch16.1 · difficulty 2 of 5 · 10 minutes

    Somebody forgot the scale factor, and all latents are stored without it. No denoiser has been trained yet. Mend the *schedule*
    instead of the latents: give the ᾱ with which latents of this deviation have, at every t, the signal-to-noise ratio that
    latents of deviation 1 have with the schedule that was meant.

    Args:
        alpha_bar: the ᾱ_0 … ᾱ_T that were meant, falling from 1, float64, shape T+1; the last may be 0.
        deviation: s, the deviation of the latents as they are.

    Returns: the new ᾱ, float64, shape T+1.

    Hint: (16.5) says that s and the schedule come in through s²·SNR alone. Set two of them equal, and solve for ᾱ.
    """
    raise NotImplementedError("ch16.1 matched_alpha_bar: see the section 'Why in two stages'")


def best_gaussian_prior(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """ch16.2 · difficulty 2 of 5 · 15 minutes

    If the prior had to be a Gaussian with independent dimensions, which one would leave the smallest mismatch KL(q(z) ‖ p(z))?

    Args:
        mean, log_var: of q(z | x_i) for N pictures, float64, shape N×D both.

    Returns: the prior's mean and its log-variance, shape D each.

    Hint: KL(q(z) ‖ p) is a constant minus E_q(z)[log p(z)]. Set its derivatives to zero. Which moments of q(z) are left, and what
        are they for a mixture?
    """
    raise NotImplementedError("ch16.2 best_gaussian_prior: see the section 'Two models, one likelihood'")


def without_token(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """ch16.3 · difficulty 3 of 5 · 20 minutes

    What would cross-attention have said if one token could not be looked at? The softmax is over; its inputs are gone. But you do
    not need them: derive the answer from the weights.

    Args:
        weight: attention, rows that sum to 1, N×heads×Q×L, float64, every entry below 1.
        value: N×heads×L×d, float64.
        token: which one is out of sight.

    Returns: the weighted values, N×heads×Q×d, as the softmax over the other L − 1 scores would have given them.

    Hint: write a softmax without one of its terms, and divide numerator and denominator by the old denominator. (To set its value
        to zero is another thing: that is what (16.8) takes away.)
    """
    raise NotImplementedError("ch16.3 without_token: see the section 'What a word does'")


def folded_condition(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """ch16.4 · difficulty 3 of 5 · 20 minutes

    A sampler calls the U-Net twenty times with the same image beside the noise. What the first layer makes of that image is the
    same every time: compute it once, and it becomes a bias that differs from place to place.

    Args:
        weight: of the first layer, a 3×3 convolution with a margin of one zero, out×(C + K)×3×3; the first C channels are x_t's.
        bias: shape out.
        image: the condition, N×K×H×W.

    Returns: the weights that are left for x_t, out×C×3×3, and the map to be added to their answer, N×out×H×W, such that
        conv2d(x_t, first, padding=1) + second is the first layer of [x_t, image].

    Hint: (16.10). Count what must be added exactly once, and look at the borders of the map.
    """
    raise NotImplementedError("ch16.4 folded_condition: see the section 'Other doors'")


def mismatch_of_chain(alpha_bar: Tensor, deviation: float) -> Tensor:
    """ch16.5 · difficulty 4 of 5 · 40 minutes

    A denoiser that is perfect for latents of deviation 1 gets latents z ~ N(0, s²). What does it pay in nats, and when?

    It answers ẑ_0 = a_t z_t, the mean for deviation 1. The best answer for these latents is another. Find the difference of
    the two mean squared errors, E|z − ẑ_0|² minus the smallest possible, at each t. The bound counts it ½ (SNR(t−1) − SNR(t))
    times (07.13).

    Args:
        alpha_bar: ᾱ_0 … ᾱ_T, falling from 1, all positive, float64, shape T+1.
        deviation: s, above 0.

    Returns: what the steps t = 2 … T cost more than with the best ẑ_0, the variance β̃_t of each step kept, nats, shape T − 1.

    Hint: both answers are multiples of z_t, and the best one's error is uncorrelated with z_t, so the difference of the errors is
        the squared difference of the two factors times E z_t². With many steps from almost clean to pure noise the sum over t is
        something that you know: the mismatch of (16.3), KL(N(0, s²) ‖ N(0, 1)).
    """
    raise NotImplementedError("ch16.5 mismatch_of_chain: see the section 'Why in two stages'")
