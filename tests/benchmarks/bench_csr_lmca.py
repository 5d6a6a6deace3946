"""Time and memory of CSR-LMCA behind cached backbone features, at the published size.

Run: python tests/benchmarks/bench_csr_lmca.py [--precision bf16]

The peer, measured in the same run, is torch's own nn.Transformer of the same width, depth and
tokens with the same vocabulary: what the plain parts cost without memory and regions.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.search import beam_search, sample
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import SrMambaStack, TokenEnhancer

STUDIES, VIEWS, GRID, WIDTH, DIM, WORDS, LENGTH = 16, 2, (7, 7), 2048, 512, 760, 60


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


def studies() -> Batch:
    tokens = torch.randint(1, WORDS + 1, (STUDIES, LENGTH))
    tokens[:, 0] = tokens[:, -1] = 0
    return Batch(
        ids=tuple(map(str, range(STUDIES))),
        num_views=torch.full((STUDIES,), VIEWS),
        features=torch.rand(STUDIES * VIEWS, GRID[0] * GRID[1], WIDTH),
        tokens=tokens,
        lengths=torch.full((STUDIES,), LENGTH),
    )


def ours() -> EncoderDecoder:
    return EncoderDecoder(
        in_dim=WIDTH,
        vocabulary_size=WORDS,
        grid=GRID,
        memory=CrossModalMemory(dim=DIM, size=2048, top_k=32),
        regions=RegionEncoder(dim=DIM, regions_per_side=[8], joined=True),
    )


class Peer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, DIM)
        self.transformer = nn.Transformer(DIM, 8, 3, 3, DIM, 0.1, batch_first=True, norm_first=True)
        self.words = nn.Embedding(WORDS + 1, DIM)
        self.to_words = nn.Linear(DIM, WORDS + 1)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.features is not None
        assert batch.tokens is not None
        patches = self.project(batch.features).reshape(STUDIES, -1, DIM)
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH - 1)
        words = self.transformer(
            patches, self.words(batch.tokens[:, :-1]), tgt_mask=mask, tgt_is_causal=True
        )
        logits = self.to_words(words).flatten(0, 1)
        return nn.functional.cross_entropy(logits, batch.tokens[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    batch, model, peer = studies(), ours(), Peer()
    enhancer = TokenEnhancer(SrMambaStack(in_dim=WIDTH, dim=DIM), in_dim=WIDTH, dim=DIM)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")

    def train_step(loss_of: Callable[[], Tensor], modules: list[nn.Module]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(
            [p for m in modules for p in m.parameters()], lr=1e-5, amsgrad=True, fused=True
        )

        def step() -> None:
            optimizer.zero_grad()
            with autocast:
                loss = loss_of()
            loss.backward()
            optimizer.step()

        return step

    def loss(features: Tensor) -> Tensor:
        assert batch.tokens is not None
        encoded = model.encode(features, batch.num_views)
        log_probs = model.log_probs(encoded, batch.tokens[:, :-1])
        return nn.functional.nll_loss(log_probs.flatten(0, 1), batch.tokens[:, 1:].flatten())

    features = batch.features
    assert features is not None
    print(f"{STUDIES} studies, {torch.get_num_threads()} threads, {arguments.precision}")
    plain = seconds(train_step(lambda: loss(features), [model]), arguments.repeats)
    print(f"training step, no enhancer    {plain:6.2f} s   peak {peak_gib():.2f} GiB")
    base = seconds(train_step(lambda: peer(batch), [peer]), arguments.repeats)
    print(f"training step, plain peer     {base:6.2f} s   ours / peer {plain / base:.2f}")
    full = seconds(
        train_step(lambda: loss(enhancer(features)), [model, enhancer]), arguments.repeats
    )
    print(f"training step, with enhancer  {full:6.2f} s   with / without {full / plain:.2f}   "
          f"peak {peak_gib():.2f} GiB")  # fmt: skip
    model.eval()
    # A closing 0 that never comes: every report has its full length.
    with torch.no_grad():
        model.to_words.bias[0] = -1e4

    def generate(beams: int) -> None:
        with torch.no_grad(), autocast:
            encoded = model.encode(features, batch.num_views)
            if beams == 1:
                sample(model, encoded, num_studies=STUDIES, max_words=LENGTH)
            else:
                beam_search(model, encoded, num_studies=STUDIES, beam_size=beams, max_words=LENGTH)

    for beams in (3, 1):
        took = seconds(lambda k=beams: generate(k), 2)
        print(f"beam {beams}, {LENGTH} words              {STUDIES / took:6.1f} reports/s")


if __name__ == "__main__":
    main()
