"""Networks: where their weights are, and how their activations are recorded; the only torch."""

from mlem_xr.networks.recording import record

__all__ = ["record"]
