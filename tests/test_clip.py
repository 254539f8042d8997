"""Two towers and their loss: what a line-up can tell, what the scale does, what duplicates cost, and what comes for nothing."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.clip import (
    Clip,
    ImageEncoder,
    best_critic,
    class_vectors,
    clip_score,
    contrastive_loss,
    duplicate_floor,
    information_bound,
    least_loss,
    lineup_loss,
    mutual_information,
    recall_at,
    scale_gradient,
    train_clip,
    zero_shot,
)
from minildm.config import ClipConfig, TextConfig
from minildm.text import pooled
from minildm.tokenizer import Tokenizer

TINY = ClipConfig(
    image_channels=2,
    image_size=8,
    widths=(8, 16),
    groups=2,
    text=TextConfig(vocabulary=520, length=10, width=16, layers=1, heads=2),
    width=12,
)
TOKENIZER = Tokenizer([])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def world(pictures: int, captions: int, seed: int, sharpness: float = 1.5) -> Tensor:
    """A joint distribution p(x, c) without zeros."""
    return torch.softmax(sharpness * randn(pictures * captions, seed=seed), 0).view(pictures, captions)


def tiny_clip(seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    return Clip(TINY).double()


def some_pairs(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random pictures, and captions of different lengths."""
    texts = [f"{'xyz'[n % 3] * (n % 5 + 1)}" for n in range(count)]
    return randn(count, 2, 8, 8, seed=seed), TOKENIZER.batch(texts, 8)


# The towers


@pytest.mark.equation("14.1")
def test_logits_are_the_scale_times_the_cosine_of_every_picture_with_every_caption():
    clip, (images, tokens) = tiny_clip(), some_pairs(5)
    u = clip.image(images)
    states = clip.text(tokens[:3])
    w = clip.project_text(pooled(states, tokens[:3], TOKENIZER.vocabulary["<|endoftext|>"]))
    wanted = math.exp(clip.log_scale.item()) * F.cosine_similarity(u[:, None], w[None], dim=2)
    torch.testing.assert_close(clip(images, tokens[:3]), wanted)
    assert wanted.shape == (5, 3)


def test_encodings_have_length_one_whatever_the_size_of_what_the_towers_say():
    clip, (images, tokens) = tiny_clip(), some_pairs(4)
    before = clip(images, tokens)
    with torch.no_grad():
        clip.image.project.weight.mul_(7)
        clip.project_text.weight.mul_(0.1)
    torch.testing.assert_close(clip(images, tokens), before)
    for vectors in (clip.encode_images(images), clip.encode_texts(tokens)):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_what_stands_behind_the_end_of_a_caption_does_not_matter_and_what_stands_before_it_does():
    clip = tiny_clip()
    longer = torch.cat([clip.encode_texts(TOKENIZER.batch(["ab c"], length)) for length in (6, 10)])
    torch.testing.assert_close(longer[0], longer[1])
    assert (clip.encode_texts(TOKENIZER.batch(["ab d"], 6)) - longer[:1]).norm() > 1e-3


def test_maps_halve_between_levels_and_a_picture_of_another_size_has_features_but_no_vector():
    torch.manual_seed(0)
    tower = ImageEncoder(dataclasses.replace(TINY, image_size=16, widths=(8, 16, 24, 32, 40)))
    images = randn(3, 2, 16, 16, seed=2, dtype=torch.float32)
    shapes = [(3, 8, 16, 16), (3, 16, 8, 8), (3, 24, 4, 4), (3, 32, 2, 2), (3, 40, 1, 1)]
    assert [tuple(each.shape) for each in tower.features(images)] == shapes
    assert tower(images).shape == (3, 12)
    assert tower.features(F.pad(images, (0, 16, 0, 16)))[-1].shape == (3, 40, 2, 2)
    for wrong in (images[:, :1], images[..., :6], images[:, :, :6], F.pad(images, (0, 8, 0, 8))):
        with pytest.raises(ValueError, match="resize them"):
            tower(wrong)


def test_a_level_is_a_convolution_a_normalisation_and_a_bend():
    torch.manual_seed(0)
    tower, images = ImageEncoder(TINY).double(), randn(2, 2, 8, 8, seed=3)
    first, second = tower.features(images)
    for level, (before, after) in zip(tower.levels, ((images, first), (first, second)), strict=True):
        convolution, norm = level[0], level[1]
        h = F.conv2d(before, convolution.weight, convolution.bias, stride=before.shape[2] // after.shape[2], padding=1)
        grouped = h.unflatten(1, (2, -1))
        mean, variance = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), keepdim=True, correction=0)
        h = ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
        torch.testing.assert_close(after, h * torch.sigmoid(h))
    torch.testing.assert_close(tower(images), second.flatten(1) @ tower.project.weight.T)


def test_where_something_stands_is_seen():
    tower = tiny_clip().image
    images = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    images[..., 1:3, 1:3] = 1
    assert (F.normalize(tower(images)) - F.normalize(tower(images.flip(3)))).norm() > 0.05


def test_every_weight_learns_except_what_no_caption_uses():
    clip, (images, tokens) = tiny_clip(), some_pairs(6)
    contrastive_loss(clip(images, tokens)).mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in clip.parameters())


def test_the_scale_starts_at_one_over_a_temperature_of_0_07_and_never_exceeds_100():
    clip = tiny_clip()
    assert clip.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        clip.log_scale.fill_(9.0)
    assert clip.scale.item() == pytest.approx(100)
    with torch.no_grad():
        clip.log_scale.fill_(0.5)
    assert clip.scale.item() == pytest.approx(math.exp(0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": ()}, "is empty"),
        ({"groups": 3}, "does not divide the width 32"),
        ({"image_size": 30}, "image_size=30 is not a multiple of 4"),
        ({"image_size": 0}, "image_size=0 must be"),
        ({"image_channels": 0}, "image_channels=0 must be"),
        ({"width": 0}, "width=0 must be"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**changes)


# The loss


@pytest.mark.equation("14.2")
def test_the_loss_is_the_mean_of_two_cross_entropies_one_per_pair():
    logits = 3 * randn(7, 7, seed=4)
    p_caption = logits.exp() / logits.exp().sum(1, keepdim=True)
    p_picture = logits.exp() / logits.exp().sum(0, keepdim=True)
    wanted = [-(math.log(p_caption[i, i]) + math.log(p_picture[i, i])) / 2 for i in range(7)]
    torch.testing.assert_close(contrastive_loss(logits), torch.tensor(wanted, dtype=torch.float64))
    numbers = torch.arange(7)
    both = (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2
    assert contrastive_loss(logits).mean().item() == pytest.approx(both.item())


def test_the_loss_treats_pictures_and_captions_alike_and_sees_only_differences():
    logits = 2 * randn(6, 6, seed=5)
    torch.testing.assert_close(contrastive_loss(logits.T), contrastive_loss(logits))
    torch.testing.assert_close(contrastive_loss(logits + 5), contrastive_loss(logits))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(contrastive_loss(logits[order][:, order]), contrastive_loss(logits)[order])
    torch.testing.assert_close(contrastive_loss(torch.zeros(6, 6)), torch.full((6,), math.log(6)))


def duplicated(groups: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Logits of a batch in which pairs of one group have the same caption, and who is right."""
    kind = torch.tensor(groups)
    captions = 3 * randn(len(groups), int(kind.max()) + 1, seed=seed)
    return captions[:, kind].requires_grad_(), kind[:, None] == kind


def test_where_captions_repeat_literally_sharing_the_target_changes_neither_loss_nor_gradient():
    logits, same = duplicated([0, 1, 0, 2, 2, 0, 3], seed=6)
    hard, soft = contrastive_loss(logits).mean(), contrastive_loss(logits, same).mean()
    assert hard.item() == pytest.approx(soft.item())
    kind = torch.tensor([0, 1, 0, 2, 2, 0, 3])

    def in_captions(loss: Tensor) -> Tensor:
        """The gradient with respect to the captions that there are: equal columns move together."""
        slope = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        return torch.zeros(7, 4, dtype=torch.float64).index_add_(1, kind, slope)

    torch.testing.assert_close(in_captions(hard), in_captions(soft))


def test_shared_targets_are_what_the_hard_ones_are_on_average_over_who_got_which_of_the_right_captions():
    logits = 2 * randn(5, 5, seed=7)
    same = torch.eye(5, dtype=torch.bool)
    same[:3, :3] = True
    orders = [[*order, 3, 4] for order in itertools.permutations(range(3))]
    hard = torch.stack([contrastive_loss(logits[:, order]).mean() for order in orders]).mean()
    assert contrastive_loss(logits, same).mean().item() == pytest.approx(hard.item())


@pytest.mark.equation("14.7")
def test_no_logits_get_below_the_floor_of_duplicates_and_perfect_ones_reach_it():
    for groups in ([0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1, 1, 2, 3]):
        logits, same = duplicated(groups, seed=8)
        floor = duplicate_floor(same)
        sizes = [groups.count(group) for group in groups]
        torch.testing.assert_close(floor, torch.tensor(sizes, dtype=torch.float64).log())
        for scale in (0.1, 1.0, 5.0):
            assert contrastive_loss(scale * logits).mean() > floor.mean() + 1e-6
        torch.testing.assert_close(contrastive_loss(60.0 * same.double()), floor)


def test_the_floor_counts_right_answers_in_both_directions():
    same = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)  # captions 1 and 2 say less than caption 0
    wanted = [math.log(3 * 1) / 2, math.log(1 * 3) / 2, math.log(2 * 2) / 2]
    torch.testing.assert_close(duplicate_floor(same), torch.tensor(wanted, dtype=torch.float64))
    logits = 80.0 * same
    torch.testing.assert_close(contrastive_loss(logits, same).double(), torch.tensor(wanted, dtype=torch.float64))


# What a line-up can tell


@pytest.mark.equation("14.3")
def test_the_best_critic_is_bayes_rule_in_a_line_up():
    """Whose caption is it? By counting: the probability of all that is seen, for each place the right one may stand at."""
    joint = world(3, 4, seed=9)
    critic, caption = best_critic(joint), joint.sum(0)
    assert critic.shape == (3, 4)
    for picture, captions in itertools.product(range(3), itertools.product(range(4), repeat=3)):
        seen = [joint[picture, captions[k]] * math.prod(caption[captions[j]] for j in range(3) if j != k) for k in range(3)]
        wanted = torch.stack(seen) / sum(seen)
        torch.testing.assert_close(critic[picture, list(captions)].softmax(0), wanted)
    torch.testing.assert_close((joint.sum(1, keepdim=True) * caption * critic.exp()).sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.equation("14.4")
def test_mutual_information_is_the_entropy_that_the_picture_takes_from_its_caption():
    joint = world(4, 5, seed=10)
    caption, given = joint.sum(0), joint / joint.sum(1, keepdim=True)
    entropy = -(caption * caption.log()).sum()
    left = -(joint * given.log()).sum()
    assert mutual_information(joint).item() == pytest.approx((entropy - left).item(), rel=1e-9)
    assert mutual_information(joint.T).item() == pytest.approx(mutual_information(joint).item(), rel=1e-9)
    apart = joint.sum(1, keepdim=True) * caption
    assert mutual_information(apart).item() == pytest.approx(0, abs=1e-12)
    known = torch.eye(6, dtype=torch.float64) / 6  # a picture has one caption: all of its entropy
    assert mutual_information(known).item() == pytest.approx(math.log(6))


@pytest.mark.equation("14.5")
@pytest.mark.parametrize("count", [2, 4])
def test_the_line_up_loss_is_the_mean_over_draws_of_the_contrastive_rows(count):
    joint, critic = world(3, 4, seed=11), randn(3, 4, seed=12)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.multinomial(joint.flatten(), 200_000, replacement=True, generator=generator)
    others = torch.multinomial(joint.sum(0), 200_000 * count, replacement=True, generator=generator).view(-1, count)
    others[:, 0] = pairs % 4
    losses = -critic[pairs[:, None] // 4, others].log_softmax(1)[:, 0]
    error = losses.std().item() / len(losses) ** 0.5
    assert abs(lineup_loss(joint, critic, count).item() - losses.mean().item()) <= 4 * error
    assert error < 0.003


def test_who_stands_alone_in_a_line_up_is_found():
    assert lineup_loss(world(3, 4, seed=11), randn(3, 4, seed=12), 1).item() == pytest.approx(0, abs=1e-12)


def separate_gaps(joint: Tensor, critic: Tensor, count: int) -> tuple[float, float]:
    """By enumeration of all that may be seen: KL(true belief ‖ the critic's), and KL(line-ups ‖ independent draws)."""
    belief, apart, caption = 0.0, 0.0, joint.sum(0)
    for picture, captions in itertools.product(range(joint.shape[0]), itertools.product(range(joint.shape[1]), repeat=count)):
        alone = joint[picture].sum() * caption[list(captions)].prod()
        each = (
            alone * joint[picture, list(captions)] / (joint[picture].sum() * caption[list(captions)])
        )  # by place of the right one
        seen, true, believed = each.mean(), each / each.sum(), critic[picture, list(captions)].softmax(0)
        belief += (seen * (true * (true / believed).log()).sum()).item()
        apart += (seen * (seen / alone).log()).item()
    return belief, apart


@pytest.mark.equation("14.6")
@pytest.mark.parametrize("count", [2, 3, 4])
def test_information_is_the_bound_plus_two_divergences(count):
    joint, critic = world(3, 4, seed=13), randn(3, 4, seed=14)
    for logits in (critic, best_critic(joint), torch.zeros(3, 4, dtype=torch.float64)):
        belief, apart = separate_gaps(joint, logits, count)
        bound = information_bound(lineup_loss(joint, logits, count), count)
        assert mutual_information(joint).item() == pytest.approx(bound.item() + belief + apart, rel=1e-9)
    assert separate_gaps(joint, best_critic(joint), count)[0] == pytest.approx(0, abs=1e-12)


def test_the_bound_keeps_the_shape_of_losses():
    losses = torch.tensor([0.5, 1.5])
    torch.testing.assert_close(information_bound(losses, 8), torch.tensor([math.log(8) - 0.5, math.log(8) - 1.5]))


def test_the_bound_grows_with_the_line_up_and_saturates_at_its_logarithm():
    joint = world(4, 4, seed=15, sharpness=3.0)
    bounds = [information_bound(lineup_loss(joint, best_critic(joint), count), count).item() for count in (1, 2, 3, 4, 5)]
    assert bounds == sorted(bounds) and bounds[0] == pytest.approx(0, abs=1e-12)
    assert all(
        bound < min(math.log(count), mutual_information(joint).item()) for count, bound in enumerate(bounds, 1) if count > 1
    )


def test_no_critic_beats_the_best_and_what_the_picture_alone_says_does_not_count():
    joint = world(3, 3, seed=16)
    least = lineup_loss(joint, best_critic(joint), 3)
    for seed in range(20):
        assert lineup_loss(joint, best_critic(joint) + 0.3 * randn(3, 3, seed=seed), 3) > least
    moved = best_critic(joint) + randn(3, 1, seed=1)
    assert lineup_loss(joint, moved, 3).item() == pytest.approx(least.item())


# The scale


@pytest.mark.equation("14.9")
@pytest.mark.parametrize("log_scale", [-1.0, 0.0, 2.5])
def test_the_slope_in_the_scale_is_what_autograd_finds(log_scale):
    cosines = torch.tanh(randn(6, 6, seed=17)) + 0.5 * torch.eye(6)
    at = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    losses = contrastive_loss(torch.exp(at) * cosines)
    wanted = torch.stack([torch.autograd.grad(loss, at, retain_graph=True)[0] for loss in losses])
    torch.testing.assert_close(scale_gradient(cosines, at.detach()), wanted)


def simplex(count: int) -> Tensor:
    """Unit vectors, N×N, every two of them at the cosine −1/(N − 1)."""
    return F.normalize(torch.eye(count, dtype=torch.float64) - 1 / count, dim=1)


@pytest.mark.equation("14.8")
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_simplex_has_the_least_loss_and_nothing_has_less(count):
    scales = torch.tensor([0.5, 2.0, 14.0], dtype=torch.float64)
    corners = simplex(count)
    reached = torch.stack([contrastive_loss(scale * corners @ corners.T).mean() for scale in scales])
    torch.testing.assert_close(least_loss(scales, count), reached, rtol=1e-9, atol=1e-12)
    for seed in range(10):
        u, w = (F.normalize(randn(count, 5, seed=2 * seed + side), dim=1) for side in (0, 1))
        near = F.normalize(u + 0.1 * w, dim=1)
        for scale, least in zip(scales, least_loss(scales, count), strict=True):
            assert contrastive_loss(scale * u @ w.T).mean() > least
            assert contrastive_loss(scale * u @ near.T).mean() > least


def test_descent_finds_the_least_loss_of_unit_vectors():
    vectors = randn(2, 5, 4, seed=18).requires_grad_()
    optimizer = torch.optim.LBFGS([vectors], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        u, w = F.normalize(vectors, dim=2)
        loss = contrastive_loss(3.0 * u @ w.T).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(least_loss(torch.tensor(3.0, dtype=torch.float64), 5).item(), rel=1e-4)


# What comes for nothing


@pytest.mark.equation("14.10")
def test_zero_shot_is_bayes_rule_over_the_classes():
    clip, (images, _) = tiny_clip(), some_pairs(5)
    tokens = TOKENIZER.batch(["x", "yy", "zzz"], 8)
    likelihood = clip(images, tokens).exp()  # of the class's caption, over p(c), up to a factor of the picture's own
    torch.testing.assert_close(zero_shot(clip, images, tokens).exp(), likelihood / likelihood.sum(1, keepdim=True))
    prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    joint = likelihood * prior
    torch.testing.assert_close(zero_shot(clip, images, tokens, prior.log()).exp(), joint / joint.sum(1, keepdim=True))


def test_several_captions_of_a_class_are_averaged_as_directions():
    clip, (images, _) = tiny_clip(), some_pairs(4)
    tokens = TOKENIZER.batch(["x", "y", "xx", "yy", "xxx", "yyy"], 8).view(3, 2, 8)
    vectors = class_vectors(clip, tokens)
    assert vectors.shape == (3, 12)
    for row, captions in zip(vectors, tokens, strict=True):
        mean = clip.encode_texts(captions).mean(0)
        torch.testing.assert_close(row, mean / mean.square().sum().sqrt())
    logits = clip.scale * clip.encode_images(images) @ vectors.T
    torch.testing.assert_close(zero_shot(clip, images, tokens), logits - logits.logsumexp(1, keepdim=True))
    torch.testing.assert_close(zero_shot(clip, images, tokens[:, :1]), zero_shot(clip, images, tokens[:, 0]))


@pytest.mark.equation("14.11")
def test_recall_counts_the_right_answers_among_the_first_k():
    similarity = randn(9, 9, seed=19)
    for k in (1, 3, 9):
        captions, pictures = recall_at(similarity, k)
        first = similarity.topk(k, 1).indices
        assert captions.tolist() == [float(i in first[i].tolist()) for i in range(9)]
        first = similarity.topk(k, 0).indices
        assert pictures.tolist() == [float(i in first[:, i].tolist()) for i in range(9)]
    assert recall_at(similarity, 3)[0].tolist() != recall_at(similarity, 3)[1].tolist()
    assert recall_at(similarity, 9)[0].sum() == 9


def test_a_tower_that_says_always_the_same_finds_nothing():
    for hits in recall_at(torch.ones(6, 6), 5):
        assert hits.sum() == 0
    for hits in recall_at(torch.ones(6, 6), 6):
        assert hits.sum() == 6


def test_a_duplicate_is_a_right_answer_if_it_is_said_to_be():
    similarity = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 2.5, 2.0]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    assert recall_at(similarity, 1)[0].tolist() == [0, 0, 0] and recall_at(similarity, 1)[1].tolist() == [0, 0, 1]
    assert recall_at(similarity, 1, same)[0].tolist() == [1, 1, 0] and recall_at(similarity, 1, same)[1].tolist() == [1, 0, 1]


@pytest.mark.equation("14.12")
def test_the_score_is_the_positive_part_of_the_cosine_times_two_and_a_half():
    clip, (images, tokens) = tiny_clip(3), some_pairs(12)
    cosines = (clip(images, tokens) / clip.scale).diagonal()
    assert (cosines < 0).any() and (cosines > 0).any()
    wanted = torch.tensor([2.5 * c if c > 0 else 0.0 for c in cosines.tolist()], dtype=torch.float64)
    torch.testing.assert_close(clip_score(clip, images, tokens), wanted)


# Training


def learnable(count: int) -> tuple[Tensor, Tensor]:
    """Pictures with one bright quarter, and captions that name it."""
    images, place = 0.1 * randn(count, 2, 8, 8, seed=20, dtype=torch.float32), torch.arange(count) % 4
    for number, where in enumerate(place.tolist()):
        images[number, :, where // 2 * 4 : where // 2 * 4 + 4, where % 2 * 4 : where % 2 * 4 + 4] += 1
    return images, TOKENIZER.batch([f"in {'abcd'[where]}" for where in place.tolist()], 8)


def test_training_learns_which_caption_belongs_to_which_picture():
    torch.manual_seed(0)
    clip, (images, tokens) = Clip(TINY), learnable(64)
    losses = train_clip(clip, images, tokens, 60, torch.Generator().manual_seed(0), batch=16)
    assert len(losses) == 60
    with torch.no_grad():
        said = zero_shot(clip, images, tokens[:4]).argmax(1)
    assert (said == torch.arange(64) % 4).float().mean() > 0.95
    assert losses[0] > math.log(16) - 0.5 > sum(losses[-10:]) / 10


def test_training_is_decided_by_the_generator_and_its_loss_is_the_first_batchs():
    images, tokens = learnable(20)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        clip = Clip(TINY)
        before = contrastive_loss(clip(images, tokens)).mean().item()
        runs.append(train_clip(clip, images, tokens, 5, torch.Generator().manual_seed(seed), batch=20))
        assert runs[-1][0] == pytest.approx(before, rel=1e-4), "with a batch as large as the set, nothing is drawn twice"
    assert runs[0] == runs[1] != runs[2]


def test_the_learning_rate_rises_over_fifty_steps_and_falls_to_nothing(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: taken.append(dict(self.param_groups[0])))
    torch.manual_seed(0)
    clip, (images, tokens), batches = Clip(TINY), learnable(80), []

    def note(logits: Tensor) -> Tensor:
        batches.append(len(logits))
        return contrastive_loss(logits)

    train_clip(clip, images, tokens, 100, torch.Generator().manual_seed(0), batch=4, lr=0.5)
    wanted = [0.5 * min(1, (step + 1) / 50) * (1 - step / 100) for step in range(100)]
    assert [each["lr"] for each in taken] == pytest.approx(wanted)
    train_clip(clip, images, tokens, 1, torch.Generator().manual_seed(0), loss=note)
    assert taken[-1]["lr"] == pytest.approx(2e-3 / 50) and batches == [64]
    assert all(each["betas"] == (0.9, 0.98) for each in taken)  # as for the vision transformers of Radford et al. 2021


def test_the_scale_is_kept_at_100_in_training_so_that_it_can_come_back():
    torch.manual_seed(0)
    clip, (images, tokens) = Clip(TINY), learnable(16)
    with torch.no_grad():
        clip.log_scale.fill_(8.0)
    train_clip(clip, images, tokens, 1, torch.Generator().manual_seed(0), batch=8, lr=1e-3)
    assert clip.log_scale.item() == pytest.approx(math.log(100))
    contrastive_loss(clip(images, tokens)).mean().backward()
    assert clip.log_scale.grad.abs() > 0


def test_another_loss_can_be_handed_in():
    torch.manual_seed(0)
    clip, (images, tokens), asked = Clip(TINY), learnable(16), []

    def of_pictures(logits: Tensor) -> Tensor:
        asked.append(tuple(logits.shape))
        return F.cross_entropy(logits, torch.arange(len(logits)), reduction="none")

    train_clip(clip, images, tokens, 3, torch.Generator().manual_seed(0), batch=8, loss=of_pictures)
    assert asked == [(8, 8)] * 3
