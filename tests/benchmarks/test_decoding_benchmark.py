"""Decoding against the plain scikit-learn loop, in one run and with one thread each."""

import time
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import mlem_xr as mx
from mlem_xr.analyses.decoding import DecodingOptions
from mlem_xr.kernels.decoding import decode
from mlem_xr.stimuli.pairs import feature_codes

FEATURES = ["sentence_TENSE", "subj_ANIM", "subj_NUM"]
"""Two, two and three classes: with more, the plain loop takes minutes."""


def simulated_layer(codes, n_units):
    """Noise in which each feature has a direction that it is not easy to find."""
    rng = np.random.default_rng(n_units)
    signal = sum(rng.normal(size=(20, n_units))[column] for column in codes.values.T)
    return (signal + rng.normal(scale=15, size=(len(codes), n_units))).astype(np.float32)


def plain_auc(activation, label):
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    classifier = LogisticRegressionCV(
        cv=3,
        class_weight="balanced",
        scoring="roc_auc_ovr_weighted",
        solver="newton-cholesky",
        random_state=0,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    scores = []
    for train, test in folds.split(activation, label):
        classifier.fit(activation[train], label[train])
        scores.append(classifier.score(activation[test], label[test]))
    return np.mean(scores)


@pytest.mark.benchmark
@pytest.mark.parametrize("n_units", [384, 768])
def test_decoding_is_the_plain_loop_but_faster(n_units):
    codes = feature_codes(mx.read_stimuli("short_sentence"), FEATURES)
    activation = simulated_layer(codes, n_units)
    for name in FEATURES:
        label = np.unique(codes.sel(feature=name).values, return_inverse=True)[1]
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            expected = plain_auc(activation.astype(np.float64), label)
            plain_time = time.perf_counter() - start
            start = time.perf_counter()
            [auc] = decode(activation, label[:, np.newaxis], DecodingOptions())["auc"]
            own_time = time.perf_counter() - start
        print(
            f"\n522 x {n_units}, {name}, {label.max() + 1} classes: plain {plain_time:.2f} s, "
            f"mlem_xr {own_time:.2f} s, ratio {plain_time / own_time:.1f}; "
            f"AUC {auc:.4f}, off by {abs(auc - expected):.1e}"
        )
        assert auc == pytest.approx(expected, abs=0.002)
