"""Arbitrary bytes in place of files. Run by `test_fuzz.py` in a process of its own, with bounded memory and time.

Each law: what is read is refused with a ValueError of one line (a UserError for data), or it is read. Never another
error, never a hang. MINILDM_FUZZ multiplies the number of cases; above 1 they are drawn afresh at each run.
"""

import io
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from minildm.config import AutoencoderConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.engine import checkpoints
from minildm.engine.data import load
from minildm.engine.errors import UserError
from minildm.engine.folder import Metrics, Origin, read_config, write_config
from minildm.engine.pictures import FORMATS, decode, fit_picture
from minildm.engine.presets import Settings
from minildm.files import read_json
from minildm.ldm import LatentDiffusion
from minildm.tensors import read_tensors
from minildm.tokenizer import Tokenizer

TIMES = int(os.environ.get("MINILDM_FUZZ", "1"))
SMALL = LatentDiffusionConfig(
    image_size=16,
    unet=UNetConfig(widths=(8, 8), heads=(1, 1), context_width=8, groups=4),
    autoencoder=AutoencoderConfig(widths=(8, 8), groups=4),
    text=TextConfig(vocabulary=514, length=8, width=8, heads=1),
    T=20,
)
CASES = {"count": 0}


def cases(count: int, seconds: float = 20):
    """Settings of a law: so many examples, none of which may take longer."""
    quiet = list(HealthCheck)
    return settings(
        max_examples=count * TIMES, deadline=1000 * seconds, derandomize=TIMES == 1, database=None, suppress_health_check=quiet
    )


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """The content of a file, some of it replaced, removed or doubled; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 50, len(content)]))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "double", "cut"]))
        piece = content[start : start + length]
        if kind == "replace":
            piece = bytearray(draw(st.binary(min_size=len(piece), max_size=len(piece)))) if length < 50 else bytearray(len(piece))
        content[start : start + length] = {"remove": b"", "double": piece + piece, "cut": b"", "replace": piece}[kind]
        if kind == "cut":
            del content[start:]
    return bytes(content)


def refused_or_read(read, *args) -> bool:
    """Whether it was read; anything but a one-line refusal is an error of ours."""
    CASES["count"] += 1
    try:
        read(*args)
    except (ValueError, UserError, OSError) as error:
        message = str(error)
        assert message and len(message.splitlines()) == 1, message
        return False
    return True


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """A saved model."""
    torch.manual_seed(0)
    LatentDiffusion(SMALL, Tokenizer.train(["a b"], 514)).save(folder / "model")
    return folder / "model"


TENSORS = save({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0), "c": torch.ones(3).bfloat16()})


@cases(300)
@given(damaged(TENSORS))
@example(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")  # a header of eight exabytes
@example((2).to_bytes(8, "little") + b"{}")
@example((60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,0]}}'[:60])
def test_safetensors(folder, content):
    path = folder / "x.safetensors"
    path.write_bytes(content)
    refused_or_read(read_tensors, path)


JSON = json.dumps({"layout": 1, "model": {"T": 20}, "list": [1, 2.5, None, True, "é"]}).encode()


@cases(300)
@given(damaged(JSON))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"a": ' + b"9" * 10_000 + b"}")
@example(b'{"a": NaN}')
@example(b"\xef\xbb\xbf{}")
def test_json(folder, content):
    path = folder / "x.json"
    path.write_bytes(content)
    refused_or_read(read_json, path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw, document: dict) -> dict:
    """A JSON document with some of its values replaced by any others."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while True:
            key = draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and draw(st.integers(0, 4)):
                place = place[key]
            else:
                break
        action = draw(st.sampled_from(["replace", "replace", "number", "remove", "add"]))
        if action == "remove":
            del place[key]
        elif action == "add":
            place[draw(st.text(max_size=5))] = draw(anything)
        elif action == "number":  # of the right type, likely of an impossible size
            place[key] = draw(st.sampled_from([0, 1, 3, 2**16, 2**31, 2**40, 2**63]) | st.integers(0, 200))
        else:
            place[key] = draw(anything)
        if not document:
            break
    return document


@cases(200)
@given(st.data())
def test_the_configuration_of_a_model(model, data):
    document = data.draw(changed(json.loads((model / "config.json").read_text())))
    copy = model.parent / "copy"
    shutil.copytree(model, copy, dirs_exist_ok=True)
    (copy / "config.json").write_text(json.dumps(document))
    refused_or_read(LatentDiffusion.load, copy)


@cases(200)
@given(st.data())
def test_the_configuration_of_a_run(folder, data):
    run = folder / "run"
    run.mkdir(exist_ok=True)
    write_config(run, Settings(model=SMALL, data="x"), Origin(3, "abc", 2, "2", True))
    document = data.draw(changed(json.loads((run / "config.json").read_text())))
    (run / "config.json").write_text(json.dumps(document))
    refused_or_read(read_config, run)


@cases(150)
@given(st.data())
def test_the_files_of_a_tokenizer(model, data):
    copy = model.parent / "tokenizer"
    shutil.copytree(model, copy, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["vocab.json", "merges.txt"]))
    (copy / name).write_bytes(data.draw(damaged((model / name).read_bytes())))
    if refused_or_read(Tokenizer.load, copy) and refused_or_read(LatentDiffusion.load, copy):
        LatentDiffusion.load(copy).generate(["a b c", ""], steps=1)


@cases(150)
@given(st.data())
def test_the_files_of_a_checkpoint(folder, data):
    run = folder / "checkpoints"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    facts = {"seconds": {"autoencoder": 1.5}, "lines": 1, "losses": [0.5]}
    checkpoints.save(run, checkpoints.Checkpoint("autoencoder", 3, {"network/a": torch.ones(2)}, facts), "step-3")
    (run / "metrics.jsonl").write_text('{"stage": "autoencoder", "step": 3}\n')
    name = data.draw(st.sampled_from(["latest", "step-3/state.json", "step-3/state.safetensors", "metrics.jsonl"]))
    (run / name).write_bytes(data.draw(damaged((run / name).read_bytes())))

    def resume():
        checkpoint = checkpoints.load(run)
        Metrics(run / "metrics.jsonl", checkpoint.facts["lines"] if checkpoint else 0)

    refused_or_read(resume)
    assert (run / "step-3").is_dir(), "whatever is wrong, the checkpoint is not removed"


def picture(format: str) -> bytes:
    """A small picture of this format, or no bytes where this Pillow cannot write it."""
    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", (9, 7), random.Random(0).randbytes(9 * 7 * 3))
    try:
        noise.save(buffer, format)
    except (OSError, KeyError):
        return b""
    return buffer.getvalue()


@cases(600)
@given(st.data())
def test_pictures(data):
    """Whatever Pillow raises is caught where pictures are read; here it must raise, or give a picture, and come back soon."""
    content = data.draw(damaged(picture(data.draw(st.sampled_from(FORMATS)))))
    CASES["count"] += 1
    try:
        got = fit_picture(decode(io.BytesIO(content)), 8, 3, data.draw(st.sampled_from(["crop", "pad"])))
    except Exception:
        return
    assert got.shape == (3, 8, 8) and got.dtype == "uint8"


@pytest.fixture(scope="module")
def parquet(folder: Path) -> bytes:
    """A parquet file of eight pictures with captions and labels."""
    rows = {"image": [{"bytes": picture("PNG"), "path": None}] * 8, "text": ["a cat"] * 8, "label": [0, 1] * 4}
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string"), "label": names})
    path = folder / "whole.parquet"
    pyarrow.parquet.write_table(datasets.Dataset.from_dict(rows, features=features).data.table, path, compression="none")
    return path.read_bytes()


@pytest.mark.parametrize("stream", [False, True])
@cases(60, seconds=60)
@given(st.data())
def test_parquet(stream, parquet, folder, data):
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "data").mkdir()
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(data.draw(damaged(parquet)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        refused_or_read(load, Settings(data=str(folder / "data"), model=SMALL, stream=stream))
    shutil.rmtree(folder / "cache", ignore_errors=True)


@cases(40, seconds=60)
@given(st.data())
def test_captions_in_a_folder(folder, data):
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    (folder / "pictures").mkdir()
    for place in range(4):
        (folder / "pictures" / f"{place}.png").write_bytes(picture("PNG"))
    lines = "\n".join(json.dumps({"file_name": f"{place}.png", "text": f"number {place}"}) for place in range(4))
    (folder / "pictures" / "metadata.jsonl").write_bytes(data.draw(damaged(lines.encode())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        refused_or_read(load, Settings(data=str(folder / "pictures"), model=SMALL))
    shutil.rmtree(folder / "cache", ignore_errors=True)


def test_count():
    print(f"cases: {CASES['count']}")
