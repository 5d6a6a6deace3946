"""Reports a second of the reward stage, at the size of the recipe csr_lmca_iu_cpu.

Run: python tests/benchmarks/bench_reward.py [--precision bf16] [--threads 2] [--run RUN]

The stage draws 5 reports for each of 16 studies, scores them and computes all gradients. Its peers,
measured in the same run: plain sampling of the same reports from the same features, by one draw of
all of them, and by the search of `radrep generate`, which draws one a study at a time.

Without a run the weights are random, with ends and full stops as frequent as in IU X-Ray's reports,
and so are the features; with a run of the recipe, both are its own, of its training studies.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from radrep.build import build_codec, build_dataset, build_model, build_preprocess, build_tokenizer
from radrep.data.batch import Batch
from radrep.data.dataset import collate
from radrep.data.tokenizer import Tokenizer
from radrep.device import autocast
from radrep.generation.contract import DecodeOptions
from radrep.guidance.reward import RewardScorer, RewardWeights
from radrep.recipe.load import change_section, load_recipe
from radrep.saliency.masked_split import read_split
from radrep.training.reward.build import build_objective
from radrep.training.reward.stage import RewardOptions, RewardStage, _uniforms
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint

STUDIES, SAMPLES, LENGTH, CORPUS, WORDS = 16, 5, 60, 2000, 760
SENTENCES = (
    "the heart is normal in size", "the heart is enlarged", "the lungs are clear",
    "no pleural effusion or pneumothorax", "there is a small left pleural effusion",
    "mild bibasilar atelectasis", "the mediastinum is unremarkable", "no focal consolidation",
)  # fmt: skip


def seconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of the clock and of all cores together."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, cores = (statistics.median(each) for each in zip(*times, strict=True))
    return clock, cores


def random_stage() -> tuple[Any, RewardStage, list[Batch]]:
    recipe = load_recipe("csr_lmca_iu_cpu", ["model.backbone.weights=none"])
    words = sorted({word for sentence in SENTENCES for word in sentence.split()} | {"."})
    words += [f"word{i}" for i in range(WORDS - len(words) - 1)]
    tokenizer = Tokenizer(tuple(sorted([*words, "<unk>"])), "plain", 1)
    model: Any = build_model(recipe, tokenizer.vocabulary)
    with torch.no_grad():
        bias = model.encoder_decoder.to_words.bias
        for word, share in (("", 1 / 35), (".", 1 / 6)):
            number = tokenizer.encode(word, 9)[1] if word else 0
            bias[number] = torch.tensor(share * WORDS).log()
    draws = torch.Generator().manual_seed(0)
    reports = {
        str(i): " . ".join(SENTENCES[j] for j in torch.randint(8, (6,), generator=draws)) + " ."
        for i in range(CORPUS)
    }
    scorer = RewardScorer(reports, reports, RewardWeights())
    tokens = [torch.tensor(tokenizer.encode(reports[str(i)], LENGTH)) for i in range(STUDIES)]
    rows, columns = model.backbone.grid
    batch = Batch(
        ids=tuple(map(str, range(STUDIES))),
        num_views=torch.full((STUDIES,), 2),
        features=torch.randn(2 * STUDIES, rows * columns, model.backbone.out_dim),
        tokens=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        lengths=torch.tensor([len(each) for each in tokens]),
        seeds=tuple(range(STUDIES)),
    )
    return model, RewardStage(model, tokenizer, scorer, RewardOptions()), [batch]


def stage_of(run: Path) -> tuple[Any, RewardStage, list[Batch]]:
    loaded = load_checkpoint(find_checkpoint(run))
    train = {**loaded.recipe.train.model_dump(), "start_from": run, "reward": {}}
    recipe = change_section(loaded.recipe, {"train": train}, title="the reward stage")
    model: Any = loaded.model
    studies = read_split(recipe.data, "train", need_text=True)
    codec = build_codec(recipe, build_tokenizer(recipe.data, studies), model)
    stage: Any = build_objective(recipe, model, studies, codec, loaded.tokenizer)
    preprocess = build_preprocess(recipe.data, model)
    dataset = build_dataset(recipe, studies, preprocess=preprocess, codec=codec)
    batches = []
    for first in (0, 400, 800):
        batch = collate([dataset[0, first + i] for i in range(STUDIES)])
        with torch.no_grad():
            batches.append(model.encode_images(batch, DecodeOptions()))
    return model, stage, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--run", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, stage, batches = random_stage() if arguments.run is None else stage_of(arguments.run)
    model.train()
    device, num_drawn = torch.device("cpu"), STUDIES * SAMPLES * len(batches)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.0)
    lengths: list[float] = []

    def learn(rewarded: bool) -> None:
        for batch in batches:
            optimizer.zero_grad()
            with autocast(device, arguments.precision):
                given = stage(batch) if rewarded else model.loss(batch)
            given["loss"].backward()
            optimizer.step()
            if rewarded:
                lengths.append(float(given["drawn_tokens"]))

    @torch.no_grad()
    def draw() -> None:
        for batch in batches:
            with autocast(device, arguments.precision):
                numbers = _uniforms(batch.seeds, SAMPLES, LENGTH)
                model.draw(model.encode_studies(batch), numbers, 1.0)

    @torch.no_grad()
    def write() -> None:
        options = DecodeOptions(method="sample", max_new_tokens=LENGTH)
        for batch in batches:
            for _ in range(SAMPLES):
                with autocast(device, arguments.precision):
                    model.write(batch, options, torch.Generator().manual_seed(0))

    def judge() -> None:
        for batch, ids in zip(batches, drawn, strict=True):
            stage._judge(batch.ids, ids)

    drawn = []
    for batch in batches:
        with torch.no_grad(), autocast(device, arguments.precision):
            numbers = _uniforms(batch.seeds, SAMPLES, LENGTH)
            drawn.append(model.draw(model.encode_studies(batch), numbers, 1.0))
    found = {"reward stage": seconds(lambda: learn(True), arguments.repeats)}
    mean = statistics.mean(lengths)
    found["plain sampling, all at once"] = seconds(draw, arguments.repeats)
    found["plain sampling, one a study"] = seconds(write, arguments.repeats)
    found["rewards and credit alone"] = seconds(judge, arguments.repeats)
    print(f"{STUDIES} studies x {SAMPLES} reports of {mean:.0f} tokens")
    print(f"{arguments.threads} threads, {arguments.precision}")
    likelihood = seconds(lambda: learn(False), arguments.repeats)
    for name, (clock, cores) in found.items():
        print(
            f"{name:28s} {num_drawn / clock:6.0f} reports/s, {num_drawn / cores:6.0f} a second of "
            f"one core, stage / this {found['reward stage'][1] / cores:.2f}"
        )
    ratio = found["reward stage"][1] / likelihood[1]
    print(f"stage / a training step by likelihood alone {ratio:.2f}")


if __name__ == "__main__":
    main()
