"""A run from its recipe to its best checkpoint: resolve, data, model, loop."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
from radrep.claimed_sizes import SizeLimit, machine_memory
from radrep.data.dataset import (
    EpochOrder,
    ModelStudies,
    ReportDataset,
    collate,
    leave_stopping_to_parent,
)
from radrep.data.manifest import hash_recipe, read_shards
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.errors import RecipeError
from radrep.inference.label_tokens import fit_label_tokens
from radrep.models.base import LabelModel, ReportModel, TrainableModel, reads_label_tokens
from radrep.parallel.processes import count_cores
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.saliency.masked_split import read_split
from radrep.sections import target_name
from radrep.training.accelerator import (
    await_main,
    broadcast,
    explain_lost_process,
    read_launch,
)
from radrep.training.discriminator_task import LabelTask
from radrep.training.features.cache import Share, cached_features
from radrep.training.features.entry import FeatureStore
from radrep.training.features.selected_images import SelectedImages
from radrep.training.labels import LabelReader, build_labels, build_targets, check_labels
from radrep.training.loop import Interrupted, Progress, Run, Task, fit
from radrep.training.optim import build_optimizer, restore_optimizer, set_top_rates
from radrep.training.parallel.checkpoint_writer import CheckpointWriter
from radrep.training.parallel.sharded_state import ShardedRun
from radrep.training.parallel.sharding import spread
from radrep.training.pretraining_task import PretrainingTask, refuse_test_studies
from radrep.training.report_task import (
    ReportTask,
    cached_summaries,
    fit_guidance,
    guidance_encoders,
)
from radrep.training.reward.build import build_objective, count_repeats, token_weights
from radrep.training.run_log import log_model
from radrep.training.start import (
    Resolved,
    find_start,
    join,
    load_last,
    open_folder,
    settle_best,
)
from radrep.training.validation import Validation
from radrep.weights import checkpoint, run_folder
from radrep.weights.guidance_files import has_guidance
from radrep.weights.model_card import MODEL_CARD, describe_model
from radrep.weights.pretrained import load_pretrained


@dataclass(frozen=True)
class TrainResult:
    """A run's folder, its best checkpoint, and the monitor's best value and step."""

    run: Path
    best: Path
    metric: str
    value: float
    step: int
    epochs: int


@dataclass(frozen=True)
class Data:
    """What a model learns from."""

    splits: dict[str, ModelStudies]
    tokenizer: Tokenizer
    labels: LabelReader | None
    fingerprint: str


@dataclass(frozen=True)
class _Begun:
    """The model, where its training stands, and the state of a checkpoint."""

    model: TrainableModel
    progress: Progress
    state: dict[str, Any]


@dataclass(frozen=True)
class _Model:
    """The model, where its training stands, and the data sets that feed it."""

    model: TrainableModel
    codec: ReportCodec
    features: FeatureStore | None  # None: fed with pixels
    datasets: dict[str, ReportDataset]
    progress: Progress
    state: dict[str, Any]  # of optimizer and scaler, empty in a new run


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train or pretrain in a new folder, or resume the newest run there, whose recipe this is.

    Without `out` the folder is the recipe's, with -2, -3, ... where a run is already. Several
    processes, started by `accelerate launch` or torchrun, train together; the main one reports.

    Raises:
        RecipeError, DataError, CheckpointError: Of machine, data, folder or weights to start from.
        Interrupted: If the user stopped it; --resume goes on.
    """
    with ExitStack() as held:  # the run's lock
        start = find_start(recipe, out, resume, reporter or Reporter(), held)
        data = open_data(recipe, start.reporter)
        # What does not fit is refused before other processes are met; that of a run which goes on
        # by the main one, which has chosen the checkpoint.
        knows = not resume or start.last is not None
        begun = _begin(recipe, data, start.last, read_launch()) if knows else None
        resolved = join(start)
        try:
            if begun is None:
                begun = _begin(recipe, data, resolved.last, read_launch())
            return _loop(resolved, data, _make_model(resolved, data, begun))
        except RuntimeError as error:
            raise explain_lost_process(resolved.accelerator, error) or error from error


def open_data(recipe: Recipe, reporter: Reporter) -> Data:
    """The splits of training, their vocabulary and labels. The test split is never opened."""
    data = recipe.data
    if recipe.task == "pretrain":
        refuse_test_studies(data, reporter)
    need_text = recipe.model.needs_text
    splits = {name: read_split(data, name, need_text=need_text) for name in ("train", "val")}
    tokenizer = build_tokenizer(data, splits["train"])
    labels = build_labels(recipe, splits["train"])
    counts = " / ".join(f"{len(split)} {name}" for name, split in splits.items())
    skipped = sum(split.num_without_text for split in splits.values())
    without = f", {skipped} left out without {target_name(data.target)}" if skipped else ""
    reporter.info("data", f"{counts} studies{without}, {len(tokenizer.vocabulary)} words")
    if labels is not None:
        check_labels(labels, splits["val"])
        reporter.info("labels", f"{labels.vocabulary}: {', '.join(labels.known)}")
    shards = {s.name: s.sha256 for s in read_shards(data.prepared) if s.split in splits}
    return Data(splits, tokenizer, labels, hash_recipe(shards))


def build_new(recipe: Recipe, tokenizer: Tokenizer) -> TrainableModel:
    """The model with the weights that it starts from."""
    torch.manual_seed(recipe.train.seed)
    with _within_memory():
        model = build_model(recipe, tokenizer.vocabulary)
    load_pretrained(model, recipe)
    checkpoint.load_start(model, recipe, tokenizer)
    return model


def _begin(recipe: Recipe, data: Data, last: Path | None, num_processes: int) -> _Begun:
    """A new model, or that of a checkpoint."""
    if last is None:
        new = build_new(recipe, data.tokenizer)
        return _Begun(new, Progress(num_processes=num_processes), {})
    masks = data.splits["train"].masks
    model, progress, state = load_last(
        last,
        tokenizer=data.tokenizer,
        recipe=recipe,
        masks=None if masks is None else masks.fingerprint,
        fingerprint=data.fingerprint,
        num_processes=num_processes,
    )
    return _Begun(model, settle_best(run_folder.run_dir(last), progress, recipe), state)


def _make_model(resolved: Resolved, data: Data, begun: _Begun) -> _Model:
    """The model with the data sets in its form."""
    recipe, accelerator, model = resolved.recipe, resolved.accelerator, begun.model
    model.train()
    log_model(recipe, accelerator, model, resolved.reporter)
    codec = build_codec(recipe, data.tokenizer, model)
    features = frozen_features(recipe, model, data, accelerator.device, resolved.reporter)
    datasets = {
        name: build_dataset(
            recipe,
            split,
            preprocess=build_preprocess(recipe.data, model),
            codec=codec,
            training=name == "train",
            features=features,
            labels=build_targets(recipe, data.labels, data.splits["train"]),
        )
        for name, split in data.splits.items()
    }
    if reads_label_tokens(model):
        sets, device = list(datasets.values()), accelerator.device
        summaries = cached_summaries(model, sets, device, resolved.reporter)
        fitted = fit_label_tokens(model, sets, recipe, resolved.reporter, summaries)
        for each, buckets in zip(sets, broadcast(accelerator, fitted), strict=True):
            each.label_buckets = buckets
    datasets["train"].token_weights = token_weights(recipe, codec)
    return _Model(model, codec, features, datasets, begun.progress, begun.state)


def frozen_features(
    recipe: Recipe,
    model: TrainableModel,
    data: Data,
    device: torch.device,
    reporter: Reporter,
    share: Share | None = None,
) -> FeatureStore | None:
    """What a frozen encoder makes of the images of training; None where it is trained.

    All that a run reads of its frozen encoder is then in the cache.
    """
    encoder = model.frozen_encoder()
    if encoder is None:
        return None
    selection = build_selection(recipe.data)
    images = {name: SelectedImages.find(split, selection) for name, split in data.splits.items()}
    return cached_features(
        {encoder: [*images.values()]} | guidance_encoders(model, recipe, images),
        build_preprocess(recipe.data, model),
        device=device,
        reporter=reporter,
        share=share,
    )[encoder]


def _within_memory() -> SizeLimit:
    """Refuses a model whose weights alone are more than this machine can hold."""

    def error(limit: str) -> RecipeError:
        text = f"needs more than {limit} for its weights alone, the most that this machine holds"
        return RecipeError("this run", [("model", f"{text}; lower its sizes")])

    return SizeLimit(machine_memory(), error)


def _loop(resolved: Resolved, data: Data, made: _Model) -> TrainResult:
    """The folder, the optimizer, all epochs, the model card."""
    recipe, accelerator, model = resolved.recipe, resolved.accelerator, made.model
    studies = data.splits["train"]
    objective = build_objective(recipe, model, studies, made.codec, data.tokenizer)
    wrapped = spread(accelerator, objective, recipe.parallel)
    optimizer, scaler = build_optimizer(model, recipe.optim), None
    if recipe.train.precision == "fp16":
        scaler = torch.amp.GradScaler(accelerator.device.type)
    sharded = recipe.parallel.data == "fsdp"
    if made.state:
        assert resolved.last is not None, "a state is of a checkpoint"
        if sharded:
            ShardedRun(accelerator, wrapped, optimizer).load_optimizer(resolved.last)
            set_top_rates(optimizer, recipe.optim)
        else:
            restore_optimizer(optimizer, made.state, recipe.optim, resolved.last)
        if scaler is not None:
            scaler.load_state_dict(made.state["scaler"])
    folder, log = open_folder(resolved, model, made.progress)
    order = EpochOrder(
        studies.shard_sizes,
        recipe.train.batch_size,
        seed=recipe.train.seed,
        num_processes=accelerator.num_processes,
        process=accelerator.process_index,
        repeats=count_repeats(recipe, studies),
    )
    # Cached features are read faster than handed over by workers.
    wanted = recipe.data.num_workers if made.features is None else 0
    num_workers = min(wanted, count_cores())
    validation = Validation(
        recipe=recipe,
        accelerator=accelerator,
        model=model,
        dataset=made.datasets["val"],
        tokenizer=data.tokenizer,
        codec=made.codec,
        num_workers=num_workers,
        reporter=resolved.reporter,
    )
    batches: DataLoader[Any] = DataLoader(
        made.datasets["train"],
        batch_sampler=order,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_stopping_to_parent,
        pin_memory=torch.cuda.is_available(),
    )

    masks = studies.masks
    checkpoints = CheckpointWriter(
        run=folder,
        recipe=recipe,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        scaler=scaler,
        tokenizer=data.tokenizer,
        fingerprint=data.fingerprint,
        masks="" if masks is None else masks.fingerprint,
        log=log,
    )
    run = Run(
        recipe=recipe,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        task=_choose_task(validation),
        optimizer=optimizer,
        scaler=scaler,
        order=order,
        batches=batches,
        checkpoints=checkpoints,
        log=log,
        reporter=resolved.reporter,
    )
    try:
        progress = fit(run, made.progress)
    except Interrupted as stopped:
        stopped.run = folder
        raise
    finally:
        checkpoints.close()
        if log is not None:
            log.close()
    await_main(accelerator, lambda: _fit_selection(folder, resolved, data, made, progress))
    accelerator.end_training()
    return _finish(folder, recipe, progress, write=accelerator.is_main_process)


def _choose_task(validation: Validation) -> Task:
    """How a model is validated, by what it can do."""
    model = validation.model
    if isinstance(model, ReportModel):
        return ReportTask(validation, model)
    if isinstance(model, LabelModel):
        return LabelTask(validation, model)
    return PretrainingTask(validation)


def _fit_selection(
    folder: Path, resolved: Resolved, data: Data, made: _Model, progress: Progress
) -> None:
    """Fit selection and editing on the encoder of the best checkpoint, for that checkpoint."""
    recipe, model = resolved.recipe, made.model
    best = run_folder.step_folder(folder, progress.best_step)
    if not isinstance(model, ReportModel) or not recipe.decode.guided or has_guidance(best):
        return
    if recipe.parallel.data == "fsdp":  # the other processes have parts of it
        loaded = checkpoint.load_checkpoint(best).model.to(resolved.accelerator.device)
        assert isinstance(loaded, ReportModel), "it is the model of this recipe"
        model = loaded
    elif progress.best_step != progress.step:
        checkpoint.load_weights(model, best)
    dataset = build_dataset(
        recipe,
        data.splits["train"],
        preprocess=build_preprocess(recipe.data, model),
        codec=made.codec,
        features=None,
    )
    fit_guidance(best, model, dataset, recipe, resolved.accelerator.device, resolved.reporter)


def _finish(folder: Path, recipe: Recipe, progress: Progress, *, write: bool) -> TrainResult:
    assert progress.best is not None, "an epoch ends with a validation"
    metric = recipe.train.monitor
    if write:
        reached = f"Best {metric} {progress.best:.3f}, at step {progress.best_step}."
        atomic_write_text(folder / MODEL_CARD, describe_model(recipe, None, reached))
    best = run_folder.best_checkpoint(folder)
    assert best is not None, "the first validation is the best so far"
    return TrainResult(folder, best, metric, progress.best, progress.best_step, progress.epoch)
