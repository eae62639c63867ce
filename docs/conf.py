"""Configuration of the documentation site: sphinx-build -W --keep-going -n docs OUT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ssltool

project = "ssltool"
author = "ssltool maintainers"
copyright = "ssltool maintainers"
version = release = ssltool.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "tables",
    "commands",
    "sources",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "quality"]

html_theme = "furo"
html_title = f"ssltool {version}"
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 4

smartquotes = False  # they turn -- of flags into a dash
default_role = "code"  # docstrings quote names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
nitpick_ignore_regex = [
    # No inventories are read, so that the site builds offline.
    (
        r"py:.*",
        r"(torch|numpy|pydantic|pathlib|os|collections|typing|annotated_types|PIL|Path)\b.*",
    ),
    (r"py:class", "Format"),  # of an export: a Literal, written out where it is an option
    (r"py:.*", r"ssltool\.methods\.base\.(OptionsT|ViewT)"),
]
