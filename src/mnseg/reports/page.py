"""The bare page of a report: styles, escaping, figures as inline pictures. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

__all__ = ["Cell", "figure_block", "note", "page", "section", "table"]

STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #4d5a6b; --line: #d5dbe3; --accent: #0b4f8a; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #eef1f5; color: var(--ink); line-height: 1.5;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 1.5rem 3rem; }
header { background: #12304f; color: #fff; }
header > div { max-width: 1120px; margin: 0 auto; padding: 1.8rem 1.5rem 1.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; }
header p { margin: .25rem 0; color: #e3ecf5; max-width: 75ch; }
.warning { display: inline-block; margin-top: .7rem; padding: .2rem .7rem; border-radius: 4px; font-weight: 600;
           background: #ffe08a; color: #3a2b00; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1.2rem 1.5rem 1.4rem;
          margin-top: 1.4rem; }
h2 { font-size: 1.25rem; margin: 0 0 .6rem; color: var(--accent); }
h3 { font-size: 1.02rem; margin: 1.3rem 0 .4rem; }
p { max-width: 85ch; margin: .5rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.1rem; max-width: 80ch; }
.missing { border-left: 4px solid #b45309; background: #fff7e8; padding: .5rem .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
thead th { white-space: normal; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.overall > * { font-weight: 700; background: #eef4fa; }
tbody th span { font-weight: 400; padding-left: 1rem; }
tr.group > * { border-top: 2px solid #8a97a8; }
small { color: var(--soft); font-weight: 400; font-size: .85em; }
td.wrap { white-space: normal; text-align: left; font-family: ui-monospace, "DejaVu Sans Mono", monospace;
          font-size: .8rem; overflow-wrap: anywhere; min-width: 14rem; vertical-align: top; }
tr.differs > * { background: #fff7e8; }
figure { margin: 1rem 0 0; }
figure img { max-width: 100%; height: auto; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .5rem 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .85rem; margin-top: 1.5rem; }
@media print {
  body { background: #fff; font-size: 10.5pt; } main, header > div { max-width: none; padding: 0; }
  header { background: #fff; color: #000; border-bottom: 2px solid #000; } header p { color: #000; }
  section { border: 0; padding: 0; } .scroll { overflow: visible; } table { font-size: 8.5pt; }
  th, td { padding: .2rem .3rem; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""


class Cell(str):
    """HTML that is already escaped."""


def page(title: str, intro: Sequence[str], body: Iterable[str], footer: str) -> str:
    """The whole document. `intro` and `footer` are plain text, `body` is HTML."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in intro)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header><div><h1>{escape(title)}</h1>{paragraphs}"
        f'<p class="warning">Research software: not for diagnosis.</p></div></header>\n<main>\n'
        + "\n".join(body)
        + f"\n<footer><p>{escape(footer)}</p></footer>\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A card with a heading; `parts` are HTML."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def note(text: str, kind: str = "soft") -> str:
    """A paragraph of plain text; kind is "soft", "lead" or "missing"."""
    return f'<p class="{kind}">{escape(text)}</p>'


def table(caption: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table whose first column holds row headings.

    Args:
        caption: plain text.
        head: column headings.
        rows: (CSS classes of the row, cells); a `Cell` is taken as HTML, any other string is escaped.
    """
    body = ""
    rows = list(rows)
    long_texts = any("settings" in kind for kind, _ in rows)
    for kind, (first, *rest) in rows:
        wrap = ' class="wrap"' if "settings" in kind else ""
        body += f'<tr class="{kind}"><th scope="row">{_html(first)}</th>'
        body += "".join(f"<td{wrap}>{_html(text)}</td>" for text in rest) + "</tr>\n"
    align = ' class="left"' if long_texts else ""
    cells = "".join(f'<th scope="col"{align}>{_html(text)}</th>' for text in head)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def figure_block(figure: Figure, alt: str, caption: str) -> str:
    """A matplotlib figure as an inline PNG with a text for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _html(text: str) -> str:
    return text if isinstance(text, Cell) else escape(str(text))
