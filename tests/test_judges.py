"""The judge: what counts as right, what its training sees, and that it does learn to read pictures."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.engine import shapes
from minildm.engine.data import to_float
from minildm.engine.judges import NOT_APPLICABLE, Judge, judge_loss, roughen, train_judge, verdicts
from minildm.engine.seeds import seeded


class Oracle(Judge):
    """Says about every picture what it is told to."""

    def __init__(self, said: Tensor, classes: tuple[int, ...]) -> None:
        super().__init__(1, 16, classes)
        self.said = said

    def forward(self, images: Tensor) -> list[Tensor]:
        return [10.0 * F.one_hot(column, count) for column, count in zip(self.said.T, self.classes, strict=True)]


def test_only_attributes_that_apply_are_judged() -> None:
    said = torch.tensor([[0, 1], [2, 1], [1, 0]])
    wanted = torch.tensor([[0, 1], [2, 0], [1, NOT_APPLICABLE]])
    right = verdicts(Oracle(said, (3, 2)), torch.zeros(3, 1, 16, 16), wanted)
    assert right.tolist() == [[True, True], [True, False], [True, True]]


def test_loss_sums_cross_entropies_of_what_applies() -> None:
    said, wanted = torch.tensor([[0, 1], [2, 1]]), torch.tensor([[0, NOT_APPLICABLE], [1, 1]])
    judge = Oracle(said, (3, 2))
    first, second = judge(torch.zeros(2, 1, 16, 16))
    by_hand = -(first.log_softmax(1)[0, 0] + first.log_softmax(1)[1, 1]) / 2 - second.log_softmax(1)[1, 1]
    assert torch.allclose(judge_loss(judge, torch.zeros(2, 1, 16, 16), wanted), by_hand)


def test_roughening_blurs_and_keeps_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    same = roughen(images, seeded(0), blur=0.0, noise=0.0)
    assert torch.allclose(same, images, atol=1e-6)
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(roughen(flat, seeded(1), noise=0.0), flat, atol=1e-6), "a kernel that sums to 1, edges repeated"
    blurred = roughen(images, seeded(1), blur=3.0, noise=0.0)
    assert blurred.var() < 0.8 * images.var()


@pytest.mark.slow
def test_a_judge_learns_to_read_shapes() -> None:
    """In 150 steps nearly every background and most layouts are read right; untrained they are guessed."""

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        generator = seeded("judge test", step)
        scenes = shapes.sample_scenes(64, shapes.ALL_PAIRS, generator)
        return to_float(shapes.render(scenes, generator)), scenes

    torch.manual_seed(0)
    judge = Judge(3, 32, tuple(shapes.ATTRIBUTES.values()))
    images, scenes = batch_of(10_000)
    before = verdicts(judge, images, scenes).float().mean(0)
    train_judge(judge, batch_of, 150)
    after = verdicts(judge, images, scenes).float().mean(0)
    names = list(shapes.ATTRIBUTES)
    assert after[names.index("background")] > 0.95 > before[names.index("background")]
    assert after[names.index("layout")] > 0.8 > before[names.index("layout")]
