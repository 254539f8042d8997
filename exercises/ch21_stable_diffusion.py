"""Exercises of chapter 21. Check your answers with `pytest exercises/test_ch21_stable_diffusion.py`."""

from torch import Tensor


def head_of(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """ch21.1 · difficulty 2 of 5 · 15 minutes

    Read the head of a safetensors file without any library that knows the format: eight bytes with the length of a JSON text
    (a whole number, the least significant byte first), the JSON text, then the numbers of all tensors. For each tensor the JSON
    says {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, where offsets count from the end of the JSON text. An
    entry "__metadata__" is no tensor.

    Args:
        data: the whole file.

    Returns: for each tensor its type, its shape, and at which byte *of the file* its numbers begin.

    Hint: `int.from_bytes` and `json.loads` are all you need. What is the offset of the offsets?
    """
    raise NotImplementedError("ch21.1 head_of: see the section 'Numbers without code'")


def three_of_one(weight: Tensor, bias: Tensor, heads: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """ch21.2 · difficulty 2 of 5 · 15 minutes

    Some libraries keep query, key and value in one matrix, so that one product gives all three. And some order its rows head by
    head: first the query rows of head 0, its key rows, its value rows, then those of head 1, and so on. Take it apart into the
    three linear layers that our `Attention` has, whose rows are ordered by head as well.

    Args:
        weight: 3C×D.
        bias: shape 3C.
        heads: H; each has C/H rows of each kind.

    Returns: (weight, bias) of the query, of the key, of the value: C×D and C each.

    Hint: give the rows three indices instead of one.
    """
    raise NotImplementedError("ch21.2 three_of_one: see the section 'The name table'")


def without_scale(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """ch21.3 · difficulty 3 of 5 · 20 minutes

    Stable Diffusion multiplies its raw latents by 0.18215, outside of the autoencoder. Put the factor inside: find the weights of
    an autoencoder whose own, unscaled latents are distributed as the old one's scaled ones, and which makes the same pictures of
    them. Only the two 1×1 convolutions next to the latents may change. (Leave aside that log-variances are clamped.)

    Args:
        quant_weight, quant_bias: the encoder's last layer, 2C×2C×1×1 and 2C. It gives C means, then C log-variances.
        post_weight: the decoder's first layer, C×C×1×1. Its bias need not change.
        scale: s.

    Returns: the three, changed.

    Hint: z ↦ s z multiplies the mean by s. What does it do to the logarithm of the variance?
    """
    raise NotImplementedError("ch21.3 without_scale: see the section 'A folder, file by file'")


def reversed_clock(weight: Tensor, T: float) -> Tensor:
    """ch21.4 · difficulty 3 of 5 · 25 minutes

    (21.5) moves a clock. This one runs backwards: a network was trained to be told s = T − t, which is 0 at pure noise.
    Find the first layer with which it can be told t. The features are f(t) = (cos ω_1 t, …, cos ω_n t, sin ω_1 t, …, sin ω_n t),
    with ω_k = 10000^(−(k−1)/n).

    Args:
        weight: W, out×2n, for f(T − t).
        T: the number of steps.

    Returns: W′ with W′ f(t) = W f(T − t) for every t, out×2n, in the type of W.

    Hint: cos(a − b) and sin(a − b); the second is not symmetric. ωT is large: keep its digits, in float64.
    """
    raise NotImplementedError("ch21.4 reversed_clock: see the section 'Two clocks'")


def as_adapter(before: Tensor, after: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """ch21.5 · difficulty 4 of 5 · 30 minutes

    Somebody trained Stable Diffusion further, and one of its matrices has become another. Pass on the change alone, as a low-rank
    adapter (LoRA): two thin matrices with after ≈ before + up · down, as close as `rank` allows in the sum of the squared
    errors of all entries. The matrix may be that of a 1×1 convolution.

    Args:
        before, after: out×in, or out×in×1×1.
        rank: r, at most min(out, in).

    Returns: up out×r and down r×in, in the type of `before`, float32 or float64. The columns of `up` are orthogonal to each
        other, and as long as the rows of `down` that belong to them.

    Hint: a theorem of Eckart and Young says which r directions to keep. Split each one's strength evenly between the two sides.
    """
    raise NotImplementedError("ch21.5 as_adapter: see the section 'What goes in and out'")
