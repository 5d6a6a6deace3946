"""The whole way on phantoms: prepare, train, evaluate, generate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from radrep.data.sources.phantom import PhantomSource
from radrep.data.store import PreparedStudies, encode_image
from radrep.engine.evaluate import EvalResult, evaluate
from radrep.engine.generate import ReportWriter, WrittenReport
from radrep.engine.prepare import PrepareResult, prepare
from radrep.engine.reporter import Reporter
from radrep.engine.train import TrainResult, train
from radrep.errors import DataError
from radrep.metrics.baselines import best_constants
from radrep.metrics.named_findings import chance_f1, named_findings_f1
from radrep.recipe.load import load_recipe

PREPARED, RUN, FILM = "data", "run", "film.png"


@dataclass(frozen=True)
class DemoResult:
    """What the demo did and found.

    Attributes:
        out: Its folder.
        prepared: The phantoms.
        trained: The run.
        evaluated: Its scores on the test phantoms.
        findings_f1: F1 of the (finding, side) pairs that the generated reports name.
        shuffled_f1: The same with the images shuffled among the studies: chance.
        constant_f1: The same for the best constant report.
        report: A report written for one test image.
        reference: What that image's own report says.
        seconds: Time taken.
    """

    out: Path
    prepared: PrepareResult
    trained: TrainResult
    evaluated: EvalResult
    findings_f1: float
    shuffled_f1: float
    constant_f1: float
    report: WrittenReport
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
    """Do the main job on drawn phantoms.

    Args:
        out: A folder that is not there yet.
        num_studies: Phantoms in all; a sixth of them are held out, half of these for the test.
        seed: Of the phantoms.
        overrides: Changes to the recipe `demo`, as after --set.
        reporter: Who is told how it goes.

    Raises:
        DataError: If the folder is there already.
    """
    if out.exists():
        raise DataError(f"{out} exists already and is not overwritten; name another --out")
    start = time.monotonic()
    reporter = reporter or Reporter()
    source = PhantomSource(num_studies, seed=seed, splits=(5 / 6, 1 / 12, 1 / 12))
    prepared = prepare(source, out / PREPARED, reporter=reporter)
    recipe = load_recipe("demo", [*overrides, f"data.prepared={out / PREPARED}"])
    trained = train(recipe, out=out / RUN, reporter=reporter)
    evaluated = evaluate(trained.run, split="test", reporter=reporter)
    train_texts = PreparedStudies(out / PREPARED, "train").texts("findings")
    # Every test report is a candidate's rival: the constant is chosen on training reports.
    constant = best_constants(train_texts, train_texts, metrics=("cider",))["cider"].report
    film = out / FILM
    film.write_bytes(encode_image(PreparedStudies(out / PREPARED, "test").read_images(0)[0]))
    report = ReportWriter(trained.run).write(film)
    references, generated = evaluated.references, evaluated.predictions
    return DemoResult(
        out=out,
        prepared=prepared,
        trained=trained,
        evaluated=evaluated,
        findings_f1=named_findings_f1(references, generated).f1,
        shuffled_f1=chance_f1(references, generated),
        constant_f1=named_findings_f1(references, [constant] * len(references)).f1,
        report=report,
        reference=references[0],
        seconds=time.monotonic() - start,
    )
