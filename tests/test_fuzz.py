"""Any configuration, any caption, any bytes: ours is the only error, and what is valid works."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minildm import config as configs
from minildm.engine import train
from minildm.engine.data import Data
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.engine.stages import DenoiserStage
from minildm.engine.train import Run
from minildm.tokenizer import SYMBOL_OF, WORD_END, Tokenizer, split_words

TIMES = int(os.environ.get("MINILDM_FUZZ", "1"))  # multiplies the cases; above 1 they are drawn afresh at each run
FUZZ = {"deadline": None, "derandomize": TIMES == 1, "database": None, "suppress_health_check": list(HealthCheck)}
GIGABYTES = 4  # of private memory for the process that reads arbitrary bytes
ANY_TEXT = st.text(st.characters(), max_size=60)  # every code point, the lone surrogates included
TOKENIZER = Tokenizer.train(["a red circle on a blue square, it's 42", "naïve 日本語"] * 3, 600)


@settings(max_examples=500 * TIMES, **FUZZ)
@given(ANY_TEXT)
def test_the_tokens_of_any_text_hold_its_bytes(text):
    """Joined, they spell every word's bytes exactly: nothing is lost, nothing is unknown."""
    byte_of = {symbol: byte for byte, symbol in SYMBOL_OF.items()}
    names = [TOKENIZER.names[token] for token in TOKENIZER.encode(text)]
    spelled = bytes(byte_of[symbol] for name in names for symbol in name.removesuffix(WORD_END))
    assert spelled == "".join(split_words(text)).encode("utf-8", "surrogatepass")
    assert sum(name.endswith(WORD_END) for name in names) == len(split_words(text))
    TOKENIZER.decode(TOKENIZER.encode(text))
    assert TOKENIZER.batch([text], 12).shape == (1, 12)


@settings(max_examples=60 * TIMES, **FUZZ)
@given(st.lists(ANY_TEXT, max_size=6), st.integers(514, 560))
def test_a_tokenizer_learns_from_any_captions(texts, size):
    tokenizer = Tokenizer.train(texts * 2, size)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        again = Tokenizer.load(Path(folder))
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


# Configurations

number = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 8, 12, 16, 24, 32])
real = st.sampled_from([-1.0, 0.0, 1e-3, 0.1, 0.5, 0.9, 1.0, 2.0, float("nan"), float("inf")])
LEAVES = {
    "unet": {
        "in_channels": number, "out_channels": number, "widths": st.lists(number, max_size=3), "blocks": number,
        "attention": st.lists(st.booleans(), max_size=3), "heads": st.lists(number, max_size=3), "depth": number,
        "middle_attention": st.booleans(), "context_width": st.none() | number, "extra_width": st.none() | number,
        "groups": number, "linear_projection": st.booleans(),
    },
    "autoencoder": {
        "image_channels": number, "latent_channels": number, "widths": st.lists(number, max_size=3), "blocks": number,
        "groups": number, "middle_attention": st.booleans(),
    },
    "text": {
        "vocabulary": st.sampled_from([0, 100, 514, 600]), "length": number, "width": number, "layers": number, "heads": number,
        "quick_gelu": st.booleans(), "causal": st.booleans(),
    },
    "": {
        "image_size": number, "schedule": st.sampled_from(["linear", "cosine", "scaled_linear", "none"]), "T": number,
        "zero_terminal_snr": st.booleans(), "prediction": st.sampled_from(["epsilon", "x0", "v", "flow", "w"]),
    },
    "settings": {
        "data": st.sampled_from(["made up", ""]), "limit": number, "fit": st.sampled_from(["crop", "pad", "stretch"]),
        "templates": st.lists(st.sampled_from(["{label}", "a {word}", "{x}", "{", ""]), max_size=2), "seed": number,
        "stream": st.booleans(), "precision": st.sampled_from(["auto", "bf16", "float32", "fp8"]),
        "autoencoder_batch": number, "autoencoder_lr": real, "kl_weight": real, "batch": number, "lr": real, "warmup": number,
        "weight_decay": real, "clip": real, "drop_caption": real, "time_power": real, "min_snr": st.none() | real, "ema": real,
        "preview_every": number, "guidance": real, "guidance_high": real, "sample_steps": number, "autoencoder_share": real,
    },
}  # fmt: skip
BASE = configs.to_dict(
    Settings(
        data="made up", autoencoder_steps=2, autoencoder_batch=4, steps=2, batch=4, checkpoint_every=1, sample_steps=2,
        model=configs.LatentDiffusionConfig(
            image_size=16,
            unet=configs.UNetConfig(widths=(8, 16), heads=(1, 2), context_width=8, groups=4),
            autoencoder=configs.AutoencoderConfig(widths=(8, 8), groups=4),
            text=configs.TextConfig(vocabulary=540, length=8, width=8, heads=2),
            T=20,
        ),
    )
)  # fmt: skip
VALID = {"trained": 0, "refused": 0}


@st.composite
def configurations(draw) -> dict:
    """The small configuration with up to four of its fields drawn anew; sizes that must agree are often made to."""
    values = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(0, 4))):
        group = draw(st.sampled_from(sorted(LEAVES)))
        name = draw(st.sampled_from(sorted(LEAVES[group])))
        place = values if group == "settings" else values["model"][group] if group else values["model"]
        place[name] = draw(LEAVES[group][name])
    model = values["model"]
    if draw(st.booleans()):
        model["unet"]["out_channels"] = model["autoencoder"]["latent_channels"] = model["unet"]["in_channels"]
        model["text"]["width"] = model["unet"]["context_width"]
        levels = len(model["unet"]["widths"])
        for name in ("attention", "heads"):
            model["unet"][name] = (model["unet"][name] + [1, 1, 1] if name == "heads" else [True] * 3)[:levels]
    return values


def made_up(chosen: Settings) -> tuple[Data, Data]:
    """Pictures of noise of the right shape, with captions."""
    shape = (chosen.model.autoencoder.image_channels, chosen.model.image_size, chosen.model.image_size)
    images = torch.randint(256, (20, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = Data(images, ["a cat", "a dog", ""], torch.arange(20)[:, None] % 3)
    return data, data.select(slice(5))


class Crash(BaseException):
    """The power goes."""


@pytest.mark.slow
@settings(max_examples=60 * TIMES, **FUZZ)
@given(configurations())
def test_any_configuration_trains_and_resumes_or_is_refused(values):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load", made_up)
        try:
            chosen = configs.from_dict(Settings, values)
            whole = Run(Path(folder) / "whole", chosen, resume=False).train()
        except (ValueError, UserError) as error:
            VALID["refused"] += 1
            assert str(error) and len(str(error).splitlines()) == 1
            return
        real, calls = DenoiserStage.step, []

        def crash(self, step):
            calls.append(step)
            if step == 1:
                raise Crash
            return real(self, step)

        with patch.context() as once:
            once.setattr(DenoiserStage, "step", crash)
            with pytest.raises(Crash):
                Run(Path(folder) / "cut", chosen, resume=False).train()
        again = Run(Path(folder) / "cut", dataclasses.replace(chosen, seed=chosen.seed + 1), resume=True).train()
        for (name, wanted), got in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(wanted, got) and wanted.isfinite().all(), name
        VALID["trained"] += 1


@pytest.mark.slow
def test_both_kinds_of_configuration_were_tried():
    """After the law above, which would hold in silence if every configuration were refused."""
    print(VALID)
    assert VALID["trained"] >= 10 and VALID["refused"] >= 10


@pytest.mark.slow
def test_any_bytes_in_place_of_files():
    """`fuzz_bytes.py`, in a process with bounded memory and time: a crash, a hang or a flood is a failure."""
    limit = GIGABYTES * 2**30
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-W", "ignore", "fuzz_bytes.py"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300 * TIMES,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert done.returncode == 0, done.stdout[-5000:]
    count = int(re.search(r"cases: (\d+)", done.stdout)[1])
    print(f"{count} files of arbitrary bytes")
    assert count > 1000
