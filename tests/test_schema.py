import numpy as np
import pytest
import xarray as xr

from mlem_xr.schema import (
    InputError,
    check_features,
    check_integer,
    choose,
    select,
    several,
    values_of,
)


def test_the_labels_that_are_asked_for_are_selected_in_their_order():
    data = xr.Dataset(coords={"layer": [1, 2, 3]})
    assert select(data, {"layer": [3, 1, 3]}).layer.values.tolist() == [3, 1]
    assert select(data, {"layer": []}).layer.size == 3
    assert select(data, {"layer": None}).layer.size == 3
    with pytest.raises(InputError, match="^layer: unknown value 4; known: 1, 2, 3"):
        select(data, {"layer": [4]})
    with pytest.raises(InputError, match="^dimension: unknown value 'head'; known: 'layer'"):
        select(data, {"head": [1]})


def test_features_are_the_coordinates_over_sentences():
    table = xr.Dataset(
        coords={"number": ("sentence", ["sg", "pl"]), "text": ("sentence", ["a", "b"])}
    )
    assert check_features(table) == ["number"]
    assert check_features(table.assign_coords(other=("sentence", [1, 2])), "other") == ["other"]


def test_what_is_known_is_listed():
    assert choose("pooling", "mean", ["mean", "first-token"]) == "mean"
    with pytest.raises(InputError, match="^k: unknown value 3; known: none"):
        choose("k", np.int64(3), [])


@pytest.mark.parametrize("value", [2.5, True, "1", None, 0, 10])
def test_whole_numbers_of_a_range_are_accepted_alone(value):
    assert check_integer("n", np.int32(9), at_least=1, below=10) == 9
    with pytest.raises(
        InputError, match="^n: found .*; expected an integer of at least 1 and below"
    ):
        check_integer("n", value, at_least=1, below=10)


def test_values_of_an_array_are_along_one_dimension():
    assert values_of("layer", np.array([1, 2])) == [1, 2]
    for array in (np.ones((2, 2)), xr.DataArray(np.ones((1, 2)))):
        with pytest.raises(InputError, match="^layer: found .*; expected one value or a list"):
            values_of("layer", array)


def test_values_that_are_there_twice_count_once_or_are_refused():
    assert several("layer", [2, 1, 2], lambda _, value: value) == [2, 1]
    with pytest.raises(InputError, match="^layer: "):
        several("layer", [2, 1, 2], lambda _, value: value, twice=False)
