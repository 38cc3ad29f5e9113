"""The randomization test: its time against a plain loop over draws, its size and its power."""

import numpy as np
import pytest
from measuring import alone, features, report, seconds, simulated
from sizes import in_markdown, table

import mlem_xr as mx
from mlem_xr.analyses.randomization import RandomizationOptions
from mlem_xr.cli.demo import MODEL, demo_weights
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.randomization import randomization_design, randomize
from mlem_xr.stimuli.pairs import feature_codes

N_UNITS, N_DRAWS = 768, 999


def one_layer(name, per):
    """The result of a layer, and seconds with the draws there, and for the draws."""
    data = simulated(mx.read_stimuli(name), 1, N_UNITS).isel(layer=0)
    codes = feature_codes(data).values
    items = np.repeat(np.arange(len(codes), dtype=np.int32)[:, np.newaxis], codes.shape[1], axis=1)
    design = randomization_design(features_of(codes), items, N_DRAWS, 0)
    _, drawing = seconds(lambda: [design.drawn(k) for k in range(codes.shape[1])])
    options = RandomizationOptions(per=per)
    arguments = (data["activation"].values, features_of(codes), items, options)
    found, own = seconds(randomize, *arguments, repeats=3)
    return found, own, drawing


def plain_draws(name, unit, n_draws):
    """Recompute pairs and regress for some draws of one unit and feature: t, seconds per draw."""
    stimuli = mx.read_stimuli(name)
    data = simulated(stimuli, 1, N_UNITS).isel(layer=0)
    codes = feature_codes(data).values
    first, second = np.triu_indices(len(codes), 1)
    x = plain_pairs(codes, first, second)
    activation = data["activation"].values[:, unit].astype(float)
    y = (activation[first] - activation[second]) ** 2
    rng = np.random.default_rng(0)

    def again():
        x[:, 0] = plain_pairs(rng.permutation(codes[:, :1]), first, second)[:, 0]
        return regress(x, y, 0)

    return regress(x, y, 0), seconds(again, repeats=n_draws)[1]


def plain_pairs(codes, first, second):
    left, right = codes[first], codes[second]
    return ((left != right) & (left >= 0) & (right >= 0)).astype(float)


def regress(x, y, k):
    """The t of a column in an ordinary regression, the textbook's way."""
    design = np.column_stack([x, np.ones(len(y))])
    product = design.T @ design
    coefficient = np.linalg.pinv(product) @ (design.T @ y)
    residual = y - design @ coefficient
    variance = residual @ residual / (len(y) - np.linalg.matrix_rank(product))
    return coefficient[k] / np.sqrt(variance * np.linalg.pinv(product)[k, k])


@pytest.mark.benchmark
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("per", ["unit", "layer"])
def test_draws_against_the_plain_loop(per, threads):
    (found, own, drawing), _ = alone(one_layer, "short_sentence", per, threads=threads)
    line = f"randomization, 522 x 9 x {N_UNITS}, per {per}, {threads} BLAS threads: {own:.2f} s"
    if per == "unit":
        (t, plainly), _ = alone(plain_draws, "short_sentence", 5, 5, threads=threads)
        assert found["statistic"][5, 0] == pytest.approx(t, rel=1e-5)
        whole = plainly * N_DRAWS * N_UNITS * 9
        line += (
            f"; plain {plainly * 1000:.0f} ms per draw, feature and unit: ratio {whole / own:,.0f}"
        )
    report(f"{line}; the draws, shared by all layers: {drawing:.2f} s")


@pytest.mark.benchmark
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("per", ["unit", "layer"])
def test_draws_of_7680_sentences(per, threads):
    (found, own, drawing), memory = alone(one_layer, "relative_clause", per, threads=threads)
    report(
        f"randomization, 7,680 x 14 x {N_UNITS}, per {per}, {threads} BLAS threads: {own:.2f} s; "
        f"the draws, shared by all layers: {drawing:.2f} s; peak memory {memory / 2**30:.2f} GiB"
    )
    assert np.isfinite(found["p_value"]).all()


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore:features")
def test_a_shuffled_feature_is_significant_as_often_as_is_said(tmp_path):
    """Ten shuffled columns, one after another, in the layers of a real network."""
    stimuli = mx.read_stimuli("short_sentence")
    store = tmp_path / "minilm.zarr"
    mx.record(stimuli, store, model=MODEL, source=demo_weights(), progress=False)
    data = mx.open_store(store).sel(pooling=["mean"], layer=[1, 3, 6]).compute()
    rng = np.random.default_rng(0)
    single, any_unit, tense = [], [], []
    for name in [*features(stimuli), "sentence_TENSE"]:
        shuffled = rng.permutation(stimuli[name].values)
        own = data.assign_coords(shuffled=("sentence", shuffled))
        own.attrs["features"] = [*features(stimuli), "shuffled"]
        test = mx.randomization_test(own, per="unit", n_draws=499)
        found = test.sel(feature="shuffled")
        single.append((found["p_value"] <= 0.05).mean("unit").values.ravel())
        any_unit.append((found["p_value_max"] <= 0.05).any("unit").values.ravel())
        tense.append((test["p_value_max"].sel(feature="sentence_TENSE") <= 0.05).mean())
    report(
        "MiniLM, layers 1, 3, 6: shuffled features are significant at 5 % in "
        f"{np.mean(single):.1%} of the units, family-wise in {np.mean(any_unit):.1%} of "
        f"the layers; tense family-wise in {np.mean(tense):.0%} of the units"
    )
    assert np.mean(single) < 0.08


@pytest.mark.benchmark
def test_size_and_power():
    """At least 2,000 tests in each cell; sentence by sentence is what must not hold with nouns."""
    found = table(n_sets=600, n_power=100)
    report("size and power of the randomization test\n" + in_markdown(found))
    valid = found[~found["setting"].str.contains("sentence by sentence")]
    for level in ("1%", "5%"):
        limit = 1.2 * float(level[:-1]) / 100 + 3 * valid[f"error at {level}"]
        assert (valid[f"size at {level}"] <= limit).all()
    family = valid.dropna(subset="family-wise")
    assert (family["family-wise"] <= 0.06 + 3 * family["error of family-wise"]).all()
