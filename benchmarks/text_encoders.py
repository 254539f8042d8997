"""Whose text encoder draws what the prompt says? The same small denoiser reads six of them, on shapes.

    python benchmarks/text_encoders.py [--steps 900] [--seeds 1] [--only NAME …] [--json benchmarks/text_encoders.json]

`none`: every caption is replaced by the empty one. `random`: an encoder as it was born, frozen. `joint`: learned with the
denoiser. `causal`, `masked`: first learned from captions alone, by foreseeing the next token or hidden ones, then frozen.
`contrastive`: the text tower of chapter 14's model, first learned from captions and their pictures, then frozen.

Pictures are 16×16 and hold one object. All rows are trained on the same ones, whose shape-colour pairs leave out
`shapes.HELD_OUT`, and judged by a classifier that has seen all pairs. Rows that the JSON file holds already are kept, unless
`--only` names them.
"""

import argparse
import contextlib
import functools
import io
import json
import time
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from minildm.config import TextConfig, UNetConfig
from minildm.ddpm import ddpm_loss, denoiser, spread_times
from minildm.ema import EMA
from minildm.engine import shapes
from minildm.engine.judges import Judge, roughen, train_judge, verdicts
from minildm.guidance import classifier_free_batched
from minildm.metrics import prompt_accuracy
from minildm.samplers import dpmpp, time_grid
from minildm.schedule import NoiseSchedule
from minildm.text import LanguageModel, TextEncoder, causal_loss, in_text, masked_loss, train_language_model
from minildm.tokenizer import END, Tokenizer
from minildm.unet import UNet

SCHEDULE, SIZE, LENGTH, PICTURES, JUDGED = NoiseSchedule.linear(1000), 16, 16, 20000, 200
BATCH, DROPPED, GUIDANCE, STEPS_DRAWN, PRETRAINING, SHOWN = 16, 0.1, 2.0, 12, 300, 6
UNET = UNetConfig(in_channels=12, out_channels=12, widths=(32, 64), attention=(False, True), context_width=64, groups=2)
NAMES = ("none", "random", "joint", "causal", "masked", "contrastive")


def drawn(count: int, pairs: tuple, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures N×3×16×16 in [-1, 1], their attributes, and a caption for each."""
    generator = torch.Generator().manual_seed(seed)
    scenes = shapes.sample_scenes(2 * count, pairs, generator)
    scenes = scenes[scenes[:, 4] < 0][:count]  # no second object: a quarter is left out
    images = shapes.render(scenes, generator, SIZE).float() / 127.5 - 1
    wordings = torch.randint(shapes.WORDINGS, (count,), generator=generator)
    captions = [shapes.caption(scene, int(wording)) for scene, wording in zip(scenes.tolist(), wordings, strict=True)]
    return images, scenes, captions


def encoder_of(name: str, text: TextConfig, images: Tensor, tokens: Tensor, seed: int) -> tuple[TextEncoder, bool]:
    """The encoder of a row, and whether the denoiser's training may change it."""
    torch.manual_seed(seed)
    generator, end = torch.Generator().manual_seed(seed), int(tokens.max())
    if name in ("none", "random", "joint"):
        return TextEncoder(text), name == "joint"
    if name == "contrastive":
        from minildm.clip import Clip, train_clip

        from minildm.config import ClipConfig

        clip = Clip(ClipConfig(image_channels=3, image_size=SIZE, widths=(16, 32, 64), groups=2, text=text, width=64))
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


def trained(text: TextEncoder, learns: bool, images: Tensor, tokens: Tensor, empty: Tensor, steps: int, seed: int):
    """The denoiser and its encoder, averaged, after so many steps; and the mean losses of each tenth."""
    torch.manual_seed(seed)
    both = nn.ModuleDict({"text": text.requires_grad_(learns), "unet": UNet(UNET)})
    optimizer = torch.optim.AdamW([each for each in both.parameters() if each.requires_grad], 1e-3, fused=True)
    ema, losses, generator = EMA(both, 1 - 20 / steps), [], torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x0, noise = images[chosen], torch.randn(BATCH, 12, SIZE // 2, SIZE // 2, generator=generator)
        dropped = torch.rand(BATCH, 1, generator=generator) < DROPPED
        t = spread_times(BATCH, SCHEDULE.T, generator, 0.75)
        network = functools.partial(both["unet"], context=both["text"](torch.where(dropped, empty, tokens[chosen])))
        loss = ddpm_loss(network, x0, t, noise, SCHEDULE, "v").mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        ema.update(both)
        losses.append(loss.item())
    return ema.average, [sum(part) / len(part) for part in zip(*[iter(losses)] * (steps // 10), strict=False)]


@torch.no_grad()
def generated(both: nn.ModuleDict, tokens: Tensor, empty: Tensor) -> Tensor:
    """A picture for each prompt, N×3×16×16."""
    images, noise = [], torch.randn(len(tokens), 12, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(9))
    for some, x_T in zip(tokens.split(100), noise.split(100), strict=True):
        keys_values = both["unet"].keys_values(both["text"](torch.cat([some, empty.expand(len(some), -1)])))
        denoise = denoiser(functools.partial(both["unet"], context=keys_values), SCHEDULE, "v")
        *_, (_, x, _) = dpmpp(classifier_free_batched(denoise, GUIDANCE), SCHEDULE, x_T, time_grid(SCHEDULE.T, STEPS_DRAWN))
        images.append(pixel_shuffle(x, 2).clamp(-1, 1))
    return torch.cat(images)


def trained_judge() -> Judge:
    """A classifier of all attributes, on pictures of all pairs."""
    images, scenes, _ = drawn(PICTURES, shapes.ALL_PAIRS, seed=5)
    torch.manual_seed(5)
    judge, generator = Judge(3, SIZE, tuple(shapes.ATTRIBUTES.values()), width=16), torch.Generator().manual_seed(6)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(images), (64,), generator=generator)
        return roughen(images[chosen], generator), scenes[chosen]

    with contextlib.redirect_stderr(io.StringIO()):
        train_judge(judge, batch, 600)
    return judge


def score(judge: Judge, images: Tensor, scenes: Tensor) -> dict:
    """The share of pictures with everything right, its 95% interval, and the share of each attribute, where it applies."""
    right = verdicts(judge, images, scenes)
    accuracy, interval = prompt_accuracy(right)
    each = {
        name: right[applies, place].double().mean().item()
        for place, (name, applies) in enumerate(zip(shapes.ATTRIBUTES, (scenes >= 0).T, strict=True))
        if applies.any()
    }
    return {"accuracy": accuracy, "interval": interval, "attributes": each}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=900)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--only", nargs="*", default=[], choices=NAMES)
    options.add_argument("--json", type=Path, default=Path("benchmarks/text_encoders.json"))
    chosen = options.parse_args()
    images, _, captions = drawn(PICTURES, shapes.SEEN, seed=1)
    tokenizer = Tokenizer.train(captions, 640)
    text = TextConfig(vocabulary=len(tokenizer.vocabulary) + 1, length=LENGTH, width=64, layers=2)  # one more: the mask
    tokens, empty = tokenizer.batch(captions, LENGTH), tokenizer.batch([""], LENGTH)
    assert int(tokens.max()) == tokenizer.vocabulary[END]
    judge, judged = (
        trained_judge(),
        {"seen": drawn(JUDGED, shapes.SEEN, seed=3), "held out": drawn(JUDGED, shapes.HELD_OUT, seed=4)},
    )
    stored = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": []}
    rows = [row for row in stored["rows"] if row["encoder"] not in chosen.only]
    about = {"command": f"python benchmarks/text_encoders.py --steps {chosen.steps} --seeds {chosen.seeds}", "machine": machine()}
    about |= {"steps": chosen.steps, "pictures": PICTURES, "judged": JUDGED, "pretraining": PRETRAINING}
    about |= {"prompts": {name: prompts[:SHOWN] for name, (_, _, prompts) in judged.items()}}
    about |= {"judge": {name: score(judge, pictures, scenes) for name, (pictures, scenes, _) in judged.items()}}
    for name in NAMES:
        for seed in range(chosen.seeds):
            if any((row["encoder"], row["seed"]) == (name, seed) for row in rows) or (chosen.only and name not in chosen.only):
                continue
            start = time.perf_counter()
            encoder, learns = encoder_of(name, text, images, tokens, seed)
            before = time.perf_counter() - start
            read = empty.expand(len(tokens), -1) if name == "none" else tokens
            both, losses = trained(encoder, learns, pixel_unshuffle(images, 2), read, empty, chosen.steps, seed)
            row = {"encoder": name, "seed": seed, "losses": losses, "pretraining seconds": before}
            row |= {"seconds": time.perf_counter() - start, "parameters": sum(each.numel() for each in both["unet"].parameters())}
            for part, (_, scenes, prompts) in judged.items():
                made = generated(both, empty.expand(JUDGED, -1) if name == "none" else tokenizer.batch(prompts, LENGTH), empty)
                row[part] = score(judge, made, scenes)
                row[f"shown, {part}"] = ((made[:SHOWN] + 1) * 127.5).round().long().flatten(1).tolist()
            rows.append(row)
            print(name, seed, f"{row['seconds']:.0f} s", *(f"{part}: {row[part]['accuracy']:.3f}" for part in judged), flush=True)
            rows.sort(key=lambda row: (NAMES.index(row["encoder"]), row["seed"]))
            chosen.json.write_text(json.dumps({**about, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
