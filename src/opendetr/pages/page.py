"""HTML pages, for reports and explanations alike: one file each, without links to the network."""

import base64
import html
from collections.abc import Sequence

from opendetr.wording import visible

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1700px;margin:2rem auto;padding:0 1.2rem;color:#222;background:#fff}
h1,h2,h3{line-height:1.2}h1,h2,p,li,figcaption{overflow-wrap:anywhere}h2{margin-top:2.5rem}
p,ul,.verdict{max-width:85ch}svg{max-width:100%}
table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:left;vertical-align:top}
th{position:sticky;top:0;background:#fff}td{border-top:1px solid #eee;font-variant-numeric:tabular-nums}
.scroll{max-height:34rem;overflow:auto}.across{overflow-x:auto}
.side{display:flex;gap:1rem 3rem;flex-wrap:wrap;align-items:flex-start}
.halves>div{flex:1 1 28rem;min-width:0;max-width:45rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,32rem),1fr));gap:1.5rem}
.grid.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1rem}
.grid.charts{grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr))}
.name{padding:0 .4rem;font-size:.88rem;white-space:nowrap}
figure{margin:0;min-width:0}figure svg{width:100%;height:auto;display:block}figcaption{font-size:.88rem;color:#444}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:4px}
.wide{margin:2rem 0}.wide img{max-width:100%;height:auto;display:block}.wide figcaption p{margin:.3rem 0}
.bar{display:inline-block;height:.7em;background:#7a9cc6;min-width:1px;margin-right:.5em}
figcaption p{margin:.3rem 0}.cell{display:block;margin:0 -.7rem;padding:0 .7rem;text-align:right}
.verdict{font-size:1.15rem;border-left:.4rem solid #888;padding:.3rem .8rem;background:#f6f6f6}
.verdict.good{border-color:#2ca02c}.verdict.fair{border-color:#d9a400}.verdict.bad{border-color:#c0392b}
pre{background:#f4f4f4;padding:.8rem;overflow-x:auto;font-size:.9rem}.note{font-size:.88rem;color:#555}
"""
_BAR = 8  # rem, the width of the longest bar


class Markup(str):
    """A text that is HTML already: it is not escaped again."""

    __slots__ = ()


def escaped(text: str) -> str:
    """The text as HTML; `Markup` stays as it is."""
    return text if isinstance(text, Markup) else html.escape(text)


def page(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML; the title is text. Hidden characters of names are written out."""
    head = f'<meta charset=utf-8><meta name=viewport content="width=device-width"><title>{html.escape(title)}</title>'
    return visible(
        f"<!doctype html><html lang=en>{head}<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>\n"
    )


def paragraph(text: str, *, is_note: bool = False) -> str:
    """A paragraph of text; a note is smaller."""
    return f"<p{' class=note' if is_note else ''}>{escaped(text)}</p>"


def figure(content: str, caption: str, *, kind: str = "") -> str:
    """HTML of a picture with a caption; `kind` is a class of the style."""
    return f"<figure{f' class={kind}' if kind else ''}>{content}<figcaption>{escaped(caption)}</figcaption></figure>"


def image(png: bytes, link: str = "") -> str:
    """A picture within the page, from the content of a PNG file; `link` is a file to open on a click."""
    shown = f'<img src="{data_address(png, "image/png")}" alt="">'
    return f'<a href="{html.escape(link)}">{shown}</a>' if link else shown


def data_address(content: bytes, media_type: str) -> str:
    """The content of a file as an address, so that the page carries it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, may_scroll: bool = False) -> str:
    """A table of texts or `Markup`; the header may be empty. A long one takes a part of the window if it may scroll."""
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    head = f"<tr>{head}</tr>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class={'scroll' if may_scroll else 'across'}><table>{head}{body}</table></div>"


def bar(value: int, largest: int) -> Markup:
    """A number behind a bar that shows its share of the largest."""
    return Markup(f'<span class=bar style="width:{_BAR * value / max(1, largest):.2f}rem"></span>{value:,}')
