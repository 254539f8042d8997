"""Whose text encoder paints what the prompt says? The same small painter reads seven of them.

    python benchmarks/text_encoders.py [--steps 1000] [--seeds 2] [--only NAME …] [--json benchmarks/text_encoders.json]

`none`: every caption is replaced by the empty one. `random`: an encoder as it was born, frozen; `both ways`: the same without
the causal mask. `joint`: learned with the painter. `causal`, `masked`: first learned from captions alone, by foreseeing the next
token, or hidden ones without the causal mask, then frozen. `contrastive`: the text tower of chapter 14's model, first learned
from captions and their pictures, then frozen.

The painter paints scenes of `shapes`, and it does not paint pixels: a picture is seven attributes, each as eight numbers that are
−1, but for one that is 1 (the last of them: does not apply). It is a diffusion model of these 56 numbers, with blocks of chapter
09: the attributes look at each other, and by cross-attention at the states of the prompt. What it painted is read off by the
largest of each eight numbers, so nothing is left to a judge. All rows learn from the same 20,000 scenes, whose shape-colour pairs
leave out `shapes.HELD_OUT`. Rows that the JSON file holds already are kept, unless `--only` names them.

Source: Chen et al. 2022 (arXiv:2208.04202), for diffusion of whole numbers as if they were pixels.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn

from minildm.attention import TransformerBlock
from minildm.config import TextConfig
from minildm.ddpm import ddpm_loss, denoiser, spread_times
from minildm.ema import EMA
from minildm.engine import shapes
from minildm.metrics import prompt_accuracy
from minildm.samplers import dpmpp, time_grid
from minildm.schedule import NoiseSchedule
from minildm.text import LanguageModel, TextEncoder, causal_loss, in_text, masked_loss, train_language_model
from minildm.tokenizer import END, Tokenizer
from minildm.unet import Embedding, sinusoidal

SCHEDULE, LENGTH, SCENES, JUDGED, WIDTH = NoiseSchedule.cosine(1000), 14, 20000, 1000, 64
BATCH, STEPS_DRAWN, PRETRAINING, SIZE = 64, 20, 300, 16
NAMES = ("none", "random", "both ways", "joint", "causal", "masked", "contrastive")


class Painter(nn.Module):
    """Noisy attributes N×7×8, times N and states N×L×WIDTH → a prediction, N×7×8."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 8)
        self.places, self.time = nn.Parameter(torch.randn(7, WIDTH)), Embedding(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, 4, WIDTH) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        h = self.enter(x) + self.places + self.time(sinusoidal(t, WIDTH))[:, None]
        for block in self.blocks:
            h = block(h, block.attend_context.keys_values(context), None)
        return self.leave(h)


def drawn(count: int, pairs: tuple, seed: int) -> tuple[Tensor, list[str]]:
    """Scenes N×7 and a caption for each."""
    generator = torch.Generator().manual_seed(seed)
    scenes = shapes.sample_scenes(count, pairs, generator)
    wordings = torch.randint(shapes.WORDINGS, (count,), generator=generator)
    return scenes, [shapes.caption(scene, int(wording)) for scene, wording in zip(scenes.tolist(), wordings, strict=True)]


def as_numbers(scenes: Tensor) -> Tensor:
    """Attributes as ±1, N×7 → N×7×8."""
    return 2 * nn.functional.one_hot(scenes % 8, 8).float() - 1  # −1, which does not apply, is the last


def encoder_of(name: str, text: TextConfig, scenes: Tensor, tokens: Tensor, seed: int) -> tuple[TextEncoder, bool]:
    """The encoder of a row, and whether the painter's training may change it."""
    torch.manual_seed(seed)
    generator, end = torch.Generator().manual_seed(seed), int(tokens.max())
    text = dataclasses.replace(text, causal=name not in ("both ways", "masked"))
    if name in ("none", "random", "both ways", "joint"):
        return TextEncoder(text), name == "joint"
    if name == "contrastive":
        from minildm.clip import Clip, train_clip
        from minildm.config import ClipConfig

        images = shapes.render(scenes, generator, SIZE).float() / 127.5 - 1
        clip = Clip(ClipConfig(image_channels=3, image_size=SIZE, widths=(16, 32, 64), groups=2, text=text, width=WIDTH))
        train_clip(clip, images, tokens, PRETRAINING, generator)
        return clip.text, False
    model = LanguageModel(text)

    def loss_of(model: nn.Module, step: int) -> Tensor:
        rows = tokens[torch.randint(len(tokens), (64,), generator=generator)]
        if name == "causal":
            return causal_loss(model, rows, end)
        hidden = (torch.rand(rows.shape, generator=generator) < 0.3) & in_text(rows, end)
        return masked_loss(model, rows, hidden, text.vocabulary - 1)

    train_language_model(model, loss_of, PRETRAINING)
    return model.encoder, False


def trained(
    text: TextEncoder, learns: bool, x: Tensor, tokens: Tensor, steps: int, seed: int
) -> tuple[nn.ModuleDict, list[float]]:
    """The painter and its encoder, averaged, after so many steps; and the mean losses of each tenth."""
    torch.manual_seed(seed)
    both = nn.ModuleDict({"text": text.requires_grad_(learns), "painter": Painter()})
    optimizer = torch.optim.AdamW([each for each in both.parameters() if each.requires_grad], 1e-3, fused=True)
    ema, losses, generator = EMA(both, 1 - 20 / steps), [], torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        t, noise = spread_times(BATCH, SCHEDULE.T, generator), torch.randn(BATCH, 7, 8, generator=generator)
        network = functools.partial(both["painter"], context=both["text"](tokens[chosen]))
        loss = ddpm_loss(network, x[chosen], t, noise, SCHEDULE, "v").mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        ema.update(both)
        losses.append(loss.item())
    return ema.average, [sum(part) / len(part) for part in zip(*[iter(losses)] * (steps // 10), strict=False)]


@torch.no_grad()
def painted(both: nn.ModuleDict, tokens: Tensor) -> Tensor:
    """A scene for each prompt, N×7."""
    denoise = denoiser(functools.partial(both["painter"], context=both["text"](tokens)), SCHEDULE, "v")
    noise = torch.randn(len(tokens), 7, 8, generator=torch.Generator().manual_seed(9))
    *_, (_, x, _) = dpmpp(denoise, SCHEDULE, noise, time_grid(SCHEDULE.T, STEPS_DRAWN))
    return x.argmax(2)


def score(found: Tensor, scenes: Tensor) -> dict:
    """The share of scenes with all right and its 95% interval; the share for one object and for two; that of each attribute."""
    right, two = found == scenes % 8, scenes[:, 4] >= 0
    accuracy, interval = prompt_accuracy(right)
    shares = {"one object": right[~two].all(1), "two objects": right[two].all(1)}
    shares |= {name: right[scenes[:, place] >= 0, place] for place, name in enumerate(shapes.ATTRIBUTES)}
    return {"accuracy": accuracy, "interval": interval, **{name: share.double().mean().item() for name, share in shares.items()}}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--only", nargs="*", default=[], choices=NAMES)
    options.add_argument("--json", type=Path, default=Path("benchmarks/text_encoders.json"))
    chosen = options.parse_args()
    scenes, captions = drawn(SCENES, shapes.SEEN, seed=1)
    tokenizer = Tokenizer.train(captions, 640)
    text = TextConfig(vocabulary=len(tokenizer.vocabulary) + 1, length=LENGTH, width=WIDTH, layers=2)  # one more: the mask
    tokens, empty = tokenizer.batch(captions, LENGTH), tokenizer.batch([""], LENGTH)
    assert int(tokens.max()) == tokenizer.vocabulary[END]
    judged = {"seen": drawn(JUDGED, shapes.SEEN, seed=3), "held out": drawn(JUDGED, shapes.HELD_OUT, seed=4)}
    stored = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": []}
    rows = [row for row in stored["rows"] if row["encoder"] not in chosen.only]
    about = {"command": f"python benchmarks/text_encoders.py --steps {chosen.steps} --seeds {chosen.seeds}", "machine": machine()}
    about |= {"steps": chosen.steps, "scenes": SCENES, "judged": JUDGED, "pretraining": PRETRAINING}
    for seed in range(chosen.seeds):
        for name in NAMES:
            if any((row["encoder"], row["seed"]) == (name, seed) for row in rows) or (chosen.only and name not in chosen.only):
                continue
            start = time.perf_counter()
            encoder, learns = encoder_of(name, text, scenes, tokens, seed)
            before = time.perf_counter() - start
            read = empty.expand(len(tokens), -1) if name == "none" else tokens
            both, losses = trained(encoder, learns, as_numbers(scenes), read, chosen.steps, seed)
            row = {"encoder": name, "seed": seed, "losses": losses, "pretraining seconds": before}
            row |= {
                "seconds": time.perf_counter() - start,
                "parameters": sum(each.numel() for each in both["painter"].parameters()),
            }
            for part, (wanted, prompts) in judged.items():
                asked = empty.expand(JUDGED, -1) if name == "none" else tokenizer.batch(prompts, LENGTH)
                row[part] = score(painted(both, asked), wanted)
            rows.append(row)
            print(name, seed, f"{row['seconds']:.0f} s", *(f"{part}: {row[part]['accuracy']:.3f}" for part in judged), flush=True)
            rows.sort(key=lambda row: (NAMES.index(row["encoder"]), row["seed"]))
            chosen.json.write_text(json.dumps({**about, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
