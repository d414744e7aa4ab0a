"""How the documentation is built: `make docs`. Why with these tools: docs/adr/0017-documentation.md."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import etlkit  # noqa: E402

project = "etlkit"
author = "the authors of etlkit"
copyright = "2026, the authors of etlkit"
release = version = etlkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated", "outward_links"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "etlkit"
html_static_path = ["_static"]
html_css_files = ["etlkit.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
