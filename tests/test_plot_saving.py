import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import holoviews as hv
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import test_plot_units
from figures import importances, parts
from mlem_xr import plot
from mlem_xr.plot import grid, saving, style
from mlem_xr.plot.style import POINTS_SIZE
from mlem_xr.schema import InputError

MAGIC = {
    "png": b"\x89PNG\r\n\x1a\n",
    "pdf": b"%PDF-",
    "svg": b"<?xml",
    "html": b"<!DOCTYPE html>",
}


def profile(n_poolings: int = 2, n_steps: int = 1) -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims = ("step", "pooling", "layer", "feature")
    return xr.Dataset(
        {"importance": (dims, rng.uniform(0.001, 0.1, (n_steps, n_poolings, 4, 2)))},
        coords={
            "model": "bert",
            "step": range(0, 1000 * n_steps, 1000),
            "pooling": [f"pooling{i}" for i in range(n_poolings)],
            "layer": [1, 2, 3, 4],
            "feature": ["tense", "number"],
        },
    )


@cache
def figures() -> dict:
    labels = ["a", "b"]
    scan = xr.Dataset(
        {
            "importance": (("unit", "feature"), np.array([[0.1, 0.2], [0.3, 0.0], [0.1, 0.1]])),
            "r2": ("unit", [0.1, 0.2, 0.3]),
        },
        coords={"feature": labels},
    )
    matrix = xr.DataArray(
        [[1, 0.3], [0.3, np.nan]],
        dims=("feature", "other_feature"),
        coords={"feature": labels, "other_feature": labels},
    )
    position = xr.DataArray(
        np.arange(12.0).reshape(2, 3, 2) ** 2,
        dims=("layer", "sentence", "axis"),
        coords={"a": ("sentence", ["x", "y", "x"]), "b": ("sentence", [0.1, 0.2, np.nan])},
    )
    return {
        "profile": plot.feature_importance(profile()),
        "top_k": plot.top_k(profile().rename(layer="k")),
        "correlation": plot.correlation(matrix),
        "mds": plot.mds(position, color="a"),
        "mds plain": plot.mds(position[0]),
        "clusters": plot.clusters(scan, xr.DataArray([0, 1, 1], dims="unit")),
        "distribution": plot.unit_distribution(scan),
        "map": plot.unit_map(scan),
        "compare": plot.compare(profile(1), profile(1)),
        "decoding": plot.decoding(profile(1).rename(importance="auc")),
        "decomposition": plot.decomposition(parts()),
        "hierarchy": plot.mds(position, hierarchy=["a", "b"]),
        "distribution of r2": plot.unit_distribution(scan, show="r2"),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", MAGIC)
def test_every_figure_is_saved_in_every_format(tmp_path, extension):
    # Files of vectors are drawn as images are.
    some = figures() if extension in ("png", "html") else dict(list(figures().items())[::3])
    for name, figure in some.items():
        path = tmp_path / f"{name}.{extension}"
        plot.save(figure, path)
        data = path.read_bytes()
        assert data.startswith(MAGIC[extension]), name
        assert len(data) > 3000, name
    assert len(list(tmp_path.iterdir())) == len(some) > 3


def with_more_elements() -> None:
    """Draw seeds, a second axis, lines through boxes, and how many units are significant."""
    seeds = importances(model=1, step=1, pooling=1).squeeze(drop=True)
    plot.feature_importance(seeds)
    plot.feature_importance(seeds.sel(layer=2))
    plot.feature_importance(seeds, decoding=seeds.rename(importance="auc"))
    units = test_plot_units.scan()
    whole = units.importance.max("unit").to_dataset()
    p_values = test_plot_units.p_values_of_units()
    options = {"features": test_plot_units.FEATURES, "top_units": whole.expand_dims(k=[1, 8])}
    plot.unit_distribution(units, multivariate=whole, significant=p_values, **options)


def test_what_a_figure_says_of_its_elements_is_said_of_some(monkeypatch):
    """Options of elements with another name would be lost without a word."""
    said, there = set(), set()

    def note(figure, *arguments, **options):
        there.update(figure.traverse(lambda one: f"{type(one).__name__}.{one.group}"))
        for backend in ("bokeh", "matplotlib", "both"):
            said.update(name for name in options.get(backend, {}) if "." in name)
        return style.styled(figure, *arguments, **options)

    modules = [module for name, module in sys.modules.items() if name.startswith("mlem_xr.plot.")]
    for module in modules:
        if module is not style and hasattr(module, "styled"):
            monkeypatch.setattr(module, "styled", note)
    figures.__wrapped__()
    with_more_elements()
    assert len(said) > 10
    assert said <= there


def test_a_page_needs_nothing_from_the_network(tmp_path):
    plot.save(plot.feature_importance(profile()), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "BEGIN bokeh.min.js" in page
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)
    assert tags
    assert not [tag for tag in tags if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag)]
    assert "@import" not in page


def test_a_page_holds_every_frame_and_its_selectors(tmp_path):
    result = profile(n_poolings=3, n_steps=4)
    plot.save(plot.feature_importance(result), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    for pooling in result.pooling.values:
        for step in ("0", "1,000", "2,000", "3,000"):
            assert f"pooling: {pooling}" in page
            assert f"step: {step}, pooling: {pooling}" in page


def test_a_page_says_where_there_is_no_data(tmp_path):
    result = profile(n_poolings=2, n_steps=2)
    result.importance.loc[{"pooling": "pooling1", "step": 1000}] = np.nan
    figure = plot.feature_importance(result)
    plot.save(figure, tmp_path / "p.html")
    page = re.sub(r"\s+|\\+n", " ", (tmp_path / "p.html").read_text())
    assert "no values step: 1,000, pooling: pooling1" in page
    assert len(figure) == 4


@pytest.mark.filterwarnings("error")
def test_a_page_of_few_recorded_combinations_looks_for_no_limits(tmp_path, monkeypatch):
    result = profile(n_poolings=3, n_steps=3).expand_dims(seed=3).copy(deep=True)
    recorded = xr.DataArray(np.eye(3, dtype=bool), dims=("step", "pooling"))
    single = (result.seed == 0) | (result.step > 0)
    result["importance"] = result.importance.where(recorded & single)
    figure = plot.feature_importance(result)
    full = [key for key, frame in figure.data.items() if frame.group != "Empty"]
    steps = ("0", "1,000", "2,000")
    assert full == [(steps[i], f"pooling{i}") for i in range(3)]
    looked = []
    for element in (hv.Curve, hv.Scatter, hv.Spread):
        monkeypatch.setattr(element, "range", lambda *args, **options: looked.append(args))
    plot.save(figure, tmp_path / "p.html")
    assert not looked
    page = re.sub(r"\s+|\\+n", " ", (tmp_path / "p.html").read_text())
    for step, name in enumerate(("0", "1,000", "2,000")):
        for pooling in range(3):
            absent = f"no values step: {name}, pooling: pooling{pooling}" in page
            assert absent == (step != pooling)


def drawn(figure, **options) -> list:
    """Return the panels of an image."""
    return [axis for axis in grid.drawn(grid.cells_of(figure), **options).axes if axis.get_title()]


def test_an_image_has_one_panel_per_frame_and_shows_its_numbers():
    result = profile(n_poolings=3, n_steps=2)
    axes = drawn(plot.feature_importance(result, features=["tense"]))
    assert [" ".join(axis.get_title().split()) for axis in axes] == [
        f"step: {step}, pooling: pooling{p}" for step in ("0", "1,000") for p in range(3)
    ]
    values = result.importance.sel(feature="tense").values.reshape(6, 4)
    for axis, expected in zip(axes, values, strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), expected)
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), [1, 2, 3, 4])
        assert axis.get_yscale() == "log"
        low, high = axis.get_ylim()
        assert low < values.min() < values.max() < high
    figure = axes[0].figure
    assert figure.get_suptitle() == "bert"
    assert figure.get_supxlabel() == "layer"
    assert figure.get_supylabel() == "importance (increase of squared error)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tense"]
    assert not [axis for axis in axes if axis.get_legend()]


def test_the_numbers_of_an_axis_that_goes_through_a_row_stand_once():
    def numbered(figure):
        axes = drawn(figure)
        axes[0].figure.draw_without_rendering()
        return [
            any(label.get_visible() and label.get_text() for label in axis.get_yticklabels())
            for axis in axes
        ]

    result = profile(n_poolings=3, n_steps=2)
    assert numbered(plot.feature_importance(result)) == [True, False, False] * 2
    both = plot.feature_importance(profile()) + plot.feature_importance(profile(), log=False)
    assert numbered(both) == [True] * 4


def shape(figure) -> list[int]:
    return [len(row) for row in grid.cells_of(figure)]


def test_panels_lie_in_the_rows_of_the_first_slider():
    assert shape(plot.feature_importance(profile(3, 4))) == [3] * 4
    assert shape(plot.feature_importance(profile(5, 2))) == [5] * 2
    assert shape(plot.feature_importance(profile(3))) == [3]
    assert shape(plot.feature_importance(profile(4))) == [2, 2]
    # One figure beside nothing is as it is alone.
    assert shape(hv.Layout([plot.feature_importance(profile(4))])) == [2, 2]
    assert shape(plot.feature_importance(profile(12))) == [4] * 3


def test_empty_cells_keep_their_place_and_say_why():
    result = profile(n_poolings=3, n_steps=2)
    result.importance.loc[{"step": 0, "pooling": "pooling1"}] = np.nan
    figure = plot.feature_importance(result)
    axes = drawn(figure)
    assert len(axes) == 6
    texts = [[text.get_text() for text in axis.texts] for axis in axes]
    assert texts == [[], ["no values"], [], [], [], []]
    assert "no values" not in axes[1].get_title()
    axes[0].figure.draw_without_rendering()
    for name in ("xscale", "yscale", "xlim", "ylim", "xticks", "xticklabels"):
        empty, other = (str(getattr(axis, f"get_{name}")()) for axis in axes[1:3])
        assert empty == other, name
    boxes = [axis.get_position() for axis in axes]
    for column in range(3):
        assert boxes[column].x0 == pytest.approx(boxes[column + 3].x0)
    for row in (0, 3):
        assert len({round(box.y0, 6) for box in boxes[row : row + 3]}) == 1
    # A map of the user's that lacks a frame has an empty cell, too.
    lacking = figure.clone({k: v for k, v in figure.data.items() if k != ("1,000", "pooling2")})
    assert [cell.reason for row in grid.cells_of(lacking) for cell in row] == [
        "", "no values", "", "", "", "no values"
    ]  # fmt: skip


def test_parts_of_a_layout_are_the_columns_of_their_common_frames():
    result = profile(n_poolings=3)
    both = plot.feature_importance(result) + plot.feature_importance(result, log=False)
    assert shape(both) == [2, 2, 2]
    assert [cell.title for row in grid.cells_of(both) for cell in row] == [
        f"pooling: pooling{i}" for i in (0, 0, 1, 1, 2, 2)
    ]


def test_a_figure_of_one_frame_has_title_and_labels_of_its_own():
    (axis,) = drawn(plot.feature_importance(profile(1)))
    assert axis.get_title() == "bert, step 0, pooling pooling0"
    assert axis.get_xlabel() == "layer"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "3", "4"]


def test_figures_side_by_side_are_saved(tmp_path):
    both = plot.feature_importance(profile(2)) + figures()["correlation"]
    assert shape(both) == [3]
    plot.save(both, tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 3000


@cache
def crowded() -> dict:
    rng = np.random.default_rng(0)
    names = [f"subordinate_clause_FEATURE{i}" for i in range(25)]
    result = xr.Dataset(
        {"importance": (("pooling", "layer", "feature"), rng.uniform(1e-4, 0.1, (3, 30, 25)))},
        coords={
            "model": "a-model-with-a-rather-long-name-of-some-forty-letters",
            "pooling": ["first-token", "mean", "last-token"],
            "layer": range(1, 31),
            "feature": names,
        },
    )
    one = result.sel(pooling="mean")
    return {
        "lines": plot.feature_importance(one, top=25),
        "panels": plot.feature_importance(result, top=9),
        "dots": plot.feature_importance(one.sel(layer=[3]), top=25),
        **{name: figures()[name] for name in ("correlation", "mds", "clusters", "distribution")},
    }


@pytest.mark.parametrize(
    ("width", "millimeters", "every"), [("column", 85, 1), ("page", 178, 3), (60, 60, 3)]
)
def test_a_figure_of_a_given_width_has_readable_text_and_nothing_cut(width, millimeters, every):
    for name, figure in list(crowded().items())[::every]:
        made = grid.drawn(grid.cells_of(figure), width=saving._millimeters(width))
        made.draw_without_rendering()
        assert made.get_size_inches()[0] * 25.4 == pytest.approx(millimeters), name
        for text in made.findobj(matplotlib.text.Text):
            if text.get_visible() and text.get_text():
                assert 6.5 <= text.get_fontsize() <= 8.5, (name, text)
        box = made.get_tightbbox()
        wide, high = made.get_size_inches()
        tolerance = 0.02
        assert box.x0 > -tolerance and box.y0 > -tolerance, name
        assert box.x1 < wide + tolerance and box.y1 < high + tolerance, name
        for axis in made.axes:
            view, data = axis.viewLim, axis.dataLim
            assert view.x0 <= data.x0 and data.x1 <= view.x1, name
            assert min(view.intervaly) <= data.y0 and data.y1 <= max(view.intervaly), name


@pytest.mark.parametrize("width", [None, 85, 178])
def test_the_legend_hides_nothing_of_the_title(width):
    result = profile().assign_coords(model="a model with a long name of many words " * 2)
    made = grid.drawn(grid.cells_of(plot.feature_importance(result)), width=width)
    made.draw_without_rendering()
    [legend] = made.legends
    title = made._suptitle.get_window_extent()
    assert not title.overlaps(legend.get_window_extent())
    assert title.x0 >= 0
    size = legend.get_texts()[0].get_fontsize()
    assert size == POINTS_SIZE["legend"] if width is None else size >= 6.5


def test_a_legend_below_the_panels_has_as_many_columns_as_fit():
    made = grid.drawn(grid.cells_of(crowded()["panels"]), width=110)
    made.draw_without_rendering()
    [legend] = made.legends
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    columns, rows = {round(box.x0) for box in boxes}, {round(box.y0) for box in boxes}
    assert (len(boxes), len(columns), len(rows)) == (9, 2, 5)
    assert 2 / 3 < legend.get_window_extent().width / made.bbox.width <= 1


def test_no_two_names_of_layers_touch():
    for name in ("lines", "panels"):
        made = grid.drawn(grid.cells_of(crowded()[name]), width=85)
        made.draw_without_rendering()
        for axis in made.axes:
            boxes = [t.get_window_extent() for t in axis.get_xticklabels() if t.get_text()]
            assert len(boxes) >= 2
            assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))


def test_an_image_has_the_width_and_the_dots_asked_for(tmp_path):
    figure = plot.feature_importance(profile())
    for options, pixels in (
        ({"width": "column"}, 85 / 25.4 * 300),
        ({"width": 100, "dpi": 100}, 100 / 25.4 * 100),
    ):
        plot.save(figure, tmp_path / "p.png", **options)
        assert plt.imread(tmp_path / "p.png").shape[1] == pytest.approx(pixels, abs=2)
    plot.save(figure, tmp_path / "p.svg", width=85)
    width = re.search(r'<svg [^>]*width="([\d.]+)pt"', (tmp_path / "p.svg").read_text())[1]
    assert float(width) == pytest.approx(85 / 25.4 * 72, abs=0.1)


def test_letters_are_part_of_vector_files(tmp_path):
    figure = plot.feature_importance(profile())
    plot.save(figure, tmp_path / "p.pdf")
    data = (tmp_path / "p.pdf").read_bytes()
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
    plot.save(figure, tmp_path / "p.svg")
    assert "<text" not in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "wide"}, "width: found 'wide'; expected 'column', 'page' or 30 to 2000"),
        ({"width": 5}, "width: found 5; expected"),
        ({"width": True}, "width: found True; expected"),
        ({"dpi": 0}, "dpi: found 0; expected an integer of at least 20 and below 2401"),
        ({"dpi": 99.5}, "dpi: found 99.5"),
    ],
)
def test_impossible_sizes_are_named(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        plot.save(hv.Curve([1, 2]), tmp_path / "p.png", **options)
    with pytest.raises(InputError, match="width, dpi: a page has none"):
        plot.save(hv.Curve([1, 2]), tmp_path / "p.html", **options)


def test_options_of_holoviews_go_on_working(tmp_path):
    figure = plot.feature_importance(profile(1)).opts(
        title="My title", ylabel="my label", fontsize=14, backend="matplotlib"
    )
    for width in (None, 85):
        (axis,) = drawn(figure, width=width)
        assert axis.get_ylabel().replace("\n", " ") == "my label"
        assert axis.yaxis.label.get_size() == 14
        assert axis.get_title() == "My title"


def test_too_many_frames_for_an_image_are_refused(tmp_path):
    figure = plot.feature_importance(profile(25))
    with pytest.raises(InputError, match="25 frames, an image shows 1 to 24; .*'pooling'"):
        plot.save(figure, tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_too_many_frames_for_a_page_are_refused(tmp_path):
    frames = hv.HoloMap({(i, i): hv.Curve([1, 2]) for i in range(40)}, ["step", "model"])
    with pytest.raises(InputError, match="1600 combinations, .* 1000; .*'step' or 'model'"):
        plot.save(frames, tmp_path / "p.html")
    assert not list(tmp_path.iterdir())


def test_the_sliders_combinations_are_counted():
    figure = plot.feature_importance(profile(n_poolings=3, n_steps=4))
    poolings = ["pooling0", "pooling1", "pooling2"]
    assert grid.values_of(figure) == [["0", "1,000", "2,000", "3,000"], poolings]
    assert grid.values_of(hv.Curve([1, 2])) == []


def test_what_a_link_leads_to_is_saved(tmp_path):
    (tmp_path / "p.svg").symlink_to(tmp_path / "latest")
    plot.save(hv.Curve([1, 2]), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").is_symlink()
    assert "<svg" in (tmp_path / "latest").read_text()


@pytest.mark.parametrize("name", ["p.gif", "p", "p.png.txt"])
def test_an_unknown_extension_lists_the_known_ones(tmp_path, name):
    with pytest.raises(InputError, match=r"p.*; expected .png, .svg, .pdf or .html"):
        plot.save(hv.Curve([1, 2]), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "figures" / "bert" / "p.png"
    plot.save(hv.Curve([1, 2]), path)
    assert path.read_bytes().startswith(MAGIC["png"])
    plot.save(hv.Curve([1, 2]), path)
    assert [file.name for file in path.parent.iterdir()] == ["p.png"]


def test_a_refused_figure_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="25 frames"):
        plot.save(plot.feature_importance(profile(25)), tmp_path / "figures" / "p.png")
    assert not list(tmp_path.iterdir())


def test_something_else_than_a_figure_is_refused(tmp_path):
    with pytest.raises(InputError, match="^figure: expected a HoloViews object, found Dataset"):
        plot.save(profile(), tmp_path / "p.png")


def test_upper_case_extensions_and_strings_work(tmp_path):
    plot.save(hv.Curve([1, 2]), str(tmp_path / "P.PNG"))
    assert (tmp_path / "P.PNG").read_bytes().startswith(MAGIC["png"])


def test_an_existing_file_is_replaced(tmp_path):
    (tmp_path / "p.svg").write_text("before")
    plot.save(hv.Curve([1, 2]), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_bytes().startswith(MAGIC["svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["p.svg"]


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "p.png").write_text("before")

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        plot.save(hv.Curve([1, 2]), tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    assert (tmp_path / "p.png").read_text() == "before"


def test_saving_leaves_pyplot_alone(tmp_path):
    with matplotlib.rc_context():
        plt.ion()
        mine = plt.figure()
        before = (plt.get_fignums(), plt.gcf(), plt.isinteractive(), dict(matplotlib.rcParams))
        plot.save(plot.feature_importance(profile()), tmp_path / "p.png")
        after = (plt.get_fignums(), plt.gcf(), plt.isinteractive(), dict(matplotlib.rcParams))
        plt.close(mine)
    assert before == after


def test_importing_changes_no_setting_of_matplotlib_or_holoviews():
    program = """
import matplotlib
matplotlib.use("svg")
before = dict(matplotlib.rcParams)
import holoviews as hv
hv.extension("matplotlib")
import mlem_xr.plot
assert hv.Store.current_backend == "matplotlib"
assert matplotlib.get_backend() == "svg"
assert dict(matplotlib.rcParams) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_first_frame_without_values_leaves_the_text_of_print_as_it_is():
    rows = grid.cells_of(plot.feature_importance(profile(3)))
    sizes = []
    for cells in (rows, [[grid.Cell("none", None), *rows[0][1:]]]):
        last = [axis for axis in grid.drawn(cells, width=180).axes if axis.get_title()][-1]
        sizes.append(last.title.get_fontsize())
    assert sizes[0] == sizes[1]
