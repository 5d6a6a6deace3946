import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from radrep.ops import kernel_threads
from radrep.ops.kernel_threads import compile_kernel, numba


def double(values):
    for index in range(values.size):
        values[index] *= 2


def test_kernel_is_read_from_the_cache_folder_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for hits in (0, 1):
        compiled = compile_kernel(double, (numba.float32[::1],))
        assert sum(compiled.stats.cache_hits.values()) == hits
    assert list(tmp_path.rglob("*.nbc"))


def test_kernel_is_compiled_in_memory_where_no_folder_can_be_written(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # how Numba tries a folder
    values = np.ones(3, np.float32)
    compile_kernel(double, (numba.float32[::1],))(values)
    assert values.tolist() == [2, 2, 2]


def test_kernel_is_compiled_in_memory_when_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    tried = []

    def accept_once(*arguments, **options):
        tried.append(options["dir"])
        if len(tried) > 1:
            raise OSError(28, "No space left on device")
        return open(os.devnull)

    monkeypatch.setattr(tempfile, "TemporaryFile", accept_once)
    values = np.ones(3, np.float32)
    compile_kernel(double, (numba.float32[::1],))(values)
    assert values.tolist() == [2, 2, 2]
    assert len(tried) == 2  # the folder was good when asked first, and full when written to


@pytest.mark.parametrize(
    ("name", "value"),
    [("DISABLE_JIT", "1"), ("NUM_THREADS", "0"), ("DUMP_IR", "1"), ("DEBUG", "1")],
)
def test_what_a_debugging_session_left_in_the_environment_is_dropped(
    name, value, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(f"NUMBA_{name}", value)
    if name != "NUM_THREADS":  # which stops the import of Numba
        numba.core.config.reload_config()
    kernel_threads._drop_left_over()
    values = np.ones(3, np.float32)
    compile_kernel(double, (numba.float32[::1],))(values)
    assert values.tolist() == [2, 2, 2]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["NUMBA_DISABLE_JIT=1", "NUMBA_NUM_THREADS=0", "NUMBA_CACHE_DIR=/proc/x", "OMP_NUM_THREADS=0"],
)
def test_a_process_with_left_over_settings_has_its_kernels(setting):
    code = """
import torch
from radrep.ops.top_k_attention import top_k_attention
from radrep.ops.selective_scan import select_backend
found = top_k_attention(*(torch.ones(1, 4, 8),) * 3, 2)
print(found.sum().item(), select_backend(torch.device("cpu")).name)
"""
    name, value = setting.split("=")
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {name: value}, capture_output=True, text=True
    )
    assert done.stdout == "32.0 cpu\n", done.stderr
