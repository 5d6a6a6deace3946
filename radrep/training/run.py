"""What training and pretraining share: the run's folder, going on, the loop, checkpoints."""

import json
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from torch.utils.data import DataLoader

from radrep.atomic import atomic_write_text
from radrep.build import (
    build_codec,
    build_dataset,
    build_model,
    build_preprocess,
    build_selection,
    build_tokenizer,
)
from radrep.data.batch import Batch
from radrep.data.dataset import EpochOrder, ReportDataset, collate, in_order
from radrep.data.manifest import read_image_size
from radrep.device import autocast
from radrep.errors import CheckpointError, RecipeError
from radrep.models.base import TrainableModel
from radrep.models.emrrg import language_part
from radrep.parallel import count_cores
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe
from radrep.recipe.recipe import Recipe
from radrep.saliency.read_split import read_split
from radrep.saliency.sdam import check_mask_fingerprint
from radrep.training import run_log as track
from radrep.training.feature_cache import FeatureStore, cached_features
from radrep.training.labels import build_labels
from radrep.training.loop import Parts, Progress, run_loop
from radrep.training.optim import build_optimizer
from radrep.weights import checkpoint
from radrep.weights.model_card import MODEL_CARD, describe_model
from radrep.weights.pretrained import load_pretrained


@dataclass(frozen=True)
class TrainResult:
    """What a run left.

    Attributes:
        run: The run's folder.
        best: Its best checkpoint.
        metric: The metric that chose it.
        value: Its value.
        step: The step it was made at.
        epochs: Epochs done.
    """

    run: Path
    best: Path
    metric: str
    value: float
    step: int
    epochs: int


class Training(ABC):
    """One process's part of a run: model, data, optimizer, saving; how to validate is told below.

    Args:
        recipe: The recipe.
        last: The checkpoint to go on from, or None to begin.
        reporter: Who is told how it goes; the main process alone speaks.

    Raises:
        RecipeError: If the recipe asks for what this machine cannot do.
        DataError: If the prepared folder is missing or a split is empty.
        CheckpointError: If weights cannot be had, or the checkpoint is of other data.
    """

    def __init__(self, recipe: Recipe, last: Path | None, reporter: Reporter) -> None:
        track.check_tracker(recipe.train.logger)
        self.recipe = recipe
        self.last = last
        self.accelerator = _build_accelerator(recipe)
        self.reporter = reporter if self.accelerator.is_main_process else Reporter()
        torch.manual_seed(recipe.train.seed)  # the initial weights
        # Reports are what is learned, or what labels are read from.
        need_text = recipe.model.needs_text
        self.splits = {
            name: read_split(recipe.data, name, need_text=need_text) for name in ("train", "val")
        }
        self.tokenizer = build_tokenizer(recipe.data, self.splits["train"])
        self.labels = build_labels(recipe, self.splits["train"])
        self.model = self._model()
        self.model.train()
        self._log_summary()
        self.codec = build_codec(recipe, self.tokenizer, self.model)
        preprocess = build_preprocess(recipe.data, self.model)
        encoder = self.model.frozen_encoder()
        self.features = None if encoder is None else self._features(encoder, preprocess)
        self.datasets = {
            name: build_dataset(
                recipe,
                split,
                preprocess=preprocess,
                codec=self.codec,
                training=name == "train",
                features=self.features,
                labels=self.labels,
            )
            for name, split in self.splits.items()
        }

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Score the model on validation, the work shared by all processes: names to values."""

    def _model(self) -> TrainableModel:
        if self.last is None:
            model = build_model(self.recipe, len(self.tokenizer.vocabulary))
            load_pretrained(model, self.recipe)
            return model
        loaded = checkpoint.load_checkpoint(self.last)
        if loaded.tokenizer != self.tokenizer:
            raise CheckpointError(
                f"{self.last} has a vocabulary of {len(loaded.tokenizer.vocabulary)} words and "
                f"{self.recipe.data.prepared} gives {len(self.tokenizer.vocabulary)}: the data "
                "changed"
            )
        if (masks := self.splits["train"].masks) is not None:
            check_mask_fingerprint(loaded.saliency, masks.fingerprint, self.last)
        return loaded.model

    def _features(self, encoder: Any, preprocess: Any) -> FeatureStore:
        with self.accelerator.main_process_first():
            return cached_features(
                encoder,
                preprocess,
                self.splits.values(),
                selection=build_selection(self.recipe.data),
                device=self.accelerator.device,
                reporter=self.reporter,
            )

    def run(self, out: Path | None) -> TrainResult:
        """Run the loop from the checkpoint, or from the start, and keep its results in a folder.

        Raises:
            CheckpointError: If `out` holds a run already, or the checkpoint is of other processes.
            Interrupted: If the user stopped it; going on from the last checkpoint is possible.
        """
        # Only now, when nothing of the input can be wrong any more, is a folder made.
        claimed = _claim_run(self.recipe, out, self.last) if is_main_process() else None
        self.folder = _share(self.accelerator, claimed)
        self.reporter.info("run", str(self.folder))
        progress = self._train()
        assert progress.best is not None, "an epoch ends with a validation"
        best = (self.folder / checkpoint.BEST).resolve()
        metric = self.recipe.train.monitor
        if is_main_process():
            reached = f"Best {metric} {progress.best:.3f}, at step {progress.best_step}."
            card = describe_model(self.recipe, None, reached)
            atomic_write_text(self.folder / MODEL_CARD, card)
        return TrainResult(
            self.folder, best, metric, progress.best, progress.best_step, progress.epoch
        )

    def _train(self) -> Progress:
        recipe, accelerator = self.recipe, self.accelerator
        optimizer = build_optimizer(self.model, recipe.optim)
        progress = Progress()
        state: dict[str, Any] = {}
        if self.last is not None:
            state = checkpoint.load_training(self.last)
            progress = Progress(**state["progress"])
            if is_main_process():
                checkpoint.restore_best(self.folder, progress.best_step)
            if progress.num_processes != accelerator.num_processes:
                raise CheckpointError(
                    f"{self.last} was trained by {progress.num_processes} processes and this is "
                    f"{accelerator.num_processes}: it would not go on as it began"
                )
        progress.num_processes = accelerator.num_processes
        model, optimizer = accelerator.prepare(self.model, optimizer)
        if state:
            optimizer.load_state_dict(state["optimizer"])
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(state["scaler"])
        self.optimizer = optimizer
        order = EpochOrder(
            self.splits["train"].shard_sizes,
            recipe.train.batch_size,
            seed=recipe.train.seed,
            num_processes=accelerator.num_processes,
            process=accelerator.process_index,
        )
        metrics = None
        if accelerator.is_main_process:
            metrics = track.MetricsLog(self.folder / track.METRICS, progress.step)
            environment = json.dumps(track.describe_environment(accelerator), indent=1)
            atomic_write_text(self.folder / track.ENVIRONMENT, environment + "\n")
        if recipe.train.logger != "none":
            accelerator.init_trackers("radrep")
        parts = Parts(
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            order=order,
            batches=_training_batches(self.datasets["train"], order, self.num_workers()),
            validate=self.validate,
            num_loss_terms=self.model.num_loss_terms,
            save=self.save,
            metrics=metrics,
        )
        progress = run_loop(parts, progress, recipe.train, recipe.optim, self.reporter)
        accelerator.end_training()
        return progress

    def num_workers(self) -> int:
        """Worker processes: none for cached features, which are read faster than handed over."""
        wanted = 0 if self.features is not None else self.recipe.data.num_workers
        return min(wanted, count_cores())

    def val_batches(self) -> Iterable[Batch]:
        """This process's part of validation, in training's batch size."""
        return in_order(
            self.datasets["val"],
            self.recipe.train.batch_size,
            num_workers=self.num_workers(),
            part=slice(self.accelerator.process_index, None, self.accelerator.num_processes),
        )

    @torch.no_grad()
    def val_loss(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Sum of the losses of validation and the number of terms in it."""
        self.model.eval()
        total, count = 0.0, 0
        with autocast(self.accelerator.device, self.recipe.train.precision):
            for batch in batches:
                num = self.model.num_loss_terms(batch)
                loss = self.model.loss(batch.to(self.accelerator.device))["loss"]
                total, count = total + float(loss) * num, count + num
        return total, count

    def save(self, progress: Progress, best: bool) -> None:
        """Write a checkpoint; the main process does, the others wait."""
        if self.accelerator.is_main_process:
            folder = checkpoint.step_folder(self.folder, progress.step)
            scaler = self.accelerator.scaler
            training = {
                "progress": progress.state(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            checkpoint.save_checkpoint(
                folder,
                model=self.model,
                recipe=self.recipe,
                tokenizer=self.tokenizer,
                prepared_size=read_image_size(self.recipe.data.prepared),
                saliency=masks.fingerprint if (masks := self.splits["train"].masks) else "",
                training=training,
            )
            if best:
                checkpoint.link_best(self.folder, folder)
            checkpoint.drop_old_checkpoints(self.folder)
        self.accelerator.wait_for_everyone()

    def _log_summary(self) -> None:
        section, accelerator = self.recipe.train, self.accelerator
        counts = " / ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        skipped = sum(split.num_without_text for split in self.splits.values())
        without = f", {skipped} left out without {self.recipe.data.target}" if skipped else ""
        num_words = len(self.tokenizer.vocabulary)
        self.reporter.info("data", f"{counts} studies{without}, {num_words} words")
        for part, total, trained in parameter_table(self.model):
            told = "all" if trained == total else f"{trained:,}" if trained else "none"
            self.reporter.info("model", f"{part}: {total:,} parameters, {told} trained")
        batch = section.batch_size * section.grad_accum_steps * accelerator.num_processes
        self.reporter.info(
            "device",
            f"{accelerator.num_processes} x {accelerator.device.type}, {section.precision}, "
            f"effective batch {batch}",
        )


def parameter_table(model: TrainableModel) -> list[tuple[str, int, int]]:
    """Each part of a model with all its parameters and those of them that are trained.

    Each parameter is in exactly one row, shared ones once; the last row is the whole model.
    """
    rows: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, count = _part(name), parameter.numel()
        total, trained = rows.get(part, (0, 0))
        rows[part] = (total + count, trained + count * parameter.requires_grad)
    rows["whole"] = (sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values()))
    return [(part, total, trained) for part, (total, trained) in rows.items()]


def _part(name: str) -> str:
    """The part that a parameter belongs to, in words."""
    part, _, rest = name.partition(".")
    if part == "language_model":
        return language_part(rest)
    if part == "encoder" and ".adapters." in rest:
        return "encoder adapters"
    if part == "encoder" and ".mixer." in rest:
        return "encoder mixers"
    return part.replace("_", "-" if part == "encoder_decoder" else " ")


def _training_batches(
    dataset: ReportDataset, order: EpochOrder, num_workers: int
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_ignore_stop_requests,
        pin_memory=torch.cuda.is_available(),
    )


def _ignore_stop_requests(_worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the training process, which ends its workers itself.

    Both reach the whole group: a worker that ends first would cost the checkpoint.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _build_accelerator(recipe: Recipe) -> Accelerator:
    section = recipe.train
    if section.precision == "fp16" and not torch.cuda.is_available():
        text = "'fp16' needs CUDA, and this machine has none; use bf16 or fp32"
        raise RecipeError("this run", [("train.precision", text)])
    # Accelerate keeps the first precision of a process; another run in it may want another one.
    AcceleratorState._reset_state()
    config = ProjectConfiguration(project_dir=str(recipe.out), logging_dir=str(recipe.out))
    return Accelerator(
        mixed_precision="no" if section.precision == "fp32" else section.precision,
        log_with=None if section.logger == "none" else section.logger,
        project_config=config,
    )


def is_main_process() -> bool:
    """Whether this process tells the user how a run ended: of several the main one alone does."""
    return bool(PartialState().is_main_process)


def _share(accelerator: Accelerator, value: Path | None) -> Path:
    """Give every process what the main one has."""
    if accelerator.num_processes == 1:
        assert value is not None
        return value
    return cast(Path, broadcast_object_list([value])[0])


def _claim_run(recipe: Recipe, out: Path | None, last: Path | None) -> Path:
    """The folder of a new run, made now with its recipe, or of the run to go on with."""
    if last is not None:
        return checkpoint.run_dir(last)
    folder = _new_folder(recipe, out)
    atomic_write_text(folder / checkpoint.RECIPE, dump_recipe(recipe))
    return folder


def _new_folder(recipe: Recipe, out: Path | None) -> Path:
    wanted = out or recipe.out
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if folder.is_dir() and not any(folder.iterdir()):
            return folder
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if out is not None:
                raise CheckpointError(
                    f"{out} exists already and is not overwritten; name another --out, or go on "
                    "with --resume"
                ) from error
            continue
        return folder
    raise CheckpointError(f"{wanted} and its 9,999 successors exist; name another --out")


def newest_run(out: Path) -> Path:
    """The newest of the runs out, out-2, out-3, ... that has a checkpoint to go on from.

    Raises:
        CheckpointError: If there is none.
    """
    numbered = [
        p for p in out.parent.glob(f"{out.name}-*") if p.name[len(out.name) + 1 :].isdigit()
    ]
    runs = [p for p in (out, *numbered) if checkpoint.last_checkpoint(p) is not None]
    if not runs:
        raise CheckpointError(f"{out} has no checkpoint to go on from; start it without --resume")
    return max(runs, key=lambda p: int(p.name[len(out.name) + 1 :] or 1))
