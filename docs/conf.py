"""The documentation site: `make docs` builds it into site/. Nothing in it is loaded from elsewhere."""

import os
import re
import shutil
from pathlib import Path

from audioscope.installed import __version__

ROOT = Path(__file__).resolve().parent.parent
BOOK = Path(os.environ.get("BOOK", ROOT / "book"))
if not (BOOK / "index.html").exists():
    raise FileNotFoundError(f"No book in {BOOK}: run `make book`, or name its folder in the variable BOOK.")

project, author, release = "audioscope", "The audioscope authors", __version__
copyright = "2026, the audioscope authors. MIT license"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx", "sphinx_copybutton"]
default_role = "code"  # docstrings are read in a terminal: `x` is code there

myst_enable_extensions = ["attrs_block", "fieldlist"]
myst_heading_anchors = 3

napoleon_google_docstring, napoleon_numpy_docstring = True, False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "change, mask, target, idle, made_for"}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
intersphinx_mapping: dict = {}  # the build is offline

html_theme = "pydata_sphinx_theme"
html_title = "audioscope"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"findings": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]


def _add_book(app, error) -> None:
    if error is None and app.builder.format == "html":
        shutil.copytree(BOOK, Path(app.outdir) / "book", dirs_exist_ok=True)


def _without_marks(app, name: str, source: list[str]) -> None:
    """The marks around recomputed numbers are for tools/check_claims.py."""
    source[0] = re.sub(r"<!--=[\w.-]+-->(.*?)<!--/-->", r"\1", source[0])


def setup(app) -> None:
    app.connect("source-read", _without_marks)
    app.connect("build-finished", _add_book)
