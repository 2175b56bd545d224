"""Configuration of the documentation site.

Build it with `python -m sphinx -W -c docs . build/site` from the root of the checkout. The source
is the whole checkout, so that a link from a guide to a table of results works on the site, on
GitHub and in an editor. The build needs no network.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import pythae_fif
import pythae_fif.benchmark.trained  # pydantic cannot be imported as autodoc imports modules

project = "pythae-fif"
author = "the authors of pythae-fif"
version = release = pythae_fif.__version__
root_doc = "docs/index"
include_patterns = ["docs/**", "results/reference/**", "studies/README.md", "*.md"]
exclude_patterns = ["results/**/runs", "docs/_static", "docs/_templates"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # docstrings say what an argument is, with its shape
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Parameters", "params_style")]
default_role = "code"
add_module_names = False
toc_object_entries = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"pythae-fif {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "to_docs.html"}
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#8ab8f0", "color-brand-content": "#8ab8f0"},
}


def _mathml(tex: str, block: bool = False) -> str:
    r"""Converts TeX to MathML.

    The converter does not know a few habits of TeX, so they are spelled out first: `\frac12`
    without braces, an exponent of `\lVert ... \rVert`, and the space after `\log`, `\det` and
    `\exp`.
    """
    tex = tex.replace(r"\_", "_")
    tex = re.sub(r"frac(\d)(\d)", r"frac{\1}{\2}", tex)
    tex = re.sub(r"(\\lVert.*?\\rVert)\^", r"{\1}^", tex)
    tex = re.sub(r"\\(log|det|exp)\s*(?=[a-zA-Z\\{])", r"\\\1\\, ", tex)
    return str(tex2mathml(tex, as_block=block))


def _inline_mathml(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext()))
    raise nodes.SkipNode


def _block_mathml(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def _skip_tuple_fields(
    app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Skips the fields of named tuples, which the docstring of the class describes."""
    return True if (member.__doc__ or "").startswith("Alias for field") else None


def setup(app: Any) -> None:
    """Registers the MathML renderer: browsers draw it without a script and without network."""
    for name in pythae_fif.__all__:  # autodoc does not see names that are imported lazily
        getattr(pythae_fif, name)

    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.add_html_math_renderer("mathml", (_inline_mathml, None), (_block_mathml, None))
