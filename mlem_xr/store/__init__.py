"""One zarr store per stimulus set: activations, and beside them the results."""

from mlem_xr.store.activations import create_store, missing_checkpoints, open_store
from mlem_xr.store.adding import add_activations
from mlem_xr.store.repairing import repair_store
from mlem_xr.store.results import list_results, open_results, save_results
from mlem_xr.store.verifying import verify_store

__all__ = [
    "add_activations",
    "create_store",
    "list_results",
    "missing_checkpoints",
    "open_results",
    "open_store",
    "repair_store",
    "save_results",
    "verify_store",
]
