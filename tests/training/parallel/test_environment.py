"""What the environment may not change, and what is written down of it."""

import re
from pathlib import Path

import pytest

from radrep.errors import RecipeError
from radrep.recipe.load import load_recipe
from radrep.training import accelerator
from radrep.training.parallel import environment
from radrep.training.parallel.environment import check_environment, recorded_variables
from tests.whole_way import radrep, write_recipe

REFUSED = [
    ("ACCELERATE_MIXED_PRECISION", "bf16", "train.precision is fp32"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "train.grad_accum_steps is 2"),
    ("ACCELERATE_GRADIENT_CLIPPING", "5.0", "optim.clip_norm is 1.0"),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "parallel.compile is false"),
    ("NVIDIA_TF32_OVERRIDE", "1", "train.tf32 is false"),
    ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "train.tf32 is false"),
    ("ACCELERATE_USE_FSDP", "true", "parallel.data: fsdp"),
    ("ACCELERATE_USE_MEGATRON_LM", "1", "Megatron-LM"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "tensor or context parallelism"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, tmp_path, train={"grad_accum_steps": 2})


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_a_variable_that_would_change_the_recipe_is_refused_by_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=re.escape(said)) as error:
        check_environment(load_recipe(str(path)))
    assert [key for key, _ in error.value.problems] == [name]


def test_deepspeed_is_refused_in_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RecipeError, match="DeepSpeed, which radrep does not use: one engine"):
        check_environment(load_recipe(str(path)))


def test_what_accelerate_launch_sets_by_itself_is_no_question(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_USE_FSDP": "false",
        "NVIDIA_TF32_OVERRIDE": "0",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    check_environment(load_recipe(str(path)))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_environment(load_recipe(str(path), ["train.precision=bf16"]))
    with pytest.raises(RecipeError, match="NVIDIA_TF32_OVERRIDE"):  # 0 forbids what is asked for
        check_environment(load_recipe(str(path), ["train.precision=bf16", "train.tf32=true"]))


def test_other_variables_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment._RECORDED:
        monkeypatch.delenv(name, raising=False)
    assert recorded_variables() == {}
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert recorded_variables() == {"MKL_CBWR": "COMPATIBLE"}


def test_the_command_refuses_before_any_process_group_is_made(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes one is never started: a refusal that waited for it would take minutes."""
    launch = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (launch | {"MASTER_PORT": "1", "ACCELERATE_USE_DEEPSPEED": "true"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerator.PartialState, "_shared_state", {})
    done = radrep("train", path)
    assert isinstance(done.exception, SystemExit)
    assert "ACCELERATE_USE_DEEPSPEED" in done.stderr
    assert not (tmp_path / "run").exists()
    assert not accelerator.PartialState._shared_state
