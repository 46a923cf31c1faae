"""Looks at a run while it trains, and says each symptom of a training that does not learn once."""

from dataclasses import replace

import torch

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.engines.engine import TorchEngine
from opendetr.evaluation.coco import class_names, truth_of
from opendetr.evaluation.runner import arrays_of, detect_split
from opendetr.progress import warn, warning_instead
from opendetr.training.run_folder import RunFolder
from opendetr.training.symptoms import (
    EARLY,
    FEWEST_STEPS,
    Evidence,
    Measured,
    count_objects,
    sample_of,
    symptoms_of_data,
    symptoms_of_learning,
)
from opendetr.training.validation import Evaluation

FAILED = "what keeps the run from learning was not looked for"


class Watch:
    """The symptoms of a run so far; in the process that writes the run's folder only.

    Args:
        folder: of the run, whose log says which symptoms were said before.
        train_index: the training split, with the class indices of the model.
        val_index: the split that chooses the best weights, with the same class indices; None where there is none.
    """

    def __init__(self, folder: RunFolder, train_index: DatasetIndex, val_index: DatasetIndex | None) -> None:
        self.folder, self.train_index, self.val_index = folder, train_index, val_index
        self.sample = sample_of(train_index)
        self.said: dict[str, str] = {}  # all symptoms of the run, by their names
        self.new: dict[str, str] = {}  # those that the log does not have yet

    def begin(self, upright: DetectionDataset, image_size: int) -> None:
        """Look at the data, before the first step; `image_size` is the shorter side of training pictures."""
        for line in self.folder.history:
            self.said |= line.get("symptoms", {})
        with warning_instead(FAILED):
            self._say(symptoms_of_data(self.train_index, self.val_index, upright, image_size))

    def look(
        self, checkpoint: Checkpoint, progress: float, device: torch.device, evaluation: Evaluation | None
    ) -> dict[str, str]:
        """Look at a model, from half of the run on; returns what is said for the first time since the log has any.

        `progress` is that of the run, 0..1; `evaluation` is that of the model on val, where there is one.
        """
        with warning_instead(FAILED):
            if (
                len(self.sample)
                and progress >= EARLY
                and self.folder.history
                and self.folder.history[-1]["step"] >= FEWEST_STEPS
            ):
                self._say(symptoms_of_learning(self._evidence(checkpoint, progress, device, evaluation)))
        new, self.new = self.new, {}
        return new

    def _evidence(
        self, checkpoint: Checkpoint, progress: float, device: torch.device, evaluation: Evaluation | None
    ) -> Evidence:
        config = checkpoint.config
        engine = TorchEngine(checkpoint.model.eval(), device, config.train.precision)
        found = detect_split(
            engine, checkpoint.description, self.sample, batch_size=max(4, config.train.batch_size),
            broken=lambda sentence: None,  # training has said it
        )  # fmt: skip
        train = Measured(*arrays_of(self.sample, list(found)))
        val = None
        if self.val_index is not None and evaluation is not None:
            val = Measured(*arrays_of(self.val_index, evaluation.detections))
            if [one.name for one in evaluation.metrics.analysis.classes] == class_names(val.truth):
                val = replace(val, known=evaluation.metrics)  # of classes in the same order
        objects = count_objects(truth_of(self.train_index))
        return Evidence(
            config, progress, self.folder.history, objects, len(self.train_index), train, val, bool(self.said)
        )

    def _say(self, found: dict[str, str]) -> None:
        for name, sentence in found.items():
            if name not in self.said:
                warn(f"{sentence}.")
                self.said[name] = self.new[name] = sentence
