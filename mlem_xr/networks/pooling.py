"""Token activations -> one vector per sentence."""

from collections.abc import Callable
from typing import Any

_POOLERS: dict[str, Callable[[Any], Any]] = {
    "first-token": lambda states: states[:, 0],
    "mean": lambda states: states.mean(1),
    "last-token": lambda states: states[:, -1],
}


def pool(states: Any, pooling: str) -> Any:
    """Turn the activations of a layer (sentence, token, unit) into vectors (sentence, unit).

    Sentences that are pooled together are equally long: there is no padding.
    """
    return _POOLERS[pooling](states)
