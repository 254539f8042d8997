"""Plausible mistakes in chapter 21's exercises; each docstring is what the check should say."""

import json
import math

import torch
from torch import Tensor


def _head(data: bytes, first: int, drop: bool = True) -> dict:
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    if drop:
        entries.pop("__metadata__", None)
    return {
        name: (entry.get("dtype"), tuple(entry.get("shape", ())), first + entry.get("data_offsets", [0])[0])
        for name, entry in entries.items()
    }


def _length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def head_of__metadata(data: bytes):
    """'__metadata__' is no tensor"""
    return _head(data, 8 + _length(data), drop=False)


def head_of__offsets_as_they_are(data: bytes):
    """offsets count from the end of the JSON text"""
    return _head(data, 0)


def head_of__eight_forgotten(data: bytes):
    """the eight bytes before the JSON text were forgotten"""
    return _head(data, _length(data))


def head_of__text_forgotten(data: bytes):
    """the JSON text itself was forgotten"""
    return _head(data, 8)


def head_of__lists(data: bytes):
    """the shape is wanted as a tuple"""
    return {name: (kind, list(shape), begin) for name, (kind, shape, begin) in _head(data, 8 + _length(data)).items()}


def head_of__end(data: bytes):
    """that is where its numbers end"""
    length = _length(data)
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    return {name: (e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][1]) for name, e in entries.items()}


def head_of__needs_metadata(data: bytes):
    """a file need not have '__metadata__'"""
    length = _length(data)
    entries = json.loads(data[8 : 8 + length])
    del entries["__metadata__"]
    return {name: (e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][0]) for name, e in entries.items()}


def head_of__characters(data: bytes):
    """counted in characters"""
    return _head(data, 8 + len(data[8 : 8 + _length(data)].decode()))


def head_of__big_end_first(data: bytes):
    """which byte of the length comes first"""
    length = int.from_bytes(data[:8], "big")
    return json.loads(data[8 : 8 + length])


def head_of__running_sum(data: bytes):
    """its numbers begin at byte"""
    place, found = 8 + _length(data), {}
    for name, (kind, shape, _) in _head(data, 0).items():
        found[name] = kind, shape, place
        place += math.prod(shape) * {"F32": 4, "F16": 2}[kind]
    return found


def head_of__nothing(data: bytes):
    """a dictionary is wanted"""


def three_of_one__thirds(weight: Tensor, bias: Tensor, heads: int):
    """they stand head by head"""
    return tuple(zip(weight.chunk(3), bias.chunk(3), strict=True))


def three_of_one__every_third(weight: Tensor, bias: Tensor, heads: int):
    """a head's query rows stand together"""
    return tuple((weight[kind::3], bias[kind::3]) for kind in range(3))


def three_of_one__channel_before_head(weight: Tensor, bias: Tensor, heads: int):
    """head and channel are exchanged"""
    rows, offsets = weight.unflatten(0, (-1, 3, heads)), bias.unflatten(0, (-1, 3, heads))
    return tuple((rows[:, kind].flatten(0, 1), offsets[:, kind].flatten(0, 1)) for kind in range(3))


def three_of_one__exchanged(weight: Tensor, bias: Tensor, heads: int):
    """query, key and value are exchanged"""
    rows, offsets = weight.unflatten(0, (heads, 3, -1)), bias.unflatten(0, (heads, 3, -1))
    return tuple((rows[:, kind].flatten(0, 1), offsets[:, kind].flatten(0, 1)) for kind in (1, 2, 0))


def three_of_one__heads_inside(weight: Tensor, bias: Tensor, heads: int):
    """head and channel are exchanged"""
    rows, offsets = weight.unflatten(0, (heads, 3, -1)), bias.unflatten(0, (heads, 3, -1))
    return tuple((rows[:, kind].transpose(0, 1).flatten(0, 1), offsets[:, kind].T.flatten()) for kind in range(3))


def three_of_one__bias_in_thirds(weight: Tensor, bias: Tensor, heads: int):
    """the bias stands head by head too"""
    rows = weight.unflatten(0, (heads, 3, -1))
    return tuple((rows[:, kind].flatten(0, 1), bias.chunk(3)[kind]) for kind in range(3))


def three_of_one__not_joined(weight: Tensor, bias: Tensor, heads: int):
    """the shape is"""
    rows, offsets = weight.unflatten(0, (heads, 3, -1)), bias.unflatten(0, (heads, 3, -1))
    return tuple((rows[:, kind], offsets[:, kind]) for kind in range(3))


def _unscaled(quant_weight, quant_bias, post_weight, mean, log_var_weight, log_var, bias, post):
    half = len(quant_bias) // 2
    weight = torch.cat([quant_weight[:half] * mean, quant_weight[half:] * log_var_weight])
    return weight, torch.cat([quant_bias[:half] * bias, quant_bias[half:] + log_var]), post_weight * post


def without_scale__all_multiplied(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """they are logarithms, so the factor is added"""
    return quant_weight * scale, quant_bias * scale, post_weight / scale


def without_scale__log_once(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """its logarithm by 2 log s"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, math.log(scale), scale, 1 / scale)


def without_scale__variance_left(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the variance changes too"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, 0.0, scale, 1 / scale)


def without_scale__log_sign(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the sign: log(s²σ²)"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, -2 * math.log(scale), scale, 1 / scale)


def without_scale__bias_left(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the bias of the means is part of the means"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, 2 * math.log(scale), 1.0, 1 / scale)


def without_scale__decoder_multiplied(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """it must undo the factor"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, 2 * math.log(scale), scale, scale)


def without_scale__decoder_left(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the decoder's layer must undo the factor"""
    return _unscaled(quant_weight, quant_bias, post_weight, scale, 1, 2 * math.log(scale), scale, 1.0)


def without_scale__means_divided(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the means were divided"""
    return _unscaled(quant_weight, quant_bias, post_weight, 1 / scale, 1, 2 * math.log(scale), 1 / scale, scale)


def without_scale__weights_left(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the rows that give them must"""
    return _unscaled(quant_weight, quant_bias, post_weight, 1.0, 1, 2 * math.log(scale), scale, 1 / scale)


def without_scale__hard_coded(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """without_scale, the means"""
    s = 0.18215
    return _unscaled(quant_weight, quant_bias, post_weight, s, 1, 2 * math.log(s), s, 1 / s)


def without_scale__halves_exchanged(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float):
    """the halves are exchanged"""
    return _unscaled(quant_weight, quant_bias, post_weight, 1.0, scale, 2 * math.log(scale), 1.0, 1 / scale)


def _turned(weight: Tensor, T: float, first: tuple, second: tuple) -> Tensor:
    """Columns for cos ωt and for sin ωt, each a sum of the four products with these signs."""
    half = weight.shape[1] // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = torch.cos(omega * T), torch.sin(omega * T)
    of_cos, of_sin = weight.split(half, 1)
    products = (of_cos * cos, of_cos * sin, of_sin * cos, of_sin * sin)
    return torch.cat([sum(sign * each for sign, each in zip(signs, products, strict=True)) for signs in (first, second)], 1)


def reversed_clock__forwards(weight: Tensor, T: float):
    """it still runs forwards"""
    return _turned(weight, T, (1, 0, 0, 1), (0, -1, 1, 0))


def reversed_clock__forwards_other_way(weight: Tensor, T: float):
    """moved by −T, and running forwards"""
    return _turned(weight, T, (1, 0, 0, -1), (0, 1, 1, 0))


def reversed_clock__without_T(weight: Tensor, T: float):
    """T is missing"""
    half = weight.shape[1] // 2
    return torch.cat([weight[:, :half], -weight[:, half:]], 1)


def reversed_clock__sign(weight: Tensor, T: float):
    """a sign is wrong"""
    return _turned(weight, T, (1, 0, 0, 1), (0, 1, 1, 0))


def reversed_clock__other_sign(weight: Tensor, T: float):
    """sin(a − b) has + sin a cos b"""
    return _turned(weight, T, (1, 0, 0, -1), (0, 1, -1, 0))


def reversed_clock__cosine_sign(weight: Tensor, T: float):
    """cos(a − b) = cos a cos b + sin a sin b"""
    return _turned(weight, T, (1, 0, 0, 1), (0, -1, -1, 0))


def reversed_clock__other_order(weight: Tensor, T: float):
    """shift first, then turn back"""
    return _turned(weight, T, (1, 0, 0, -1), (0, -1, -1, 0))


def reversed_clock__rounded(weight: Tensor, T: float):
    """compute the frequencies and the angles in float64"""
    half = weight.shape[1] // 2
    omega = 10000.0 ** (-torch.arange(half) / half)
    cos, sin = torch.cos(omega * T).double(), torch.sin(omega * T).double()
    of_cos, of_sin = weight.split(half, 1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], 1)


def reversed_clock__thousand(weight: Tensor, T: float):
    """reversed_clock, W′ f(t)"""
    return _turned(weight, 1000.0, (1, 0, 0, 1), (0, 1, -1, 0))


def reversed_clock__sines_first(weight: Tensor, T: float):
    """the cosines come first"""
    return _turned(weight.roll(weight.shape[1] // 2, 1), T, (1, 0, 0, 1), (0, 1, -1, 0))


def reversed_clock__single(weight: Tensor, T: float):
    """the type of W"""
    return _turned(weight, T, (1, 0, 0, 1), (0, 1, -1, 0)).float()


def reversed_clock__other_frequencies(weight: Tensor, T: float):
    """reversed_clock, W′ f(t)"""
    half = weight.shape[1] // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    cos, sin = torch.cos(omega * T), torch.sin(omega * T)
    of_cos, of_sin = weight.split(half, 1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], 1)


def _adapter(change: Tensor, rank: int, left: float = 0.5, right: float = 0.5, least: bool = False) -> tuple[Tensor, Tensor]:
    u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
    kept = slice(-rank, None) if least else slice(None, rank)
    return u[:, kept] * s[kept] ** left, (s[kept] ** right)[:, None] * v[kept]


def as_adapter__backwards(before: Tensor, after: Tensor, rank: int):
    """the adapter is added"""
    return _adapter(before - after, rank)


def as_adapter__the_whole(before: Tensor, after: Tensor, rank: int):
    """what is passed on is the change"""
    return _adapter(after, rank)


def as_adapter__least(before: Tensor, after: Tensor, rank: int):
    """keep the largest"""
    return _adapter(after - before, rank, least=True)


def as_adapter__columns(before: Tensor, after: Tensor, rank: int):
    """some columns were kept"""
    change = (after - before).flatten(1)
    return change[:, :rank], torch.eye(change.shape[1], dtype=change.dtype)[:rank]


def as_adapter__no_values(before: Tensor, after: Tensor, rank: int):
    """the singular values are missing"""
    return _adapter(after - before, rank, 0.0, 0.0)


def as_adapter__values_twice(before: Tensor, after: Tensor, rank: int):
    """together that is its square"""
    return _adapter(after - before, rank, 1.0, 1.0)


def as_adapter__halved(before: Tensor, after: Tensor, rank: int):
    """take the root"""
    up, down = _adapter(after - before, rank, 1.0, 1.0)
    return up / 2, down / 2


def as_adapter__by_eigenvalues(before: Tensor, after: Tensor, rank: int):
    """are to have equal lengths"""
    change = (after - before).flatten(1)
    values, v = torch.linalg.eigh(change.T @ change)
    s = values.flip(0)[:rank].sqrt()
    v = v.flip(1)[:, :rank]
    return change @ v / s * s.sqrt(), s.sqrt()[:, None] * v.T


def as_adapter__uneven(before: Tensor, after: Tensor, rank: int):
    """split each strength evenly"""
    return _adapter(after - before, rank, 1.0, 0.0)


def as_adapter__mixed(before: Tensor, after: Tensor, rank: int):
    """orthogonal to each other"""
    up, down = _adapter(after - before, rank)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=up.dtype)).Q
    return up @ turn, turn.T @ down


def as_adapter__kernel(before: Tensor, after: Tensor, rank: int):
    """the shape is"""
    up, down = _adapter(after - before, rank)
    return (up[:, :, None, None], down[:, :, None, None]) if before.ndim == 4 else (up, down)
