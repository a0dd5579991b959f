"""Figures as the page takes them: inline SVG that follows the page's colours, and the values under the pointer."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Drawn:
    """A figure of the report: its file's name, study, heading and caption, SVG text, and values with their places."""

    name: str
    study: str
    heading: str
    caption: str
    svg: str
    values: list[tuple[float, float, str]]

    def inline(self) -> Markup:
        """The SVG for a page: no prologue, ids of its own, two decimals, the page's black, white and grid."""
        text = self.svg[self.svg.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        own = "f" + hashlib.sha256(self.name.encode()).hexdigest()[:10]
        text = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{own}-", text)
        # coordinates only: what is written in the figure stays
        text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text)
        text = re.sub(r'\b(?:d|x|y)="[^"]*"', lambda places: re.sub(r"(\d\.\d)\d", r"\1", places.group()), text)
        text = re.sub(rf'\bid="{own}-method-([0-9a-f]*)-[^"]*"', _method, text)
        for colour, variable in COLOURS.items():
            text = text.replace(colour, variable)
        size = re.search(r'<svg [^>]*?height="([\d.]+)pt"[^>]*?viewBox="([^"]+)"[^>]*>', text)
        box = size.group(2) if size else "0 0 504 200"
        opening = f'<svg class="figure" role="img" tabindex="0" aria-label="{escape(self.heading)}" viewBox="{box}"'
        opening += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
        text, rules = _classes(text)
        opening += f"<style>{rules}</style>" if rules else ""
        return Markup(re.sub(r"<svg [^>]*>", lambda _: opening, text, count=1))


def _classes(text: str) -> tuple[str, str]:
    """Styles that many elements have, as classes: named by their content, so that figures may share them."""
    many = {style: n for style, n in Counter(re.findall(r' style="([^"<>{}]*)"', text)).items() if n > OFTEN}
    names = {style: "s" + hashlib.sha256(style.encode()).hexdigest()[:8] for style in many}
    text = re.sub(r' style="([^"<>{}]*)"', lambda m: f' class="{names[m[1]]}"' if m[1] in names else m[0], text)
    return text, "".join(f".{name}{{{style}}}" for style, name in names.items())


OFTEN = 4


def _method(found: re.Match[str]) -> str:
    """The name that `figures.base.tag` wrote, as the page reads it."""
    return f'data-method="{escape(bytes.fromhex(found[1]).decode())}"'


COLOURS = {"#000000": "currentColor", "#ffffff": "var(--paper)", "#dddddd": "var(--grid)"}
