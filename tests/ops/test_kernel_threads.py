import os
import tempfile

import numba
import numpy as np

from radrep.ops.kernel_threads import compile_kernel


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
