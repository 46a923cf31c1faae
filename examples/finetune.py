"""Fine-tune any DETR on your own data: `python examples/finetune.py detr-r50 DATA RUN [EPOCHS]`.

DATA is a folder in a COCO layout. The class head is new, for the classes of DATA; everything else starts from the
model's weights. `recipe="fast"` chooses picture sizes and schedule by the data; the paper's recipe is `recipe="paper"`.
"""

import sys

from opendetr import train

if __name__ == "__main__":  # pictures may be read by other processes, and on Windows and macOS those run this file too
    if len(sys.argv) < 4:
        print(__doc__.splitlines()[0], file=sys.stderr)
        sys.exit(2)
    model, data, run, *epochs = sys.argv[1:]
    train(data, init=model, new_head=True, recipe="fast", epochs=int(*epochs or [20]), output=run)
