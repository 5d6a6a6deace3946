"""Time of a whole evaluation of MIMIC-CXR's size, and of its parts, without METEOR.

Run: python -m tests.benchmarks.bench_eval [--reports 3858] [--train 20000] [--peer-systems 1]

Reports are drawn like MIMIC-CXR's in number and length, words and sentences by Zipf's law, so that
common n-grams and whole sentences repeat and few reports do. The front door is `radrep eval` in a
process of its own, on prediction and annotation files: reading, the search for constants, five
systems under two protocols, findings, 1,000 resamples, pairs and the page. The same numbers are
then computed here with a nearest neighbour as sixth system, for the time of each part. The peer is
pycocoevalcap alone, of one system or more under one protocol: no interval, no finding, no search.
CPU time counts where other work runs beside it. The target: all told, well below 60 s on two cores.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from radrep.data.text import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.metrics.baselines import best_constants
from radrep.metrics.nlg import score_nlg
from radrep.metrics.protocol import published_references, scored_predictions
from radrep.metrics.scorecard import Corpus, score_card
from tests.benchmarks.rows import Row, compare

FRAMES = (
    "there is no pleural effusion or pneumothorax", "the lungs are clear", "low lung volumes",
    "the cardiomediastinal silhouette is within normal limits", "heart size is mildly enlarged",
    "there is mild pulmonary edema", "no focal consolidation is seen", "a small left effusion",
    "a right picc terminates in the lower svc", "sternotomy wires are intact",
    "an endotracheal tube ends above the carina", "degenerative changes of the spine are seen",
    "opacity at the left base may represent pneumonia", "moderate cardiomegaly is unchanged",
    "as compared to the previous radiograph there is no relevant change",
)  # fmt: skip
NUM_WORDS, NUM_SENTENCES, NUM_VAL = 4000, 20000, 2130
CLEANER, MIN_COUNT, MAX_TOKENS = "r2gen_mimic", 10, 100


class Drawer:
    """Draws reports of some eight sentences and some 58 words."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        words = [f"word{i}" for i in range(NUM_WORDS)]
        rarer = list(accumulate(1 / (i + 3) for i in range(NUM_WORDS)))
        self.sentences = [self._sentence(words, rarer) for _ in range(NUM_SENTENCES)]
        self.rarer = list(accumulate(1 / (i + 10) ** 0.9 for i in range(NUM_SENTENCES)))

    def _sentence(self, words: Sequence[str], rarer: Sequence[float]) -> str:
        sentence = self.draw.choice(FRAMES).split()
        for word in self.draw.choices(words, cum_weights=rarer, k=self.draw.randint(0, 3)):
            sentence[self.draw.randrange(len(sentence))] = word
        return " ".join(sentence)

    def reports(self, count: int) -> list[str]:
        lengths = [max(1, round(self.draw.gauss(8, 3))) for _ in range(count)]
        return [
            ". ".join(self.draw.choices(self.sentences, cum_weights=self.rarer, k=n)) + "."
            for n in lengths
        ]


@contextmanager
def told(what: str, clock: Callable[[], float] = time.process_time) -> Iterator[None]:
    wall, cpu = time.perf_counter(), clock()
    yield
    wall, cpu = time.perf_counter() - wall, clock() - cpu
    print(f"{what:46}{cpu:8.1f} s of CPU {wall:8.1f} s")


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def evaluate(folder: Path, parts: Mapping[str, Sequence[str]], ours: Sequence[str]) -> None:
    """`radrep eval` on files."""
    rows = {
        split: [{"id": f"{split}{i}", "report": text} for i, text in enumerate(texts)]
        for split, texts in parts.items()
    }
    references, predictions = folder / "annotation.json", folder / "model.json"
    references.write_text(json.dumps(rows))
    predictions.write_text(
        json.dumps([{"id": f"test{i}", "report": text} for i, text in enumerate(ours)])
    )
    command = [sys.executable, "-m", "radrep", "eval", "--no-meteor", "--dataset", "mimic"]
    files = ["--predictions", predictions, "--references", references, "--out", folder / "scores"]
    with told("radrep eval, all told", cpu_of_children):
        subprocess.run([*command, *files], check=True, stdout=subprocess.DEVNULL)


def score_by_peer(references: Sequence[str], reports: Sequence[str]) -> None:
    """BLEU, ROUGE-L and CIDEr by pycocoevalcap."""
    keyed = dict(enumerate([text] for text in references))
    generated = dict(enumerate([text] for text in reports))
    Bleu(4).compute_score(keyed, generated, verbose=0)
    Rouge().compute_score(keyed, generated)
    Cider().compute_score(keyed, generated)


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """One system under one protocol, without METEOR."""
    drawer = Drawer(seed=0)
    count = 20 if tiny else 3858
    references, reports = drawer.reports(count), drawer.reports(count)
    yield compare(
        f"BLEU, ROUGE-L and CIDEr of {count} reports, one core",
        lambda: score_nlg(references, reports, meteor="skip"),
        "pycocoevalcap",
        lambda: score_by_peer(references, reports),
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=3858)
    parser.add_argument("--train", type=int, default=20000)
    parser.add_argument("--peer-systems", type=int, default=1)
    arguments = parser.parse_args()
    drawer = Drawer(seed=0)
    sizes = {"train": arguments.train, "val": NUM_VAL, "test": arguments.reports}
    parts = {split: drawer.reports(size) for split, size in sizes.items()}
    ours = [text.replace(".", " .") for text in drawer.reports(arguments.reports)]
    words = sum(len(text.split()) for text in ours) / len(ours)
    print(f"{len(ours)} reports of {words:.0f} words, {arguments.train} training reports")
    with tempfile.TemporaryDirectory() as folder:
        evaluate(Path(folder), parts, ours)

    clean = get_cleaner(CLEANER)
    tokenizer = Tokenizer.build(parts["train"], min_count=MIN_COUNT, cleaner=CLEANER)
    corpus = Corpus(parts["test"], clean, parts["train"], tokenizer.vocabulary, MAX_TOKENS)
    published = {"clean": clean, "vocabulary": tokenizer.vocabulary, "max_tokens": MAX_TOKENS}
    val = published_references(parts["val"], **published).texts
    print("\nits parts, computed here")
    with told("cleaning the training reports"):
        train = corpus.cleaned_train
    with told("the best constants of up to 5000 reports"):
        constants = best_constants(train, val)
    scored = scored_predictions(ours)
    systems = {
        "model": scored,
        "shuffled control": [*scored[1:], scored[0]],
        "nearest neighbour": drawer.draw.choices(train, k=len(scored)),
        **{name: [found.report] * len(scored) for name, found in constants.items()},
    }
    pairs = [("model", name) for name in systems if name != "model"]
    with told(f"{len(systems)} systems, 2 protocols, findings, resamples"):
        score_card(corpus, systems, pairs, meteor="skip")

    references = published_references(parts["test"], **published).texts
    print("\npycocoevalcap alone, under one protocol")
    for name, reports in list(systems.items())[: arguments.peer_systems]:
        with told(name):
            score_by_peer(references, reports)


if __name__ == "__main__":
    main()
