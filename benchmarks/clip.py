"""Contrastive training on shapes: what the batch's size does, and pictures that differ in the relation alone (chapter 14).

    python benchmarks/clip.py

Every row trains the chapter's towers anew and asks them the same questions; rows that the JSON holds already are kept. The
first rows see the same number of pictures, in batches of different sizes. In rows with partners each picture of two objects has
another in its batch, in which the two have changed places.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from common import machine
from torch import Tensor

from minildm.clip import Clip, contrastive_loss, recall_at, train_clip
from minildm.config import ClipConfig, TextConfig
from minildm.engine import shapes
from minildm.engine.data import Data, draw_shapes, to_float
from minildm.engine.presets import PRESETS
from minildm.tokenizer import Tokenizer

LENGTH, PICTURES, SETTINGS = 16, 8000, PRESETS["shapes"][1]
ROWS = [  # batch, steps, partners, seed
    *((batch, 19_200 // batch, False, seed) for batch in (8, 32, 64, 128) for seed in (0, 1)),
    *((64, 600, partners, 0) for partners in (False, True)),
]


def swapped(scenes: Tensor) -> Tensor:
    """Scenes N×7 in which the two objects have changed places."""
    return scenes[:, [0, 1, 4, 5, 2, 3, 6]]


def with_partners(clip: Clip, train: Data, tokens: Tensor, partners: tuple[Tensor, Tensor], steps: int, seed: int) -> None:
    """`train_clip` with a batch of 51 pictures, of which those of two objects, a quarter, bring their partners."""
    images, other, other_tokens = to_float(train.images), *partners
    optimizer, generator = torch.optim.Adam(clip.parameters(), betas=(0.9, 0.98), fused=True), torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = torch.randperm(len(images), generator=generator)[:51]
        two = chosen[train.attributes[chosen, 4] >= 0]
        logits = clip(torch.cat([images[chosen], other[two]]), torch.cat([tokens[chosen], other_tokens[two]]))
        optimizer.zero_grad()
        contrastive_loss(logits).mean().backward()
        optimizer.step()
        with torch.no_grad():
            clip.log_scale.clamp_(max=math.log(100))


@torch.no_grad()
def judged(clip: Clip, test: Data, tokenizer: Tokenizer) -> dict[str, float]:
    """Recall among the test pictures, duplicates counted as right, and how often the true relation scores higher."""
    u = clip.encode_images(to_float(test.images))
    similarity = u @ clip.encode_texts(tokenizer.batch(test.captions(1), LENGTH)).T
    same = (test.attributes[:, None] == test.attributes).all(2)
    to_caption, to_picture = recall_at(similarity, 1, same)
    told = (test.attributes[:, 4] >= 0) & (swapped(test.attributes) != test.attributes).any(1)
    true, false = (
        tokenizer.batch([shapes.caption(scene, n % shapes.WORDINGS) for n, scene in enumerate(scenes.tolist())], LENGTH)
        for scenes in (test.attributes[told], swapped(test.attributes[told]))
    )
    better = (u[told] * (clip.encode_texts(true) - clip.encode_texts(false))).sum(1) > 0
    return {
        "to_caption": to_caption.mean().item(),
        "to_picture": to_picture.mean().item(),
        "relation": better.float().mean().item(),
        "relations": len(better),
        "scale": clip.scale.item(),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", type=Path, default=Path("benchmarks/clip.json"))
    chosen = options.parse_args()
    train = draw_shapes(PICTURES, shapes.SEEN, SETTINGS, "train")
    test = draw_shapes(1000, shapes.SEEN, SETTINGS, "test")
    tokenizer = Tokenizer.train(train.texts, 700)
    tokens = tokenizer.batch(train.captions(), LENGTH)
    scenes = torch.where(train.attributes[:, 4:5] >= 0, swapped(train.attributes), train.attributes)
    partners = to_float(shapes.render(scenes, torch.Generator().manual_seed(5)))
    captions = [shapes.caption(scene, n % shapes.WORDINGS) for n, scene in enumerate(scenes.tolist())]
    partners = partners, tokenizer.batch(captions, LENGTH)
    text = TextConfig(vocabulary=len(tokenizer.vocabulary), length=LENGTH, width=64, layers=2)
    config = ClipConfig(widths=(16, 32, 64, 128), groups=1, text=text)
    rows = json.loads(chosen.json.read_text("utf-8"))["rows"] if chosen.json.exists() else []
    done = {(row["batch"], row["steps"], row["partners"], row["seed"]) for row in rows}
    for batch, steps, hard, seed in [row for row in ROWS if row not in done]:
        torch.manual_seed(seed)
        clip, start = Clip(config), time.perf_counter()
        if hard:
            with_partners(clip, train, tokens, partners, steps, seed)
        else:
            train_clip(clip, to_float(train.images), tokens, steps, torch.Generator().manual_seed(seed), batch=batch)
        seconds = time.perf_counter() - start
        row = {"batch": batch, "steps": steps, "partners": hard, "seed": seed, "seconds": round(seconds, 1)}
        row |= judged(clip, test, tokenizer)
        rows.append(row)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
        about = {"command": "python benchmarks/clip.py", "machine": machine(), "pictures": PICTURES, "test": len(test)}
        about["parameters"] = sum(each.numel() for each in clip.parameters())
        rows.sort(key=lambda row: ROWS.index((row["batch"], row["steps"], row["partners"], row["seed"])))
        chosen.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
