"""The metric as an estimator of scikit-learn, for who comes with a table and an array."""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from mlem_xr.analyses.arrays import from_arrays
from mlem_xr.analyses.importance import ALPHAS, Conditional, Folds, Scale
from mlem_xr.analyses.multivariate import multivariate_importance
from mlem_xr.analyses.neural_distances import distances
from mlem_xr.kernels.distances import Function
from mlem_xr.schema import kind_of
from mlem_xr.stimuli.pairs import feature_distances
from mlem_xr.stimuli.table import feature_values, frame_of


class MLEM(BaseEstimator):
    """Metric-learning encoding model of one matrix of activations.

    `fit` is `multivariate_importance` on a table of features X (sentence, feature) and activations
    Y (sentence, unit); `score` is the R2 of the fitted metric for the pairs of other sentences, so
    that scikit-learn's `cross_val_score` splits sentences. The metric is the mean of those of the
    two folds, ::

        y = b + sum_k w_k x_k        w_k >= 0

    with the target y of a pair of sentences and its feature distances x. Distances are not min-max
    scaled, as held-out sentences would have another scale. For several layers, seeds or steps, for
    single units and for stores, use the functions: they take them all at once.

    Parameters
    ----------
    distance, target, zscore, scale, conditional, folds, alphas, random_state
        As for `multivariate_importance`.
    numeric : "auto" or iterable of str
        Columns of X that are numbers rather than levels. "auto": those of a floating type.

    Attributes
    ----------
    importance_, std_error_, p_value_ : pd.Series
        Of each feature, by name.
    coef_ : ndarray of float64 (feature)
        Weights w of the metric, in the unit of y; non-negative.
    intercept_ : float
        b.
    r2_ : float
        Coefficient of determination on held-out pairs.
    result_ : xr.Dataset
        All that `multivariate_importance` returns.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of object
        Their names, where X has some; else features are x0, x1, ...

    References
    ----------
    Jalouzot et al. 2024, Metric-Learning Encoding Models, arXiv 2402.11608.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"plural": np.arange(60) % 2, "length": rng.normal(size=60)})
    >>> units = rng.normal(size=(60, 5)) + 3 * table[["plural"]].to_numpy()
    >>> model = MLEM().fit(table, units)
    >>> model.importance_.idxmax(), bool(model.score(table, units) > 0.4)
    ('plural', True)
    >>> from sklearn.model_selection import cross_val_score
    >>> bool(cross_val_score(MLEM(), table, units, cv=3).min() > 0.3)
    True
    """

    def __init__(
        self,
        *,
        distance: str | Function = "euclidean",
        target: str = "square",
        zscore: bool = False,
        scale: Scale = "linear",
        conditional: Conditional = False,
        folds: Folds = "sentences",
        alphas: Iterable[float] = ALPHAS,
        random_state: int = 0,
        numeric: str | Iterable[str] = "auto",
    ) -> None:
        self.distance = distance
        self.target = target
        self.zscore = zscore
        self.scale = scale
        self.conditional = conditional
        self.folds = folds
        self.alphas = alphas
        self.random_state = random_state
        self.numeric = numeric

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Fit the metric.

        Parameters
        ----------
        X : pd.DataFrame or array
            Features, one row per sentence; missing values are undefined.
        y : array
            Activations (sentence, unit), or (sentence) of one unit.

        Raises
        ------
        InputError
            As `from_arrays` and `multivariate_importance`.
        """
        data = self._data(X, y, reset=True)
        result = multivariate_importance(
            data,
            distance=self.distance,
            target=self.target,
            min_max=False,
            zscore=self.zscore,
            scale=self.scale,
            conditional=self.conditional,
            folds=self.folds,
            alphas=self.alphas,
            random_state=self.random_state,
        )
        self.result_ = result
        for name in ("importance", "std_error", "p_value"):
            setattr(self, f"{name}_", result[name].to_series())
        self.coef_ = result["weight"].mean("fold").values
        self.intercept_ = float(result["intercept"].mean())
        self.r2_ = float(result["r2"])
        self._half_range = _half_ranges(data)
        return self

    def predict_pairs(self, X: Any) -> NDArray:  # noqa: N803
        """Predict the target of all pairs of sentences: float64 (pair), in upper-triangle order."""
        check_is_fitted(self)
        return self._predicted(self._data(X, None, reset=False))

    def score(self, X: Any, y: Any) -> float:  # noqa: N803
        """Return the coefficient of determination R2 for all pairs of these sentences."""
        check_is_fitted(self)
        data = self._data(X, y, reset=False)
        first, second = np.triu_indices(data.sizes["sentence"], 1)
        distance = distances(data, distance=self.distance, zscore=self.zscore).values
        target = distance[first, second]
        return r2_score(target**2 if self.target == "square" else target, self._predicted(data))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    def _predicted(self, data: xr.Dataset) -> NDArray:
        x = feature_distances(data).values.astype(np.float64)
        # Numbers are divided by their range, which other sentences have another one of.
        ratio = _half_ranges(data) / np.where(self._half_range > 0, self._half_range, 1.0)
        x *= ratio
        return self.intercept_ + (x**2 if self.scale == "squared" else x) @ self.coef_

    def _data(self, X: Any, y: Any, *, reset: bool) -> xr.Dataset:  # noqa: N803
        X = frame_of("X", X)  # noqa: N806
        checked = validate_data(
            self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=2
        )
        table = X if isinstance(X, pd.DataFrame) else pd.DataFrame(checked)
        table = table.set_axis([_name(column) for column in table.columns], axis=1)
        table = table.reset_index(drop=True)
        floats = [name for name in table.columns if table[name].dtype.kind == "f"]
        numeric = (
            floats if isinstance(self.numeric, str) and self.numeric == "auto" else self.numeric
        )
        if y is None:
            y = np.zeros((len(table), 1))
        units = np.asarray(y)
        units = units[:, np.newaxis] if units.ndim == 1 else units
        return from_arrays(units, table, dims=("sentence", "unit"), numeric=numeric)


def _name(column: Any) -> str:
    return column if isinstance(column, str) else f"x{column}"


def _half_ranges(data: xr.Dataset) -> NDArray:
    """Return half the range of each numeric feature, as the whole may be infinite; 1 of others."""
    found = []
    for name in data.attrs["features"]:
        values = feature_values(data, name)
        numbers = kind_of(data, name) == "numeric"
        found.append(np.nanmax(values) / 2 - np.nanmin(values) / 2 if numbers else 1.0)
    return np.array(found)
