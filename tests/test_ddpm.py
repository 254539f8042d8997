"""Training times: each uniform, together evenly spread."""

import pytest
import torch

from minildm.ddpm import spread_times


def draws(count: int, T: int, repeats: int, power: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([spread_times(count, T, generator, power) for _ in range(repeats)])


@pytest.mark.parametrize("power", [1.0, 0.75, 0.4, 2.0])
def test_every_example_has_times_of_the_stated_distribution(power):
    """Each count of each time, in each place of the batch, within four standard errors; no time outside 1..T."""
    T, repeats = 20, 8000
    times = draws(3, T, repeats, power)
    share = torch.diff((torch.arange(T + 1).double() / T) ** (1 / power))  # P(t ≤ s) = (s/T)^(1/power)
    assert times.min() >= 1 and times.max() == T
    error = (repeats * share * (1 - share)) ** 0.5
    for place in range(3):
        counts = torch.bincount(times[:, place], minlength=T + 1)[1:]
        print(place, counts.tolist(), error.tolist())
        assert ((counts - repeats * share).abs() < 4 * error + 1).all()


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_a_batch_covers_the_times_evenly(count):
    """Any two neighbours, around the circle 1..T, are T/N apart, up to rounding."""
    T = 1000
    for times in draws(count, T, 50):
        ordered = times.sort().values
        gaps = torch.cat([ordered[1:], ordered[:1] + T]) - ordered
        assert gaps.sum() == T and (gaps - T / count).abs().max() <= 1


def test_the_mean_of_what_depends_on_time_is_unbiased_and_far_less_noisy():
    T, count, repeats = 1000, 16, 2000
    loss = (1 - torch.arange(T + 1).double() / T) ** 3  # of any shape
    truth = loss[1:].mean()
    spread = loss[draws(count, T, repeats)].mean(1)
    independent = loss[torch.randint(1, T + 1, (repeats, count), generator=torch.Generator().manual_seed(1))].mean(1)
    error = spread.std() / repeats**0.5
    print(f"bias {spread.mean() - truth:.2e}, standard error {error:.2e}; noise {spread.std():.2e} and {independent.std():.2e}")
    assert (spread.mean() - truth).abs() < 4 * error
    assert spread.std() < 0.4 * independent.std()
