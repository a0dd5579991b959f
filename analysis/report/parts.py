"""The templates of the page: they escape whatever comes from records; only they, and the files beside, are markup."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
PAGE = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
PARTS: Any = PAGE.get_template("parts.html").module


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], label: str) -> Markup:
    """A plain table."""
    return Markup(PARTS.table(heads, rows, label))
