"""The analyses: one file each, of which one record, `Analysis`, says all there is to know."""

from mlem_xr.analyses.base import Analysis
from mlem_xr.analyses.clusters import CLUSTERS, cluster_units
from mlem_xr.analyses.corrections import CORRECTION, correct_p_values
from mlem_xr.analyses.decoding import DECODING, decoding_baseline
from mlem_xr.analyses.decomposition import DECOMPOSITION, decompose
from mlem_xr.analyses.layers import concatenate_layers
from mlem_xr.analyses.multivariate import MULTIVARIATE, multivariate_importance
from mlem_xr.analyses.neural_distances import distances
from mlem_xr.analyses.randomization import RANDOMIZATION, randomization_test
from mlem_xr.analyses.scaling import SCALING, mds
from mlem_xr.analyses.top_units import TOP_UNITS, top_unit_importance
from mlem_xr.analyses.univariate import UNIVARIATE, univariate_importance

ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        *(MULTIVARIATE, UNIVARIATE, TOP_UNITS, CLUSTERS, CORRECTION),
        *(DECOMPOSITION, RANDOMIZATION, DECODING, SCALING),
    )
}
"""The analyses whose results are saved, opened by name and have a command."""

__all__ = [
    "ANALYSES",
    "Analysis",
    "cluster_units",
    "concatenate_layers",
    "correct_p_values",
    "decoding_baseline",
    "decompose",
    "distances",
    "mds",
    "multivariate_importance",
    "randomization_test",
    "top_unit_importance",
    "univariate_importance",
]
