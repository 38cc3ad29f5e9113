"""Metric-learning encoding models over labelled, lazy arrays of neural activations."""

import importlib
from typing import Any

from mlem_xr import schema
from mlem_xr.cluster import local_client
from mlem_xr.clusters import cluster_units
from mlem_xr.decoding import decoding_baseline
from mlem_xr.describe import describe_stimuli
from mlem_xr.distances import distances
from mlem_xr.importance import multivariate_importance, univariate_importance
from mlem_xr.layers import concatenate_layers
from mlem_xr.mds import mds
from mlem_xr.pairs import feature_correlation, feature_distances
from mlem_xr.recording import record
from mlem_xr.results import list_results, open_results, save_results
from mlem_xr.statistics import correct_p_values
from mlem_xr.stimuli import generate_stimuli, list_stimuli, read_stimuli, write_stimuli
from mlem_xr.stores import create_store, missing_checkpoints, open_store
from mlem_xr.tables import to_dataframe, write_table
from mlem_xr.top_units import top_unit_importance

__all__ = [
    "cluster_units",
    "concatenate_layers",
    "correct_p_values",
    "create_store",
    "decoding_baseline",
    "describe_stimuli",
    "distances",
    "feature_correlation",
    "feature_distances",
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
    "read_stimuli",
    "record",
    "save_results",
    "schema",
    "to_dataframe",
    "top_unit_importance",
    "univariate_importance",
    "write_stimuli",
    "write_table",
]


def __getattr__(name: str) -> Any:
    # HoloViews takes a second to import, which only those who draw should wait for.
    if name == "plot":
        return importlib.import_module("mlem_xr.plot")
    raise AttributeError(f"module 'mlem_xr' has no attribute {name!r}")
