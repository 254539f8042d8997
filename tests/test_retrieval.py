"""The judge of captions: which pictures it counts as found, and that it learns to find them."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS
from PIL import Image
from torch import Tensor

from minildm.engine import evaluate, retrieval, shapes
from minildm.engine.cli import main
from minildm.engine.data import Data, draw_shapes, to_bytes, to_float
from minildm.engine.presets import PRESETS, Settings
from minildm.engine.retrieval import captioned, clip_config, find_clip, found
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer


class Oracle:
    """Sees the number that a picture is filled with, and reads the same number from its caption, of one token."""

    config = clip_config(PRESETS["emoji"][1])

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1)  # on the CPU

    def encode_images(self, images: Tensor) -> Tensor:
        return self.direction(images[:, 0, 0, 0])

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.direction(tokens[:, 1].float())

    def direction(self, angle: Tensor) -> Tensor:
        return torch.stack([torch.cos(angle / 50), torch.sin(angle / 50)], 1)  # of fewer than 50π distinct ones


def filled(numbers: Tensor) -> Tensor:
    return numbers.float()[:, None, None, None].expand(-1, 1, 2, 2)


def test_a_caption_finds_its_own_picture_or_one_with_the_same_caption_and_no_other() -> None:
    tokenizer, oracle = Tokenizer([]), Oracle()
    texts = [chr(ord("a") + place) for place in range(20)]
    numbers = torch.tensor([tokenizer.encode(text)[0] for text in texts])
    assert found(oracle, filled(numbers), texts, tokenizer, 20).tolist() == [True] * 20
    swapped = numbers.clone()
    swapped[:2] = numbers[:2].flip(0)
    assert found(oracle, filled(swapped), texts, tokenizer, 20).tolist() == [False] * 2 + [True] * 18
    twins = ["a", "a", *texts[2:]]
    assert found(oracle, filled(swapped), twins, tokenizer, 20).tolist()[:2] == [True, True], "a's picture stands second"


def test_line_ups_are_all_of_one_length() -> None:
    tokenizer = Tokenizer([])
    texts = [chr(ord("a") + place) for place in range(20)]
    numbers = torch.tensor([tokenizer.encode(text)[0] for text in texts])
    assert found(Oracle(), filled(numbers), texts, tokenizer, 8).tolist() == [True] * 16
    near = numbers + 0.4
    near[8] = numbers[0]  # more like caption 0 than its own picture is, but in another line-up; and nothing like caption 8
    assert found(Oracle(), filled(near), texts, tokenizer, 8).tolist() == [True] * 8 + [False] + [True] * 7
    assert found(Oracle(), filled(near), texts, tokenizer, 20)[0].item() is False


def lettered(letters: str) -> Data:
    """A picture for each letter, as grey as its byte; a space stands for a picture without a caption."""
    texts = [letter.strip() for letter in letters]
    places = [Tokenizer([]).encode(text)[0] % 256 if text else 0 for text in texts]
    images = torch.tensor(places, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return Data(images, texts, torch.arange(len(texts))[:, None])


class Greys(Oracle):
    """The oracle for grey values of bytes in [-1, 1]."""

    def encode_images(self, images: Tensor) -> Tensor:
        return self.direction((images[:, 0, 0, 0] + 1) * 127.5)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.direction((tokens[:, 1] % 256).float())


@pytest.mark.parametrize(("lineup", "size", "seen_share"), [(100, 4, 0.5), (2, 2, 4 / 6)])
def test_drawn_and_real_pictures_are_judged_in_line_ups_of_one_size(lineup, size, seen_share, monkeypatch) -> None:
    """Six captions of training, of which the first two were drawn in each other's place; four of test data and one missing."""
    monkeypatch.setattr(retrieval, "LINEUP", lineup)
    seen, test = lettered("abcdef"), lettered("gh ij")
    drawn = to_float(seen.images[[1, 0, 2, 3, 4, 5]])
    answers = {"seen": (drawn, seen), "test": (to_float(test.images), test)}
    judged = retrieval.retrieval(Greys(), Tokenizer([]), answers, 0)
    assert judged["retrieval_lineup"] == size
    assert (judged["retrieval_seen"], judged["retrieval_seen_real"]) == (pytest.approx(seen_share), 1.0)
    assert (judged["retrieval_test"], judged["retrieval_test_real"]) == (1.0, 1.0)
    low, high = judged["retrieval_seen_interval"]
    assert 0 < low < seen_share < high < 1
    one = retrieval.retrieval(
        Greys(), Tokenizer([]), {"seen": (drawn, seen), "test": (to_float(test.images[:1]), lettered("g"))}, 0
    )
    assert "retrieval_test" not in one and one["retrieval_lineup"] == min(lineup, 6)


@pytest.mark.parametrize(("size", "widths"), [(8, 1), (32, 3), (36, 3), (50, 2), (64, 4), (128, 5)])
def test_the_last_map_keeps_eight_pixels_or_what_the_size_allows(size: int, widths: int) -> None:
    settings = PRESETS["folder"][1]
    unet = dataclasses.replace(settings.model.unet, widths=(96,), attention=(True,), heads=(4,))  # which any size suits
    autoencoder = dataclasses.replace(settings.model.autoencoder, widths=(16,))
    settings = dataclasses.replace(
        settings, model=dataclasses.replace(settings.model, unet=unet, autoencoder=autoencoder, image_size=size)
    )
    assert len(clip_config(settings).widths) == widths


def test_pictures_without_a_caption_are_left_out() -> None:
    data = Data(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), ["a cat", "", "a dog"], torch.tensor([[0], [1], [2], [1]]))
    assert captioned(data).tolist() == [0, 2]
    assert captioned(dataclasses.replace(data, texts=["a cat", "a hen", "a dog"])).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_judge_of_captions_learns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In 60 steps a caption finds its picture, among 50 new ones, ten times as often as by chance; and it is kept."""
    settings = PRESETS["shapes"][1]
    monkeypatch.setattr(retrieval, "CLIP_STEPS", 60)
    train, test = (draw_shapes(count, shapes.SEEN, settings, str(count)) for count in (2000, 200))
    tokenizer = Tokenizer.train(train.texts, settings.model.text.vocabulary)
    clip = find_clip(tmp_path, train, settings, tokenizer)
    right = found(clip, to_float(test.images), test.captions(), tokenizer, 50)
    assert len(right) == 200 and right.float().mean() > 0.2
    again = find_clip(tmp_path, train, settings, tokenizer)
    assert torch.equal(found(again, to_float(test.images), test.captions(), tokenizer, 50), right)
    assert find_clip(tmp_path, train.select(slice(100)), settings, tokenizer) is None, "too few to learn from"


def pictures(folder: Path, count: int, settings: Settings) -> Path:
    """A folder of captioned pictures."""
    data = draw_shapes(count, shapes.SEEN, settings, "folder")
    folder.mkdir()
    lines = []
    for place, (image, text) in enumerate(zip(to_bytes(to_float(data.images)), data.captions(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{place}.png")
        lines.append(json.dumps({"file_name": f"{place}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_a_run_on_captioned_pictures_is_judged_by_retrieval(tmp_path: Path, monkeypatch, capsys) -> None:
    """What is judged is what was drawn for each caption, beside the picture that has it; a broken judge is refused."""
    monkeypatch.setattr(retrieval, "CLIP_STEPS", 2)
    monkeypatch.setattr(retrieval, "CLIP_BATCH", 40)
    place, run = pictures(tmp_path / "pictures", 60, PRESETS["shapes"][1]), tmp_path / "run"
    flags = [flag if flag != "96" else "60" for flag in TINY_FLAGS]
    assert main(["train", "folder", "--data", str(place), "--out", str(run), *flags]) == 0
    capsys.readouterr()
    judged_pairs, drawn_for = {}, {}
    generate, judge = LatentDiffusion.generate, evaluate.retrieval

    def noting(self, prompts, **options):
        images = generate(self, prompts, **options)
        drawn_for.update({image.numpy().tobytes(): prompt for image, prompt in zip(images, prompts, strict=True)})
        return images

    monkeypatch.setattr(LatentDiffusion, "generate", noting)
    monkeypatch.setattr(evaluate, "retrieval", lambda *given: judged_pairs.update(given[2]) or judge(*given))
    assert main(["evaluate", str(run), "--samples", "12", "--steps", "2", "--json"]) == 2, "too few"
    assert main(["evaluate", str(run), "--samples", "20", "--steps", "2", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    said = {
        json.loads(line)["file_name"]: json.loads(line)["text"] for line in (place / "metadata.jsonl").read_text().splitlines()
    }
    captions = {to_bytes(to_float(picture)).numpy().tobytes(): said[name] for name, picture in on_disk(place)}
    for images, data in judged_pairs.values():
        texts = data.captions(PRESETS["folder"][1].seed)
        assert [drawn_for[image.numpy().tobytes()] for image in images] == texts
        assert [captions[image.numpy().tobytes()] for image in data.images] == texts
    assert set(judged_pairs["seen"][1].texts) and len(judged_pairs["seen"][1]) == 10
    assert judged["retrieval_lineup"] == len(judged_pairs["test"][1]) and judged["frechet_features"] == "autoencoder"
    for name in ("retrieval_seen", "retrieval_test", "retrieval_seen_real", "retrieval_test_real"):
        low, high = judged[f"{name}_interval"]
        assert 0 <= low <= judged[name] <= high <= 1
    (run / "clip.safetensors").write_bytes(b"broken")
    assert main(["evaluate", str(run), "--samples", "20", "--steps", "2"]) == 2
    assert "clip.safetensors" in capsys.readouterr().err


def on_disk(folder: Path) -> list[tuple[str, Tensor]]:
    """The pictures of a folder as bytes, C×H×W, with their names."""
    return [
        (path.name, torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).contiguous())
        for path in sorted(folder.glob("*.png"))
    ]
