"""Give a model to another library: `python examples/convert.py RUN FOLDER [huggingface|official|opendetr]`.

`huggingface`: then `transformers.pipeline("object-detection", model=FOLDER)`, for a model of the recipe `fast` with
`trust_remote_code=True`; `official`: then the official code's `--resume FOLDER/checkpoint.pth`, which knows the paper's
architecture only.
"""

import sys

from opendetr import convert

if len(sys.argv) < 3:
    print(__doc__.splitlines()[0], file=sys.stderr)
    sys.exit(2)
model, folder, *form = sys.argv[1:]
convert(model, folder, *form or ["huggingface"])
