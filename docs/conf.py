"""The site: `make docs`. Its root is the project's, so that a link between two files is right here and on a forge.

Formulas are MathML, which browsers draw by themselves: nothing is fetched.
"""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

project = "bmdal-bench"
author = "the authors of bmdal-bench"
copyright = "the authors of bmdal-bench; Apache-2.0"
version = release = metadata.version("bmdal-bench")

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    *("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("results/reference/README.md", "results/reference/perf/README.md"),
]
exclude_patterns = [".*", "data", "wheelhouse", "results/[!r]*", "results/runs", "tests", "bench", "analysis", "conf"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
default_role = "literal"
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = "bmdal-bench"
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_extra_path = ["redirect"]
html_theme_options = {"sidebar_hide_name": False}
html_css_files = ["site.css"]
html_static_path = ["static"]


def inline_formula(translator: Any, node: nodes.Element) -> None:
    """A formula in a line."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def formula(translator: Any, node: nodes.Element) -> None:
    r"""A formula by itself, with its number where it has a \\tag."""
    tex = node.astext()
    number = re.search(r"\\tag\{([^}]*)\}", tex)
    shown = tex2mathml(tex.replace(number[0], "") if number else tex, as_block=True)
    told = f'<span class="eqno">({number[1]})</span>' if number else ""
    translator.body.append(f'<div class="formula">{shown}{told}</div>')
    raise nodes.SkipNode


def plain_bars(app: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    """Bars in docstrings are bars, no substitutions."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def short_signature(
    app: Sphinx, what: str, name: str, shown: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A protocol takes no arguments worth showing; the bounds of a number stand in its docstring."""
    if arguments == "(*args, **kwargs)":
        return "", returned
    return arguments and re.sub(r"[~\w.]*Annotated\[([\w.]+), [^]]*\]", r"\1", arguments), returned


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("autodoc-process-signature", short_signature)
