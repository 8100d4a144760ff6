"""Sphinx configuration. `docs/build.py` writes the pages and calls Sphinx."""

import importlib.util
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from refimpl import __version__

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "docs"

project = "refimpl"
author = "The refimpl developers"
copyright = "The refimpl developers, BSD 3-Clause"
release = version = __version__

extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton", "sphinx.ext.mathjax"]
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["config.cache", "ref.python"]  # the latter: types in signatures that two modules have
nitpick_ignore_regex = [("py:.*", r".*")]  # types in signatures; links of the prose are checked by generate/links.py
exclude_patterns = ["parts/**"]

# Tutorials are executed, in full, when the site is built; an unchanged one is taken from the cache.
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_code_prompt_show = "Show the check"
nb_code_prompt_hide = "Hide the check"

html_theme = "furo"
html_title = "refimpl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0060a0",
        "color-brand-content": "#0060a0",
        "color-background-primary": "#ffffff",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        "font-stack--monospace": "ui-monospace, 'SF Mono', 'DejaVu Sans Mono', Menlo, monospace",
    },
    "dark_css_variables": {"color-brand-primary": "#6cc0f5", "color-brand-content": "#6cc0f5"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"

# MathJax from the site itself, so that it can be read without a network.
_mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}


def _copy_files(app, error):
    if error is None and app.builder.format == "html":
        from sphinx.util.fileutil import copy_asset

        copy_asset(_mathjax / "tex-svg-full.js", Path(app.outdir) / "_static" / "mathjax")
        for folder in ("_images", "traces"):  # what only HTML refers to: thumbnails, step-through pages
            if (Path(app.srcdir) / folder).is_dir():
                shutil.copytree(Path(app.srcdir) / folder, Path(app.outdir) / folder, dirs_exist_ok=True)


def setup(app):
    app.connect("build-finished", _copy_files)
