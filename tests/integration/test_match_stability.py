"""The stability in the log of a run, against the models of its epochs, each matched again, picture by picture."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import TINY, TINY_FAST

from opendetr import api
from opendetr.checkpoints.native import load_folder
from opendetr.data.door import load_index
from opendetr.data.loader import DetectionDataset
from opendetr.loss.matcher import CostWeights, match
from opendetr.structures import Targets
from opendetr.training.run_folder import read_metrics


def matched_again(folder, digits):
    """The number and the box-independent origin of the query of every object of val."""
    checkpoint = load_folder(folder)
    index, loss = load_index(digits, "val").under(checkpoint.label_map), checkpoint.config.loss
    dataset = DetectionDataset(index, checkpoint.preprocessing.transform())
    selected, found = [], []
    if checkpoint.config.model.query_source == "selected":
        choose = checkpoint.model.query_embed.most_promising
        checkpoint.model.query_embed.most_promising = lambda *of: selected.append(choose(*of)) or selected[-1]
    for image, target, _ in (dataset[position] for position in range(len(dataset))):
        with torch.no_grad():
            output = checkpoint.model.eval()(image[None])
        pairs = match(output.last_layer(), Targets.stack([target]), checkpoint.model.scoring,
                      CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost))  # fmt: skip
        queries = pairs.queries[pairs.targets.argsort()]
        found += (selected[-1][0][0, queries] if selected else queries).tolist()
    return np.array(found)


@pytest.mark.parametrize("options", [TINY, TINY_FAST], ids=["paper", "fast"])
def test_the_log_says_how_many_objects_kept_their_query(digits, tmp_path, options):
    run = api.train(digits, **options, epochs=2, keep=3, output=tmp_path / "run", threads=1)
    run = api.train(resume=run, output=tmp_path / "more", epochs=3, threads=1)
    logged = [line["val_match_stability"] for line in read_metrics(run) if line["kind"] == "val"]
    origins = [matched_again(run / "checkpoints" / f"epoch-{epoch:04}", digits) for epoch in (1, 2, 3)]
    shares = [np.mean(one == other) for one, other in pairwise(origins)]
    assert logged == [None, *(pytest.approx(share, abs=1e-6) for share in shares)]  # six digits are written
    assert "Matched-query stability" in (run / "report.html").read_text()
