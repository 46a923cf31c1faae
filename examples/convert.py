"""Give a model to another library: `python examples/convert.py RUN FOLDER [huggingface|official|opendetr]`.

`huggingface`: then `transformers.DetrForObjectDetection.from_pretrained(FOLDER)`; `official`: then the official code's
`--resume FOLDER/checkpoint.pth`. Models of the recipe `fast` have parts that neither knows, and are refused.
"""

import sys

from opendetr import convert

model, folder, *form = sys.argv[1:]
convert(model, folder, *form or ["huggingface"])
