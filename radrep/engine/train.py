"""Train the model of a recipe."""

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object
from torch.utils.data import DataLoader

from radrep.data.batch import Batch
from radrep.data.dataset import EpochOrder, ReportDataset, collate, in_order
from radrep.data.reports import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.engine import checkpoint, track
from radrep.engine.build import (
    Split,
    build_dataset,
    build_model,
    build_preprocess,
    build_tokenizer,
    read_split,
)
from radrep.engine.features import FeatureStore, cached_features
from radrep.engine.files import write_whole
from radrep.engine.generate import autocast, write_reports
from radrep.engine.loop import Parts, Progress, run_loop
from radrep.engine.optim import build_optimizer
from radrep.engine.prepared_folder import read_image_size
from radrep.engine.reporter import Reporter
from radrep.engine.workers import count_cores
from radrep.errors import CheckpointError, RecipeError
from radrep.metrics.nlg import score_nlg
from radrep.metrics.protocol import published_references, scored_predictions
from radrep.models.csr_lmca import CsrLmca
from radrep.recipe.load import dump_recipe
from radrep.recipe.schema import Recipe


@dataclass(frozen=True)
class TrainResult:
    """What a training run left.

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
        RecipeError: If the recipe asks for what this machine cannot do.
        DataError: If the prepared folder is missing or a split is empty.
        CheckpointError: If `out` holds a run already, or there is nothing to go on from.
        Stopped: If the user stopped it; --resume goes on.
    """
    section = recipe.train
    track.check_tracker(section.track)
    accelerator = _build_accelerator(recipe)
    reporter = (reporter or Reporter()) if accelerator.is_main_process else Reporter()
    last = checkpoint.last_checkpoint(newest_run(out or recipe.out)) if resume else None
    torch.manual_seed(section.seed)  # the initial weights
    splits = {name: read_split(recipe.data, name) for name in ("train", "val")}
    tokenizer = build_tokenizer(recipe.data, splits["train"])
    if last is None:
        model = build_model(recipe, len(tokenizer.vocabulary))
    else:
        loaded = checkpoint.load_checkpoint(last)
        if loaded.tokenizer != tokenizer:
            raise CheckpointError(
                f"{last} has a vocabulary of {len(loaded.tokenizer.vocabulary)} words and "
                f"{recipe.data.prepared} gives {len(tokenizer.vocabulary)}: the data changed"
            )
        model = loaded.model
    model.train()
    _tell_facts(reporter, recipe, splits, tokenizer, model, accelerator)
    setup = _Setup(recipe, accelerator, model, tokenizer, splits, reporter)
    # Only now, when nothing of the input can be wrong any more, is a folder made.
    run = _share(accelerator, _claim_run(recipe, out, last) if _is_main(accelerator) else None)
    reporter.fact("run", str(run))
    progress = setup.train(run, last)
    best = (run / checkpoint.BEST).resolve()
    assert progress.best is not None, "an epoch ends with a validation"
    return TrainResult(
        run, best, section.keep_best, progress.best, progress.best_step, progress.epoch
    )


class _Setup:
    """One process's part of a run: data, optimizer, validation, saving."""

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        model: CsrLmca,
        tokenizer: Tokenizer,
        splits: Mapping[str, Split],
        reporter: Reporter,
    ) -> None:
        self.recipe = recipe
        self.accelerator = accelerator
        self.model = model
        self.tokenizer = tokenizer
        self.splits = splits
        self.reporter = reporter
        preprocess = build_preprocess(recipe.data, model.backbone)
        self.features = self._features(preprocess) if model.backbone.frozen else None
        self.datasets = {
            name: build_dataset(
                recipe,
                split,
                preprocess=preprocess,
                tokenizer=tokenizer,
                training=name == "train",
                features=self.features,
            )
            for name, split in splits.items()
        }
        data = recipe.data
        self.references = published_references(
            splits["val"].texts,
            clean=get_cleaner(data.tokenizer.cleaner),
            vocabulary=tokenizer.vocabulary,
            max_tokens=data.max_tokens,
        ).texts

    def _features(self, preprocess: Any) -> FeatureStore:
        views = [v for split in self.splits.values() for study in split.views for v in study]
        with self.accelerator.main_process_first():
            return cached_features(
                self.model.backbone,
                preprocess,
                self.recipe.data.prepared,
                views,
                device=self.accelerator.device,
                reporter=self.reporter,
            )

    def train(self, run: Path, last: Path | None) -> Progress:
        """Run the loop from a checkpoint, or from the start, and keep its results in a folder."""
        self.run = run
        recipe, accelerator = self.recipe, self.accelerator
        optimizer = build_optimizer(self.model, recipe.optim)
        progress = Progress()
        state: dict[str, Any] = {}
        if last is not None:
            state = checkpoint.load_training(last)
            progress = Progress(**state["progress"])
            if progress.num_processes != accelerator.num_processes:
                raise CheckpointError(
                    f"{last} was trained by {progress.num_processes} processes and this is "
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
            len(self.datasets["train"]),
            recipe.train.batch_size,
            seed=recipe.train.seed,
            num_processes=accelerator.num_processes,
            process=accelerator.process_index,
        )
        metrics = None
        if accelerator.is_main_process:
            metrics = track.MetricsLog(self.run / track.METRICS, progress.step)
            environment = json.dumps(track.describe_environment(accelerator), indent=1)
            write_whole(self.run / track.ENVIRONMENT, environment + "\n")
        if recipe.train.track != "none":
            accelerator.init_trackers("radrep")
        parts = Parts(
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            order=order,
            batches=_training_batches(self.datasets["train"], order, self._num_workers()),
            validate=self.validate,
            save=self.save,
            metrics=metrics,
        )
        progress = run_loop(parts, progress, recipe.train, recipe.optim, self.reporter)
        accelerator.end_training()
        return progress

    def _num_workers(self) -> int:
        """Worker processes: none for cached features, which are read faster than handed over."""
        wanted = 0 if self.features is not None else self.recipe.data.num_workers
        return min(wanted, count_cores())

    def validate(self) -> dict[str, float]:
        """Loss and published-protocol scores on validation, the work shared by all processes."""
        accelerator, recipe = self.accelerator, self.recipe
        part = slice(accelerator.process_index, None, accelerator.num_processes)
        dataset = self.datasets["val"]
        batches = in_order(
            dataset, recipe.decode.batch_size, num_workers=self._num_workers(), part=part
        )
        loss_sum, num_tokens = self._val_loss(batches)
        with self.reporter.progress("validation", len(range(len(dataset))[part]), "studies") as go:
            written = write_reports(
                self.model,
                batches,
                self.tokenizer,
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
        return "auto" if self.recipe.train.keep_best == "val/meteor" else "skip"

    @torch.no_grad()
    def _val_loss(self, batches: Iterable[Batch]) -> tuple[float, int]:
        self.model.eval()
        total, count = 0.0, 0
        with autocast(self.accelerator.device, self.recipe.train.precision):
            for batch in batches:
                assert batch.lengths is not None
                num = int((batch.lengths - 1).sum())
                loss = self.model.loss(batch.to(self.accelerator.device))["loss"]
                total, count = total + float(loss) * num, count + num
        return total, count

    def save(self, progress: Progress, best: bool) -> None:
        """Write a checkpoint; the main process does, the others wait."""
        if self.accelerator.is_main_process:
            folder = checkpoint.step_folder(self.run, progress.step)
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
                training=training,
            )
            if best:
                checkpoint.point_best(self.run, folder)
            checkpoint.drop_old_checkpoints(self.run)
        self.accelerator.wait_for_everyone()


def _training_batches(
    dataset: ReportDataset, order: EpochOrder, num_workers: int
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_ignore_interrupt,
        pin_memory=torch.cuda.is_available(),
    )


def _ignore_interrupt(_worker: int) -> None:
    """Leave Ctrl-C to the training process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
        log_with=None if section.track == "none" else section.track,
        project_config=config,
    )


def _is_main(accelerator: Accelerator) -> bool:
    return bool(accelerator.is_main_process)


def speaks() -> bool:
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
        return checkpoint.run_of(last)
    folder = _new_folder(recipe, out)
    write_whole(folder / checkpoint.RECIPE, dump_recipe(recipe))
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


def _tell_facts(
    reporter: Reporter,
    recipe: Recipe,
    splits: Mapping[str, Split],
    tokenizer: Tokenizer,
    model: CsrLmca,
    accelerator: Accelerator,
) -> None:
    counts = " / ".join(f"{len(split.studies)} {name}" for name, split in splits.items())
    skipped = sum(split.num_without_text for split in splits.values())
    without = f", {skipped} left out without {recipe.data.target}" if skipped else ""
    reporter.fact("data", f"{counts} studies{without}, {len(tokenizer.vocabulary)} words")
    sizes = {
        "backbone": model.backbone,
        "enhancer": model.enhancer,
        "encoder-decoder": model.encoder_decoder,
    }
    told = " + ".join(
        f"{name} {sum(p.numel() for p in part.parameters()) / 1e6:.1f}M"
        for name, part in sizes.items()
        if part is not None
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    reporter.fact("model", f"{told}, {trained:.1f}M of them trained")
    section = recipe.train
    batch = section.batch_size * section.grad_accum_steps * accelerator.num_processes
    reporter.fact(
        "device",
        f"{accelerator.num_processes} x {accelerator.device.type}, {section.precision}, "
        f"effective batch {batch}",
    )
