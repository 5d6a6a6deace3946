"""Blocks that compute their activations again: the same loss and gradients, dropout included."""

from typing import Any

import pytest
import torch
from torch import Tensor

from radrep.data.batch import Batch
from radrep.training.parallel.blocks import recompute_blocks
from tests.models import test_csr_lmca, test_emrrg


def csr_lmca(again: bool) -> tuple[Any, Batch]:
    return test_csr_lmca.tiny_model(), test_csr_lmca.batch([2, 1])


def emrrg(again: bool) -> tuple[Any, Batch]:
    setup = {"hybrid_every": 2, "language_training": "lora"}
    model = test_emrrg.tiny_model(**setup, gradient_checkpointing=again)
    return model, test_emrrg.tiny_batch([2, 1], model)


@pytest.mark.parametrize("make", [csr_lmca, emrrg])
def test_recomputed_blocks_give_the_same_gradients(make: Any) -> None:
    found: list[dict[str, Tensor]] = []
    for again in (False, True):
        model, batch = make(again)
        if again:
            recompute_blocks(model)
        model.train()
        torch.manual_seed(3)  # of dropout
        loss = model.loss(batch)["loss"]
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(grads | {"loss": loss.detach()})
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[1], found[0])
