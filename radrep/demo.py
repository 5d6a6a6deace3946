"""The whole way on phantoms: prepare, train, evaluate, generate."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radrep.atomic import check_output
from radrep.data.arrow import encode_png
from radrep.data.store import PreparedStudies
from radrep.evaluation.evaluate import evaluate
from radrep.evaluation.result import EvalOptions, EvalResult
from radrep.inference.generated_report import GeneratedReport
from radrep.inference.generator import ReportGenerator
from radrep.metrics.labeler.scores import WITH_SIDE
from radrep.preparation.pipeline import PrepareResult, prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.progress import Reporter
from radrep.recipe.load import load_recipe
from radrep.training.run import TrainResult, train

PREPARED, RUN, FILM = "data", "run", "film.png"


@dataclass(frozen=True)
class DemoResult:
    """What the demo did; `reference` is the own report of the image that `report` is of."""

    out: Path
    prepared: PrepareResult
    trained: TrainResult
    evaluated: EvalResult
    findings_f1: Mapping[str, float]  # F1 (rules) of findings with their side, by system
    report: GeneratedReport
    reference: str
    seconds: float


def run_demo(
    out: Path,
    *,
    num_studies: int = 1600,
    seed: int = 0,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> DemoResult:
    """Do the main job on drawn phantoms, a twelfth of them for validation and one for the test."""
    check_output(out, "--out", folder=True, new=True)
    start, reporter = time.monotonic(), reporter or Reporter()
    source = PhantomSource(num_studies, seed=seed, splits=(5 / 6, 1 / 12, 1 / 12))
    prepared = prepare(source, out / PREPARED, reporter=reporter)
    recipe = load_recipe("demo", [*overrides, f"data.prepared={out / PREPARED}"])
    trained = train(recipe, out=out / RUN, reporter=reporter)
    # What the demo shows are findings, and the tables of METEOR take Java 5 to 15 seconds to load.
    scoring = EvalOptions(meteor=False)
    evaluated = evaluate(trained.run, split="test", options=scoring, reporter=reporter)
    film = out / FILM
    film.write_bytes(encode_png(PreparedStudies(out / PREPARED, "test").read_images(0)[0]))
    report = ReportGenerator(trained.run).write(film)
    return DemoResult(
        out=out,
        prepared=prepared,
        trained=trained,
        evaluated=evaluated,
        findings_f1={
            system.name: float(system.scores[WITH_SIDE] or 0)
            for system in evaluated.card.findings.systems
        },
        report=report,
        reference=evaluated.studies.corpus.references[0],
        seconds=time.monotonic() - start,
    )
