"""Exercises of chapter 09. Check your answers with `pytest exercises/test_ch09_unet.py`."""

from collections.abc import Iterator

from torch import Tensor


def size_and_reach(size: int, layers: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """ch09.1 · difficulty 2 of 5 · 15 minutes

    How large the map is after several convolutions, and how many pixels of the input one of its places can see, along one side.
    Some kernels have gaps: with dilation D their K weights stand D pixels apart, so that a kernel of 3 with D = 2 spans 5 pixels.

    Args:
        size: pixels along the input's side.
        layers: kernel K, stride, padding and dilation D of each, the first layer first.

    Returns: the output's size, and the reach; two integers. (The reach is not cut off at the picture's edge.)

    Hint: how many pixels does a kernel with gaps span, from its first weight to its last? And what is one step between neighbours
        in a layer worth in pixels of the input?
    """
    raise NotImplementedError("ch09.1 size_and_reach: see the sections 'Sizes' and 'How far one pixel sees'")


def adaptive_norm(h: Tensor, time: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """ch09.2 · difficulty 2 of 5 · 15 minutes

    Adaptive group normalisation (Dhariwal and Nichol 2021): time does not add to the map, it says how the normalised map is to be
    scaled and shifted. A linear function of SiLU(time) gives 2C numbers: first s, a scale for each channel, then b, a shift for
    each. The result is (1 + s) · GN(h) + b, where GN has no scale and shift of its own.

    Args:
        h: the map, N×C×H×W.
        time: the vector that tells the time, N×E.
        weight, bias: of the linear function, 2C×E and 2C.
        groups: of GN; divides C.
        eps: added to the variance in GN.

    Returns: N×C×H×W.

    Hint: (09.3) with other numbers in the place of γ and δ, different for each example. The variance divides by how many there
        are, not by one less.
    """
    raise NotImplementedError("ch09.2 adaptive_norm: see the section 'One size for all: GroupNorm and SiLU'")


def turned(features: Tensor, delta: Tensor) -> Tensor:
    """ch09.3 · difficulty 3 of 5 · 15 minutes

    From e(t) to e(t + δ), without being told t: (09.5) has hands that run round circles, and all are to be turned on.

    Args:
        features: e(t) for N times of any size, cosines first, then sines, float64, N×2m.
        delta: how much later, one for each, real, may be negative, float64, N.

    Returns: e(t + δ), N×2m.

    Hint: the cosine and the sine of a sum of angles. Which column belongs to which?
    """
    raise NotImplementedError("ch09.3 turned: see the section 'Time'")


def attend_to_stream(query: Tensor, pieces: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """ch09.4 · difficulty 4 of 5 · 30 minutes

    Attention of Q queries to keys and values that arrive in pieces, each piece once. The result is exactly softmax(QKᵀ/√d) V over
    *all* keys of all pieces, but no more than one piece is held at a time: memory grows with the piece, not with the number of
    keys. This is what makes attention on long sequences possible (Dao et al. 2022).

    Args:
        query: Q×d, float64.
        pieces: gives pairs of keys n×d and values n×v, at least one; n differs from piece to piece.

    Returns: Q×v. Finite, however large the logits are.

    Hint: numerator and denominator of the softmax are both sums over keys, so they can be kept as running sums. Exponentials
        overflow, so subtract the largest logit so far; when a larger one comes, what was summed up is off by a known factor.
    """
    raise NotImplementedError("ch09.4 attend_to_stream: see the section 'The whole picture: attention'")


def four_kernels(weight: Tensor) -> Tensor:
    """ch09.5 · difficulty 4 of 5 · 30 minutes

    "Repeat each pixel, then convolve" (09.2) as four convolutions with 2×2 kernels on the small map: one for each corner (a, b)
    of a doubled pixel. With k the answer, and x zero outside,

        y[o, 2i + a, 2j + b] = Σ_{c, p, q} k[a, b, o, c, p, q] x[c, i + a − 1 + p, j + b − 1 + q].

    Sixteen products for a small pixel and pair of channels, instead of thirty-six.

    Args:
        weight: of the 3×3 convolution with padding 1 on the doubled map, O×C×3×3.

    Returns: 2×2×O×C×2×2, indexed as above.

    Hint: first along one side only. Output 2i looks at the doubled places 2i − 1, 2i and 2i + 1: of which small pixels are they
        copies? And those of output 2i + 1?
    """
    raise NotImplementedError("ch09.5 four_kernels: see the section 'Small again, large again'")
