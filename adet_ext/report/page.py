"""The building blocks of an HTML report: sections, tables, pictures, and their page.

Every function escapes the text that it gets, and returns HTML.
"""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence

from PIL import Image

__all__ = ["bars", "definitions", "figure", "grid", "page", "section", "tiles"]


def page(title: str, subtitle: str, body: str, style: str = "") -> str:
    """Return a whole document; ``body`` is HTML, ``style`` more CSS."""
    return _PAGE.format(title=html.escape(title), subtitle=html.escape(subtitle), body=body, style=_STYLE + style)


def section(title: str, body: str, lead: str = "") -> str:
    """Return a part of the page under its own heading; ``body`` is HTML."""
    lead = f"<p class=note>{html.escape(lead)}</p>" if lead else ""
    return f"<section><h2>{html.escape(title)}</h2>{lead}{body}</section>"


def definitions(rows: Mapping[str, str]) -> str:
    """Return a table of names and what they are."""
    cells = "".join(f"<tr><th scope=row>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
    return f"<div class=wide><table class=facts>{cells}</table></div>"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of numbers; the first cell of each row is its heading."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = ""
    for name, *numbers in rows:
        cells = "".join(f"<td>{html.escape(number)}</td>" for number in numbers)
        body += f"<tr><th scope=row>{html.escape(name)}</th>{cells}</tr>"
    return f"<div class=wide><table class=numbers><thead><tr>{top}</tr></thead>{body}</table></div>"


def bars(columns: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Return a table of percentages as bars: a column per entry, a row per name, best in the first column first.

    Missing values and NaN become a dash; a table of more than 20 rows is folded.
    """
    first = next(values for values in columns.values() if values)
    names = sorted(first, key=lambda n: -first[n] if first[n] == first[n] else 1)
    head = "".join(f"<th>{html.escape(f'{label} {unit}')}</th>" for label in columns)
    rows = []
    for name in names:
        cells = ""
        for values in columns.values():
            value = values.get(name)
            if value is None or value != value:
                cells += "<td class=bar><span>–</span></td>"
            else:
                length = f"{min(max(value, 0), 100) / 100:.3f}"
                cells += f"<td class=bar><i style='--length:{length}'></i><span>{value:.1f}</span></td>"
        rows.append(f"<tr><th scope=row>{html.escape(name)}</th>{cells}</tr>")
    head = f"<thead><tr><th>class</th>{head}</tr></thead>"
    table = f"<div class=wide><table class=bars>{head}{''.join(rows)}</table></div>"
    return table if len(rows) <= 20 else f"<details><summary>{len(rows)} classes</summary>{table}</details>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return large figures side by side: (value, what it is)."""
    cells = "".join(f"<div class=tile><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>" for v, k in values)
    return f"<div class=tiles>{cells}</div>"


def figure(folder: str, name: str, caption: str) -> str:
    """Return a picture file inside the page, with its caption; nothing if the file is missing."""
    source = _embed(os.path.join(folder, name))
    if not source:
        return ""
    return f"<figure><img src='{source}' alt='{html.escape(caption, quote=True)}' loading=lazy>" + (
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _embed(path: str) -> str:
    """Return the picture as a data URL, as WebP, a sixth of a PNG's size; "" if it is missing."""
    if not os.path.isfile(path):
        return ""
    data = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(data, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{subtitle}</p></header>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { --paper: #fff; --card: #f5f6f8; --ink: #1c2128; --ink-soft: #5b6472; --rule: #e2e5ea; --accent: #2563eb; }
@media (prefers-color-scheme: dark) {
:root { --paper: #14171c; --card: #1d2128; --ink: #e8eaee; --ink-soft: #9aa3b2; --rule: #2e343e; --accent: #60a5fa; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
       font-family: system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
header p, .note, figcaption { color: var(--ink-soft); }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -.02em; }
header p { margin: .4rem 0 2rem; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 2rem 0 .25rem; }
section { border-top: 1px solid var(--rule); padding-top: 1.5rem; margin-top: 2.5rem; }
.note { margin: 0 0 1rem; max-width: 44rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; }
.tile { background: var(--card); border-radius: .6rem; padding: 1rem 1.1rem; }
.tile b { display: block; font-size: 1.6rem; font-weight: 650; line-height: 1.2; letter-spacing: -.02em;
          white-space: nowrap; font-variant-numeric: tabular-nums; }
.tile span { color: var(--ink-soft); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--rule); font-weight: 400;
         vertical-align: top; }
thead th { color: var(--ink-soft); font-size: .85rem; }
.numbers { table-layout: fixed; min-width: 40rem; }
.numbers th:not(:first-child), .numbers td { text-align: right; padding-right: 0; }
.numbers td:nth-child(2) { font-weight: 650; }
.facts th { color: var(--ink-soft); width: 14rem; }
.bars { margin-top: 1.75rem; }
.bars th:first-child { width: 9rem; }
.bar { position: relative; height: 2.2rem; padding-right: 1.5rem; }
.bar i { display: inline-block; vertical-align: middle; height: .55rem; border-radius: .2rem; background: var(--accent);
         width: calc((100% - 3.5rem) * var(--length)); min-width: 2px; }
.bar span { margin-left: .5rem; font-size: .9rem; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0 1.5rem; }
figure img { width: 100%; height: auto; display: block; border-radius: .5rem; border: 1px solid var(--rule); }
figcaption { font-size: .85rem; margin-top: .35rem; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem;
      font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; color: var(--accent); margin: 1rem 0; }
@media print { section { break-inside: avoid; } }
"""
