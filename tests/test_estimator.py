"""The estimator: scikit-learn's conventions over the same numbers as the functions."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

import mlem_xr as mx
import plain
from mlem_xr.schema import InputError

NOT_HERE = {
    # Data of these checks have a handful of samples, or one: pairs of sentences need more.
    "check_fit2d_1sample": "names what is expected in other words",
    "check_fit2d_1feature": "ten samples, all with their own level",
    "check_dtype_object": "expects other words of activations that are no numbers",
}


def data_of(n=60, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "number": rng.choice(["sg", "pl"], n),
            "length": rng.normal(size=n),
            "clauses": rng.integers(0, 3, n),
        }
    )
    table.loc[3, "number"] = None
    units = rng.normal(size=(n, 4)) + 2 * (table["number"] == "pl").to_numpy()[:, np.newaxis]
    return table, units + 1.5 * table[["length"]].to_numpy()


@pytest.mark.parametrize("options", [{}, {"folds": "pairs", "distance": "manhattan"}], ids=str)
def test_the_estimator_finds_what_the_function_finds(options):
    table, units = data_of()
    model = mx.MLEM(**options).fit(table, units)
    data = mx.from_arrays(units, table, dims=("sentence", "unit"), numeric=["length"])
    expected = mx.multivariate_importance(data, min_max=False, **({"folds": "sentences"} | options))
    xr.testing.assert_identical(model.result_, expected)
    assert model.importance_.to_dict() == expected["importance"].to_series().to_dict()
    assert model.r2_ == float(expected["r2"])
    assert model.feature_names_in_.tolist() == ["number", "length", "clauses"]


def test_the_estimator_takes_tables_of_arrow():
    arrow = pytest.importorskip("pyarrow")
    table, units = data_of(30)
    found = mx.MLEM().fit(arrow.Table.from_pandas(table), units)
    xr.testing.assert_identical(found.result_, mx.MLEM().fit(table, units).result_)


@pytest.mark.parametrize("options", [{}, {"scale": "squared"}, {"target": "none"}], ids=str)
def test_the_score_is_r2_of_pairs_of_other_sentences(options):
    table, units = data_of(90)
    model = mx.MLEM(**options).fit(table[:60], units[:60])
    others, own = table[60:].reset_index(drop=True), units[60:]
    length = others["length"].to_numpy()
    columns = [others["number"].to_numpy(), others["clauses"].to_numpy()]
    levels = plain.feature_distances(columns)
    first, second = np.triu_indices(30, 1)
    apart = np.abs(length[first] - length[second]) / np.ptp(table["length"][:60])
    if options.get("scale") == "squared":
        apart = apart**2
    x = np.column_stack([levels[:, 0], apart, levels[:, 1]])
    y = plain.target(own, "euclidean", min_max=False, zscore=False)
    y = np.sqrt(y) if options.get("target") == "none" else y
    prediction = model.intercept_ + x @ model.coef_
    np.testing.assert_allclose(model.predict_pairs(others), prediction)
    assert model.score(others, own) == pytest.approx(r2_score(y, prediction))


def test_scikit_learn_splits_sentences_and_chooses_options():
    table, units = data_of(120)
    scores = cross_val_score(mx.MLEM(), table, units, cv=4)
    assert scores.shape == (4,) and scores.min() > 0.1
    search = GridSearchCV(mx.MLEM(), {"numeric": [[], ["length"]]}, cv=3).fit(table, units)
    assert search.best_params_ == {"numeric": ["length"]}
    model = mx.MLEM(distance="manhattan", alphas=[1.0])
    assert clone(model).get_params() == model.get_params()
    assert "distance='manhattan'" in repr(model)


def test_arrays_have_features_without_names():
    table, units = data_of()
    model = mx.MLEM().fit(table[["clauses", "length"]].to_numpy(), units)
    assert model.importance_.index.tolist() == ["x0", "x1"]
    with pytest.raises(ValueError, match="3 features, but MLEM is expecting 2"):
        model.score(np.zeros((30, 3)), units[:30])


def test_what_cannot_be_fitted_is_named():
    table, units = data_of()
    with pytest.raises(InputError, match="^distance: unknown value 'near'"):
        mx.MLEM(distance="near").fit(table, units)
    with pytest.raises(InputError, match="^activations: 59 sentences; expected 60"):
        mx.MLEM().fit(table, units[:59])
    units[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        mx.MLEM().fit(table, units)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "check"),
    [
        (getattr(check, "func", check).__name__, check)
        for _, check in estimator_checks_generator(mx.MLEM(), legacy=True)
    ],
)
def test_the_conventions_of_scikit_learn_hold(name, check):
    if name in NOT_HERE:
        pytest.skip(NOT_HERE[name])
    check(mx.MLEM())


def test_what_is_not_fitted_says_so():
    table, units = data_of()
    with pytest.raises(NotFittedError):
        mx.MLEM().predict_pairs(table)
    with pytest.raises(NotFittedError):
        mx.MLEM().score(table, units)
