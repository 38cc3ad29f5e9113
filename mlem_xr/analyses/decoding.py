"""How well a linear classifier reads each feature from the activations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.importance import INPUTS
from mlem_xr.analyses.options import SEED, Options, option
from mlem_xr.kernels.decoding import MIN_PER_CLASS, classes, decodable, decode
from mlem_xr.running.blas import one_blas_thread
from mlem_xr.schema import warn


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(Options):
    """The options of the decoding baseline."""

    zscore: bool = option(False, "Bring every unit to mean 0 and standard deviation 1.")
    random_state: int = option(0, "Seed of the folds.", check=SEED)


def _warn_of_small_classes(arrays: Mapping[str, xr.DataArray], _: DecodingOptions) -> None:
    codes = arrays["codes"]
    found = classes(codes.values, arrays["measure"].values)
    columns = zip(codes["feature"].values, found.T, strict=True)
    small = [str(name) for name, column in columns if not decodable(column)]
    if small:
        warn(
            f"features: {', '.join(small)} cannot be decoded, which takes two classes or more of "
            f"at least {MIN_PER_CLASS} sentences each (undefined values are a class); NaN"
        )


def _decode(
    activation: NDArray, codes: NDArray, measure: NDArray, options: Any
) -> dict[str, NDArray]:
    with one_blas_thread():
        return decode(activation, classes(codes, measure), options)


_FEATURE = ("feature",)

DECODING = Analysis(
    name="decoding_baseline",
    help="Score how well a linear classifier reads each feature from each layer.",
    command="decoding",
    function=_decode,
    inputs={
        "activation": INPUTS["activation"],
        "codes": INPUTS["codes"],
        "measure": INPUTS["codes"],
    },
    outputs=lambda options: {
        "auc": Output(
            _FEATURE, "mean area under the ROC curve over held-out folds", original="AUC"
        ),
        "std": Output(_FEATURE, "standard deviation of the area over folds"),
        "std_error": Output(_FEATURE, "standard error of the mean area over folds", original="sem"),
        "p_value": Output(
            _FEATURE, "two-sided p-value of the mean area against 0.5", original="pval"
        ),
    },
    options=DecodingOptions,
    check=_warn_of_small_classes,
    along="feature",
    original="Decoding",
    leading="auc",
)


def decoding_baseline(
    activations: xr.Dataset,
    *,
    features: Iterable[str] | None = None,
    zscore: bool = False,
    random_state: int = 0,
) -> xr.Dataset:
    """Score how well a linear classifier reads each feature from the activations of a layer.

    For each feature, undefined values being a class of their own, and the numbers of a numeric one
    two, small and large ones, cut where the halves are most equal, a logistic regression with
    balanced classes is trained in three stratified shuffled folds; its penalty is the one of ten
    with the largest AUC in three folds inside the training set. With outputs f_i = w.a_i + b, the
    log-loss l (logistic for two classes, softmax for more) and s_i = n / (classes x size of the
    class of sentence i), it minimizes ::

        sum_i s_i l(y_i, f_i) + |w|^2 / (2 C)    with C = 1e-4, ..., 1e4.

    The AUC of a fold is the one-against-rest area under the ROC curve of the held-out sentences,
    weighted by the size of the classes. With m the mean and s the standard deviation (n - 1) over
    the folds, ``std_error = s / sqrt(3)`` and ``p = 2 (1 - Phi(|m - 0.5| / std_error))``.

    The scores are those of scikit-learn's `LogisticRegressionCV` with the solver newton-cholesky;
    every feature of every representation is a task of its own.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.
    zscore : bool
        Whether every unit is brought to mean 0 and standard deviation 1 over the sentences first.
    random_state : int
        Seed of the outer folds.

    Returns
    -------
    xr.Dataset
        `auc`, `std`, `std_error` and `p_value` (..., layer, feature), float64, lazy if
        `activations` is; NaN where nothing was recorded. The p-value is 1 where it is undefined
        (the area is 0.5 in every fold).

    Raises
    ------
    InputError
        If a feature is unknown, `random_state` is no seed or `activations` is not what it should
        be; when computed, if a representation holds NaN or infinite values (the message names
        it).

    Warns
    -----
    UserWarning
        If a feature has a single class, or fewer than 5 sentences in one, which do not suffice for
        the folds: its results are NaN. The one warning names all such features.
        When computed, if all sentences have the same activations in a representation, but for
        rounding: the areas are 0.5 and the p-values 1.

    References
    ----------
    Jalouzot et al. 2024, Metric-Learning Encoding Models, arXiv 2402.11608.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> plural = np.arange(40) % 2
    >>> units = rng.normal(size=(40, 5)) + 3 * plural[:, None]
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), units)},
    ...     coords={"plural": ("sentence", plural)},
    ... )
    >>> bool(decoding_baseline(data).auc.sel(feature="plural") > 0.95)
    True
    """
    options = DecodingOptions.taken_from(locals())
    return DECODING(activations, options, features=features)
