"""The site: `sphinx-build -W --keep-going -b html docs build/site`, with the extra `docs`; no network is needed."""

import re
from pathlib import Path

from pygments.lexers.special import TextLexer

import halfspace

ROOT = Path(__file__).parents[1]

project = "halfspace"
author = copyright = "The halfspace developers"
version = release = halfspace.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["images", "_static"]
nitpicky = False  # types in signatures are other libraries', and nothing is fetched from their sites

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks have the outputs of the recipes that they are, which run in the tests
numpydoc_show_class_members = False
numpydoc_validation_checks = set()
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have them
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "halfspace"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files beside this folder, and the pages of the site that show them."""


def _beside(found):
    """Return the text of a file beside this folder, with links as they are from here."""
    text = (ROOT / found[1]).read_text("utf-8")
    return re.sub(r"\]\((?![a-z]+:|#)", "](../", text).replace("](../docs/", "](")


def _site(app, docname, source):
    """Put files in the place of what includes them, and point links at pages of the site where there are any."""
    if Path(app.env.doc2path(docname)).suffix != ".md":
        return
    text = re.sub(r"^```\{include\} \.\./(\S+)\n```$", _beside, source[0], flags=re.MULTILINE)
    for file, page in PAGES.items():
        text = re.sub(rf"\]\(((?:\.\./)*)\.\./{re.escape(file)}", rf"](\1{page}", text)
    up = r"\.\./" * (docname.count("/") + 1)  # out of this folder
    source[0] = re.sub(rf"\[([^\]\n]*)\]\({up}[\w/]+\.md\)", r"\1", text)


def setup(app):
    """Register what the pages need."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", _site)
