"""Train a report model, or the discriminator that shows it where to look."""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from radrep.data.dataset import in_order
from radrep.data.text import get_cleaner
from radrep.errors import RecipeError
from radrep.inference.decode import write_reports
from radrep.metrics.nlg import score_nlg
from radrep.metrics.protocol import published_references, scored_predictions
from radrep.models.base import ReportModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.training.discriminator_task import DiscriminatorTraining
from radrep.training.run import Training, TrainResult, newest_run
from radrep.weights import checkpoint


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train from the start in a new folder, or go on where a run stands.

    Several processes, started by `accelerate launch` or torchrun, train together.

    Args:
        recipe: The recipe; when resuming, the run's own.
        out: The run's folder. Without it, the recipe's, with -2, -3, ... where a run is already.
        resume: Go on in that folder.
        reporter: Who is told how it goes; the main process alone speaks.

    Raises:
        RecipeError: If the recipe is of another task or asks for what this machine cannot do.
        DataError: If the prepared folder is missing or a split is empty.
        CheckpointError: If `out` holds a run already, or there is nothing to go on from.
        Interrupted: If the user stopped it; --resume goes on.
    """
    if recipe.task != "train":
        text = f"'{recipe.task}' is done by: radrep {recipe.task}"
        raise RecipeError("this recipe", [("task", text)])
    last = checkpoint.last_checkpoint(newest_run(out or recipe.out)) if resume else None
    kind = DiscriminatorTraining if recipe.model.output == "labels" else ReportTraining
    return kind(recipe, last, reporter or Reporter()).run(out)


class ReportTraining(Training):
    """Training of a model that writes reports, validated by the reports that it writes."""

    def __init__(self, recipe: Recipe, last: Path | None, reporter: Reporter) -> None:
        super().__init__(recipe, last, reporter)
        data = recipe.data
        self.references = published_references(
            self.splits["val"].texts(data.target),
            clean=get_cleaner(data.tokenizer.cleaner),
            vocabulary=self.tokenizer.vocabulary,
            max_tokens=data.max_tokens,
        ).texts

    def validate(self) -> dict[str, float]:
        """Loss and published-protocol scores on validation, the work shared by all processes."""
        accelerator, recipe = self.accelerator, self.recipe
        part = slice(accelerator.process_index, None, accelerator.num_processes)
        dataset = self.datasets["val"]
        batches = in_order(
            dataset, recipe.decode.batch_size, num_workers=self.num_workers(), part=part
        )
        loss_sum, num_tokens = self.val_loss(batches)
        with self.reporter.progress("validation", len(range(len(dataset))[part]), "studies") as go:
            assert isinstance(self.model, ReportModel)
            written = write_reports(
                self.model,
                batches,
                self.codec,
                recipe.decode,
                precision=recipe.train.precision,
                seed=recipe.train.seed,
                advance=go,
            )
        self.model.train()
        mine = [(written, loss_sum, num_tokens)]
        everyone = gather_object(mine) if accelerator.num_processes > 1 else mine
        reports = {id_: text for texts, _, _ in everyone for id_, text in texts}
        loss = sum(part[1] for part in everyone) / sum(part[2] for part in everyone)
        texts = [reports[study.id] for study in dataset.studies]
        scores = score_nlg(self.references, scored_predictions(texts), meteor=self._meteor())
        named = {f"val/{name}": v for name, v in scores.corpus.items() if v is not None}
        return {"val/loss": loss, **named}

    def _meteor(self) -> Any:
        """METEOR takes seconds of Java, so training computes it only to choose by it."""
        return "auto" if self.recipe.train.monitor == "val/meteor" else "skip"
