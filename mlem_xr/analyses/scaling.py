"""Maps of the sentences by multidimensional scaling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.neural_distances import distance_option
from mlem_xr.analyses.options import SEED, Options, integer, number, option
from mlem_xr.kernels.distances import Function
from mlem_xr.kernels.scaling import place_sentences
from mlem_xr.schema import InputError

Start = Literal["random", "classical"]
"""Where the iterations start."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(Options):
    """The options of a multidimensional scaling."""

    distance: str | Function = distance_option()
    zscore: bool = option(False, "Bring every unit to mean 0 and standard deviation 1.")
    n_components: int = option(2, "Number of axes.", check=integer(at_least=1))
    n_init: int = option(
        1, "Random starts, of which the best is kept.", check=integer(at_least=1, below=10_001)
    )
    init: Start = option("random", "Where the iterations start.")
    max_iter: int = option(
        200, "Largest number of iterations.", check=integer(at_least=1, below=1_000_001)
    )
    eps: float = option(
        1e-4,
        "Relative gain in stress that ends the iterations.",
        check=number("a finite number of at least 0", lambda eps: eps >= 0),
    )
    random_state: int = option(0, "Seed of the random starts.", check=SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "classical" and self.n_init > 1:
            raise InputError(
                f"n_init: found {self.n_init}; expected 1, as init='classical' has one start"
            )


def _check(arrays: Mapping[str, xr.DataArray], options: ScalingOptions) -> None:
    n = arrays["activation"].sizes["sentence"]
    if options.n_components > n:
        raise InputError(
            f"n_components: found {options.n_components}; expected at most {n}, one a sentence"
        )


SCALING = Analysis(
    name="mds",
    help="Place the sentences in a plane that keeps their distances.",
    command="mds",
    function=place_sentences,
    inputs={"activation": ("sentence", "unit")},
    outputs=lambda options: {
        "position": Output(("sentence", "axis"), "position", "distance"),
        "stress": Output((), "raw stress", "distance^2"),
    },
    options=ScalingOptions,
    labels=lambda options, features: {"axis": range(options.n_components)},
    check=_check,
    stage="mds",
    original="MDS",
)


def mds(
    activations: xr.Dataset,
    *,
    distance: str | Function = "euclidean",
    zscore: bool = False,
    n_components: int = 2,
    n_init: int = 1,
    init: Start = "random",
    max_iter: int = 200,
    eps: float = 1e-4,
    random_state: int = 0,
) -> xr.Dataset:
    """Place the sentences so that their distances resemble those of their activations.

    Metric multidimensional scaling by scikit-learn's `smacof`: positions z that minimize the raw
    stress, with d_ij the neural distance of two sentences, ::

        stress = sum over pairs i < j of (|z_i - z_j| - d_ij)^2.

    Positions are determined up to rotation, reflection and shift.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str or callable
        A metric of `sklearn.metrics.pairwise_distances`; `norm_diff`: the absolute difference
        of the Euclidean norms; or a function of two sentences, as in `distances`.
    zscore : bool
        Whether every unit is brought to mean 0 and standard deviation 1 over the sentences first.
    n_components : int
        Number of axes.
    n_init : int
        Number of random starts, at most 10,000; the one that ends with the smallest stress is
        kept.
    init : {"random", "classical"}
        `random`: start at random positions. `classical`: start at the classical scaling (the
        principal axes of the centered squared distances), which is always the same.
    max_iter : int
        Largest number of iterations, at most 1,000,000.
    eps : float
        An iteration that lowers the stress by less than `eps` times the sum of ``|z_i - z_j|^2``
        over the pairs is the last one; not negative.
    random_state : int
        Seed of the random starts.

    Returns
    -------
    xr.Dataset
        float64, lazy if `activations` is; NaN where nothing was recorded. `position` (..., layer,
        sentence, axis) in the unit of the distance; `stress` (..., layer) in its square, not
        normalized. The coordinates over `sentence` (text, features) are those of `activations`.

    Raises
    ------
    InputError
        If an option is unknown or out of range, or `activations` is not what it should be; when
        computed, if a representation holds NaN or infinite values (the message names it), or a
        distance is undefined (as the cosine distance of a zero vector).

    Examples
    --------
    >>> corners = [[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [3, 4, 0]]
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), corners)},
    ...     coords={"odd": ("sentence", [0, 1, 0, 1])},
    ... )
    >>> result = mds(data, init="classical")
    >>> dict(result.sizes), bool(result.stress < 1e-9)
    ({'sentence': 4, 'axis': 2}, True)
    """
    return SCALING(activations, ScalingOptions.taken_from(locals()))
