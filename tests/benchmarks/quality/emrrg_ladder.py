"""What EMRRG's third stage learns behind an encoder that sees, one factor changed at a time.

Run: python -m tests.benchmarks.quality.emrrg_ladder [--studies 4800] [--epochs 5] [--only words]

The visual tokens hold the findings of phantoms (tests/seeing_encoder.py); a small language model is
trained whole. For each setting: the last training loss, the loss of 300 held-out studies and what
other studies' images add to it, F1 of their findings named with side, the same with reports
shuffled, and CPU seconds. Images that are ignored add 0, and shuffled reports score the same.
"""

import argparse
import statistics
import time
from typing import Any

from tests.seeing_encoder import learn, losses, make_model, score, see, write

HELD_OUT, BATCH = 300, 16
SETTINGS: dict[str, dict[str, Any]] = {
    "words": {},
    "unit": {"projector_scale": "unit"},
    "pooled": {"visual_tokens": "pooled"},
    "hybrid": {"hybrid_every": 1},
    "pooled, hybrid": {"visual_tokens": "pooled", "hybrid_every": 1},
    "no warm-up": {"warmup": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4800)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    asked = parser.parse_args()
    studies = [see(index) for index in range(asked.studies + HELD_OUT)]
    train, held_out = studies[: asked.studies], studies[asked.studies :]
    steps = asked.epochs * len(train) // BATCH
    print(f"{len(train)} studies, {steps} steps, rate {asked.rate}, seed {asked.seed}")
    for name in asked.only:
        options = dict(SETTINGS[name])
        warmup = options.pop("warmup", 30)
        model = make_model(studies, seed=asked.seed, **options)
        start = time.process_time()
        found = list(learn(model, train, steps, asked.rate, warmup=warmup, seed=asked.seed))
        took = time.process_time() - start
        own, others = losses(model, held_out)
        written = write(model, held_out)
        print(
            f"{name:15}  train {statistics.mean(found[-50:]):.3f}  held out {own:.3f}  "
            f"others' images +{others - own:.3f}  F1 {score(written, held_out):.3f}  "
            f"shuffled {score([*written[1:], written[0]], held_out):.3f}  {took:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
