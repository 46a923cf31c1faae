"""Options of `api.train` for a run of seconds."""

TINY = {"preset": "detr-tiny", "image_size": 64, "batch_size": 8, "workers": 0, "device": "cpu"}
