"""Everything of CSR-LMCA behind the backbone features; see `radrep.models.csr_lmca`.

Letters: b studies, v views of all studies, n patches of a study, c backbone width, d width,
l report tokens, w words with the 0 that begins, ends and pads, t tokens of context.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.dropout import Dropout
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.transformer import Decoder, DecoderCache, Encoder, SinusoidalPositions

_CHUNKS = 5  # of drawn reports, scored one after the other


@dataclass(kw_only=True)
class Encoded(DecoderCache):
    """What the decoder reads of the studies, and where the decoding of their reports stands.

    All that reads the patches shares one projection of them, and its gradient.
    """

    memory: tuple[Tensor, Tensor]  # its projected rows, which patches and words query alike
    num_before: int = 0  # label tokens and words of context before the patches; n counts them


class EncoderDecoder(nn.Module):
    """Everything behind the backbone features: projection, memory, regions, transformer, words.

    The vocabulary counts <unk> but not 0; grid is that of one view; encoder and decoder have
    num_layers each. Not published are kinds of texts that are read as context (`num_texts`), and
    views of a prior study.
    """

    begin = end = 0

    def __init__(
        self,
        *,
        in_dim: int,
        vocabulary_size: int,
        grid: tuple[int, int],
        memory: CrossModalMemory,
        regions: RegionEncoder,
        dim: int = 512,
        num_layers: int = 3,
        num_heads: int = 8,
        ff_dim: int = 512,
        dropout: float = 0.1,
        projection_dropout: float = 0.5,
        num_texts: int = 0,
        prior_images: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.project = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(projection_dropout))
        self.memory = memory
        self.regions = regions
        self.patch_positions = SinusoidalPositions(dim, dropout)
        self.encoder = Encoder(
            num_layers=num_layers, dim=dim, num_heads=num_heads, ff_dim=ff_dim, dropout=dropout
        )
        self.words = nn.Embedding(vocabulary_size + 1, dim)
        self.word_positions = SinusoidalPositions(dim, dropout)
        self.decoder = Decoder(
            num_layers=num_layers, dim=dim, num_heads=num_heads, ff_dim=ff_dim, dropout=dropout
        )
        self.to_words = nn.Linear(dim, vocabulary_size + 1)
        # One embedding for each kind of text, and one for views of an earlier time.
        self.text_kinds = nn.Embedding(num_texts + 1, dim) if num_texts else None
        self.earlier = nn.Parameter(torch.randn(dim) / math.sqrt(dim)) if prior_images else None
        for part in (self.encoder, self.decoder, self.words, self.memory):
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1 and name != "memory":
                    nn.init.xavier_uniform_(parameter)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.to_words.weight.device

    def encode(
        self,
        features: Tensor,
        num_views: Tensor,
        labels: Tensor | None = None,
        texts: tuple[Tensor, Tensor] | None = None,
        num_prior: Tensor | None = None,
    ) -> Encoded:
        """Encode the studies, from patches (v, patches of a view, c) and views per study (b,).

        Label tokens (b, m, d) and texts, ids and kinds (b, t) each, stand in front of a study's
        patches. Behind the views of all studies come those of their priors, as many as `num_prior`.
        """
        patches = self.project(features)  # (v, n / views, d)
        views = num_views.tolist()
        if self.earlier is not None:  # also without any prior: all processes have its gradient
            num_prior = torch.zeros_like(num_views) if num_prior is None else num_prior
            own, prior = patches.split([sum(views), len(patches) - sum(views)])
            parts = own.split(views), (prior + self.earlier).split(num_prior.tolist())
            patches = torch.cat([torch.cat(pair) for pair in zip(*parts, strict=True)])
            views = (num_views + num_prior).tolist()
        memory = self.memory.keys_and_values()
        patches = patches + self.memory(patches, memory)
        studies, mask = self._regions_by_study(patches, views)
        studies = self.patch_positions(studies)
        num_before = 0
        for before, real in self._before(labels, texts):
            if mask is None and real is not None:
                mask = studies.new_ones(studies.shape[:2], dtype=torch.bool)[:, None, None]
            if mask is not None:
                ones = before.new_ones(before.shape[:2], dtype=torch.bool)
                mask = torch.cat([(ones if real is None else real)[:, None, None], mask], dim=-1)
            studies = torch.cat([before, studies], dim=1)
            num_before += before.shape[1]
        cross = self.decoder.keys_and_values(self.encoder(studies, mask))
        return Encoded(cross, [], mask, memory=memory, num_before=num_before)

    def _before(
        self, labels: Tensor | None, texts: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """What stands in front of the patches, (b, k, d), and which is real, (b, k); None: all."""
        if labels is not None:
            yield labels, None
        if texts is not None and self.text_kinds is not None:
            ids, kinds = texts
            words = self.words(ids) * math.sqrt(self.words.embedding_dim) + self.text_kinds(kinds)
            yield self.word_positions(words, 0), kinds > 0

    def _regions_by_study(
        self, patches: Tensor, num_views: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Run the region encoder on studies of equal view counts, then pad: (b, n, d), mask."""
        studies = patches.split(list(num_views))  # b of (views, n / views, d)
        encoded: list[Tensor] = [patches] * len(studies)
        for count in sorted(set(num_views)):
            rows = [i for i, views in enumerate(num_views) if views == count]
            same = torch.stack([studies[i].flatten(0, 1) for i in rows])
            regions = self.regions(same, num_views=count, grid=self.grid)
            for i, study in zip(rows, regions, strict=True):
                encoded[i] = study
        if len(set(num_views)) == 1:
            return torch.stack(encoded), None
        lengths = torch.tensor([len(study) for study in encoded])
        lengths = lengths.to(patches.device, non_blocking=True)
        padded = nn.utils.rnn.pad_sequence(encoded, batch_first=True)
        places = torch.arange(padded.shape[1], device=patches.device)
        return padded, (places < lengths[:, None])[:, None, None]

    def log_probs(self, encoded: Encoded, tokens: Tensor) -> Tensor:
        """Log-probabilities of the word after each: (b, l) to (b, l, w).

        Tokens are 0 and the words, padded with 0; behind the last word the results mean nothing.
        """
        words, _ = self._teacher_forced(encoded, tokens, None)
        return F.log_softmax(self.to_words(words).float(), dim=-1)

    def log_probs_of_drawn(self, encoded: Encoded, tokens: Tensor, temperature: float) -> Tensor:
        """Log-probability of each token of k drawn reports a study: (b k, l) -> (b k, l).

        They end with 0 unless they are cut, and are padded with 0, where the result is 0.
        """
        assert not self.training, "drawn reports are scored without dropout"
        encoded = self.start(encoded, len(tokens) // len(encoded.cross[0][0]))
        ends = tokens == self.end
        real = ends.cumsum(dim=1) == ends  # nothing has ended before
        before = F.pad(tokens[:, :-1], (1, 0), value=self.begin)
        words, which = self._embed_distinct(before, 0, encoded.memory)
        log_probs = tokens.new_zeros(tokens.shape, dtype=torch.float32)
        # Short reports and long ones apart: less of them is padding.
        for rows in real.sum(dim=1).argsort().chunk(_CHUNKS):
            longest = int(real[rows].sum(dim=1).max())
            targets, kept = tokens[rows, :longest], real[rows, :longest]
            found, _ = self.decoder(
                F.embedding(which[rows, :longest], words),
                encoded.select(rows[:, None]),
                self._earlier(before[rows, :longest]),
            )
            scores = self.to_words(found[kept]).float() / temperature
            losses = F.cross_entropy(scores, targets[kept], reduction="none")
            log_probs[rows[:, None].expand_as(kept)[kept], kept.nonzero()[:, 1]] = -losses
        return log_probs

    def attention_maps(self, encoded: Encoded, tokens: Tensor) -> Tensor:
        """Attention to the patches before each next word, mean over layers and heads: (b, l, n).

        That to what stands before them is left out, and what is to the patches made 1 in sum.
        """
        maps: list[Tensor] = []
        self._teacher_forced(encoded, tokens, maps)
        mean = torch.stack(maps).mean(dim=0)
        if not encoded.num_before:
            return mean
        patches = mean[..., encoded.num_before :].float()
        return patches / patches.sum(dim=-1, keepdim=True).clamp(min=torch.finfo().tiny)

    def _teacher_forced(
        self,
        encoded: Encoded,
        tokens: Tensor,
        maps: list[Tensor] | None,
    ) -> tuple[Tensor, DecoderCache]:
        words = self._embed(tokens, 0, encoded.memory)
        return self.decoder(words, encoded, self._earlier(tokens), maps)

    def _earlier(self, tokens: Tensor) -> Tensor:
        """Which real words are seen from each: (b, l) -> (b, 1, l, l)."""
        length = tokens.shape[1]
        seen = tokens != self.end
        seen[:, 0] = True
        earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        return (seen[:, None] & earlier)[:, None]

    def start(self, encoded: Encoded, num_beams: int) -> Encoded:
        """Begin to decode ``num_beams`` reports a study."""
        return replace(encoded, num_beams=num_beams)

    def step(self, tokens: Tensor, state: Encoded) -> tuple[Tensor, Encoded]:
        """From the last words (b k,) of open reports to log-probabilities (b k, w) of the next."""
        words, which = self._embed_distinct(tokens[:, None], state.length, state.memory)
        words, state = self.decoder(words[which], state, None)
        return F.log_softmax(self.to_words(words[:, 0]).float(), dim=-1), state

    def _embed(self, tokens: Tensor, start: int, memory: tuple[Tensor, Tensor]) -> Tensor:
        words = self.words(tokens) * math.sqrt(self.words.embedding_dim)
        words = self.word_positions(words, start)
        return words + self.memory(words, memory)

    def _embed_distinct(
        self, tokens: Tensor, start: int, memory: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `_embed` without dropout, each pair of a word and a place once.

        (r, l) to the embedded pairs (p, d) and which pair each word is (r, l).
        """
        num_words = self.words.num_embeddings
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        distinct, which = (tokens + num_words * places).unique(return_inverse=True)
        words = self.words(distinct % num_words) * math.sqrt(self.words.embedding_dim)
        words = words + self.word_positions.table[distinct // num_words]
        return words + self.memory(words, memory), which
