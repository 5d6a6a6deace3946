"""The cached features of a recipe, computed before its training."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from radrep.atomic import cache_folder
from radrep.device import best_device
from radrep.errors import RecipeError
from radrep.parallel.cluster import Cluster
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Train
from radrep.training.accelerator import coming_device, set_arithmetic
from radrep.training.features.missing_blocks import MissingBlocks
from radrep.training.parallel.environment import check_environment
from radrep.training.run import build_new, frozen_features, open_data
from radrep.weights import checkpoint
from radrep.weights.pretrained import check_pretrained

_LOT = 4  # blocks that a worker of a cluster takes at a time: a GPU's loader starts for each lot
_TRAINED = (
    "its encoder is trained, so no features of it are cached. Frozen are those of "
    "model.backbone.frozen, model.backbone.frozen_stages and model.train_encoder: frozen"
)


def fill_cache(
    recipe: Recipe, *, cluster: Cluster | None = None, reporter: Reporter | None = None
) -> None:
    """Compute what training, and folds of it, will read of a frozen encoder; what is there stays.

    The images are cut into blocks; a command that was stopped goes on with those that are missing.
    A cluster's workers make them, in a cache on a disk that all of them see: the same bytes.

    Raises:
        RecipeError: If the encoder is trained, or an environment variable changes the recipe.
        DataError, CheckpointError: Of data, cache or weights to start from.
    """
    reporter = reporter or Reporter()
    check_environment(recipe)
    check_pretrained(recipe)
    if recipe.train.start_from is not None:
        checkpoint.find_checkpoint(recipe.train.start_from)
    set_arithmetic(recipe.train)
    data = open_data(recipe, reporter)
    model = build_new(recipe, data.tokenizer)
    if model.frozen_encoder() is None:
        raise RecipeError("this recipe", [("model", _TRAINED)])
    if cluster is None:
        device = coming_device()
        frozen_features(recipe, model, data, device, reporter)
        return
    share = partial(_share_over_workers, cluster, recipe.train)
    # Encoders travel from the CPU: this machine may be without a GPU.
    with cluster.run(reporter.warn):
        frozen_features(recipe, model, data, torch.device("cpu"), reporter, share)


def _share_over_workers(
    cluster: Cluster, section: Train, blocks: MissingBlocks, label: str, reporter: Reporter
) -> None:
    """Have workers make blocks; each is sent the encoders once."""
    numbers = blocks.numbers
    lots = [numbers[i : i + _LOT] for i in range(0, len(numbers), _LOT)]
    load = partial(_load_worker, blocks, section)
    with reporter.progress(label, blocks.num_images, "images") as advance:
        for num_images in cluster.map_with_model(load, lots, cache_folder()):
            advance(num_images)


def _load_worker(blocks: MissingBlocks, section: Train) -> Callable[[Sequence[int]], int]:
    """What a worker makes blocks with, on its own device; how many images comes back."""
    set_arithmetic(section)
    images = replace(blocks.images, device=best_device())

    def make(numbers: Sequence[int]) -> int:
        lot = replace(blocks, numbers=numbers, images=images)
        lot.make("", Reporter())
        return lot.num_images

    return make
