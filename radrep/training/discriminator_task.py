"""Validation of a model that classifies images, label by label."""

import numpy as np
import torch

from radrep.inference.classify import classify, score_rows
from radrep.models.base import LabelModel
from radrep.training.accelerator import gather, gather_rows
from radrep.training.validation import Validation


class LabelTask:
    """Loss and mean scores of the labels, one row per image; it also sets the thresholds."""

    def __init__(self, validation: Validation, model: LabelModel) -> None:
        self.validation, self.model = validation, model

    def validate(self) -> dict[str, float]:
        """Loss, AUROC and average precision."""
        on, model = self.validation, self.model
        batches = on.batches(on.recipe.train.batch_size)
        rows = classify(model, batches, on.accelerator.device)
        ids = gather(on.accelerator, [study for study, *_ in rows])
        width = len(model.label_thresholds())  # of a process without an image too
        probabilities, labels = (
            gather_rows(on.accelerator, torch.tensor(np.array(each)).view(-1, width)).cpu().numpy()
            for each in ([row[column] for row in rows] for column in (1, 2))
        )
        scores, loss = score_rows([*zip(ids, probabilities, labels, strict=True)])
        model.set_label_thresholds(torch.from_numpy(scores.thresholds()))
        model.train()
        found = {"val/loss": loss}
        for name in ("auroc", "average_precision"):
            value = scores.macro(name)
            assert value is not None, "checked before training"
            found[f"val/{name}"] = value
        return found
