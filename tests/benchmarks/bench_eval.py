"""Time of an evaluation's numbers: all lexical metrics, findings and 1,000 resamples.

Run: python tests/benchmarks/bench_eval.py [--reports 3858]

The peer, measured in the same run, is pycocoevalcap alone on the same reports, without METEOR and
without intervals. Reports are drawn like MIMIC-CXR's test split in number and length.
"""

import argparse
import random
import time

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from radrep.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
from radrep.metrics.findings import label_reports
from radrep.metrics.findings.scores import score_findings
from radrep.metrics.nlg import score_nlg

FINDINGS = ("pleural effusion", "pneumothorax", "focal consolidation", "pulmonary edema",
            "atelectasis", "cardiomegaly", "rib fracture", "lung nodule")  # fmt: skip
FRAMES = ("there is no {}", "there is a small {} on the left", "mild {} is seen", "no new {}",
          "{} cannot be excluded", "interval increase in {}", "the lungs are clear without {}",
          "a right sided picc ends in the lower svc", "heart size is normal")  # fmt: skip


def draw_reports(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " . ".join(
            draw.choice(FRAMES).format(draw.choice(FINDINGS)) for _ in range(draw.randint(4, 12))
        )
        + " ."
        for _ in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=3858)
    count = parser.parse_args().reports
    references, ours, others = (draw_reports(count, seed) for seed in range(3))
    start = time.perf_counter()
    scores, theirs = (score_nlg(references, texts, meteor="skip") for texts in (ours, others))
    scored = time.perf_counter()
    bootstrap_intervals(scores)
    paired_bootstrap(scores, theirs)
    resampled = time.perf_counter()
    named, written = label_reports(references), label_reports(ours)
    findings = score_findings(named, written)
    bootstrap_intervals(findings)
    labelled = time.perf_counter()
    keyed, generated = ({i: [t] for i, t in enumerate(texts)} for texts in (references, ours))
    Bleu(4).compute_score(keyed, generated, verbose=0)
    Rouge().compute_score(keyed, generated)
    Cider().compute_score(keyed, generated)
    peer = time.perf_counter() - labelled
    words = sum(len(text.split()) for text in ours) / count
    print(f"{count} reports of {words:.0f} words, without METEOR")
    print(f"two systems scored            {scored - start:6.2f} s")
    print(f"1,000 resamples, and a pair   {resampled - scored:6.2f} s")
    print(f"findings, with 1,000          {labelled - resampled:6.2f} s")
    one = (scored - start) / 2 + (resampled - scored) + (labelled - resampled)
    print(
        f"pycocoevalcap alone, one      {peer:6.2f} s   one system, all told / it {one / peer:.2f}"
    )


if __name__ == "__main__":
    main()
