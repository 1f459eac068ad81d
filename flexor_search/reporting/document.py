"""The shell of every page that is written: one file that asks for nothing outside it, and paints before scripts run.

Text, tables and bars are plain HTML. The figures stand in the page as JSON; plotly's library is in the file once, at
its end, as text that report.js makes a script of when the first figure comes into view. A content security policy
forbids the page to fetch anything.
"""

from importlib.resources import files
from typing import TYPE_CHECKING

from flexor_search.reporting.key import key
from flexor_search.reporting.words import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_SCRIPTS = ("report.js", "selection.js", "trials.js")
_THEME = "try { document.documentElement.style.colorScheme = localStorage.getItem('flexor-search') || '' } catch {}"


def document(title: str, body: str) -> str:
    """The whole page around its sections."""
    from plotly.offline import get_plotlyjs

    own = files("flexor_search.reporting")
    css, *scripts = (own.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", *_SCRIPTS))
    library = f'<script type="text/plain" id="plotly">{get_plotlyjs()}</script>\n' if 'class="plot"' in body else ""
    code = "\n".join(f"{{\n{script}}}" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{css}</style>\n<script>{_THEME}</script>\n</head>\n"
        f'<body>\n<main>\n<button type="button" id="theme" aria-label="Light or dark">◐</button>\n{body}\n</main>\n'
        f'{library}<script>\n"use strict";\n{code}\n</script>\n</body>\n</html>\n'
    )


def section(title: str, body: str, name: str = "") -> str:
    """A part of the page with its heading."""
    return f"<section{f' id={name}' if name else ''}><h2>{title}</h2>\n{body}</section>"


def drawing(figure: "go.Figure", name: str, label: str, notes: list[str]) -> str:
    """A figure with its key and what is to be said of it.

    Args:
        figure: drawn when it comes into view.
        name: of its element.
        label: what it shows, for those who cannot see it.
        notes: below it; empty ones are left out.
    """
    body = figure.to_json()
    assert body is not None
    body = body.replace("<", "\\u003c")  # no text in it may end the script
    caption = " ".join(filter(None, [*notes, "Drag to zoom, double-click to go back."]))
    height = figure.layout.height  # type: ignore[attr-defined]  # plotly makes it at run time
    return (
        f"<figure>{key(figure)}"
        f'<div class="plot" id="{name}" role="img" aria-label="{label}" style="height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{body}</script>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def tabs(name: str, parts: dict[str, str]) -> str:
    """Several views of one thing, one of them seen; no script is needed.

    Args:
        name: of the group, unique in the page.
        parts: what the reader chooses by -> what is shown.
    """
    choices, bodies = [], []
    for number, (title, body) in enumerate(parts.items()):
        checked = " checked" if number == 0 else ""
        choices.append(
            f'<input type="radio" name="{name}" id="{name}-{number}"{checked}>'
            f'<label for="{name}-{number}">{title}</label>'
        )
        bodies.append(f'<div class="tab">{body}</div>')
    return f'<div class="tabs">{"".join(choices)}{"".join(bodies)}</div>'
