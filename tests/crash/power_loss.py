"""What a disk may hold after a power loss, for every moment of a writer's work.

`Recorder` sees each change of a folder in order: names (create, rename, link, unlink, mkdir), the
bytes of files and what was fsynced. Native code (safetensors, torch, tokenizers) writes past
Python, so the folder is compared with what was there before and after each call that orders
things: fsync, rename, replace, link, symlink, unlink, mkdir and rmdir. `crash_states` gives the
states that POSIX permits, as ALICE (Pillai and others, OSDI 2014) has them:

- a name that was changed since the last fsync of its folder is as before or as after, each by
  itself, in any order; a rename is both of its names or none;
- a file that was written since its last fsync has its bytes, those of before, half of the new
  ones, or zeros in their place.

Of a moment with few choices every combination is taken. Of others: all of them kept, all lost,
each kept or lost alone, each file torn alone, the first so many kept, and random ones.
"""

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_COUPLED = ("rename", "replace")
_ORDERED = (*_COUPLED, "link", "symlink", "unlink", "remove", "mkdir", "rmdir")
_ALL = 64  # combinations of a moment up to which every one is taken
_RANDOM = 24


@dataclass(eq=False)
class Node:
    """A file, folder or link, whatever its names."""

    kind: str  # "file", "folder" or "link"
    target: str = ""  # of a link
    versions: list[tuple[int, bytes]] = field(default_factory=list)  # of a file: when, what
    names: dict[str, "Node"] = field(default_factory=dict)  # of a folder, as the writer sees it
    synced: list[int] = field(default_factory=list)  # when it was fsynced

    def at(self, time: int) -> bytes:
        """What a file held."""
        return next((content for when, content in reversed(self.versions) if when <= time), b"")

    def synced_before(self, time: int) -> int:
        """When it was last fsynced, -1 for never."""
        return next((when for when in reversed(self.synced) if when <= time), -1)


@dataclass(frozen=True, eq=False)
class Naming:
    """Names that change together: folder, name, what it stands for from then on."""

    time: int
    names: tuple[tuple[Node, str, Node | None], ...]

    def is_durable(self, time: int) -> bool:
        """Whether a power loss at a time can no longer undo it."""
        return all(folder.synced_before(time) >= self.time for folder, _, _ in self.names)


class Recorder:
    """Records what happens below a folder between `start` and `stop`; `now` counts the events."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0
        self.marks: list[tuple[int, Any]] = []  # what the writer has reported as done, and when
        self._top = Node("folder")
        self._alive: dict[int, Node] = {}
        self._stamps: dict[Node, tuple[int, int, int]] = {}
        self._namings: list[Naming] = []
        self._patch = pytest.MonkeyPatch()

    def start(self) -> None:
        """Take what is there as durable, and note all that happens from now on."""
        self._look()
        for node in {self._top, *self._alive.values()}:
            node.synced.append(self.now)
        for name in _ORDERED:
            self._patch.setattr(os, name, self._noting(getattr(os, name), name in _COUPLED))
        self._patch.setattr(os, "fsync", self._noting_sync(os.fsync))

    def stop(self) -> None:
        """Let the calls be what they were."""
        self._look()
        self._patch.undo()

    def mark(self, done: Any) -> None:
        """Note what must hold in every state from now on."""
        self._look()
        self.marks.append((self.now, done))

    def _noting(self, call: Callable[..., Any], coupled: bool) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            self._look()
            try:
                return call(*args, **options)
            finally:
                self._look(coupled)

        return noted

    def _noting_sync(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def noted(descriptor: int) -> None:
            self._look()
            call(descriptor)
            if (node := self._alive.get(os.fstat(descriptor).st_ino)) is not None:
                self.now += 1
                node.synced.append(self.now)

        return noted

    def _look(self, coupled: bool = False) -> None:
        alive: dict[int, Node] = {}
        changes: list[tuple[Node, str, Node | None]] = []
        self._compare(self._top, self.root, alive, changes)
        alive[self.root.stat().st_ino] = self._top
        self._alive = alive
        for group in [tuple(changes)] if coupled and changes else [(c,) for c in changes]:
            self.now += 1
            self._namings.append(Naming(self.now, group))

    def _compare(self, folder: Node, path: Path, alive: dict[int, Node], changes: list) -> None:
        found: dict[str, Node] = {}
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            stat = entry.stat(follow_symlinks=False)
            node = alive.get(stat.st_ino) or self._alive.get(stat.st_ino)
            if node is None:
                link, is_folder = entry.is_symlink(), entry.is_dir(follow_symlinks=False)
                node = Node("link" if link else "folder" if is_folder else "file")
                node.target = os.readlink(entry.path) if link else ""
            alive[stat.st_ino] = found[entry.name] = node
            stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if node.kind == "file" and self._stamps.get(node) != stamp:
                self._stamps[node] = stamp
                content = Path(entry.path).read_bytes()
                if not node.versions or node.versions[-1][1] != content:
                    self.now += 1
                    node.versions.append((self.now, content))
        for name in sorted(found.keys() | folder.names.keys()):
            if found.get(name) is not folder.names.get(name):
                changes.append((folder, name, found.get(name)))
        folder.names = found
        for name, node in found.items():
            if node.kind == "folder":
                self._compare(node, path / name, alive, changes)

    def crash_states(self) -> list[tuple["State", list[Any]]]:
        """Every distinct state, with the marks that were set when it may last be left."""
        found: dict[str, tuple[State, list[Any]]] = {}
        for time in range(self._top.synced[0], self.now + 1):
            done = [what for when, what in self.marks if when <= time]
            found |= {state.digest(): (state, done) for state in self._states_at(time)}
        return list(found.values())

    def _states_at(self, time: int) -> Iterator["State"]:
        namings = [n for n in self._namings if n.time <= time]
        durable = [n for n in namings if n.is_durable(time)]
        open_ = [n for n in namings if not n.is_durable(time)]
        files = [node for node in _files(namings) if len(_contents(node, time)) > 1]
        choices: list[list[Any]] = [[True, False] for _ in open_]
        choices += [_contents(node, time) for node in files]

        def state(chosen: tuple[Any, ...]) -> State:
            kept = {n for n, keep in zip(open_, chosen, strict=False) if keep}
            contents = dict(zip(files, chosen[len(open_) :], strict=True))
            ordered = [n for n in namings if n in kept or n in durable]
            return State(self._top, ordered, contents, time)

        total = 1
        for choice in choices:
            total *= len(choice)
        drawn = itertools.product(*choices) if total <= _ALL else _draw(choices, len(open_), time)
        yield from map(state, drawn)


def _files(namings: list[Naming]) -> list[Node]:
    named = (node for naming in namings for _, _, node in naming.names)
    return list(dict.fromkeys(node for node in named if node is not None and node.kind == "file"))


def _contents(node: Node, time: int) -> list[bytes]:
    """What a file may hold after a power loss: the newest first."""
    new, last = node.at(time), node.synced_before(time)
    if not any(last < when <= time for when, _ in node.versions):
        return [new]
    return _torn(node.at(last), new)


@cache
def _torn(old: bytes, new: bytes) -> list[bytes]:
    common = len(os.path.commonprefix([old, new]))
    half, zeros = new[: common + (len(new) - common) // 2], new[:common].ljust(len(new), b"\0")
    return list(dict.fromkeys([new, old, half, zeros]))


def _draw(choices: list[list[Any]], num_names: int, time: int) -> Iterator[tuple[Any, ...]]:
    """Of a moment with very many states: those that one thing alone may bring about, and others."""
    kept, lost = tuple(c[0] for c in choices), tuple(c[-1] for c in choices)
    yield kept
    yield lost
    for place, choice in enumerate(choices):
        for value in choice[1:]:
            yield (*kept[:place], value, *kept[place + 1 :])
        yield (*lost[:place], choice[0], *lost[place + 1 :])
    for count in range(1, num_names):
        yield (*kept[:count], *lost[count:num_names], *kept[num_names:])
    generator = random.Random(time)
    for _ in range(_RANDOM):
        yield tuple(generator.choice(choice) for choice in choices)


@cache
def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class State:
    """One state of a disk after a power loss."""

    top: Node
    namings: list[Naming]
    contents: dict[Node, bytes]
    time: int

    def _walk(self) -> Iterator[tuple[str, Node, bytes]]:
        folders: dict[Node, dict[str, Node]] = {}
        for naming in self.namings:
            for folder, name, node in naming.names:
                names = folders.setdefault(folder, {})
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node

        def below(folder: Node, path: str) -> Iterator[tuple[str, Node, bytes]]:
            for name, node in sorted(folders.get(folder, {}).items()):
                content = self.contents.get(node)
                yield f"{path}{name}", node, node.at(self.time) if content is None else content
                if node.kind == "folder":
                    yield from below(node, f"{path}{name}/")

        yield from below(self.top, "")

    def digest(self) -> str:
        """A hash of all there is."""
        digest = hashlib.sha256()
        for path, node, content in self._walk():
            digest.update(f"{path}\0{node.kind}\0{node.target}\0".encode())
            digest.update(_hash(content))
        return digest.hexdigest()

    def restore(self, root: Path) -> None:
        """Make an empty folder hold it."""
        for path, node, content in self._walk():
            if node.kind == "folder":
                (root / path).mkdir()
            elif node.kind == "link":
                (root / path).symlink_to(node.target)
            else:
                (root / path).write_bytes(content)
