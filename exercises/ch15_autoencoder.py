"""Exercises of chapter 15. Check your answers with `pytest exercises/test_ch15_autoencoder.py`."""

from torch import Tensor


def channel_scale(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """ch15.1 · difficulty 1 of 5 · 10 minutes

    (15.5) multiplies all channels by one number and shifts none. Find for every channel by itself the shift and the scale that
    give its draws mean 0 and variance 1: z ↦ (z − shift) · scale.

    Args:
        mean, log_var: of q(z | x) for N pictures, N×C×h×w.

    Returns: shift and scale, shape C each. Variances are divided by the number of values, not by one less.

    Hint: a draw varies for two reasons: between pictures and places, and around each mean.
    """
    raise NotImplementedError("ch15.1 channel_scale: see the section 'One number'")


def patch_size(kernels: list[int], strides: list[int]) -> int:
    """ch15.2 · difficulty 2 of 5 · 15 minutes

    How many pixels along a side one output of a stack of convolutions sees: 16 for a critic with kernels 4, 4, 4 and strides
    2, 1, 1. The layers may have any kernels and strides.

    Args:
        kernels, strides: of each layer, the first layer first.

    Returns: a whole number.

    Hint: walk backwards from one output. If you need n neighbouring values after a layer, how many do you need before it?
    """
    raise NotImplementedError("ch15.2 patch_size: see the section 'A critic of patches'")


def level_of(variances: Tensor, error: float) -> float:
    """ch15.3 · difficulty 3 of 5 · 25 minutes

    (15.2) goes from a water level to the error. Go back, exactly and without searching: the level θ at which the directions'
    errors sum to `error`.

    Args:
        variances: λ in any order, float64, shape D, all positive.
        error: E‖x − x̂‖², above 0 and below the sum of the variances.

    Returns: θ.

    Hint: sort. If the k smallest directions are under water and the others are not, the sum is a formula that you can solve
        for θ. For which k is the answer consistent?
    """
    raise NotImplementedError("ch15.3 level_of: see the section 'How exactly?'")


def moving_codes(
    codebook: Tensor, counts: Tensor, sums: Tensor, z: Tensor, decay: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ch15.4 · difficulty 3 of 5 · 30 minutes

    The codebook without a gradient: Lloyd's means, kept as moving averages over batches. For every code a moving count of its
    vectors and a moving sum of them,

        count ← γ count + (1 − γ) · (how many of this batch),    sum ← γ sum + (1 − γ) · (their sum),

    and the code is sum/count. A count below `floor` is replaced by `floor` in that division alone.

    Args:
        codebook: K×C, as it is when the batch arrives: it decides which vector belongs to which code.
        counts, sums: the moving averages before, K and K×C.
        z: vectors, N×C.
        decay: γ in [0, 1).
        floor: positive.

    Returns: the new codebook, counts and sums.

    Hint: a vector belongs to its nearest code. One matrix of zeros and ones, N×K, gives both counts and sums.
    Source: van den Oord et al. 2017 (arXiv:1711.00937), appendix A.1.
    """
    raise NotImplementedError("ch15.4 moving_codes: see the section 'Latents from a list'")


def finite_scalar(z: Tensor, levels: list[int]) -> tuple[Tensor, Tensor]:
    """ch15.5 · difficulty 4 of 5 · 40 minutes

    A codebook that nobody has to learn, and none of whose codes can die: round each channel to a few values. Channel c is
    first squeezed, y_c = m_c tanh(z_c) with m_c = (L_c − 1)/2 and L_c = levels[c] (odd), then rounded to a whole number, then
    divided by m_c: L_c values from −1 to 1. The *rounding* is passed straight through; tanh keeps its own gradient.

    The code's number is Σ_c (rounded y_c + m_c) · Π_{b<c} L_b, an empty product being 1: channel 0 counts fastest, all together
    from 0 to Π L − 1.

    Args:
        z: N×C×h×w.
        levels: L for each of the C channels, odd, at least 3.

    Returns: the quantised z, N×C×h×w, with a gradient to z; and the codes, int64, N×h×w.

    Hint: (15.8), around the right operation.
    Source: Mentzer et al. 2023 (arXiv:2309.15505), section 3.1.
    """
    raise NotImplementedError("ch15.5 finite_scalar: see the section 'A gradient that is not one'")
