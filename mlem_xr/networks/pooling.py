"""Token activations -> one vector per sentence."""

from collections.abc import Callable, Sequence
from typing import Any


def pool(hidden: Sequence[Any], mask: Any, pooling: Sequence[str]) -> Any:
    """Turn token activations into one vector per sentence.

    Parameters
    ----------
    hidden : sequence of torch.Tensor (sentence, token, unit)
        One tensor per layer.
    mask : torch.Tensor of bool (sentence, token)
        Which tokens belong to the sentence; padding may be on either side.
    pooling : sequence of str
        Some of `"first-token"`, `"mean"`, `"last-token"`.

    Returns
    -------
    torch.Tensor (pooling, layer, sentence, unit)
        On the device of `hidden` and with its dtype.

    Examples
    --------
    >>> import torch
    >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> pool([hidden], mask, ["first-token", "mean", "last-token"]).flatten()
    tensor([1., 2., 3.])
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
