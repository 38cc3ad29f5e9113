"""Sentences and their features: read from a table, or generated from a grammar."""

from mlem_xr.stimuli.files import read_stimuli, write_stimuli
from mlem_xr.stimuli.generate import generate_stimuli, list_stimuli

__all__ = ["generate_stimuli", "list_stimuli", "read_stimuli", "write_stimuli"]
