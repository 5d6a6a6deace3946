"""Reports a second of the findings labeller on one core, against the least one could do.

Run: python tests/benchmarks/bench_findings.py --raw DIR (the folder of IU X-Ray) [--rounds 5]

Only distinct reports of the training studies count, findings and impression together. Ours runs
twice: with nothing remembered from one report to the next, and as `label_reports` does, starting
with nothing and remembering sentences. The peer splits a report into sentences with one regular
expression and finds every phrase of our vocabulary with one alternation: no states, no sides.
All run in turn, and what counts is the core's time. A target: ours at no less than 2,000.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from radrep.metrics.labeler import label_report, label_reports
from radrep.metrics.labeler.labeler import read_sentence
from radrep.metrics.labeler.vocabulary import MENTIONS
from radrep.preparation.sources.iu_xray.source import IuXraySource

ENDS = re.compile(r"[.!?;]\s+")
PHRASES = re.compile(
    r"\b(?:"
    + "|".join(" ".join(phrase) for phrase in sorted(MENTIONS, key=lambda p: -len(" ".join(p))))
    + r")"
)


def read_distinct(raw: Path) -> list[str]:
    texts = {
        "\n".join(study.sections.get(name, "") for name in ("findings", "impression"))
        for study in IuXraySource(raw)
        if study.split == "train"
    }
    return sorted(texts)


def find_phrases(texts: Sequence[str]) -> None:
    for text in texts:
        for sentence in ENDS.split(text.lower()):
            PHRASES.findall(sentence)


def label_anew(texts: Sequence[str]) -> None:
    for text in texts:
        read_sentence.cache_clear()
        label_report(text)


def label_together(texts: Sequence[str]) -> None:
    read_sentence.cache_clear()
    label_reports(texts)


def rate(work: Callable[[Sequence[str]], None], texts: Sequence[str]) -> float:
    start = time.process_time()
    work(texts)
    return len(texts) / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = read_distinct(arguments.raw)
    print(f"{len(texts)} distinct reports, {sum(map(len, texts)) / len(texts):.0f} characters each")
    rounds = [
        (rate(label_anew, texts), rate(label_together, texts), rate(find_phrases, texts))
        for _ in range(arguments.rounds)
    ]
    anew, together, peer = (
        sorted(column)[len(rounds) // 2] for column in zip(*rounds, strict=True)
    )
    print(f"ours, nothing remembered   {anew:7.0f} reports/s   {anew / peer:5.2f} of the peer")
    print(
        f"ours, sentences remembered {together:7.0f} reports/s   {together / peer:5.2f} of the peer"
    )
    print(f"peer, phrases alone        {peer:7.0f} reports/s")


if __name__ == "__main__":
    main()
