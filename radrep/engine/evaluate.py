"""Score a trained model on a split, under two protocols, beside what needs no model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radrep.data.dataset import in_order
from radrep.data.reports import get_cleaner
from radrep.data.store import PreparedStudies, read_shards
from radrep.engine.build import build_dataset, build_preprocess, read_split
from radrep.engine.checkpoint import Loaded, find_checkpoint, load_checkpoint, run_of
from radrep.engine.files import write_whole
from radrep.engine.generate import best_device, report_model, write_reports
from radrep.engine.reporter import Reporter
from radrep.engine.workers import count_cores
from radrep.errors import DataError
from radrep.metrics.baselines import best_constants
from radrep.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
from radrep.metrics.diversity import measure_diversity
from radrep.metrics.nlg import NlgScores, score_systems
from radrep.metrics.protocol import (
    PROTOCOLS,
    References,
    full_references,
    published_references,
    scored_predictions,
)
from radrep.models.emrrg import Emrrg
from radrep.recipe.schema import Decode

SHUFFLE_SEED = 0


@dataclass(frozen=True)
class System:
    """Scores of one way to write the reports of a split.

    Attributes:
        name: "model", "images shuffled" or "constant, best <metric>".
        scores: Metric to value, None where it was not computed.
        intervals: Metric to the 95 % bootstrap interval (low, high).
        p_values: Metric to the two-sided p-value of the difference to the model, none for itself.
        report: The constant report, for a constant.
    """

    name: str
    scores: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    p_values: Mapping[str, float]
    report: str | None = None


@dataclass(frozen=True)
class ProtocolScores:
    """All systems under one protocol.

    Attributes:
        protocol: "published" or "full".
        num_cut: References that the protocol cuts.
        systems: The model first.
    """

    protocol: str
    num_cut: int
    systems: tuple[System, ...]


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found and where it wrote it.

    Attributes:
        checkpoint: The checkpoint that wrote the reports.
        split: The split.
        num_studies: Its studies with the target text.
        ids_sha256: Hash of their ids in order: equal hashes, equal studies.
        protocols: Scores under "published" and "full".
        diversity: Distinct reports, lengths.
        notes: Lines for the reader.
        references: Raw references.
        predictions: Generated reports.
        scores_file: scores-<split>.json.
        predictions_file: predictions-<split>.jsonl.
    """

    checkpoint: Path
    split: str
    num_studies: int
    ids_sha256: str
    protocols: tuple[ProtocolScores, ...]
    diversity: Mapping[str, Any]
    notes: tuple[str, ...]
    references: tuple[str, ...]
    predictions: tuple[str, ...]
    scores_file: Path
    predictions_file: Path


def evaluate(
    checkpoint: Path | None = None,
    *,
    split: str | None = None,
    out: Path | None = None,
    decode: Decode | None = None,
    clean_predictions: bool = False,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Write the reports of a split and score them.

    Args:
        checkpoint: A checkpoint, a run, or None for the newest run under runs/.
        split: "train", "val" or "test"; by default test, or val where the data has no test study.
        out: Where the scores go; the run's folder, if not given.
        decode: Other settings of the decoding than the checkpoint's own.
        clean_predictions: Put the generated reports through the cleaner too.
        reporter: Who is told how it goes.

    Raises:
        CheckpointError: If there is no such checkpoint.
        DataError: If the prepared folder is missing or the split is empty.
    """
    reporter = reporter or Reporter()
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    data = loaded.recipe.data
    name = split or _default_split(data.prepared, reporter)
    studies = read_split(data, name)
    raw = studies.texts(data.target)
    predictions = _predict(loaded, studies, decode or loaded.recipe.decode, reporter)
    cleaner = get_cleaner(data.tokenizer.cleaner)
    scored = scored_predictions(predictions, clean=cleaner if clean_predictions else None)
    train, val = (read_split(data, part) for part in ("train", "val"))

    def references(protocol: str, texts: Sequence[str]) -> References:
        if protocol == "full":
            return full_references(texts, clean=cleaner)
        vocabulary, limit = loaded.tokenizer.vocabulary, data.max_tokens
        return published_references(texts, clean=cleaner, vocabulary=vocabulary, max_tokens=limit)

    candidates = full_references(train.texts(data.target), clean=cleaner).texts
    chosen_on = references("published", val.texts(data.target)).texts
    with reporter.progress("constant baselines", 1, "searches") as advance:
        constants = best_constants(candidates, chosen_on)
        advance()
    hypotheses = {"model": scored, "images shuffled": _shuffled(scored)}
    hypotheses |= {
        f"constant, best {metric}": [constant.report] * len(scored)
        for metric, constant in constants.items()
    }
    wanted = {protocol: references(protocol, raw) for protocol in PROTOCOLS}
    with reporter.progress("scoring", 1, "evaluations") as advance:
        scores = score_systems(
            {
                f"{protocol} {system}": (wanted[protocol].texts, texts)
                for protocol in PROTOCOLS
                for system, texts in hypotheses.items()
            }
        )
        advance()
    protocols = [
        ProtocolScores(protocol, wanted[protocol].num_cut, _systems(scores, protocol, hypotheses))
        for protocol in PROTOCOLS
    ]
    notes = [note for score in scores.values() for note in score.notes]
    if isinstance(loaded.model, Emrrg) and loaded.model.language.note:
        notes.append(f"language model: {loaded.model.language.note}")
    folder = out or run_of(loaded.folder)
    ids = "\n".join(study.id for study in studies)
    result = EvalResult(
        checkpoint=loaded.folder,
        split=name,
        num_studies=len(studies),
        ids_sha256=hashlib.sha256(ids.encode()).hexdigest(),
        protocols=tuple(protocols),
        diversity=vars(measure_diversity(references("full", raw).texts, scored)),
        notes=tuple(dict.fromkeys(notes)),
        references=tuple(raw),
        predictions=tuple(predictions),
        scores_file=folder / f"scores-{name}.json",
        predictions_file=folder / f"predictions-{name}.jsonl",
    )
    _write(result, studies, loaded, decode or loaded.recipe.decode)
    return result


def _default_split(prepared: Path, reporter: Reporter) -> str:
    """Test, or val where a data set came without its test studies."""
    if not prepared.is_dir():
        raise DataError(
            f"{prepared} not found: the run was trained on it. Prepare the data again there"
        )
    if any(shard["split"] == "test" for shard in read_shards(prepared)):
        return "test"
    reporter.warn(f"{prepared} has no test study, so the validation split is scored")
    return "val"


def _predict(
    loaded: Loaded, split: PreparedStudies, decode: Decode, reporter: Reporter
) -> list[str]:
    """Write the report of every study from its pixels, never from cached features."""
    recipe = loaded.recipe
    model = report_model(loaded).to(best_device())
    dataset = build_dataset(
        recipe,
        split,
        preprocess=build_preprocess(recipe.data, model),
        codec=loaded.codec,
    )
    num_workers = min(recipe.data.num_workers, count_cores())
    batches = in_order(dataset, decode.batch_size, num_workers=num_workers)
    with reporter.progress(f"reports for {split.split}", len(dataset), "studies") as advance:
        written = write_reports(
            model,
            batches,
            loaded.codec,
            decode,
            precision=recipe.train.precision,
            seed=recipe.train.seed,
            advance=advance,
        )
    ids = [id_ for id_, _ in written]
    assert len(set(ids)) == len(split), "every study has one report"
    return [text for _, text in written]


def _shuffled(reports: list[str]) -> list[str]:
    """Give every study the report that was written for another study's images.

    A report depends on its own images alone, so this is what shuffling the images would give. A
    random cycle leaves no study with its own.
    """
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(reports))
    shuffled = list(reports)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        shuffled[here] = reports[there]
    return shuffled


def _systems(
    scores: Mapping[str, NlgScores],
    protocol: str,
    hypotheses: Mapping[str, list[str]],
) -> tuple[System, ...]:
    """Every system under a protocol, with intervals and p-values against the model."""
    model = scores[f"{protocol} model"]
    systems = []
    for name, texts in hypotheses.items():
        own = scores[f"{protocol} {name}"]
        intervals = bootstrap_intervals(own)
        others = () if own is model else tuple(intervals)
        differences = {metric: paired_bootstrap(model, own, metric) for metric in others}
        systems.append(
            System(
                name=name,
                scores=dict(own.corpus),
                intervals={m: (found.low, found.high) for m, found in intervals.items()},
                p_values={m: found.p_value for m, found in differences.items()},
                report=texts[0] if name.startswith("constant") else None,
            )
        )
    return tuple(systems)


def _write(result: EvalResult, split: PreparedStudies, loaded: Loaded, decode: Decode) -> None:
    """Write scores-<split>.json and predictions-<split>.jsonl."""
    rows = [
        {"id": study.id, "reference": reference, "generated": generated}
        for study, reference, generated in zip(
            split, result.references, result.predictions, strict=True
        )
    ]
    result.scores_file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(result.predictions_file, "".join(lines))
    scores = {
        "checkpoint": str(result.checkpoint),
        "split": result.split,
        "num_studies": result.num_studies,
        "num_without_text": split.num_without_text,
        "ids_sha256": result.ids_sha256,
        "target": loaded.recipe.data.target,
        "decode": decode.model_dump(),
        "protocols": {
            scored.protocol: {
                "references_cut": scored.num_cut,
                "systems": [vars(system) for system in scored.systems],
            }
            for scored in result.protocols
        },
        "diversity": result.diversity,
        "notes": result.notes,
    }
    write_whole(result.scores_file, json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
