import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from radrep.data.batch import Batch
from radrep.data.dataset import (
    EpochOrder,
    ModelStudies,
    ReportDataset,
    Sample,
    Views,
    collate,
    in_order,
    mix_seed,
)
from radrep.data.image_selection import ImageSelection, View
from radrep.data.preprocess import Preprocess
from radrep.data.tokenizer import Tokenizer
from radrep.errors import DataError


@given(
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_every_study_is_seen_once_an_epoch(
    shards: list[int], batch: int, processes: int, epoch: int
) -> None:
    seen: list[int] = []
    counts = []
    for process in range(processes):
        order = EpochOrder(shards, batch, seed=3, num_processes=processes, process=process)
        order.set_start(epoch)
        batches = list(order)
        assert len(batches) == len(order) == order.num_batches
        counts.append(len(batches))
        seen += [index for part in batches for _, index in part]
    assert len(set(counts)) == 1
    assert set(seen) == set(range(sum(shards)))
    assert len(seen) - sum(shards) < processes  # only the filling of the last round repeats


def test_many_shards_are_read_a_few_at_a_time() -> None:
    order = EpochOrder([10] * 100, 8, seed=0)
    indices = [index for part in order for _, index in part]
    assert indices != sorted(indices)
    together = [{index // 10 for index in indices[i : i + 160]} for i in range(0, 1000, 160)]
    assert all(len(shards) <= 16 for shards in together)
    order.set_start(1)
    assert [index for part in order for _, index in part] != indices


def test_a_resumed_epoch_goes_on_in_the_same_order() -> None:
    order = EpochOrder([23], 4, seed=1)
    order.set_start(2)
    whole = list(order)
    order.set_start(2, 3)
    assert list(order) == whole[3:]
    order.set_start(3)
    assert list(order) != whole


def test_batches_carry_views_in_one_row() -> None:
    samples = [
        Sample("a", Views(torch.zeros(2, 3, 4, 4)), torch.tensor([0, 5, 0])),
        Sample("b", Views(torch.ones(1, 3, 4, 4)), torch.tensor([0, 5, 6, 0])),
    ]
    batch = collate(samples)
    assert batch.images is not None
    assert batch.tokens is not None
    assert batch.lengths is not None
    assert batch.images.shape == (3, 3, 4, 4)
    assert batch.num_views.tolist() == [2, 1]
    assert batch.tokens.tolist() == [[0, 5, 0, 0], [0, 5, 6, 0]]
    assert batch.lengths.tolist() == [3, 4]


def test_the_order_and_the_crops_do_not_depend_on_the_number_of_workers(phantoms: Path) -> None:
    studies = ModelStudies(phantoms, "train")
    dataset = ReportDataset(
        studies,
        target="findings",
        selection=ImageSelection("views", max_views=2),
        preprocess=Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3),
        codec=Tokenizer.build(studies.texts("findings"), min_count=1, cleaner="plain"),
        max_tokens=20,
        random_crop=True,
        seed=5,
    )
    seen = []
    for num_workers in (0, 2):
        order = EpochOrder([20, 12], 5, seed=5)
        order.set_start(1)
        loader = DataLoader(
            dataset, batch_sampler=order, collate_fn=collate, num_workers=num_workers
        )
        seen.append([(batch.ids, batch.images, batch.tokens) for batch in loader])
    assert [ids for ids, _, _ in seen[0]] == [ids for ids, _, _ in seen[1]]
    for (_, images, tokens), (_, others, other_tokens) in zip(*seen, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(tokens, other_tokens)


def test_seeds_of_crops_hang_on_no_hash_of_python() -> None:
    assert mix_seed(9233, 0, 0) == 499497320
    assert mix_seed(9233, 3, 17) == 1404792168


def test_each_study_takes_the_images_of_the_one_before_it() -> None:
    batch = Batch(
        ids=("a", "b", "c"),
        num_views=torch.tensor([1, 2, 1]),
        features=torch.tensor([[10], [20], [21], [30]]),
        tokens=torch.tensor([[1], [2], [3]]),
        label_buckets=torch.tensor([[1], [2], [3]]),
    )
    other = batch.with_images_of_others()
    assert other.num_views.tolist() == [1, 1, 2]
    assert other.features is not None
    assert other.features.flatten().tolist() == [30, 10, 20, 21]
    assert other.label_buckets is not None
    assert other.label_buckets.flatten().tolist() == [3, 1, 2]
    assert other.tokens is batch.tokens
    assert (other.ids, other.images) == (batch.ids, None)


def test_batches_can_be_pinned() -> None:
    """A DataLoader pins only what has `pin_memory`; a plain dataclass it leaves as it is."""
    from torch.utils.data._utils.pin_memory import pin_memory

    batch = Batch(("a",), torch.tensor([1]), images=torch.zeros(1, 3, 2, 2))
    pinned: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
        assert pin_memory(batch).ids == ("a",)
    assert len(pinned) == 1  # the images; num_views stays where shapes are computed


def test_a_masked_view_without_masks_ends_in_the_command_that_makes_them(phantoms: Path) -> None:
    studies = ModelStudies(phantoms, "val")
    study, views = studies.read_views(1, ImageSelection("views", max_views=2).of)
    assert study == studies[1]
    assert [view for view, _ in views] == [View(0)]
    assert np.array_equal(views[0][1], studies.read_images(1)[0])
    with pytest.raises(DataError, match="no masked image here. Make them with: radrep prepare sal"):
        studies.read_views(1, ImageSelection("frontal+mask", max_views=2).of)


def test_workers_in_validation_leave_ctrl_c_to_the_main_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loader = in_order([], 1, num_workers=1)  # type: ignore[arg-type]
    assert loader.worker_init_fn is not None
    try:
        loader.worker_init_fn(0)
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@given(
    repeats=st.lists(st.integers(1, 3), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    processes=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_studies_come_again_as_if_in_an_epoch_of_their_own(
    repeats: list[int], batch: int, processes: int, epoch: int
) -> None:
    keys: list[tuple[int, int]] = []
    for process in range(processes):
        order = EpochOrder(
            [len(repeats)], batch, seed=3, num_processes=processes, process=process,
            repeats=np.array(repeats),
        )  # fmt: skip
        order.set_start(epoch)
        batches = list(order)
        assert len(batches) == order.num_batches
        keys += [key for part in batches for key in part]
    most = max(repeats)
    wanted = {(epoch * most + t, i) for i, times in enumerate(repeats) for t in range(times)}
    assert set(keys) == wanted
    assert len(keys) - len(wanted) < processes


def test_without_repeats_the_order_is_that_of_once_each() -> None:
    plain, once = EpochOrder([10] * 20, 8, seed=0), EpochOrder([10] * 20, 8, seed=0)
    once.repeats = np.ones(200, int)
    for order in (plain, once):
        order.set_start(2)
    assert list(plain) == list(once)
