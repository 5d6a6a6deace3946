"""Training of SDAM's discriminator."""

from pathlib import Path

import torch
from accelerate.utils import gather_object

from radrep.inference.classify import classify, score_rows
from radrep.models.base import LabelModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.training.labels import check_labels
from radrep.training.run import Training


class DiscriminatorTraining(Training):
    """Training of the discriminator, validated label by label; it also sets the thresholds."""

    def __init__(self, recipe: Recipe, last: Path | None, reporter: Reporter) -> None:
        super().__init__(recipe, last, reporter)
        assert self.labels is not None, "a discriminator has labels"
        check_labels(self.labels, self.splits["val"])
        self.reporter.info("labels", f"{self.labels.vocabulary}: {', '.join(self.labels.known)}")

    def validate(self) -> dict[str, float]:
        """Loss and mean scores of the labels on validation, an image a row."""
        accelerator, model = self.accelerator, self.model
        assert isinstance(model, LabelModel)
        mine = classify(model, self.val_batches(), accelerator.device)
        rows = gather_object(mine) if accelerator.num_processes > 1 else mine
        scores, loss = score_rows(rows)
        model.set_label_thresholds(torch.from_numpy(scores.thresholds()))
        model.train()
        found = {"val/loss": loss}
        for name in ("auroc", "average_precision"):
            value = scores.macro(name)
            assert value is not None, "checked before training"
            found[f"val/{name}"] = value
        return found
