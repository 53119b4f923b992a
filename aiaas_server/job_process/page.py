"""The page of a report: one HTML file that needs nothing else, and what it is put together from.

Whatever is shown came from a stranger: column names, labels and messages are escaped, cut where
they are long, and rid of signs that turn a line around. There is no script and no address on the
page. Its one style sheet is named by its digest in the page's own policy, and nothing is styled by
attributes, so that a strict policy of whoever serves the file takes colours away at worst.
"""

from __future__ import annotations

import base64
import hashlib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

_LONGEST: Final = 80  # characters of a name or label in a table
_LISTED: Final = 12  # items of a list that are shown before the rest is folded away
_DEEPEST: Final = 3  # levels of a document

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6472;--line:#dfe3ea;--page:#f6f7f9;
--card:#ffffff;--first:#2f6fde;--second:#d9822b;--third:#2e9e6b;--fourth:#8a5cd1;--heat:47,111,222}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#9aa4b5;--line:#2f3745;--page:#12161d;
--card:#1a2029;--first:#74a4ff;--second:#f0a55a;--third:#5ccb97;--fourth:#b594f0;
--heat:116,164,255}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 18px;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 14px}
h3{font-size:14px;margin:18px 0 8px;color:var(--soft)}
p{margin:0 0 12px}
.lead,.note,caption{color:var(--soft)}
.lead{margin:-14px 0 22px;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:20px 22px;margin:0 0 18px;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px;
margin:0 0 18px;padding:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tiles dt{color:var(--soft);font-size:13px}
.tiles dd{margin:0;font-size:24px;font-weight:600;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:18px}
figure{margin:0}
figure+table,table+figure{margin-top:18px}
figcaption{color:var(--soft);font-size:13px;margin-top:4px}
svg{width:100%;height:auto;max-width:640px;display:block}
svg text{font-family:inherit}
svg [fill="#1c2330"]{fill:var(--ink)}
svg [stroke="#1c2330"]{stroke:var(--ink)}
svg [fill="#5b6472"]{fill:var(--soft)}
svg [stroke="#5b6472"]{stroke:var(--soft)}
svg [stroke="#dfe3ea"]{stroke:var(--line)}
svg [fill="#2f6fde"]{fill:var(--first)}
svg [stroke="#2f6fde"]{stroke:var(--first)}
svg [fill="#d9822b"]{fill:var(--second)}
svg [stroke="#d9822b"]{stroke:var(--second)}
svg [fill="#2e9e6b"]{fill:var(--third)}
svg [stroke="#2e9e6b"]{stroke:var(--third)}
svg [fill="#8a5cd1"]{fill:var(--fourth)}
svg [stroke="#8a5cd1"]{stroke:var(--fourth)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 12px 5px 0;text-align:left;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:break-word}
th{color:var(--soft);font-weight:500}
tr:last-child>td,tr:last-child>th{border-bottom:0}
td.n,th.n{text-align:right}
td.n{white-space:nowrap}
.facts th{width:150px;white-space:nowrap}
.best td{font-weight:600}
.heat td,.heat th{border:0;padding:6px 9px;text-align:right;overflow-wrap:normal}
.heat td{border:1px solid var(--card);text-align:center;min-width:44px}
summary{cursor:pointer;color:var(--soft)}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
@media print{section,.tiles div{break-inside:avoid}}
""" + "".join(
    f".h{level}{{background:rgba(var(--heat),{level / 10 * 0.85:.3f})}}\n" for level in range(11)
)


def plain(value: object, most: int = _LONGEST) -> str:
    """A text as it may be shown anywhere: one line, without control signs, cut where it is long."""
    text = str(value)[: 4 * most]
    kept = "".join(
        " " if sign in "\t\r\n" else sign if _is_shown(sign) else "\N{REPLACEMENT CHARACTER}"
        for sign in text
    )
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def _is_shown(sign: str) -> bool:
    # Cc, Cs and the last two have no place in XML. Cf turns lines around; the joiners of scripts
    # and emojis stay.
    if unicodedata.category(sign) in ("Cc", "Cs", "Cf"):
        return sign in "\u200c\u200d"
    return sign not in "\ufffe\uffff"


def number(value: float) -> str:
    """Four digits that count; whole numbers as they are."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        return text if digits <= 4 else text.rstrip("0")
    return f"{value:.3e}"


def cell(value: object, most: int = _LONGEST) -> str:
    """A value as text, not escaped yet."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return plain(", ".join(f"{key} {cell(one, most)}" for key, one in value.items()), most)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return plain(", ".join(cell(one, most) for one in value), most)
    return plain(value, most)


def shown(value: object, most: int = _LONGEST) -> str:
    """A value, escaped."""
    return escape(cell(value, most))


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(plain(text, 1000))}</p>"


def tiles(values: Mapping[str, float]) -> str:
    """The numbers that matter, large."""
    found = [
        f"<div><dt>{shown(name.replace('_', ' '))}</dt><dd>{shown(value)}</dd></div>"
        for name, value in values.items()
    ]
    return f'<dl class="tiles">{"".join(found)}</dl>' if found else ""


def table(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = (), *, best: int | None = None
) -> str:
    """Rows as a table.

    Args:
        columns: In this order; by default all that any row has.
        best: The row that stands out.
    """
    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in names if _is_numeric([row.get(name) for row in rows])}
    head = "".join(f"<th{_right(name in numeric)}>{_title(name)}</th>" for name in names)
    lines = []
    for at, row in enumerate(rows):
        cells = [f"<td{_right(name in numeric)}>{shown(row.get(name), 200)}</td>" for name in names]
        mark = ' class="best"' if at == best else ""
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _is_numeric(values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in known
    )


def _right(wanted: bool) -> str:
    return ' class="n"' if wanted else ""


def _title(name: str) -> str:
    return shown(name.replace("_", " "))


def facts(values: Mapping[str, Any], depth: int = 0) -> str:
    """Names and values; documents within as tables within, long lists folded."""
    lines = [
        f"<tr><th>{_title(name)}</th><td>{_fact(value, depth)}</td></tr>"
        for name, value in values.items()
    ]
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def _fact(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) and value and depth < _DEEPEST:
        return facts(value, depth + 1)
    if isinstance(value, list | tuple) and len(value) > _LISTED:
        items = ", ".join(shown(one) for one in value[:1000])
        return f"<details><summary>{len(value):,} entries</summary><code>{items}</code></details>"
    return shown(value, 1000)


def figure(svg: str, caption: str) -> str:
    """A plot, and what it shows."""
    return f"<figure>{svg}<figcaption>{escape(plain(caption, 300))}</figcaption></figure>"


def plots(figures: Sequence[str]) -> str:
    """Plots beside one another, as far as there is room."""
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def section(heading: str, *blocks: str) -> str:
    """A part of the page; none where it has nothing to show."""
    body = "".join(blocks)
    return f"<section><h2>{escape(plain(heading))}</h2>{body}</section>" if body else ""


def write(path: Path, title: str, lead: str, blocks: Iterable[str]) -> None:
    """Write the page; equal arguments give equal bytes."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    name = escape(plain(title, 200))
    content = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{name}</h1>{paragraph(lead, 'lead') if lead else ''}"
        f"{''.join(blocks)}</main></body></html>\n"
    )
    path.write_text(content, "utf-8")
