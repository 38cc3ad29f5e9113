import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mlem_xr as mx
from helpers import lazy
from mlem_xr.schema import InputError


def test_a_row_per_cell_and_feature(activations):
    result = mx.multivariate_importance(lazy(activations), mae=True)
    table = mx.to_dataframe(result)
    assert len(table) == 2 * 2 * 3 * 4
    columns = ["model", "seed", "step", "pooling", "layer", "feature"]
    assert table.columns[:6].tolist() == columns
    assert table.columns[6:].tolist() == [
        *("importance", "std_error", "p_value", "weight_fold0", "weight_fold1"),
        *("alpha_fold0", "alpha_fold1", "intercept_fold0", "intercept_fold1"),
        *("r2", "r", "mse", "variance", "mae"),
    ]
    for row in table.itertuples():
        labels = {name: getattr(row, name) for name in columns[:5]}
        assert labels["step"] == "final"
        part = result.sel(labels | {"step": -1})
        assert row.importance == part["importance"].sel(feature=row.feature)
        assert row.weight_fold1 == part["weight"].sel(feature=row.feature, fold=1)
        assert row.r2 == part["r2"]


def test_steps_are_numbers_unless_one_is_final(activations, tmp_path):
    both = xr.concat(
        [activations, activations.assign_coords(step=[20_000])], "step", data_vars="minimal"
    ).assign_attrs(activations.attrs)
    result = mx.multivariate_importance(both)
    table = mx.to_dataframe(result)
    assert set(table["step"]) == {"final", "20000"}
    mx.write_table(table, tmp_path / "table.parquet")
    numbers = mx.to_dataframe(result.sel(step=[20_000]))["step"]
    assert set(numbers) == {20_000} and numbers.dtype.kind == "i"


def test_a_selection_keeps_its_labels(activations):
    result = mx.univariate_importance(activations).sel(seed=1, layer=2, model="toy", step=-1)
    table = mx.to_dataframe(result)
    assert len(table) == 2 * 5 * 4
    assert set(table["seed"]) == {1}
    assert set(table["layer"]) == {2}
    assert set(table["unit"]) == set(range(5))


def test_units_of_concatenated_layers_keep_their_layer(activations):
    table = mx.to_dataframe(mx.univariate_importance(mx.concatenate_layers(activations)))
    assert table.columns[4:9].tolist() == ["layer", "unit", "unit_layer", "unit_number", "feature"]
    assert (table["unit"] == 5 * (table["unit_layer"] - 1) + table["unit_number"]).all()
    assert len(table) == 2 * 2 * 15 * 4


def test_what_was_not_recorded_has_no_row(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 3:] = np.nan
    table = mx.to_dataframe(mx.univariate_importance(activations))
    assert set(table["seed"]) == {0}
    assert len(table) == 2 * (3 + 5 + 5) * 4


def test_names_of_the_original_program(activations):
    result = mx.multivariate_importance(activations.assign_coords(step=[20_000]), mae=True)
    ours = mx.to_dataframe(result)
    table = mx.to_dataframe(result, names="original")
    for original, name in {
        **{"Feature": "feature", "importance": "importance", "std": "std_error"},
        **{"pval": "p_value", "score_R2": "r2", "score_R": "r", "score_MSE": "mse"},
        **{"score_MAE": "mae", "layer": "layer", "seed": "seed", "model": "model"},
        "take_activation_from": "pooling",
    }.items():
        pd.testing.assert_series_equal(table[original], ours[name], check_names=False)
    assert set(table["Method"]) == {"Multivariate"}
    assert set(table["step"]) == {20}
    univariate = mx.to_dataframe(mx.univariate_importance(activations), names="original")
    assert set(univariate["Method"]) == {"Univariate"}
    assert univariate["step"].isna().all()


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "deep/table.parquet"])
def test_tables_are_written_and_read(activations, tmp_path, name):
    table = mx.to_dataframe(mx.multivariate_importance(activations))
    path = tmp_path / name
    mx.write_table(table, path)
    read = pd.read_parquet(path) if name.endswith("parquet") else pd.read_csv(path)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # Numbers of rows are no part of a table.
    mx.write_table(table[::2], path)
    again = pd.read_parquet(path) if name.endswith("parquet") else pd.read_csv(path)
    expected = table[::2].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected, check_dtype=False)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_equal_tables_make_equal_files(tmp_path, ending):
    table, paths = pd.DataFrame({"a": [1, 2]}), [tmp_path / f"{name}{ending}" for name in "ab"]
    for path in paths:
        mx.write_table(table, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_a_link_leads_to_is_written(tmp_path):
    """Whether it is there, is of another name or is in a folder that is still to be made."""
    table = pd.DataFrame({"sentence": list("abcd"), "a": [1, 2, 1, 2]})
    old, links = tmp_path / "old", tmp_path / "links"
    old.write_text("old")
    links.mkdir()
    (links / "a.csv").symlink_to(old)
    (links / "b.csv").symlink_to("../new/b.csv")
    (links / "c.csv").symlink_to("a.csv")
    (tmp_path / "folder").symlink_to(links)
    mx.write_table(table, links / "a.csv")
    mx.write_table(table, tmp_path / "folder" / "b.csv")
    assert old.read_text() == (tmp_path / "new" / "b.csv").read_text()
    mx.write_stimuli(mx.read_stimuli(table), links / "c.csv")
    pd.testing.assert_frame_equal(pd.read_csv(old), table)
    assert {path.name for path in links.iterdir() if path.is_symlink()} == {
        "a.csv",
        "b.csv",
        "c.csv",
    }
    assert len(list(links.iterdir())) == 3 and len(list((tmp_path / "new").iterdir())) == 1
    (links / "d.csv").symlink_to(old / "d.csv")
    with pytest.raises(InputError, match="old is no folder; expected a file in a folder"):
        mx.write_table(table, links / "d.csv")


def test_bad_input_is_named(activations, tmp_path):
    result = mx.multivariate_importance(activations)
    with pytest.raises(InputError, match="^names: unknown value 'mlem'; known: 'mlem_xr', 'orig"):
        mx.to_dataframe(result, names="mlem")
    with pytest.raises(InputError, match="expected an xarray Dataset"):
        mx.to_dataframe(result["r2"])
    with pytest.raises(InputError, match="table.txt; expected .csv, .csv.gz or .parquet"):
        mx.write_table(mx.to_dataframe(result), "table.txt")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="folder.csv is a folder; expected a file in a folder"):
        mx.write_table(mx.to_dataframe(result), tmp_path / "folder.csv")
    with pytest.raises(InputError, match="file is no folder; expected a file in a folder"):
        mx.write_table(mx.to_dataframe(result), tmp_path / "file" / "table.csv")
