"""Time of a report by beam search alone, and with selection, editing and consensus.

Run: python tests/benchmarks/bench_guidance.py RUN [--split val] [--studies 64] [--batch 32]

From the stored images of a prepared split to the texts, backbone included, as `radrep eval` and
`radrep generate` do it. CPU time counts, since other work may run beside it; each way is measured
several times in turn and its median printed. The peer is the same run's own beam search. The aim:
selection, editing and consensus together add at most 30 %.
"""

import argparse
import statistics
import time
from pathlib import Path

from torch.utils.data import DataLoader

from radrep.build import build_dataset, build_preprocess
from radrep.data.dataset import in_order
from radrep.inference.decode import write_reports
from radrep.inference.decode_options import change_decode
from radrep.inference.guide import guide_for
from radrep.saliency.masked_split import read_split
from radrep.weights.checkpoint import Loaded, find_checkpoint, load_checkpoint

EDITED = "decode.edit={}"
WAYS = {
    "beam search": ("decode.method=beam", "decode.edit=null"),
    "beam search, edited": ("decode.method=beam", EDITED),
    "selection": ("decode.method=select", "decode.edit=null"),
    "consensus, no samples": ("decode.method=consensus", "decode.edit=null",
                              "decode.consensus.samples=0"),
    "consensus": ("decode.method=consensus", "decode.edit=null"),
    "consensus, edited": ("decode.method=consensus", EDITED),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    loaded = load_checkpoint(find_checkpoint(arguments.run))
    print(f"{arguments.studies} studies, {arguments.batch} at a time, {loaded.folder}")
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(arguments.repeats):
        for name, overrides in WAYS.items():
            batches = _batches(loaded, arguments.split, arguments.studies, arguments.batch)
            decode, _ = change_decode(loaded.folder, overrides)
            guide = guide_for(loaded, decode)
            start = time.process_time()
            written = write_reports(
                loaded.model,  # type: ignore[arg-type]
                batches,
                loaded.codec,
                decode,
                precision=loaded.recipe.train.precision,
                guide=guide,
            )
            took[name].append((time.process_time() - start) / len(written))
    base = statistics.median(took["beam search"])
    for name, times in took.items():
        own = statistics.median(times)
        print(f"{name:24}{1000 * own:8.1f} ms a report   {own / base:5.2f} of beam search")


def _batches(loaded: Loaded, split: str, num: int, size: int) -> "DataLoader[object]":
    data = loaded.recipe.data
    studies = read_split(data, split, masked_by=loaded.saliency)
    dataset = build_dataset(
        loaded.recipe,
        studies,
        preprocess=build_preprocess(data, loaded.model),
        codec=loaded.codec,
    )
    return in_order(dataset, size, num_workers=0, part=slice(0, num))


if __name__ == "__main__":
    main()
