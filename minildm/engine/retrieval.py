"""Judging where there are captions but no classes: does a caption find its picture among others?"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minildm.clip import Clip, contrastive_loss, recall_at
from minildm.config import ClipConfig, TextConfig
from minildm.engine.data import Data, to_float
from minildm.engine.device import choose_device
from minildm.engine.judges import roughen
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded
from minildm.files import written_whole
from minildm.metrics import prompt_accuracy
from minildm.tensors import fill, read_tensors, save_tensors
from minildm.tokenizer import Tokenizer

CLIP_STEPS, CLIP_BATCH = 600, 128
LINEUP = 100  # pictures among which a caption looks for its own, where there are so many
SMALLEST_SIDE = 8  # pixels of the last map: what stands where is still told apart


def captioned(data: Data) -> Tensor:
    """The places of the pictures that have a caption, int64."""
    empty = data.texts.index("") if "" in data.texts else -1
    return torch.nonzero((data.wordings != empty).all(1))[:, 0]


def clip_config(settings: Settings) -> ClipConfig:
    """A small image-text model for pictures of the run's size and prompts of its length."""
    size, text = settings.model.image_size, settings.model.text
    halvings = max(0, int(math.log2(max(size / SMALLEST_SIDE, 1))))
    while size % 2**halvings:
        halvings -= 1
    return ClipConfig(
        image_channels=settings.model.autoencoder.image_channels,
        image_size=size,
        widths=tuple(min(16 * 2**level, 128) for level in range(halvings + 1)),
        groups=1,
        text=TextConfig(vocabulary=text.vocabulary, length=text.length, width=64, layers=2),
    )


def find_clip(folder: Path, train: Data, settings: Settings, tokenizer: Tokenizer) -> Clip | None:
    """The run's image-text model, trained on its training pictures on first use and kept in clip.safetensors.

    None where fewer than a batch of them have captions.
    """
    places = captioned(train)
    if len(places) < CLIP_BATCH:
        return None
    torch.manual_seed(settings.seed)
    device = choose_device()
    clip, path = Clip(clip_config(settings)).to(device), folder / "clip.safetensors"
    if path.exists():
        fill(clip, read_tensors(path), path)
        return clip.eval()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=2e-3, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, CLIP_STEPS, pct_start=0.1)
    for step in tqdm(range(CLIP_STEPS), desc="image-text judge", unit="step", dynamic_ncols=True):
        generator = seeded(settings.seed, "image-text judge", step)
        chosen = train.select(places[torch.randperm(len(places), generator=generator)[:CLIP_BATCH]])
        texts = chosen.captions(step)
        images, tokens = to_float(chosen.images).to(device), tokenizer.batch(texts, settings.model.text.length).to(device)
        logits = clip(roughen(images, generator), tokens)
        optimizer.zero_grad()
        contrastive_loss(logits, alike(texts).to(device)).mean().backward()
        optimizer.step()
        schedule.step()
    with written_whole(path) as aside:
        save_tensors(clip.state_dict(), aside)
    return clip.eval()


def alike(texts: list[str]) -> Tensor:
    """Which pictures would be right for which captions: N×N, True where the captions are the same."""
    return torch.tensor([[mine == theirs for theirs in texts] for mine in texts])


@torch.no_grad()
def found(clip: Clip, images: Tensor, texts: list[str], tokenizer: Tokenizer, size: int) -> Tensor:
    """Whether each caption's own picture is the one most similar to it, in line-ups of `size`.

    Args:
        images: N×C×H×W in [-1, 1]; `texts`: their captions. The last ones, too few for a line-up, are left out.

    Returns: bool, shape N, less what is left out.
    """
    answers, device = [], next(clip.parameters()).device
    for first in range(0, len(texts) - size + 1, size):
        some, captions = images[first : first + size], texts[first : first + size]
        words = clip.encode_texts(tokenizer.batch(captions, clip.config.text.length).to(device))
        likeness = clip.encode_images(some.to(device)) @ words.T
        answers.append(recall_at(likeness.cpu(), 1, alike(captions))[1] > 0)
    return torch.cat(answers)


def retrieval(clip: Clip, tokenizer: Tokenizer, drawn: dict[str, tuple[Tensor, Data]], seed: int) -> dict[str, Any]:
    """How often captions find their pictures, drawn and real ones, in line-ups of one size.

    Args:
        drawn: for "seen" (captions of training) and "test" what was drawn, N×C×H×W, and the real pictures with those
            captions; pictures without a caption are left out. Fewer than two of a kind are not judged.
        seed: of the wording.

    Returns: shares with their 95% intervals, under the names of `evaluate`, and the size.
    """
    kept = {kind: (images[captioned(data)], data.select(captioned(data))) for kind, (images, data) in drawn.items()}
    kept = {kind: pair for kind, pair in kept.items() if len(pair[1]) >= 2}
    size = min([LINEUP, *(len(data) for _, data in kept.values())])
    result: dict[str, Any] = {"retrieval_lineup": size}
    for kind, (images, data) in kept.items():
        for name, pictures in ((f"retrieval_{kind}", images), (f"retrieval_{kind}_real", to_float(data.images))):
            share, interval = prompt_accuracy(found(clip, pictures, data.captions(seed), tokenizer, size)[:, None])
            result |= {name: share, f"{name}_interval": list(interval)}
    return result
