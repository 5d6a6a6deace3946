"""Optimizer and progress of a sharded run, saved by all processes and read by any number of them.

Through torch.distributed.checkpoint: each process writes a file NAME.distcp, the first one also
.metadata, into the folder of the checkpoint.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from radrep.errors import CheckpointError
from radrep.torch_files import check_pickle, check_torch_stream
from radrep.weights.files import OPTIMIZER_INDEX, OPTIMIZER_PART, write_error

_OPTIMIZER, _PROGRESS = "optimizer", "progress"
_ALONE = "torch.distributed is disabled"  # a remark of torch that a process alone is alone
# By the names of parameters, which do not depend on the number of processes.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)
# What an index is made of, besides types of numbers; pathlib is in two modules from Python 3.13 on.
_IN_INDEX = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}  # fmt: skip


@dataclass(frozen=True)
class ShardedRun:
    """What a process trains of a sharded model; all processes call its methods together."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the parts of all processes, and what JSON holds of training, into a new folder.

        Raises CheckpointError in all of them where one cannot write.
        """
        state = self._state(training)
        with _quiet(), _write_errors(folder):
            dcp.save(state, checkpoint_id=folder, no_dist=self.accelerator.num_processes == 1)

    def begin_saving(
        self, folder: Path, training: Mapping[str, Any], group: distributed.ProcessGroup | None
    ) -> Callable[[], None]:
        """As `save`, from copies and by threads, which meet in a group of their own.

        What is returned waits for their end and raises CheckpointError where one cannot write.
        """
        state = self._state(training)
        warnings.filterwarnings("ignore", _ALONE)  # for as long as the thread may warn
        writing = dcp.async_save(state, checkpoint_id=folder, process_group=group)
        assert isinstance(writing, Future), "torch's own copies are made when it returns"

        def wait() -> None:
            with _write_errors(folder):
                writing.result()

        return wait

    def _state(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """This process's part; the main one has the progress too."""
        optimizer = get_optimizer_state_dict(self.model, self.optimizer, options=_OPTIONS)
        progress = {_PROGRESS: json.dumps(training)} if self.accelerator.is_main_process else {}
        return {_OPTIMIZER: optimizer, **progress}

    def load_optimizer(self, folder: Path) -> None:
        """Read this process's part. Raises CheckpointError."""
        state: dict[str, Any] = get_optimizer_state_dict(
            self.model, self.optimizer, options=_OPTIONS
        )
        _load(folder, {_OPTIMIZER: state}, alone=self.accelerator.num_processes == 1)
        set_optimizer_state_dict(self.model, self.optimizer, state, options=_OPTIONS)


def load_progress(folder: Path) -> dict[str, Any]:
    """What was saved of training beside the optimizer, by one process; raises CheckpointError."""
    state = {_PROGRESS: ""}
    _load(folder, state, alone=True)
    try:
        training = json.loads(state[_PROGRESS])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} has no {_PROGRESS} that can be read: {error}") from error
    if not isinstance(training, dict):
        raise CheckpointError(f"{folder} holds no training state but a {type(training).__name__}")
    return training


def _load(folder: Path, state: dict[str, Any], *, alone: bool) -> None:
    """Fill a state, in all processes together unless this one is alone; raises CheckpointError."""
    try:
        with _quiet():
            dcp.load(state, storage_reader=_Reader(folder), planner=_Planner(), no_dist=alone)
    # Of files that are missing, cut off or of another model; one that torch makes is no Exception.
    except (Exception, CheckpointException) as error:
        reason = _first_failure(error) if isinstance(error, CheckpointException) else error
        what = next(iter(state))
        raise CheckpointError(f"{folder} has no {what} that can be read: {reason}") from error


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:  # which is no Exception
        raise write_error(folder, _first_failure(error)) from error


def _first_failure(error: CheckpointException) -> BaseException:
    """What failed in the first of the processes that failed."""
    failure, _ = next(iter(error.failures.values()))
    return failure


class _Reader(dcp.FileSystemReader):
    """Reads a stranger's files: torch's own unpickles the index with any code that it names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index: which part has which numbers."""
        file = Path(self.path) / OPTIMIZER_INDEX
        with file.open("rb") as opened:
            check_pickle(opened)
            opened.seek(0)
            index = _Unpickler(opened).load()
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise UnpicklingError(f"its {OPTIMIZER_INDEX} is no index of an optimizer")
        for part in index.storage_data.values():
            if not OPTIMIZER_PART.fullmatch(part.relative_path):
                raise UnpicklingError(f"its {OPTIMIZER_INDEX} names {part.relative_path!r}")
        index.storage_meta = StorageMeta(load_id=self.load_id)
        return index

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        part = io.BytesIO(super()._slice_file(file, sinfo).read(sinfo.length))
        check_torch_stream(part, part.getbuffer().nbytes)
        return part


class _Planner(dcp.DefaultLoadPlanner):
    """Reads numbers and texts of the optimizer as weights are read; torch's own runs pickles."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Set one value."""
        content = torch.load(value, weights_only=True)
        value.seek(0)
        value.truncate()
        torch.save(content, value)
        value.seek(0)
        super().load_bytes(read_item, value)


class _Unpickler(Unpickler):
    """Builds what an index is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class or function that the file names."""
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if name not in _IN_INDEX.get(module, ()) and not is_type:
            raise UnpicklingError(f"its {OPTIMIZER_INDEX} names {module}.{name}, which is not run")
        return super().find_class(module, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark `_ALONE`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _ALONE)
        yield
