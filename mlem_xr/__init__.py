"""Metric-learning encoding models over labeled, lazy arrays of neural activations."""

import importlib
from typing import Any

from mlem_xr import schema
from mlem_xr.analyses import (
    cluster_units,
    concatenate_layers,
    correct_p_values,
    decoding_baseline,
    decompose,
    distances,
    mds,
    multivariate_importance,
    randomization_test,
    top_unit_importance,
    univariate_importance,
)
from mlem_xr.analyses.arrays import from_arrays
from mlem_xr.analyses.tables import to_dataframe
from mlem_xr.networks import record
from mlem_xr.running.client import local_client
from mlem_xr.running.writing import write_table
from mlem_xr.stimuli import (
    describe_stimuli,
    feature_correlation,
    feature_distances,
    generate_stimuli,
    list_stimuli,
    read_stimuli,
    write_stimuli,
)
from mlem_xr.store import (
    add_activations,
    create_store,
    list_results,
    missing_checkpoints,
    open_results,
    open_store,
    repair_store,
    save_results,
    verify_store,
)

__all__ = [
    "MLEM",
    "add_activations",
    "cluster_units",
    "concatenate_layers",
    "correct_p_values",
    "create_store",
    "decoding_baseline",
    "decompose",
    "describe_stimuli",
    "distances",
    "feature_correlation",
    "feature_distances",
    "from_arrays",
    "generate_stimuli",
    "list_results",
    "list_stimuli",
    "local_client",
    "mds",
    "missing_checkpoints",
    "multivariate_importance",
    "open_results",
    "open_store",
    "plot",
    "randomization_test",
    "read_stimuli",
    "record",
    "repair_store",
    "save_results",
    "schema",
    "to_dataframe",
    "top_unit_importance",
    "univariate_importance",
    "verify_store",
    "write_stimuli",
    "write_table",
]


def __getattr__(name: str) -> Any:
    # HoloViews and scikit-learn take a second to import, which only those who use them wait for.
    if name == "plot":
        return importlib.import_module("mlem_xr.plot")
    if name == "MLEM":
        return importlib.import_module("mlem_xr.analyses.estimator").MLEM
    raise AttributeError(f"module 'mlem_xr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
