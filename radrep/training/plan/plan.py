"""From a recipe and some devices to bytes, steps and hours: `make_plan`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radrep.build import build_model, build_selection
from radrep.data.batch import Batch
from radrep.data.context.study_context import PRIOR_IMAGE, TITLES
from radrep.data.manifest import PREPARED, read_shards
from radrep.metrics.labeler import OBSERVATIONS
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.models.base import LabelTokenModel, TrainableModel
from radrep.progress import Advance
from radrep.recipe.data import Data
from radrep.recipe.recipe import Recipe
from radrep.sections import TWO_SECTIONS
from radrep.training.parallel.blocks import recompute_blocks
from radrep.training.parallel.sharding import blocks_to_share
from radrep.training.plan.cards import GIB, Devices
from radrep.training.plan.known_models import with_stand_ins
from radrep.training.plan.measure import META, StepCost, measure_step

_LAUNCH = 6e-6  # seconds in which a CPU starts a kernel; assumed
UTILISATION = 0.35  # of a card's peak; assumed, and reported as assumed
NUM_WORDS = 4000  # of a vocabulary that is not there to be counted; MIMIC-CXR's has about as many
IMAGES_PER_STUDY = 1.66  # MIMIC-CXR's 377,110 images of 227,835 studies
BYTES_PER_IMAGE = 28_300  # measured on IU X-Ray, prepared at 256 pixels
_CONTEXT = 1.0 * GIB  # of CUDA and its libraries
_FRAGMENTS = 0.05  # of the memory, which no tensor gets
_KEPT = 3  # checkpoints on disk: the newest, the best, and one while it is written


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, but for `fixed` and `per_study` at any micro-batch."""

    parameters: int
    gradients: int
    optimizer: int
    exchange: int  # buffers between the processes, and blocks gathered for the moment
    fixed: int  # of activations
    per_study: int
    offloaded: bool  # parameters, gradients and optimizer are in the machine's memory

    def total(self, batch_size: int) -> int:
        """With the activations of a micro-batch."""
        held = 0 if self.offloaded else self.parts
        return held + self.exchange + self.activations(batch_size)

    @property
    def parts(self) -> int:
        """Of this process's parts of parameters, gradients and optimizer."""
        return self.parameters + self.gradients + self.optimizer

    def activations(self, batch_size: int) -> int:
        """Of a micro-batch, with all that is computed on the way."""
        return self.fixed + batch_size * self.per_study


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    recipe: Recipe
    devices: Devices
    stand_in: str  # a language model or text encoder of which only the published sizes were read
    num_parameters: int
    num_trained: int
    memory: Memory
    host_bytes: int  # of each machine, while the processes load
    step: StepCost  # of a device, all micro-batches
    utilisation: float
    num_studies: int | None  # of an epoch; None: not known
    num_images: int | None
    data_bytes: int | None
    data_assumed: str  # how bytes were made of a number of studies; "": they are counted
    feature_bytes: int | None  # of the cache behind a frozen encoder
    feature_splits: str  # those whose images it counts
    checkpoint_bytes: int

    @property
    def not_planned(self) -> list[str]:
        """What the recipe asks for beyond the steps that are planned."""
        train, found = self.recipe.train, []
        if train.reward is not None:
            found.append("train.reward, whose steps draw reports and score them")
        if train.repeat_abnormal != 1:
            found.append("train.repeat_abnormal, with which an epoch has more studies")
        return found

    @property
    def usable(self) -> float:
        """Bytes of a device that tensors can have."""
        return self.devices.card.memory * GIB * (1 - _FRAGMENTS) - _CONTEXT

    @property
    def fits(self) -> bool:
        """Whether a device holds the micro-batch of the recipe."""
        return self.memory.total(self.recipe.train.batch_size) <= self.usable

    @property
    def largest_batch(self) -> int:
        """The largest micro-batch that a device holds, 0 for none."""
        room = self.usable - self.memory.total(0)
        return max(0, math.floor(room / max(1, self.memory.per_study)))

    @property
    def steps_per_second(self) -> float:
        """By peak rate and utilisation, or the start of so many kernels where that takes longer.

        Without exchanges and waiting for data.
        """
        return 1 / max(self._arithmetic, self.step.kernels * _LAUNCH)

    @property
    def is_small(self) -> bool:
        """Whether a step's kernels take longer to start than to compute."""
        return self._arithmetic < self.step.kernels * _LAUNCH

    @property
    def _arithmetic(self) -> float:
        train = self.recipe.train
        rate = self.devices.card.rate(train.precision, tf32=train.tf32) * self.utilisation
        return self.step.flops / rate

    @property
    def global_batch(self) -> int:
        """Studies of an optimizer step."""
        train = self.recipe.train
        return train.batch_size * train.grad_accum_steps * self.devices.total

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the run."""
        if self.num_studies is None:
            return None
        return self.recipe.train.epochs * math.ceil(self.num_studies / self.global_batch)

    @property
    def hours(self) -> float | None:
        """Of training; validation comes on top."""
        return None if self.num_steps is None else self.num_steps / self.steps_per_second / 3600


def make_plan(
    recipe: Recipe,
    devices: Devices,
    *,
    num_studies: int | None = None,
    utilisation: float = UTILISATION,
    advance: Advance | None = None,
) -> Plan:
    """Plan a run; nothing is downloaded, and no weight is made. `advance` counts three parts.

    Raises:
        CheckpointError: If the sizes of a language model are not to be had.
        RecipeError: If the parts of the model do not fit one another.
    """
    with with_stand_ins(recipe) as (sized, stand_in):
        model = make_shapes(sized, NUM_WORDS)
    if recipe.parallel.activation_checkpointing:
        recompute_blocks(_module(model))
    costs = []
    for count in (2, 4):
        if advance is not None:
            advance()
        batch = shape_batch(recipe, model, count)
        costs.append(measure_step(model, batch, recipe.train.precision))
    small, large = costs
    per_study, per_flops = (
        (large.num_bytes - small.num_bytes) // 2,
        (large.flops - small.flops) // 2,
    )
    parameters = list(model.parameters())
    if advance is not None:
        advance()
    held = _held(recipe, devices, model)
    state = sum(_bytes(tensor) for tensor in model.checkpoint_state().values())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    data = _count_data(recipe, num_studies)
    train = recipe.train
    step = small.flops - 2 * per_flops + train.batch_size * per_flops
    return Plan(
        recipe=recipe,
        devices=devices,
        stand_in=stand_in,
        num_parameters=sum(p.numel() for p in parameters),
        num_trained=trained,
        memory=Memory(
            *held,
            max(0, small.num_bytes - 2 * per_study),
            per_study,
            offloaded=recipe.parallel.cpu_offload and devices.total > 1,
        ),
        host_bytes=devices.per_node * sum(map(_bytes, parameters)),
        step=StepCost(
            num_bytes=large.num_bytes,
            flops=step * train.grad_accum_steps,
            kernels=large.kernels * train.grad_accum_steps,
        ),
        utilisation=utilisation,
        num_studies=data.studies,
        num_images=data.images,
        data_bytes=data.num_bytes,
        data_assumed=data.assumed,
        feature_bytes=_feature_bytes(recipe, model, data.cached),
        feature_splits="train and val" if num_studies is None else "train alone",
        checkpoint_bytes=_KEPT * (state + optimizer_bytes(recipe, parameters)),
    )


def make_shapes(recipe: Recipe, num_words: int) -> TrainableModel:
    """The model of a recipe in training mode, on "meta"."""
    words = [*map(str, range(num_words))]
    with META:
        model = build_model(recipe, words, pretrained=False, language_weights=False)
    return model.to(META).train()


def shape_batch(recipe: Recipe, model: TrainableModel, num_studies: int) -> Batch:
    """A full batch on "meta": all views, reports of data.max_tokens, all context."""
    views = build_selection(recipe.data).max_images
    size, length = recipe.data.image_size, recipe.data.max_tokens
    if recipe.data.target == TWO_SECTIONS:
        length = 2 * length + 1  # and a marker
    images: Tensor | None = torch.zeros(num_studies * views, 3, size, size, device=META)
    maps = features = None
    frozen = model.frozen_encoder()
    if frozen is not None:
        with torch.no_grad():
            patches: Tensor = frozen(images)
        images = None
        if recipe.model.takes_early_maps:
            side = math.isqrt(patches.shape[1])
            maps = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        else:
            features = patches
    buckets = None
    if isinstance(model, LabelTokenModel) and model.label_tokens is not None:
        buckets = torch.zeros(num_studies, len(ABNORMAL), dtype=torch.long, device=META)
    labels = len(OBSERVATIONS) + recipe.model.num_words
    return Batch(
        ids=tuple(map(str, range(num_studies))),
        num_views=torch.full((num_studies,), views),
        images=images,
        early_maps=maps,
        features=features,
        tokens=torch.zeros(num_studies, length, dtype=torch.long, device=META),
        lengths=torch.full((num_studies,), length, device=META),
        labels=torch.zeros(num_studies, labels, device=META),
        label_buckets=buckets,
        seeds=tuple(range(num_studies)),
        **_context(recipe.data, images, maps, features, num_studies, views),
    )


def _context(
    data: Data,
    images: Tensor | None,
    maps: Tensor | None,
    features: Tensor | None,
    num_studies: int,
    views: int,
) -> dict[str, Any]:
    """As much context as studies can have."""
    found: dict[str, Any] = {}
    if words := data.context_words * len({*data.context} & TITLES.keys()):
        for name in ("context", "context_kinds"):
            found[name] = torch.ones(num_studies, words, dtype=torch.long, device=META)
    if PRIOR_IMAGE in data.context:
        ids, num_views = tuple(map(str, range(num_studies))), torch.full((num_studies,), views)
        found["prior"] = Batch(ids, num_views, images, maps, features)
    return found


def optimizer_bytes(recipe: Recipe, parameters: Sequence[nn.Parameter], parts: int = 1) -> int:
    """State of Adam or AdamW, of one of so many parts: two or three moments, and the step."""
    moments = 3 if recipe.optim.amsgrad else 2
    trained = [p for p in parameters if p.requires_grad]
    return sum(moments * _bytes(p, parts) + 4 for p in trained)


def _held(recipe: Recipe, devices: Devices, model: TrainableModel) -> tuple[int, int, int, int]:
    """Bytes of a device for parameters, gradients, optimizer and exchange."""
    parallel, everything = recipe.parallel, list(model.parameters())
    sharded = parallel.data == "fsdp" and devices.total > 1
    parts = 1
    if sharded:
        parts = devices.total if parallel.shard == "full" else devices.per_node
    parameters = sum(_bytes(p, parts) for p in everything)
    gradients = sum(_bytes(p, parts) for p in everything if p.requires_grad)
    optimizer = optimizer_bytes(recipe, everything, parts)
    if not sharded:  # the buckets that DistributedDataParallel sends
        return parameters, gradients, optimizer, gradients if devices.total > 1 else 0
    blocks = [list(block.parameters()) for block in blocks_to_share(_module(model))]
    own = {id(p) for block in blocks for p in block}
    root = sum(_bytes(p) for p in everything if id(p) not in own)
    largest = max((sum(map(_bytes, block)) for block in blocks), default=0)
    learned = max((sum(_bytes(p) for p in block if p.requires_grad) for block in blocks), default=0)
    # What is in no block stays gathered through a step; of blocks the next one comes meanwhile.
    exchange = root + 2 * largest + 2 * learned
    return parameters, gradients, optimizer, exchange


@dataclass(frozen=True)
class _DataCount:
    """Of an epoch and of the disk; None: not known."""

    studies: int | None = None
    images: int | None = None  # that an epoch uses
    cached: int | None = None  # images with cached features
    num_bytes: int | None = None  # of all images, used or not
    assumed: str = ""


def _count_data(recipe: Recipe, num_studies: int | None) -> _DataCount:
    """Count what is prepared, or take so many studies as such data has, or as MIMIC-CXR has."""
    selection, prepared = build_selection(recipe.data), recipe.data.prepared
    shards = read_shards(prepared) if (prepared / PREPARED).is_file() else []

    def used(images: int, studies: int) -> int:
        return min(images, studies * selection.max_files) + studies * selection.has_mask

    all_studies = sum(shard.studies for shard in shards)
    all_images = sum(shard.images for shard in shards)
    all_bytes = sum(shard.num_bytes for shard in shards)
    if num_studies is None:
        if not shards:
            return _DataCount()
        studies, images = {}, {}
        for split in ("train", "val"):
            own = [shard for shard in shards if shard.split == split]
            studies[split] = sum(shard.studies for shard in own)
            images[split] = used(sum(shard.images for shard in own), studies[split])
        return _DataCount(studies["train"], images["train"], sum(images.values()), all_bytes)
    per_study, per_image, like = IMAGES_PER_STUDY, float(BYTES_PER_IMAGE), "MIMIC-CXR and IU X-Ray"
    if all_images:
        per_study, per_image = all_images / all_studies, all_bytes / all_images
        like = str(prepared)
    total = round(num_studies * per_study)
    return _DataCount(
        num_studies,
        used(total, num_studies),
        used(total, num_studies),
        round(total * per_image),
        f"{per_study:.2f} images a study of {per_image / 1e3:.1f} kB, as in {like}",
    )


def _feature_bytes(recipe: Recipe, model: TrainableModel, images: int | None) -> int | None:
    batch = shape_batch(recipe, model, 1)
    cached = batch.features if batch.early_maps is None else batch.early_maps
    if cached is None or images is None:
        return None
    return images * 4 * cached[0].numel()


def _bytes(tensor: Tensor, parts: int = 1) -> int:
    """Of a tensor, or of the largest of its parts along the first axis."""
    rows = tensor.shape[0] if tensor.dim() else 1
    return -(-rows // parts) * (tensor.numel() // max(1, rows)) * tensor.element_size()


def _module(model: TrainableModel) -> nn.Module:
    assert isinstance(model, nn.Module), "models are modules"
    return model
