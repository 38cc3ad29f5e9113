"""Errors over sentences are as large as the spread that they speak of."""

from intervals import coverage


def test_intervals_over_sentences_hold_the_truth_and_those_over_pairs_do_not():
    """Of 40 layers and 240 units; a slow benchmark has the whole table."""
    common = {"n_levels": 2, "copied": 0.6, "repeats": 40, "seed": 1}
    over_sentences = coverage(200, **common)
    over_pairs = coverage(200, folds="pairs", **common)
    for kind in ("layer", "unit"):
        importance, r2 = over_sentences[kind]
        # The first three features are encoded.
        assert (importance[:3] > 0.85).all()
        assert r2 > 0.88
        assert (over_pairs[kind][0][:3] < 0.7).all()
