"""Time and memory of CSR-LMCA behind cached backbone features, at the published size.

Run: python -m tests.benchmarks.bench_csr_lmca [--precision bf16]

The peer, measured in the same run, is torch's own nn.Transformer of the same width, depth and
tokens with the same vocabulary: what the plain parts cost without memory and regions.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.search import beam_search, sample
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import SrMambaStack, TokenEnhancer
from tests.benchmarks.rows import Row, compare


@dataclass(frozen=True)
class Sizes:
    studies: int = 16
    views: int = 2
    grid: tuple[int, int] = (7, 7)
    width: int = 2048
    dim: int = 512
    words: int = 760
    length: int = 60


TINY = Sizes(studies=2, grid=(2, 2), width=8, dim=16, words=40, length=6)


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def draw(sizes: Sizes) -> Batch:
    count = sizes.studies
    tokens = torch.randint(1, sizes.words + 1, (count, sizes.length))
    tokens[:, 0] = tokens[:, -1] = 0
    return Batch(
        ids=tuple(map(str, range(count))),
        num_views=torch.full((count,), sizes.views),
        features=torch.rand(count * sizes.views, sizes.grid[0] * sizes.grid[1], sizes.width),
        tokens=tokens,
        lengths=torch.full((count,), sizes.length),
    )


def ours(sizes: Sizes) -> EncoderDecoder:
    return EncoderDecoder(
        in_dim=sizes.width,
        vocabulary_size=sizes.words,
        grid=sizes.grid,
        dim=sizes.dim,
        ff_dim=sizes.dim,
        memory=CrossModalMemory(dim=sizes.dim, size=2048, top_k=32),
        regions=RegionEncoder(dim=sizes.dim, regions_per_side=[8], joined=True),
    )


class Peer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.project = nn.Linear(sizes.width, dim)
        shape: dict[str, Any] = {"dim_feedforward": dim, "batch_first": True, "norm_first": True}
        encoder = nn.TransformerEncoder(  # its own would warn of nested tensors
            nn.TransformerEncoderLayer(dim, 8, **shape), 3, nn.LayerNorm(dim), False
        )
        self.transformer = nn.Transformer(dim, 8, 3, 3, custom_encoder=encoder, **shape)
        self.words = nn.Embedding(sizes.words + 1, dim)
        self.to_words = nn.Linear(dim, sizes.words + 1)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.features is not None
        assert batch.tokens is not None
        patches = self.project(batch.features).unflatten(0, (len(batch.ids), -1)).flatten(1, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(batch.tokens.shape[1] - 1)
        words = self.transformer(
            patches, self.words(batch.tokens[:, :-1]), tgt_mask=mask, tgt_is_causal=True
        )
        logits = self.to_words(words).flatten(0, 1)
        return nn.functional.cross_entropy(logits, batch.tokens[:, 1:].flatten())


def likelihood(model: EncoderDecoder, batch: Batch, features: Tensor) -> Tensor:
    assert batch.tokens is not None
    encoded = model.encode(features, batch.num_views)
    log_probs = model.log_probs(encoded, batch.tokens[:, :-1])
    return nn.functional.nll_loss(log_probs.flatten(0, 1), batch.tokens[:, 1:].flatten())


def train_step(
    loss_of: Callable[[], Tensor], modules: list[nn.Module], precision: str
) -> Callable[[], None]:
    optimizer = torch.optim.Adam(
        [p for m in modules for p in m.parameters()], lr=1e-5, amsgrad=True, fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()

    return step


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """A training step beside torch's transformer."""
    sizes = TINY if tiny else Sizes()
    batch, model, peer = draw(sizes), ours(sizes), Peer(sizes)
    features = batch.features
    assert features is not None
    for precision in ("fp32", "bf16"):
        yield compare(
            f"CSR-LMCA training step, {sizes.studies} studies, {precision}",
            train_step(lambda: likelihood(model, batch, features), [model], precision),
            "torch's nn.Transformer of that size",
            train_step(lambda: peer(batch), [peer], precision),
            repeats,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    sizes = Sizes()
    batch, model, peer = draw(sizes), ours(sizes), Peer(sizes)
    enhancer = TokenEnhancer(
        SrMambaStack(in_dim=sizes.width, dim=sizes.dim), in_dim=sizes.width, dim=sizes.dim
    )
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")

    def time_step(loss_of: Callable[[], Tensor], modules: list[nn.Module]) -> float:
        return seconds(train_step(loss_of, modules, arguments.precision), arguments.repeats)

    features = batch.features
    assert features is not None
    print(f"{sizes.studies} studies, {torch.get_num_threads()} threads, {arguments.precision}")
    plain = time_step(lambda: likelihood(model, batch, features), [model])
    print(f"training step, no enhancer    {plain:6.2f} s   peak {peak_gib():.2f} GiB")
    base = time_step(lambda: peer(batch), [peer])
    print(f"training step, plain peer     {base:6.2f} s   ours / peer {plain / base:.2f}")
    full = time_step(lambda: likelihood(model, batch, enhancer(features)), [model, enhancer])
    print(f"training step, with enhancer  {full:6.2f} s   with / without {full / plain:.2f}   "
          f"peak {peak_gib():.2f} GiB")  # fmt: skip
    model.eval()
    # A closing 0 that never comes: every report has its full length.
    with torch.no_grad():
        model.to_words.bias[0] = -1e4

    limits = {"num_studies": sizes.studies, "max_words": sizes.length}

    def generate(beams: int) -> None:
        with torch.no_grad(), autocast:
            encoded = model.encode(features, batch.num_views)
            if beams == 1:
                sample(model, encoded, **limits)
            else:
                beam_search(model, encoded, beam_size=beams, **limits)

    for beams in (3, 1):
        took = seconds(lambda k=beams: generate(k), 2)
        print(f"beam {beams}, {sizes.length} words        {sizes.studies / took:6.1f} reports/s")


if __name__ == "__main__":
    main()
