"""How well reports name abnormal findings, beside the most that their classifier allows.

Run: python -m tests.benchmarks.quality.findings_ceiling RUN-folds/scores-heldout.json

From the operating points of `radrep eval`: precision, recall and F1 over the findings that enough
studies have, micro-averaged, for the reports as they are and as edited at other sensitivities. The
ceiling is a report that names exactly what exceeds a threshold of each finding; the thresholds are
the best ones for these very studies.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Point = tuple[float, float]  # 1 - specificity, sensitivity
_LAMBDAS = np.geomspace(0.01, 20, 400)  # what a false call costs, in right ones
_PRECISIONS = (0.5, 0.4, 0.3)


class Calls:
    """Right and wrong calls, of so many findings that are there."""

    def __init__(self, rates: Sequence[Any], points: Iterable[Point]) -> None:
        pairs = list(zip(rates, points, strict=True))
        self.present = sum(own["num_present"] for own in rates)
        self.right = sum(own["num_present"] * hit for own, (_, hit) in pairs)
        wrong = sum(own["num_absent"] * false for own, (false, _) in pairs)
        self.precision = self.right / max(self.right + wrong, 1e-9)
        self.recall = self.right / self.present
        self.f1 = 2 * self.right / (self.right + wrong + self.present)

    def __str__(self) -> str:
        return f"{self.precision:.2f} | {self.recall:.2f} | {self.f1:.3f}"


def ceilings(rates: Sequence[Any]) -> list[Calls]:
    """The best calls at each exchange of right for wrong ones: the upper hull of all."""
    found = []
    for cost in _LAMBDAS:
        chosen = []
        for own in rates:
            gains = [
                own["num_present"] * hit - cost * own["num_absent"] * false
                for false, hit in own["roc"]
            ]
            chosen.append(own["roc"][int(np.argmax(gains))])
        found.append(Calls(rates, chosen))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    rates = json.loads(parser.parse_args().scores.read_text())["operating_points"]
    if not rates:
        raise SystemExit("no operating points: the reports are of no run that predicts findings")
    best = ceilings(rates)
    print(", ".join(f"{own['name']} {own['num_present']}" for own in rates))
    print("| | precision | recall | F1 |\n|---|---|---|---|")
    own_points = [(1 - own["specificity"]["value"], own["sensitivity"]["value"]) for own in rates]
    print(f"| the reports | {Calls(rates, own_points)} |")
    for share in rates[0]["edited"]:
        points = [own["edited"][share] for own in rates]
        print(f"| edited at sensitivity {share} | {Calls(rates, points)} |")
    print(f"| ceiling: best F1 | {max(best, key=lambda calls: calls.f1)} |")
    for least in _PRECISIONS:
        allowed = [calls for calls in best if calls.precision >= least]
        if allowed:
            chosen = max(allowed, key=lambda calls: calls.recall)
            print(f"| ceiling: precision of at least {least} | {chosen} |")


if __name__ == "__main__":
    main()
