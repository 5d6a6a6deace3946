"""Sharding through torch's fully_shard (FSDP2): each process has its part of every parameter.

Accelerate activates its own FSDP on GPUs alone (tests/training/parallel/test_sharding.py pins
that); this is the same on CPUs, and tested there.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from radrep.modules.transformer import DecoderLayer
from radrep.recipe.training import Parallel
from radrep.training.parallel.blocks import compile_blocks, recompute_blocks, repeated_blocks


def spread(accelerator: Accelerator, objective: nn.Module, section: Parallel) -> nn.Module:
    """The module to call, as the processes train it; parameters are others after sharding."""
    if section.activation_checkpointing:
        recompute_blocks(objective)
    if section.compile:
        compile_blocks(objective)
    if section.data == "ddp" or accelerator.num_processes == 1:
        wrapped: nn.Module = accelerator.prepare(objective)
        return wrapped
    mesh = make_mesh(accelerator.device.type, accelerator.num_processes, section.shard)
    shard_model(objective, mesh, offload=section.cpu_offload)
    return objective


def make_mesh(device: str, num_processes: int, shard: str) -> DeviceMesh:
    """All processes in a row or, for hybrid sharding, those of each machine in a row of its own."""
    if shard == "full":
        return init_device_mesh(device, (num_processes,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    names = ("replicate", "shard")
    return init_device_mesh(device, (num_processes // local, local), mesh_dim_names=names)


def blocks_to_share(model: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one by one, the others with what is in no block.

    A decoder layer projects the patches for all words outside its forward pass, which gathers it.
    """
    return [block for block in repeated_blocks(model) if not isinstance(block, DecoderLayer)]


def shard_model(model: nn.Module, mesh: DeviceMesh, *, offload: bool = False) -> None:
    """Share out each block by itself, and then what is in none; frozen parameters too.

    Offloaded parts lie in the CPU's memory, and so do their gradients and what the optimizer keeps.
    """
    policy = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy()
    marks = {name: dict(vars(p)) for name, p in model.named_parameters()}
    for parameter in model.parameters():
        # FSDP2 takes no others. Channels last of the images alone keep convolutions fast.
        parameter.data = parameter.data.contiguous()
    for block in blocks_to_share(model):
        fully_shard(block, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    for name, parameter in model.named_parameters():  # new ones, without mamba's _no_weight_decay
        for key, value in marks[name].items():
            setattr(parameter, key, value)


def share_statistics(accelerator: Accelerator, model: object) -> None:
    """Give every process the first one's running statistics of batch norms, which are saved."""
    if accelerator.num_processes == 1:
        return
    assert isinstance(model, nn.Module), "models are modules"
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training:
            for statistics in norm.buffers():
                distributed.broadcast(statistics, src=0)


@contextmanager
def whole(model: object) -> Iterator[None]:
    """All parameters in every process, for passes of which some processes make more than others."""
    assert isinstance(model, nn.Module), "models are modules"
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # The outermost stays whole between its forward and its backward pass.
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def gather_state(state: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors, copied to the CPU one after the other where they are kept; empty elsewhere.

    All processes call this together.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        full = to_full(tensor)
        if keep:
            found[name] = full.detach().to("cpu", copy=True)
    return found


def to_full(tensor: Tensor) -> Tensor:
    """A tensor of parts as one, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
