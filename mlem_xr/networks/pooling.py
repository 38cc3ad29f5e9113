"""Token activations -> one vector per sentence."""

from collections.abc import Callable, Sequence
from typing import Any


def pool(hidden: Sequence[Any], mask: Any, pooling: Sequence[str]) -> Any:
    """Turn token activations into one vector per sentence.

    `hidden` is one tensor (sentence, token, unit) per layer; `mask` (sentence, token) says which
    tokens belong to the sentence: padding may be on either side. Returns a tensor
    (pooling, layer, sentence, unit) on the same device and of the same dtype.
    """
    import torch

    sentence, token = (torch.arange(size, device=mask.device) for size in mask.shape)
    first, last = mask.int().argmax(1), (mask * token).argmax(1)
    poolers: dict[str, Callable[[Any], Any]] = {
        "first-token": lambda states: states[sentence, first],
        "mean": lambda states: (
            # Padding may hold anything, even NaN.
            states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
        ),
        "last-token": lambda states: states[sentence, last],
    }
    chosen = [poolers[name] for name in pooling]
    return torch.stack([torch.stack([pooler(states) for states in hidden]) for pooler in chosen])
