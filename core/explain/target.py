"""What is explained: the log-odds of one class.

For two classes that is the difference of their logits. Unlike a probability it does not saturate where the
network is sure, and unlike a single logit it does not change when a constant is added to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.explain.explanation import Target
from core.vision.precision import margins


def log_odds(logits: Tensor, index: int) -> Tensor:
    """z_c - logsumexp of the others: logits [N, classes] -> [N]."""
    return margins(logits, torch.full((len(logits),), index, device=logits.device))


def probability(logits: Tensor, index: int, temperature: float) -> Tensor:
    """The class's calibrated score, softmax(logits / temperature): logits [N, classes] -> [N]."""
    return (logits / temperature).softmax(1)[:, index]


def choose_target(
    logits: Tensor, labels: Sequence[str], temperature: float, label: str | None = None
) -> Target:
    """The class ``label``, by default the predicted one, as judged by float32 ``logits`` [1, classes].

    Raises InvalidRequest if there is no such class.
    """
    if label is not None and label not in labels:
        raise InvalidRequest(f"There is no class {label!r}; the classes are {', '.join(labels)}.")
    index = int(logits.argmax(1)) if label is None else list(labels).index(label)
    return Target(
        label=labels[index],
        index=index,
        margin=float(log_odds(logits, index)),
        probability=float(probability(logits, index, temperature)),
    )
