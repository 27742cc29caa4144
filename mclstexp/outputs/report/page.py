"""The page itself: one HTML text that runs nothing but its own scripts and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

COLOUR_MAPS = ("viridis", "cividis", "magma")
"""Colour maps of even lightness, which readers with colour blindness read as well; the first is shown first."""

_SCRIPTS = (
    "openseadragon.min.js", "decode.js", "source.js", "dom.js", "combobox.js", "viewer.js", "panel.js", "evidence.js",
    "run.js", "regions.js", "app.js",
)  # fmt: skip


def page_html(title: str, data: dict[str, Any], *, served: bool = False) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Its title; escaped here.
    data
        What `mclstexp.outputs.report.data` makes; embedded as JSON that cannot end its element.
    served
        Whether the page may ask the server that it came from.
    """
    style, scripts = asset("page.css"), [asset(name) for name in _SCRIPTS]
    data = {**data, "colours": {name: colour_map(name) for name in COLOUR_MAPS}}
    parts = {
        "POLICY": policy(served=served),
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPTS": "\n".join(f"<script>{script}</script>" for script in scripts),
        "DATA": embedded_json(data),
    }
    before, *rest = asset("page.html").split("{{")
    text = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        text += [parts[name], after]
    return "".join(text)


def policy(*, served: bool) -> str:
    """Return the Content-Security-Policy: own scripts and style by their hashes, and nothing from elsewhere."""
    scripts = " ".join(_hash(asset(name)) for name in _SCRIPTS)
    own = " 'self'" if served else ""
    connect = "'self'" if served else "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_hash(asset('page.css'))}; "
        f"img-src data: blob:{own}; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded_json(value: Any) -> str:
    """Return JSON that is safe inside a ``<script>`` element, whatever the names in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def asset(name: str) -> str:
    """Return a file of the page's parts."""
    return files("mclstexp.outputs.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def colour_map(name: str) -> str:
    """Return 256 colours as hexadecimal, six digits each."""
    import matplotlib

    colours = matplotlib.colormaps[name](range(256), bytes=True)[:, :3]
    return bytes(colours.astype("uint8").tobytes()).hex()
