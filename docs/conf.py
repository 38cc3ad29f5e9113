"""Settings of the documentation's pages: python3 run.py docs."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "mlem_xr"
author = "the mlem_xr authors"
project_copyright = "the mlem_xr authors"
release = metadata.version("mlem_xr")
html_title = "mlem_xr"

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "extension",
]
exclude_patterns = ["_build"]
templates_path = ["templates"]

# Links to what is ours must lead somewhere; other libraries' names are code, as nothing is fetched.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!mlem_xr\b).*")]
default_role = "py:obj"
smartquotes = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
nb_execution_mode = "off"
nb_merge_streams = True
# Figures bring a form for JupyterLab too, which pages leave aside.
suppress_warnings = ["mystnb.unknown_mime_type"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_use_plots = False
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "mlem_xr"},
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
}
