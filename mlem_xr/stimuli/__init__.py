"""Sentences and their features: read from a table or generated from a grammar, and described."""

from mlem_xr.stimuli.describe import describe_stimuli
from mlem_xr.stimuli.files import read_stimuli, write_stimuli
from mlem_xr.stimuli.generate import generate_stimuli, list_stimuli
from mlem_xr.stimuli.pairs import feature_correlation, feature_distances

__all__ = [
    "describe_stimuli",
    "feature_correlation",
    "feature_distances",
    "generate_stimuli",
    "list_stimuli",
    "read_stimuli",
    "write_stimuli",
]
