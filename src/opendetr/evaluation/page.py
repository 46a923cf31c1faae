"""HTML pages: one file each, without links to the network."""

import base64
import html
import io

from PIL import Image

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
h1,h2,h3{line-height:1.2}svg{max-width:100%;height:auto}td,th{padding:.1rem .8rem;text-align:left}
td:nth-child(2),td:nth-child(3){font-variant-numeric:tabular-nums}.side{display:flex;gap:3rem;flex-wrap:wrap}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
figure{margin:0}.grid figure img{width:100%;display:block}figcaption{font-size:.85rem;color:#555}
pre{background:#f4f4f4;padding:.8rem;overflow-x:auto;font-size:.9rem}.small{font-size:.85rem;color:#555}
figure.wide{margin:1.5rem 0}figure.wide img{max-width:100%;display:block}
"""


def page(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML; the title is text."""
    title = html.escape(title)
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    return f"{head}<h1>{title}</h1>{body}</html>\n"


def figure(png: bytes, caption: str, *, wide: bool = False) -> str:
    """A picture within the page, with a caption (text)."""
    source, kind = "data:image/png;base64," + base64.b64encode(png).decode(), " class=wide" if wide else ""
    return f'<figure{kind}><img src="{source}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table of texts; the header may be empty."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    head = f"<tr>{head}</tr>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def as_png(image: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
