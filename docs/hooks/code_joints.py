"""Code in the cells of tables breaks at the joints of its names, so that columns are narrow and words stay whole."""

import re
from typing import Any

CELL = re.compile(r"<td.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
JOINT = re.compile(r"""(?<=[^\W_])(::|[_/=]|\.(?!\d))(?=[^\W_]|[\[{"']|&quot;)""")


def on_page_content(html: str, /, **_: Any) -> str:
    """The page with a place to break after every joint."""
    return CELL.sub(lambda cell: CODE.sub(lambda code: JOINT.sub(r"\1<wbr>", code[0]), cell[0]), html)
