"""Files and folders that are there whole or not at all."""

import errno
import os
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from radrep.atomic import atomic_dir, atomic_write_text, sync_folder


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reached the disk, and what got its name, in order."""
    done: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, Path.rename

    def note_sync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append(f"name {target.name}")
        replace(source, target)

    def note_rename(source: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(Path, "rename", note_rename)
    return done


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux what is flushed")
def test_content_reaches_the_disk_before_its_name_does(order: list[str], tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.json", "{}")
    partial = f"sync .a.json.{os.getpid()}.partial"
    assert order == [partial, "name a.json", f"sync {tmp_path.name}"]
    order.clear()
    with atomic_dir(tmp_path / "folder") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "b.bin").write_bytes(b"b")
    assert order.index("sync b.bin") < order.index("name folder") < len(order) - 1
    assert (tmp_path / "folder" / "deep" / "b.bin").read_bytes() == b"b"


@pytest.mark.parametrize(
    ("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_a_disk_that_cannot_flush_names_is_used_and_a_broken_one_is_not(
    number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="rror") if raises else nullcontext():
        sync_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="asks for modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_files_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_dir(tmp_path / "folder") as folder:
            save_file({"a": torch.zeros(2)}, folder / "weights.safetensors")  # of mode 0600
    finally:
        os.umask(before)
    assert (tmp_path / "folder/weights.safetensors").stat().st_mode & 0o777 == mode


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    refused = pytest.raises(FileExistsError, match="folder exists")
    with refused, atomic_dir(target) as folder:
        (folder / "new").touch()
        target.mkdir()
        (target / "old").touch()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with suppress(RuntimeError), atomic_dir(tmp_path / "folder") as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
