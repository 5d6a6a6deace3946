"""Time and memory of CSR-LMCA behind cached backbone features, at the published size.

Run: python -m tests.benchmarks.bench_csr_lmca [--repeats 5]

The peer, measured in the same run, is torch's own nn.Transformer of the same width, depth and
tokens with the same vocabulary: what the plain parts cost without memory and regions. It has no
cache of keys and values, so that it decodes all words so far at each word.
"""

import argparse
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.search import beam_search, sample
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import SrMambaStack, TokenEnhancer
from tests.benchmarks.rows import NO_BFLOAT16, Row, compare, has_bfloat16, show


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

    def patches(self, batch: Batch) -> Tensor:
        assert batch.features is not None
        return self.project(batch.features).unflatten(0, (len(batch.ids), -1)).flatten(1, 2)

    def generate(self, batch: Batch, beams: int, length: int) -> None:
        """So many words of so many rows a study, as a search takes them; which words is all one."""
        with torch.no_grad():
            read = self.transformer.encoder(self.patches(batch)).repeat_interleave(beams, 0)
            tokens = read.new_zeros(len(read), 1, dtype=torch.long)
            for _ in range(length):
                mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
                words = self.transformer.decoder(
                    self.words(tokens), read, tgt_mask=mask, tgt_is_causal=True
                )
                new = self.to_words(words[:, -1:]).argmax(-1)
                tokens = torch.cat([tokens, new], dim=1)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.tokens is not None
        patches = self.patches(batch)
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


def without_end(model: EncoderDecoder) -> EncoderDecoder:
    """A closing 0 that never comes: every report has its full length."""
    with torch.no_grad():
        model.to_words.bias[0] = -1e4
    return model.eval()


def generate(model: EncoderDecoder, batch: Batch, beams: int, length: int, precision: str) -> None:
    assert batch.features is not None
    limits = {"num_studies": len(batch.ids), "max_words": length}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        encoded = model.encode(batch.features, batch.num_views)
        if beams == 1:
            sample(model, encoded, **limits)
        else:
            beam_search(model, encoded, beam_size=beams, **limits)


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """Training steps and decoding beside torch's transformer, and what the enhancer adds."""
    torch.manual_seed(0)
    sizes = TINY if tiny else Sizes()
    batch, model, peer = draw(sizes), ours(sizes), Peer(sizes)
    enhancer = TokenEnhancer(
        SrMambaStack(in_dim=sizes.width, dim=sizes.dim), in_dim=sizes.width, dim=sizes.dim
    )
    features = batch.features
    assert features is not None
    for precision in ("fp32", "bf16"):
        work = f"CSR-LMCA training step, {sizes.studies} studies, {precision}"
        if precision == "bf16" and not has_bfloat16():
            yield Row(work, "torch's nn.Transformer of that size", why_not=NO_BFLOAT16)
            continue
        step = train_step(lambda: likelihood(model, batch, features), [model], precision)
        theirs = train_step(lambda: peer(batch), [peer], precision)
        yield compare(work, step, "torch's nn.Transformer of that size", theirs, repeats)
        both = [model, enhancer]
        enhanced = train_step(lambda: likelihood(model, batch, enhancer(features)), both, precision)
        yield compare(f"{work}, with enhancer", enhanced, "the same without it", step, repeats)
    without_end(model)
    peer.eval()
    for beams in (3, 1):
        for studies in (1, 2) if tiny else (1, 8, 32):
            few = draw(replace(sizes, studies=studies))
            how = f"beams of {beams}" if beams > 1 else "greedy"
            yield compare(
                f"CSR-LMCA {how}, batch of {studies}, {sizes.length} words, fp32",
                partial(generate, model, few, beams, sizes.length, "fp32"),
                "torch's nn.Transformer, all words so far at each word",
                partial(peer.generate, few, beams, sizes.length),
                repeats,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    show(rows(parser.parse_args().repeats, tiny=False))
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
