"""Token activations -> one vector per sentence."""

from collections.abc import Callable, Sequence
from typing import Any

from mlem_xr.schema import TARGET

_POOLERS: dict[str, Callable[[Any], Any]] = {
    "first-token": lambda states: states[:, 0],
    "mean": lambda states: states.mean(1),
    "last-token": lambda states: states[:, -1],
}


def pool(
    states: Any,
    pooling: str,
    which: Sequence[int] | None = None,
    targets: Sequence[list[int]] | None = None,
) -> Any:
    """Turn the activations of a layer (text, token, unit) into vectors (sentence, unit).

    Texts that are pooled together are equally long: there is no padding. Several sentences may be
    the same text: `which` says the one of each (None: each is its own), and `targets` which of its
    tokens the target of the sentence is.
    """
    texts = list(range(len(states)) if which is None else which)
    if pooling != TARGET:
        return _POOLERS[pooling](states)[texts]
    assert targets is not None
    import torch

    own = zip(texts, targets, strict=True)
    return torch.stack([states[text, tokens].mean(0) for text, tokens in own])
