"""Reports of films in memory: sentences with what they find and where the model attends."""

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

import numpy as np
from PIL import Image

from radrep.build import build_operating_point
from radrep.data.context.study_context import PRIOR_IMAGE
from radrep.data.dicom import find_tags
from radrep.data.image_io import decode_image
from radrep.data.study import projection_of
from radrep.errors import DataError, ImageWarning
from radrep.guidance.editing import edit_report, split_report
from radrep.inference.films import Films
from radrep.inference.generated_report import GeneratedReport
from radrep.inference.generator import ReportGenerator
from radrep.metrics.labeler import label_report
from radrep.metrics.labeler.vocabulary import ABNORMAL, NO_FINDING
from radrep.progress import Reporter
from radrep.recipe.training import Edit
from radrep.sections import MARKER
from radrep.viz.figures.heatmap import outlined_overlay
from radrep.weights.checkpoint import find_checkpoint, read_recipe
from radrep.weights.guidance_files import has_editor, read_editor

NamedFile = tuple[str, bytes]
_SHOWN_SIDE = 512  # short side in pixels of the films on the page
_UNUSED = "not used, more views than the model takes"
_STATES = ("positive", "uncertain", "negative")  # a sentence is coloured by the first that it has


class _GoneError(Exception):
    """Nobody reads the report any more."""


class FilmReader:
    """A model that reports films one study at a time.

    Args:
        checkpoint: A run, a checkpoint, a bundle, or None for the newest run under runs/.
        discriminator: A run of SDAM's discriminator, for Grad-CAM and probabilities.
        reporter: Follows the unpacking of a bundle.
    """

    def __init__(
        self,
        checkpoint: Path | None = None,
        discriminator: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        folder = find_checkpoint(checkpoint, reporter=reporter)
        decode = read_recipe(folder).decode
        self._editor = read_editor(folder) if has_editor(folder) else None
        self.thresholds: dict[str, float] = {}  # that the run edits by
        self.suggested: dict[str, float] = {}  # of the greatest F score, where calls are precise
        if self._editor is not None:
            self.suggested = self._editor.thresholds(build_operating_point(Edit()))
            if decode.edit is not None:
                self.thresholds = self._editor.thresholds(build_operating_point(decode.edit))
        # Sliders edit the draft, so that its maps stay.
        plain = decode.model_copy(update={"edit": None})
        self._generator = ReportGenerator(
            folder, decode=plain, discriminator=discriminator, predict=True
        )
        self._lock = Lock()  # one study at a time
        self.name = self._generator.loaded.recipe.out.name
        self.context = self._generator.context  # what is read beside the films

    def read(
        self, files: Sequence[NamedFile], texts: Mapping[str, str], prior: Sequence[NamedFile]
    ) -> tuple[Films, set[str]]:
        """The films of one study and of the study before it, with notes on them.

        Raises:
            DataError: If a file is no radiograph, or the model does not read such context.
        """
        given = (*texts, *[PRIOR_IMAGE] * bool(prior))
        if unread := [kind for kind in given if kind not in self.context]:
            raise DataError(f"this model does not read {', '.join(unread)}")
        with self._lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ImageWarning)
            before = self._read(prior, shown=False) if prior else None
            films = replace(self._read(files, shown=True), texts=texts, prior=before)
        notes = {str(w.message) for w in caught if issubclass(w.category, ImageWarning)}
        unused = prior[self._generator.max_files :]
        return films, notes | {f"{name} of the prior study: {_UNUSED}" for name, _ in unused}

    def stream(
        self, films: Films, notes: Set[str] = frozenset(), gone: Event | None = None
    ) -> Iterator[dict[str, Any]]:
        """The films, sentences of the report as they are written, one a row, and the report.

        Beams, selection and consensus have the whole report at once, and no sentence before it.
        Once `gone` is set nobody reads any more: the report ends before its next word, or before it
        begins.
        """
        ready: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        gone = gone or Event()
        yield {"films": [_png(film) for film in films.shown]}
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(self._report, films, notes, ready.put, gone)
            whole.add_done_callback(lambda _: ready.put(None))
            while (sentence := ready.get()) is not None:
                yield {"sentence": sentence}
            with suppress(_GoneError):
                yield {"report": whole.result()}

    def _report(
        self,
        films: Films,
        notes: Set[str],
        show: Callable[[dict[str, Any]], None],
        gone: Event,
    ) -> dict[str, Any]:
        shown = 0

        def go_on() -> None:
            if gone.is_set():
                raise _GoneError

        def show_sentences(draft: str) -> None:
            nonlocal shown
            go_on()
            # The last one goes on, perhaps.
            ended = [each for each in split_report(draft)[:-1] if each != MARKER]
            for sentence in ended[shown:]:
                show(describe_sentence(sentence) | {"origin": "generated"})
            shown = max(shown, len(ended))

        with self._lock:
            go_on()
            report, attention = self._generator.explain_films(films, on_text=show_sentences)
        unused = [image for image in films.images if image not in report.images]
        notes |= {f"{name}: {_UNUSED}" for name in unused}
        return {
            "text": report.text,
            "made": report.made,
            "context": list(report.context),
            "films": [_png(film) for film in report.films],
            "sentences": _sentences(report, attention),
            "probabilities": dict(report.probabilities),
            "can_edit": [*self._editor.bank.present] if self._editor is not None else [],
            "notes": sorted(notes),
        }

    def edit(
        self, text: str, probabilities: Mapping[str, float], thresholds: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """The sentences of a draft that agrees with findings above their thresholds."""
        if self._editor is None:
            raise DataError("this run has nothing to edit reports with")
        if unknown := sorted(thresholds.keys() - {*ABNORMAL}):
            raise DataError(f"{unknown[0]!r} is no finding; they are: {', '.join(ABNORMAL)}")
        decisions = {
            name: probabilities[name] > value
            for name, value in thresholds.items()
            if name in probabilities
        }
        written = edit_report(text, decisions, self._editor.bank, probabilities)
        origins: dict[str, list[str]] = {}  # of equal sentences in their order
        for each in written.sentences:
            origins.setdefault(each.text, []).append(each.origin)
        return [
            describe_sentence(sentence)
            | {"origin": origins[sentence].pop(0) if origins.get(sentence) else "generated"}
            for sentence in split_report(written.text)
        ]

    def _read(self, files: Sequence[NamedFile], *, shown: bool) -> Films:
        size = self._generator.loaded.prepared_size
        return Films(
            tuple(Path(name) for name, _ in files),
            tuple(projection_of(find_tags(io.BytesIO(data))[2]) for _, data in files),
            tuple(decode_image(data, name, size) for name, data in files),
            tuple(decode_image(data, name, _SHOWN_SIDE) for name, data in files if shown),
        )


def describe_sentence(sentence: str) -> dict[str, Any]:
    """A sentence with the observations that it names, and the state that colours it."""
    states = {n: own for n, own in label_report(sentence).states.items() if n != NO_FINDING}
    named = {state: [name for name, own in states.items() if own == state] for state in _STATES}
    state = next((each for each in _STATES if named[each]), "")
    return {"text": sentence, "state": state, "observations": named.get(state, [])}


def _sentences(report: GeneratedReport, attention: np.ndarray) -> list[dict[str, Any]]:
    """Each sentence with its map on every film, and what the map is; without one, none."""
    found, start = [], 0
    for sentence in (each.text for each in report.sentences):
        end = start + len(sentence.split())
        maps, kind = list(attention[start:end].mean(axis=0)) if len(attention) > start else [], ""
        if maps:
            kind = "attention of its words"
        else:
            own = [each for each in report.finding_maps if each.sentence in sentence]
            maps = next(
                (list(each.grad_cam) for each in own if each.sentence and each.grad_cam), []
            )
            kind = "Grad-CAM of the discriminator" if maps else ""
        drawn = [_png(outlined_overlay(f, m)) for f, m in zip(report.films, maps, strict=False)]
        found.append(
            describe_sentence(sentence) | {"origin": "generated", "maps": drawn, "kind": kind}
        )
        start = end
    return found


def _png(pixels: np.ndarray) -> str:
    """Pixels as the address of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
