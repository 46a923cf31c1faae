"""DETR on one page (Carion et al. 2020): reads a model trained with opendetr's paper recipe and detects objects.

Usage: python examples/minimal_detr.py runs/cells/best picture.jpg
"""

import json
import math
import sys
import tomllib
from pathlib import Path

import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.v2 import functional as transforms


class Layer(nn.Module):
    """A transformer layer (figure 10): attention among the inputs, in the decoder also to the memory, then an MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, decodes: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True) if decodes else None
        self.ffn = nn.ModuleDict({"linear1": nn.Linear(dim, hidden), "linear2": nn.Linear(hidden, dim)})
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) if n < 2 + decodes else None for n in range(3))

    def forward(self, x, position, memory=None, memory_position=None):
        x = self.norm1(x + self.self_attn(x + position, x + position, x)[0])
        if memory is not None:
            x = self.norm2(x + self.multihead_attn(x + position, memory + memory_position, memory)[0])
        return (self.norm3 or self.norm2)(x + self.ffn["linear2"](self.ffn["linear1"](x).relu()))


class DETR(nn.Module):
    """Figure 2: backbone, encoder, decoder, one class and one box per object query."""

    def __init__(self, config: dict, num_classes: int) -> None:
        super().__init__()
        dim, heads, hidden = config["embed_dim"], config["num_heads"], config["feedforward_dim"]
        stride = {} if config["output_stride"] == 32 else {"output_stride": config["output_stride"]}
        body = timm.create_model(config["backbone"], features_only=True, out_indices=(-1,), **stride)
        encoder = [Layer(dim, heads, hidden, decodes=False) for _ in range(config["num_encoder_layers"])]
        decoder = [Layer(dim, heads, hidden, decodes=True) for _ in range(config["num_decoder_layers"])]
        self.backbone = nn.ModuleDict({"body": body})
        self.input_proj = nn.Conv2d(body.feature_info.channels()[-1], dim, 1)
        encoder = nn.ModuleDict({"layers": nn.ModuleList(encoder)})
        decoder = nn.ModuleDict({"layers": nn.ModuleList(decoder), "norm": nn.LayerNorm(dim)})
        self.transformer = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.query_embed = nn.Embedding(config["num_queries"], dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(dim, out) for out in (dim, dim, 4))})

    def forward(self, images):
        features = self.input_proj(self.backbone["body"](images)[-1])
        position = sine_encoding(*features.shape[-2:], features.shape[1])
        memory = features.flatten(2).transpose(1, 2)
        for layer in self.transformer["encoder"]["layers"]:
            memory = layer(memory, position)
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        x = torch.zeros_like(queries)
        for layer in self.transformer["decoder"]["layers"]:
            x = layer(x, queries, memory, position)
        x = self.transformer["decoder"]["norm"](x)
        first, second, last = self.bbox_embed["layers"]
        return self.class_embed(x), last(second(first(x).relu()).relu()).sigmoid()


def sine_encoding(height, width, dim):
    """Section A.4: half of the channels for y, half for x."""
    frequencies = 10000 ** (torch.arange(dim // 4) / (dim // 4))
    y, x = (torch.arange(1, n + 1)[:, None] / (n + 1e-6) * 2 * math.pi / frequencies for n in (height, width))
    y, x = (torch.stack([angle.sin(), angle.cos()], -1).flatten(1) for angle in (y, x))
    return torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], -1).flatten(0, 1)


def detect(folder, picture):
    """Score, class name and box (x1, y1, x2, y2 in pixels) of every query."""
    folder = Path(folder)
    classes, prepare = (json.loads((folder / name).read_bytes()) for name in ("labels.json", "preprocessing.json"))
    model = DETR(tomllib.loads((folder / "config.toml").read_text("utf-8"))["model"], len(classes)).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    image = transforms.to_image(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))
    (shorter, longer), (height, width) = sorted(image.shape[-2:]), image.shape[-2:]
    scale = min(prepare["image_size"], round(prepare["max_size"] * shorter / longer)) / shorter
    image = transforms.resize(image, [int(side * scale + 1e-6) for side in (height, width)], antialias=True)
    image = transforms.normalize(image / 255, prepare["mean"], prepare["std"])
    with torch.inference_mode():
        logits, boxes = model(image[None])
    scores, labels = logits[0].softmax(-1)[:, :-1].max(-1)
    corners = torch.cat([boxes[0, :, :2] - boxes[0, :, 2:] / 2, boxes[0, :, :2] + boxes[0, :, 2:] / 2], -1)
    return scores, [classes[label]["name"] for label in labels], corners * torch.tensor([width, height] * 2)


if __name__ == "__main__":
    found = zip(*detect(*sys.argv[1:])) if len(sys.argv) == 3 else sys.exit(__doc__)
    for score, name, box in (one for one in found if one[0] > 0.5):
        print(f"{score:.2f} {name} {[round(v) for v in box.tolist()]}")
