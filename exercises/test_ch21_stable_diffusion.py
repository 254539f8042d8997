"""Checks of chapter 21's exercises."""

import json
import math

import torch
from checks import agree, asked, close, differ_from, several, shaped
from safetensors.torch import save


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _written(tensors, order, note):
    """A safetensors file whose head names the tensors in this order, whatever the order of their numbers."""
    entries, place = {}, 0
    for name, tensor in tensors.items():
        kind = {torch.float32: "F32", torch.float16: "F16"}[tensor.dtype]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [place, place + tensor.nbytes]}
        place += tensor.nbytes
    text = json.dumps(
        {**({"__metadata__": {"format": note}} if note else {}), **{name: entries[name] for name in order}}, ensure_ascii=False
    )
    numbers = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    return len(text.encode()).to_bytes(8, "little") + text.encode() + numbers


def test_head_of(answer):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.arange(4, dtype=torch.float16), "c": torch.tensor(7.0)}
    for data in (
        save(tensors, metadata={"format": "pt", "long": "x" * 300}),
        _written(tensors, "cab", None),
        _written({"größe": torch.arange(3.0)} | tensors, ["a", "größe", "b", "c"], "x" * 300),
    ):
        _check_head(answer, data)


def _check_head(answer, data):
    try:
        got = answer.head_of(data)
    except (UnicodeDecodeError, json.JSONDecodeError, OverflowError) as error:
        raise AssertionError(f"what was cut out is no JSON text ({error}): which byte of the length comes first?") from None
    except KeyError as error:
        mistake = (
            "a file need not have '__metadata__'" if "metadata" in str(error) else "'__metadata__' is no tensor: leave it out"
        )
        raise AssertionError(f"head_of raised KeyError({error}): {mistake}") from None
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    assert isinstance(got, dict), f"head_of: a dictionary is wanted, not {type(got).__name__}"
    assert "__metadata__" not in got, "head_of: '__metadata__' is no tensor: leave it out"
    assert set(got) == set(entries), f"head_of: the tensors are {sorted(entries)}, not {sorted(got)}"
    characters = len(data[8 : 8 + length].decode())
    for name, entry in entries.items():
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        found = several(got[name], 3, f"head_of, {name!r}")
        assert found[0] == kind, f"head_of, {name!r}: the type is {kind!r}, not {found[0]!r}"
        assert list(found[1]) == shape, f"head_of, {name!r}: the shape is {tuple(shape)}, not {found[1]!r}"
        assert isinstance(found[1], tuple), f"head_of, {name!r}: the shape is wanted as a tuple"
        assert found[2] != begin, "offsets count from the end of the JSON text, not of the file's start"
        assert found[2] != begin + length, "the eight bytes before the JSON text were forgotten"
        assert found[2] != begin + 8, "the JSON text itself was forgotten: the numbers come after it"
        assert found[2] != end + 8 + length, "that is where its numbers end"
        assert characters == length or found[2] != begin + 8 + characters, "the JSON text was counted in characters, not in bytes"
        assert found[2] == begin + 8 + length, (
            f"head_of, {name!r}: its numbers begin at byte {begin + 8 + length}, not {found[2]}"
        )


def test_three_of_one(answer):
    for heads, width, context in ((2, 12, 5), (4, 8, 3)):
        weight, bias, x = _randn(3 * width, context, seed=1), _randn(3 * width, seed=2), _randn(4, context, seed=3)
        pairs = several(asked(answer.three_of_one, weight, bias, heads), 3, "three_of_one, pairs of weight and bias")
        rows = (x @ weight.T + bias).unflatten(1, (heads, 3, width // heads))
        own, offsets = weight.unflatten(0, (heads, 3, -1)), bias.unflatten(0, (heads, 3, -1))
        for kind, (name, pair) in enumerate(zip(("query", "key", "value"), pairs, strict=True)):
            own_weight, own_bias = several(pair, 2, f"three_of_one, the {name}")
            own_weight = shaped(own_weight, (width, context), f"three_of_one, the {name}'s weight").double()
            own_bias = shaped(own_bias, (width,), f"three_of_one, the {name}'s bias").double()
            differ_from(
                own_weight, weight.chunk(3)[kind], "a third of the rows, one after the other: but they stand head by head"
            )
            for mixed in (weight.unflatten(0, (-1, 3, heads))[:, kind].flatten(0, 1), own[:, kind].transpose(0, 1).flatten(0, 1)):
                differ_from(own_weight, mixed, "head and channel are exchanged: the rows of one head stand together")
            differ_from(own_weight, weight[kind::3], "every third row: but a head's query rows stand together")
            for turn in (1, 2):
                differ_from(own_weight, own[:, (kind + turn) % 3].flatten(0, 1), "query, key and value are exchanged")
            agree(own_weight, own[:, kind].flatten(0, 1), f"three_of_one, the {name}'s weight")
            differ_from(own_bias, bias.chunk(3)[kind], "the bias stands head by head too")
            agree(own_bias, offsets[:, kind].flatten(0, 1), f"three_of_one, the {name}'s bias")
            agree(x @ own_weight.T + own_bias, rows[:, :, kind].flatten(1), f"three_of_one, what the {name} layer gives")


def test_without_scale(answer):
    for scale in (0.18215, 1.7):
        _check_scale(answer, 3, scale)


def _check_scale(answer, channels, scale):
    quant, bias, post = _randn(6, 6, 1, 1, seed=1), _randn(6, seed=2), _randn(3, 3, 1, 1, seed=3)
    got = several(asked(answer.without_scale, quant, bias, post, scale), 3, "without_scale")
    new_quant = shaped(got[0], (6, 6, 1, 1), "without_scale, the encoder's weight").double()
    new_bias = shaped(got[1], (6,), "without_scale, the encoder's bias").double()
    new_post = shaped(got[2], (3, 3, 1, 1), "without_scale, the decoder's weight").double()
    differ_from(new_quant, quant * scale, "the log-variances were multiplied too: they are logarithms, so the factor is added")
    square = torch.cat([quant[:channels] * scale, quant[channels:] * scale**2])
    differ_from(new_quant, square, "a factor of the variance is added to its logarithm: those rows stay")
    halves = torch.cat([quant[:channels], quant[channels:] * scale])
    differ_from(new_quant, halves, "the halves are exchanged: the means come first")
    differ_from(new_quant, quant, "the means must be multiplied, so the rows that give them must")
    differ_from(new_quant[:channels], quant[:channels] / scale, "the means were divided: scaled latents are s times the raw ones")
    differ_from(new_post, post * scale, "the decoder's layer was multiplied: it must undo the factor")
    differ_from(new_post, post, "the decoder's layer must undo the factor")
    log = math.log(scale)
    differ_from(new_bias[channels:], bias[channels:] + log, "the variance grows by s², so its logarithm by 2 log s")
    differ_from(new_bias[channels:], bias[channels:], "the variance changes too: 2 log s")
    differ_from(new_bias[channels:], bias[channels:] - 2 * log, "the sign: log(s²σ²) = log σ² + 2 log s")
    differ_from(new_bias[:channels], bias[:channels], "the bias of the means is part of the means: multiply it")
    x = _randn(2, 6, 4, 4, seed=4)
    mean, log_var = torch.nn.functional.conv2d(x, new_quant, new_bias).chunk(2, 1)
    raw_mean, raw_log_var = torch.nn.functional.conv2d(x, quant, bias).chunk(2, 1)
    agree(mean, raw_mean * scale, "without_scale, the means of the new latents")
    agree(log_var, raw_log_var + 2 * log, "without_scale, the log-variances of the new latents")
    z = _randn(2, 3, 4, 4, seed=5)
    decoded = torch.nn.functional.conv2d(z * scale, new_post)
    agree(decoded, torch.nn.functional.conv2d(z, post), "without_scale, what the decoder makes of them")


def _features(t, half):
    omega = torch.tensor([10000.0 ** (-k / half) for k in range(half)], dtype=torch.float64)
    return torch.cat([torch.cos(omega * t[:, None]), torch.sin(omega * t[:, None])], 1)


def test_reversed_clock(answer):
    for T in (1000.0, 40.0):
        _check_clock(answer, 5, T)


def _check_clock(answer, half, T):
    weight, t = _randn(4, 2 * half, seed=1), torch.tensor([0.0, 1.0, 37.5, 500.0, 1000.0], dtype=torch.float64)
    got = shaped(asked(answer.reversed_clock, weight, T), (4, 2 * half), "reversed_clock")
    assert got.dtype == weight.dtype, f"reversed_clock: the type of W, {weight.dtype}, is wanted, not {got.dtype}"
    wanted, told = _features(T - t, half) @ weight.T, _features(t, half) @ got.T
    of_cos, of_sin = weight.split(half, 1)
    omega = torch.tensor([10000.0 ** (-k / half) for k in range(half)], dtype=torch.float64)
    cos, sin = torch.cos(omega * T), torch.sin(omega * T)
    mistakes = {
        "that is the clock of (21.5), moved by T: it still runs forwards": [
            of_cos * cos + of_sin * sin,
            of_sin * cos - of_cos * sin,
        ],
        "moved by −T, and running forwards: sin(ωT − ωt) has −cos ωT before sin ωt": [
            of_cos * cos - of_sin * sin,
            of_sin * cos + of_cos * sin,
        ],
        "that answers f(−t): T is missing": [of_cos, -of_sin],
        "sin(a − b) = sin a cos b − cos a sin b: a sign is wrong": [of_cos * cos + of_sin * sin, of_cos * sin + of_sin * cos],
        "sin(a − b) has + sin a cos b: a sign is wrong": [of_cos * cos - of_sin * sin, of_cos * sin - of_sin * cos],
        "cos(a − b) = cos a cos b + sin a sin b: a sign is wrong": [of_cos * cos + of_sin * sin, -of_cos * sin - of_sin * cos],
        "that answers f(−t − T): shift first, then turn back": [of_cos * cos - of_sin * sin, -of_cos * sin - of_sin * cos],
    }
    for mistake, parts in mistakes.items():
        differ_from(got, torch.cat(parts, 1), mistake)
    sines_first = _features(T - t, half).roll(half, 1) @ weight.T
    assert not close(told, sines_first), "the cosines come first"
    rounded = close(told, wanted, 2e-3) and not close(told, wanted, 1e-9)
    assert not rounded, "right but for rounding: compute the frequencies and the angles in float64"
    agree(told, wanted, "reversed_clock, W′ f(t)", 1e-9)


def test_as_adapter(answer):
    for shape, rank, simple in (
        ((6, 4), 2, False),
        ((3, 7, 1, 1), 1, False),
        ((5, 5), 5, False),
        ((1, 7, 1, 1), 1, False),
        ((6, 5), 3, True),
    ):
        change = _randn(*shape, seed=2) if not simple else _randn(shape[0], 1, seed=2) * _randn(1, shape[1], seed=3)  # of rank 1
        before = _randn(*shape, seed=1)
        after = before + change
        up, down = several(asked(answer.as_adapter, before, after, rank), 2, "as_adapter")
        up = shaped(up, (shape[0], rank), "as_adapter, up").double()
        down = shaped(down, (rank, shape[1]), "as_adapter, down").double()
        change = (after - before).flatten(1)
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        best, got = (u[:, :rank] * s[:rank]) @ v[:rank], up @ down
        differ_from(got, -best, "that is before − after: the adapter is added")
        whole_u, whole_s, whole_v = torch.linalg.svd(after.flatten(1), full_matrices=False)
        whole = (whole_u[:, :rank] * whole_s[:rank]) @ whole_v[:rank]
        differ_from(got, whole, "that approximates the new matrix; what is passed on is the change")
        halved = (u[:, :rank] * (s[:rank] / 2).square()) @ v[:rank]
        differ_from(got, halved, "half the strength on either side multiplies to a quarter of its square: take the root")
        if rank < min(shape[:2]) and not simple:
            least = (u[:, -rank:] * s[-rank:]) @ v[-rank:]
            differ_from(got, least, "the smallest singular values were kept; keep the largest")
            cut = torch.zeros_like(change)
            cut[:, :rank] = change[:, :rank]
            differ_from(got, cut, "some columns were kept and the others dropped: no columns need be unchanged, directions are")
        differ_from(got, u[:, :rank] @ v[:rank], "the singular values are missing")
        twice = (u[:, :rank] * s[:rank].square()) @ v[:rank]
        differ_from(got, twice, "both sides have the whole singular value: together that is its square")
        agree(got, best, "as_adapter, up · down")
        lengths, other = up.norm(dim=0), down.norm(dim=1)
        assert close(lengths, other, 1e-4), (
            "the columns of `up` and the rows of `down` are to have equal lengths: split each strength evenly"
        )
        products = up.T @ up
        assert close(products, torch.diag(products.diag()), 1e-4), "the columns of `up` are to be orthogonal to each other"
