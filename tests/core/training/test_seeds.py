from __future__ import annotations

import torch

from core.training.seeds import derive, generator


def test_each_purpose_has_numbers_of_its_own() -> None:
    purposes = [
        ("order", 0, 1),
        ("order", 1, 0),
        ("order", 0),
        ("augment", 0, 1),
        ("order", "0", 1),
        ("order", 10),
    ]
    seeds = {derive(seed, *purpose) for purpose in purposes for seed in (0, 1)}
    assert len(seeds) == 2 * len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_depend_on_nothing_that_was_drawn_before() -> None:
    first = torch.rand(3, generator=generator(1, "augment", 4))
    torch.rand(100)
    torch.rand(100, generator=generator(1, "augment", 3))
    assert torch.equal(first, torch.rand(3, generator=generator(1, "augment", 4)))


def test_they_are_the_same_in_every_version() -> None:
    """A run that goes on after an update of this package draws what it would have drawn."""
    assert derive(1, "order", 0, 2) == DERIVED


DERIVED = 8848628446480604997
