"""Options of `api.train` for a run of seconds."""

TINY = {"recipe": "paper", "preset": "detr-tiny", "image_size": 64, "batch_size": 8, "workers": 0, "device": "cpu"}

# The same for the recipe fast: everything it has, on a network of random weights.
TINY_FAST = {
    "batch_size": 4, "workers": 0, "device": "cpu", "backbone": "test_resnet", "backbone_weights": "none",
    "image_size": 64, "precision": "fp32",
    "overrides": ("model.embed_dim=32", "model.feedforward_dim=64", "loss.denoising_queries=16", "train.lr=1e-3"),
}  # fmt: skip
