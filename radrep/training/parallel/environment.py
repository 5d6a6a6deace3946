"""Environment variables that would change what a recipe sets: refused by name, or recorded."""

import os
from collections.abc import Iterator

import torch

from radrep.errors import RecipeError
from radrep.recipe.recipe import Recipe

_OFF = ("", "0", "false", "no", "none", "off")
_ON = ("1", "true", "yes", "on")
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed, which radrep does not use: one engine for sharding is "
    "enough, and that is parallel.data: fsdp",
    "ACCELERATE_USE_FSDP": "Accelerate's FSDP: radrep shards by its own parallel.data: fsdp",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which radrep does not use",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism, which radrep does not use",
}
# May change digits or the device, as no key of a recipe does: environment.json has them.
_RECORDED = (
    "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY",
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "MKL_CBWR", "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "NCCL_ALGO", "NCCL_PROTO",
)  # fmt: skip


def check_environment(recipe: Recipe) -> None:
    """Refuse variables that ask for something else than a recipe, and precisions not to be had.

    What launchers set without being asked, such as ACCELERATE_MIXED_PRECISION=no, is no question.
    Raises RecipeError with all of them.
    """
    problems = [*_overrides(recipe)]
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        text = "'fp16' needs CUDA, and this machine has none; use bf16 or fp32"
        problems.append(("train.precision", text))
    if problems:
        raise RecipeError("this run", problems)


def recorded_variables() -> dict[str, str]:
    """The variables that environment.json keeps, those that are set."""
    return {name: os.environ[name] for name in _RECORDED if name in os.environ}


def _overrides(recipe: Recipe) -> Iterator[tuple[str, str]]:
    train, clip = recipe.train, recipe.optim.clip_norm
    for variable, engine in _ENGINES.items():
        if _value(variable) in _ON:
            yield variable, f"asks for {engine}; launch with torchrun, or with: accelerate launch"
    tf32 = _ON if train.tf32 else _OFF
    keys: dict[str, tuple[str, object, tuple[str, ...]]] = {
        "ACCELERATE_MIXED_PRECISION": ("train.precision", train.precision, (train.precision,)),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
            "train.grad_accum_steps", train.grad_accum_steps, ("1", str(train.grad_accum_steps)),
        ),
        "ACCELERATE_GRADIENT_CLIPPING": ("optim.clip_norm", clip, (str(clip),)),
        "ACCELERATE_DYNAMO_BACKEND": ("parallel.compile", False, ()),
        "NVIDIA_TF32_OVERRIDE": ("train.tf32", train.tf32, tf32),
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("train.tf32", train.tf32, tf32),
    }  # fmt: skip
    for variable, (key, set_to, same) in keys.items():
        value = _value(variable)
        # For cuBLAS alone 0 has an effect: no TF32, even where a program asks for it.
        off = ("",) if variable == "NVIDIA_TF32_OVERRIDE" else _OFF
        if value not in (*off, *same):
            text = (
                f"is '{os.environ[variable]}', and {key} is {_yaml(set_to)}: unset the variable, "
            )
            yield variable, f"{text}and set {key} where you want it"


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip().lower()


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower()
