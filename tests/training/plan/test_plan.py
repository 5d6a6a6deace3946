"""Plans against what is built: exactly for what is held, closely for what a step computes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from radrep.build import build_model
from radrep.data.batch import Batch
from radrep.device import autocast
from radrep.errors import RadrepError
from radrep.models.base import TrainableModel
from radrep.recipe.load import load_recipe, shipped_recipe_text, shipped_recipes
from radrep.recipe.recipe import Recipe
from radrep.training.optim import build_optimizer
from radrep.training.parallel.blocks import recompute_blocks, repeated_blocks
from radrep.training.plan.cards import CARDS, GIB, find_devices
from radrep.training.plan.known_models import with_stand_ins
from radrep.training.plan.measure import measure_step
from radrep.training.plan.plan import NUM_WORDS, make_plan, make_shapes, shape_batch
from tests.recipe.test_shipped import SMALL
from tests.training.test_folds import FROZEN
from tests.whole_way import radrep, write_recipe

WORDS = 500
ONE, EIGHT = find_devices("H100-80GB"), find_devices("8xH100-80GB")


def tiny(folder: Path, *changes: str, **parallel: object) -> Recipe:
    return load_recipe(str(write_recipe(folder, folder, parallel=parallel)), changes)


def words(count: int) -> list[str]:
    return [*map(str, range(count))]


def held(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("amsgrad", ["false", "true"])
def test_what_is_held_is_exactly_that_of_the_built_model(tmp_path: Path, amsgrad: str) -> None:
    recipe = tiny(tmp_path, f"optim.amsgrad={amsgrad}")
    planned = make_plan(recipe, ONE)
    model = build_model(recipe, words(NUM_WORDS))
    optimizer = build_optimizer(model, recipe.optim)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [t for per in optimizer.state.values() for t in per.values()]
    assert planned.memory.parameters == held(model.parameters())
    assert planned.memory.gradients == held(trained)
    assert planned.memory.optimizer == held(state)
    assert planned.num_trained == sum(p.numel() for p in trained)
    assert planned.memory.exchange == 0  # one process
    assert planned.checkpoint_bytes == 3 * (held(model.checkpoint_state().values()) + held(state))


def test_shards_of_all_devices_make_up_the_whole(tmp_path: Path) -> None:
    whole = make_plan(tiny(tmp_path), EIGHT)
    sharded = make_plan(tiny(tmp_path, data="fsdp"), EIGHT)
    two = replace(EIGHT, nodes=2)
    hybrid = make_plan(tiny(tmp_path, data="fsdp", shard="hybrid"), two)
    full = make_plan(tiny(tmp_path, data="fsdp"), two)
    assert 1 <= 8 * sharded.memory.parameters / whole.memory.parameters < 1.2  # rows do not divide
    assert hybrid.memory.parameters == sharded.memory.parameters > full.memory.parameters
    assert sharded.memory.exchange > 0


def test_offloaded_parts_are_in_the_machine_s_memory(tmp_path: Path) -> None:
    kept = make_plan(tiny(tmp_path, data="fsdp"), EIGHT).memory
    away = make_plan(tiny(tmp_path, data="fsdp", cpu_offload=True), EIGHT).memory
    assert away.parts == kept.parts == kept.total(2) - away.total(2) > 0
    recipe = write_recipe(tmp_path, tmp_path, parallel={"data": "fsdp", "cpu_offload": True})
    told = radrep("plan", recipe, "--devices", "8xH100-80GB")
    assert re.search(r"optimizer +\S+ +adam\w*, in the machine's memory", told.stdout)
    assert " of offloaded parts" in told.stdout


def test_recomputed_blocks_hold_less_and_compute_more(tmp_path: Path) -> None:
    deep = ("model.transformer.num_layers=4", "model.enhancer.mode=none")
    kept = make_plan(tiny(tmp_path, *deep), ONE)
    again = make_plan(tiny(tmp_path, *deep, activation_checkpointing=True), ONE)
    assert again.memory.per_study < kept.memory.per_study
    assert again.step.flops > kept.step.flops
    assert again.largest_batch > kept.largest_batch


def test_a_language_model_that_is_not_there_has_its_published_size() -> None:
    recipe = load_recipe("mambaxray_mimic", ["model.encoder.size=tiny"])
    with with_stand_ins(recipe) as (sized, name):
        model: Any = make_shapes(sized, WORDS)
    assert name == "meta-llama/Llama-2-7b-chat-hf"
    assert sum(p.numel() for p in model.language_model.parameters()) == 6_738_415_616
    blocks = {id(block) for block in repeated_blocks(model)}
    assert blocks == {id(x) for x in (*model.encoder.layers, *model.language_model.model.layers)}


def test_the_card_decides_on_batch_and_time(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    small, large = (make_plan(recipe, find_devices(n)) for n in ("L4-24GB", "H200-141GB"))
    assert small.largest_batch < large.largest_batch
    # So small a step takes what starting its kernels takes, on any card; a large one does not.
    assert large.steps_per_second == small.steps_per_second
    huge = [replace(p, step=replace(p.step, flops=10**15)) for p in (small, large)]
    rates = CARDS["H200-141GB"].fp32 / CARDS["L4-24GB"].fp32
    assert huge[1].steps_per_second / huge[0].steps_per_second == pytest.approx(rates)
    assert small.hours is None  # nobody said how many studies
    ends = small.memory.total(small.largest_batch), small.memory.total(small.largest_batch + 1)
    assert ends[0] <= small.usable < ends[1]


def test_an_unknown_card_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RadrepError, match=r"got '8xH99'. Known cards: .*H100-80GB"):
        find_devices("8xH99")
    with pytest.raises(RadrepError, match="got '0xH100-80GB'"):
        find_devices("0xH100-80GB")
    assert (find_devices("8xh100-80gb", 2).total, find_devices("A10-24GB").total) == (16, 1)


def test_cached_features_are_of_train_and_val_and_what_is_not_planned_is_named(
    phantoms: Path, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, phantoms, model=FROZEN, train={"repeat_abnormal": 2})
    changes = ["train.start_from=runs/a", "train.reward.samples=2"]
    words = [word for change in changes for word in ("--set", change)]
    told = radrep("plan", path, "--devices", "A10-24GB", *words)
    assert told.exit_code == 0, told.output
    assert " of train and val" in told.stdout
    assert "train.reward, whose steps" in told.stdout
    assert "train.repeat_abnormal, with which" in told.stdout
    recipe = load_recipe(str(path))
    both, train = make_plan(recipe, ONE), make_plan(recipe, ONE, num_studies=32)
    assert both.feature_bytes is not None
    assert train.feature_bytes is not None
    assert both.feature_bytes * 32 == train.feature_bytes * 40
    assert (both.feature_splits, train.feature_splits) == ("train and val", "train alone")


def test_the_disk_of_data_counts_all_images_of_a_study(phantoms: Path, tmp_path: Path) -> None:
    """Prepared data have every view, whatever `data.max_views` takes of them."""
    disk = "prepared data 47.0 MB (1.66 images a study of 28.3 kB, as in MIMIC-CXR and IU X-Ray; "
    path = write_recipe(tmp_path, tmp_path / "absent")
    for views, images in ((1, "2,000"), (8, "3,320")):  # of two epochs
        words = "--studies", "1000", "--set", f"data.max_views={views}"
        told = radrep("plan", path, "--devices", "A10-24GB", *words)
        assert f" {images} images, " in told.stdout
        assert f"{disk}assumed)" in told.stdout
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms)), ["data.max_views=1"])
    counted, doubled = make_plan(recipe, ONE), make_plan(recipe, ONE, num_studies=96)
    assert counted.data_bytes is not None
    assert doubled.data_bytes == 2 * counted.data_bytes
    assert (counted.data_assumed, doubled.num_images) == ("", 96)
    assert doubled.data_assumed.endswith(f", as in {phantoms}")


def test_the_command_says_what_fits(phantoms: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, phantoms)
    told = radrep("plan", path, "--devices", "2xA10-24GB", "--nodes", "2")
    assert told.exit_code == 0, told.output
    for text in (
        "run on 4 x A10-24GB in 2 machines: all of the model on each device (ddp), fp32",
        "2 epochs of 32 studies: 2 steps, 64 images",
        "usable: fits",
        "(assumed)",
    ):
        assert text in told.stdout
    unknown = radrep("plan", path, "--devices", "2xA11")
    assert unknown.exit_code == 2
    assert "Known cards" in unknown.stderr


def test_advice_is_what_the_recipe_takes(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARDS, "A10-24GB", replace(CARDS["A10-24GB"], memory=1.05))
    path = write_recipe(tmp_path, phantoms)
    told = radrep("plan", path, "--devices", "2xA10-24GB")
    assert "none fits. Try more or larger devices, or --set parallel.data=fsdp" in told.stdout
    shared = radrep("plan", path, "--devices", "2xA10-24GB", "--set", "parallel.data=fsdp")
    assert "parallel.activation_checkpointing=true --set parallel.cpu_offload" in shared.stdout
    reward = ("--set", "train.start_from=runs/a", "--set", "train.reward.samples=2")
    told = radrep("plan", path, "--devices", "2xA10-24GB", *reward)
    assert "or --set parallel.activation_checkpointing=true" in told.stdout


PLANNED = [name for name, _ in shipped_recipes() if not name.endswith(SMALL)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_in_a_recipe_s_header_is_that_of_the_command(name: str) -> None:
    plan = make_plan(load_recipe(name), EIGHT)
    total = plan.memory.total(plan.recipe.train.batch_size)
    words = f"{total / GIB:.1f} of {plan.usable / GIB:.1f} GiB a device, at most "
    assert f"8 x H100-80GB: {words}{plan.largest_batch} studies" in shipped_recipe_text(name)


def test_readme_has_the_memory_of_the_headers() -> None:
    """Of each row with GPU recipes: the least and the most of these recipes."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    planned = {}
    for name in PLANNED:
        text = shipped_recipe_text(name)
        assert text.count("GiB") == 1, f"{name}: only the figures of the header are tested"
        planned[name] = re.findall(r"# Plan: .*?: ([\d.]+) of", text)[0]
    seen = []
    for names, *figures in re.findall(
        r"^\| ([^|]*)\|[^|]*\|[^|]*\| GPU: ([\d.]+) to ([\d.]+) GiB", readme, re.MULTILINE
    ):
        row: list[str] = []
        for name in re.findall(r"`(\w+)`", names):  # `emrrg_iu`, `_mimic`
            row.append(row[0].rsplit("_", 1)[0] + name if name.startswith("_") else name)
        ends = sorted((planned[name] for name in row), key=float)
        assert figures == [ends[0], ends[-1]], row
        seen += row
    assert sorted(seen) == sorted(PLANNED)


CASES: dict[str, tuple[str, list[str]]] = {
    "autoregressive": ("pretrain_autoregressive_cpu", ["model.cluster_size=4"]),
    "contrastive": ("pretrain_contrastive_cpu", []),
    "emrrg": ("emrrg_iu_cpu", [
        "model.language_model.name=tiny:llama", "model.language_model.precision=fp32",
        "model.hybrid.every_n_layers=2",
    ]),
    "csr_lmca": ("csr_lmca_iu_published", ["model.backbone.name=resnet18"]),
}  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's kernels for whole Mamba blocks keep less than what GPUs do one after another."""
    for module in ("mamba_block", "sr_mamba"):
        monkeypatch.setattr(f"radrep.modules.{module}.has_fused_kernels", lambda x: False)


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_activations_are_within_a_fifth_of_what_a_cpu_allocates(name: str, precision: str) -> None:
    recipe_name, changes = CASES[name]
    recipe = load_recipe(recipe_name, [*changes, f"train.precision={precision}"])
    shapes = make_shapes(recipe, WORDS)
    batch = shape_batch(recipe, shapes, 4)
    planned = measure_step(shapes, batch, precision).num_bytes
    measured = allocated(built(recipe, WORDS), filled(batch), precision)
    assert planned == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", CASES)
def test_so_are_those_of_more_studies_than_a_plan_measures(name: str) -> None:
    """Of the line through 2 and 4 studies, which decides on the largest micro-batch.

    In float32 alone: 8 studies in bf16 take minutes where a CPU emulates it.
    """
    recipe_name, changes = CASES[name]
    recipe = load_recipe(recipe_name, [*changes, "train.precision=fp32"])
    planned = make_plan(recipe, ONE).memory.activations(8)
    batch = filled(shape_batch(recipe, make_shapes(recipe, NUM_WORDS), 8))
    measured = allocated(built(recipe, NUM_WORDS), batch, "fp32")
    assert planned == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_are_within_a_fifth_too(precision: str) -> None:
    recipe = load_recipe("pretrain_contrastive_cpu", [])
    shapes, model = make_shapes(recipe, WORDS), build_model(recipe, words(WORDS))
    for each in (shapes, model):
        assert isinstance(each, nn.Module)
        recompute_blocks(each)
    batch = shape_batch(recipe, shapes, 4)
    planned = measure_step(shapes, batch, precision).num_bytes
    assert planned == pytest.approx(allocated(model, filled(batch), precision), rel=0.2)


def built(recipe: Recipe, num_words: int) -> TrainableModel:
    """A model that trains, with random weights."""
    torch.manual_seed(0)
    return build_model(recipe, words(num_words), pretrained=False).train()


def filled(batch: Batch) -> Batch:
    """Numbers in place of shapes."""

    def fill(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.rand(tensor.shape)
        return torch.randint(1, 200, tensor.shape)

    names = ("images", "early_maps", "features", "tokens", "labels", "label_buckets")
    given = {name: getattr(batch, name) for name in names}
    made = {name: fill(t) for name, t in given.items() if t is not None}
    assert batch.tokens is not None
    lengths = torch.full((len(batch.ids),), batch.tokens.shape[1])
    return replace(batch, lengths=lengths, **made)


def allocated(model: TrainableModel, batch: Batch, precision: str) -> int:
    """The most bytes at once of torch's CPU allocator in the second step, beyond what was there."""

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            loss = model.loss(batch)["loss"]
        loss.backward()

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    step()  # compiles kernels
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
