"""Figures in notebooks and browsers: they appear by themselves, with selectors, offline."""

import shutil
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import holoviews as hv
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image as Picture

from figures import importances
from mlem_xr import plot
from mlem_xr.running.progress import say
from mlem_xr.schema import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

DATA = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import mlem_xr as mx
from figures import importances
result = importances()
result.importance.loc[{{"model": "bert", "step": 0}}] = np.nan
"""
ONE_FRAME = "mx.plot.feature_importance(result.sel(model='bert', step=-1, pooling='mean'))"
BAR = """
from mlem_xr.running.progress import progress_bar
with progress_bar("scan", 5, unit="units") as bar:
    bar.update(5)
"""


def run(cells):
    """Run a notebook of named cells; return what each shows."""
    code = [nbformat.v4.new_code_cell(source) for source in cells.values()]
    notebook = nbformat.v4.new_notebook(cells=code)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}


@pytest.fixture(scope="module")
def shown():
    return run(
        {
            "say": "from mlem_xr.running.progress import say; say('2 representations computed')",
            "bar": BAR,
            "import": DATA,
            "draw": "figure = mx.plot.feature_importance(result.sel(model='mini', step=-1))",
            # Before any figure has brought its scripts.
            "image": "mx.plot.image(figure, width='column', dpi=96)",
            "first figure": "mx.plot.feature_importance(result)",
            "second figure": ONE_FRAME,
        }
    )


@pytest.fixture(scope="module")
def shown_otherwise():
    """Without widgets, and with another extension that the user has loaded."""
    return run(
        {
            "hide": "import sys; sys.modules['ipywidgets'] = None",
            "bar": BAR,
            "import": DATA,
            "load": "import holoviews as hv; hv.extension('matplotlib', logo=False, inline=False)",
            "figure": ONE_FRAME,
        }
    )


def test_a_figure_is_the_last_line_of_a_cell_and_nothing_else(shown):
    first, second = shown["first figure"], shown["second figure"]
    [result] = [output for output in first if output.output_type == "execute_result"]
    page = result["data"]["text/html"]
    for name in ("model", "step", "pooling"):
        assert f'"{name}"' in page
    assert page.index("Figure") < page.index("Select")
    scripts = [o["data"].get("application/javascript", "") for o in first if "data" in o]
    assert max(map(len, scripts)) > 500_000, "bokeh itself is in the notebook, not on a network"
    [result] = [output for output in second if output.output_type == "execute_result"]
    assert "Figure" in result["data"]["text/html"]
    # Scripts are loaded once.
    assert max(len(str(output)) for output in second) < 500_000


def test_an_image_is_what_is_saved_and_brings_no_scripts(shown, tmp_path):
    assert shown["draw"] == []
    [image] = shown["image"]
    figure = plot.feature_importance(importances().sel(model="mini", step=-1))
    plot.save(figure, tmp_path / "figure.png", width="column", dpi=96)
    found = np.asarray(Picture.open(BytesIO(b64decode(image["data"]["image/png"]))))
    np.testing.assert_array_equal(found, np.asarray(Picture.open(tmp_path / "figure.png")))
    assert "text/html" not in image["data"]
    assert image["metadata"]["image/png"]["width"] == found.shape[1] == 321
    finer = plot.image(figure, width="column", dpi=192)._repr_png_()[1]
    assert abs(finer["width"] - 321) <= 1


@pytest.mark.parametrize("wrong", [{"width": "wide"}, {"dpi": 1}])
def test_an_image_is_refused_for_what_is_refused_in_files(wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: found"):
        plot.image(hv.Curve([1, 2]), **wrong)
    with pytest.raises(InputError, match="^figure: expected a HoloViews object, found int"):
        plot.image(3)


def test_an_extension_that_the_user_has_loaded_stays(shown_otherwise):
    [figure] = shown_otherwise["figure"]
    assert "data:image/png" in figure["data"]["text/html"]


def test_a_program_that_imports_the_kernel_is_no_notebook(capsys):
    import ipykernel.kernelapp  # noqa: F401

    say("2 representations computed")
    assert capsys.readouterr() == ("", "2 representations computed\n")


def test_lines_beside_a_bar_are_not_red(shown):
    assert [(o.name, o.text) for o in shown["say"]] == [("stdout", "2 representations computed\n")]


def test_a_progress_bar_warns_of_nothing(shown, shown_otherwise):
    bars = [" ".join(map(str, cells["bar"])) for cells in (shown, shown_otherwise)]
    assert ["widget" in bar for bar in bars] == [True, False]
    for bar in bars:
        assert "scan" in bar
        assert "Warning" not in bar and "IProgress" not in bar


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_saved_page_opens_offline_on_a_frame_with_values(tmp_path):
    from playwright.sync_api import sync_playwright

    result = importances(pooling=3)
    result.importance.loc[{"model": "bert", "step": 0}] = np.nan
    plot.save(plot.feature_importance(result), tmp_path / "page.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("select")
        page.wait_for_timeout(1000)
        chosen = page.eval_on_selector_all("select", "all => all.map(s => s.value)")
        options = page.eval_on_selector_all(
            "select", "all => all.map(s => Array.from(s.options).map(o => o.value))"
        )
        drawn = page.evaluate(
            "Bokeh.documents[0].roots().length && Array.from(Bokeh.documents[0]._all_models"
            ".values()).filter(m => m.type === 'Title').map(m => m.text)"
        )
        browser.close()
    assert not errors
    assert not [url for url in asked if url.startswith("http")]
    assert chosen == ["bert", "20,000", "first-token"]
    assert options == [
        ["bert", "mini"],
        ["0", "20,000", "final"],
        ["first-token", "mean", "last-token"],
    ]
    assert any("step: 20,000" in text for text in drawn)
