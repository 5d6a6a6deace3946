"""A training step waits for no GPU: it reads nothing from the device, and copies without waiting.

Shown on the device "meta", which has no values to read. On a card, look first at
`pytest -m gpu tests/training/test_host_sync.py`, where CUDA itself refuses to wait. Left out is
contrastive pretraining: transformers asks once a step whether the mask of the text is full.
"""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from radrep.build import build_model
from radrep.data.batch import Batch
from radrep.recipe.load import load_recipe
from radrep.training import loop
from radrep.training.plan.known_models import with_stand_ins
from radrep.training.plan.plan import META, make_shapes, shape_batch

READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2"}


class Waits(TorchDispatchMode):
    """Names what a GPU would have to finish its work for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in READS and any(x.is_meta for x in tensors):
            self.found.append(name)
        if name == "_to_copy":
            target = torch.device(kwargs.get("device") or args[0].device)
            waits = target != META or not kwargs.get("non_blocking")
            if target.type != args[0].device.type and waits:
                self.found.append(f"copy from {args[0].device} to {target}")
        return function(*args, **kwargs)


def on_cpu(batch: Batch) -> Batch:
    """The same shapes, as a DataLoader gives them."""
    return batch._map(lambda x: torch.ones(x.shape, dtype=x.dtype))


def shapes(name: str, *settings: str) -> tuple[Any, Any, Batch]:
    recipe = load_recipe(name, [*settings, "train.precision=fp32"])
    with with_stand_ins(recipe) as (sized, _):
        model = make_shapes(sized, 50)
    return recipe, model, on_cpu(shape_batch(recipe, model, 2))


def take_step(device: torch.device, recipe: Any, model: Any, batch: Batch) -> None:
    accelerator = SimpleNamespace(
        device=device, num_processes=1, process_index=0, no_sync=lambda _: nullcontext()
    )
    make = torch.optim.SGD if device == META else torch.optim.Adam  # whose fused one knows no META
    groups = [{"params": [*model.parameters()], "lr": 0.1, "top_lr": 0.1, "name": "rest"}]
    run: Any = SimpleNamespace(
        recipe=recipe,
        accelerator=accelerator,
        model=model,
        wrapped=model.loss,
        scaler=None,
        optimizer=make(groups, **({} if device == META else {"fused": True})),
        epoch_steps=2,
    )
    loop._step(run, loop.Progress(), [batch])


@pytest.mark.parametrize(
    "recipe",
    [
        ("demo",),
        *(
            pytest.param(given, marks=pytest.mark.slow, id=given[0])
            for given in (
                ("csr_lmca_iu", "data.context=[indication,prior_image]"),
                ("emrrg_phantom", "data.context=[indication,prior_image]"),
                ("sdam_discriminator_cpu",),
                ("pretrain_autoregressive_cpu",),
                ("pretrain_labels_phantom",),
            )
        ),
    ],
    ids=lambda given: given[0],
)
def test_a_step_reads_nothing_from_the_device(
    recipe: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "autocast", lambda *_: nullcontext())  # META has none
    recipe, model, batch = shapes(*recipe)
    take_step(META, recipe, model, batch)  # what is made once and kept, such as regions
    with Waits() as waits:
        take_step(META, recipe, model, batch)
    assert waits.found == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["demo", "pretrain_labels_phantom", "sdam_discriminator_cpu"])
def test_cuda_finds_no_wait_in_a_step(name: str) -> None:
    recipe, _, batch = shapes(name)
    model: Any = build_model(recipe, [*map(str, range(50))], pretrained=False)
    model.cuda().train()
    batch = batch.pin_memory()
    take_step(torch.device("cuda"), recipe, model, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(torch.device("cuda"), recipe, model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
