"""CSR-LMCA: SR-Mamba enhancer, cross-modal memory and LMCA region encoder before a transformer.

Source: Deng et al., "Enhanced Radiology Report Generation via Comprehensive Sequence
Rearrangement and Multi-scale Cross-region Attention", The Visual Computer, 2025; memory and
decoder from R2GenCMN (arXiv 2204.13258). On purpose unlike the released code: the region encoder
never mixes studies and runs once, in training and decoding alike; no random "triplet attention"
gate; a study with one view has no copied second one.

Letters: b studies, v views of all studies, n patches of a study, c backbone width, d width,
l report tokens, w words with the 0 that begins, ends and pads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.generation.draws import draw_reports
from radrep.generation.search import beam_search, finished_beams, sample, sample_many
from radrep.guidance.image_features import StageSummaries, summarize_stages
from radrep.guidance.label_tokens import LabelTokens
from radrep.models.base import VisionModel, mean_token_loss, without_dropout
from radrep.modules.backbone import Backbone
from radrep.modules.dropout import Dropout
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import PooledEnhancer, TokenEnhancer
from radrep.modules.transformer import Decoder, DecoderCache, Encoder, SinusoidalPositions

_CHUNKS = 5  # of drawn reports, scored one after the other


@dataclass(kw_only=True)
class Encoded(DecoderCache):
    """What the decoder reads of the studies, and where the decoding of their reports stands.

    All that reads the patches shares one projection of them, and its gradient.
    """

    memory: tuple[Tensor, Tensor]  # its projected rows, which patches and words query alike
    num_labels: int = 0  # label tokens in front of the patches, n counts them


class EncoderDecoder(nn.Module):
    """Everything behind the backbone features: projection, memory, regions, transformer, words.

    The vocabulary counts <unk> but not 0; grid is that of one view; encoder and decoder have
    num_layers each.
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
        for part in (self.encoder, self.decoder, self.words, self.memory):
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1 and name != "memory":
                    nn.init.xavier_uniform_(parameter)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.to_words.weight.device

    def encode(self, features: Tensor, num_views: Tensor, labels: Tensor | None = None) -> Encoded:
        """Encode the studies, from patches (v, patches of a view, c) and views per study (b,).

        Label tokens (b, m, d) stand in front of a study's patches.
        """
        patches = self.project(features)  # (v, n / views, d)
        memory = self.memory.keys_and_values()
        patches = patches + self.memory(patches, memory)
        studies, mask = self._regions_by_study(patches, num_views.tolist())
        studies, num_labels = self.patch_positions(studies), 0
        if labels is not None:
            num_labels = labels.shape[1]
            studies = torch.cat([labels, studies], dim=1)
            mask = None if mask is None else F.pad(mask, (num_labels, 0), value=True)
        cross = self.decoder.keys_and_values(self.encoder(studies, mask))
        return Encoded(cross, [], mask, memory=memory, num_labels=num_labels)

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
        lengths = torch.tensor([len(study) for study in encoded], device=patches.device)
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

        That to label tokens is left out, and what is to the patches made 1 in sum.
        """
        maps: list[Tensor] = []
        self._teacher_forced(encoded, tokens, maps)
        mean = torch.stack(maps).mean(dim=0)
        if not encoded.num_labels:
            return mean
        patches = mean[..., encoded.num_labels :].float()
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


class CsrLmca(VisionModel):
    """The whole model: backbone, SR-Mamba enhancer or None, and encoder-decoder.

    Not published is feature_norm: every backbone channel is brought to mean 0 and variance 1, by
    running statistics in evaluation. Behind a frozen backbone, whose channels differ a hundredfold
    in scale and hardly vary around their means, learning hangs on it. Nor are label tokens, which
    are for a frozen backbone.
    """

    vision = "backbone"

    def __init__(
        self,
        *,
        backbone: Backbone,
        feature_norm: bool = False,
        enhancer: PooledEnhancer | TokenEnhancer | None,
        encoder_decoder: EncoderDecoder,
        label_tokens: LabelTokens | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.out_dim
        self.feature_norm = nn.BatchNorm1d(channels, affine=False) if feature_norm else None
        self.enhancer = enhancer
        self.encoder_decoder = encoder_decoder
        self.label_tokens = label_tokens

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of extractor and enhancer."""
        enhancer = [] if self.enhancer is None else list(self.enhancer.parameters())
        return [*self.backbone.parameters(), *enhancer]

    def frozen_encoder(self) -> nn.Module | None:
        """The backbone, or its frozen stages."""
        return self.backbone.fixed_part()

    def num_loss_terms(self, batch: Batch) -> int:
        """Real tokens to predict: all but the opening 0."""
        assert batch.lengths is not None, "a batch to learn from has lengths"
        return int((batch.lengths - 1).sum())

    def write(
        self, batch: Batch, decode: DecodeOptions, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        """Write a report for each study by `beam_search` or `sample`."""
        encoded, num_studies = self.encode(batch), len(batch.ids)
        if decode.method == "beam":
            return beam_search(
                self.encoder_decoder,
                encoded,
                num_studies=num_studies,
                **decode.beam_settings,
            )
        drawn = decode.method == "sample"
        return sample(
            self.encoder_decoder,
            encoded,
            num_studies=num_studies,
            max_words=decode.max_new_tokens,
            temperature=decode.temperature if drawn else 0.0,
            top_p=decode.top_p if drawn else 1.0,
            block_trigrams=decode.block_trigrams,
            generator=generator,
        )

    def write_candidates(
        self, batch: Batch, decode: DecodeOptions, seed: int = 0
    ) -> list[list[list[int]]]:
        """Beams and samples behind one pass of the encoder."""
        encoded, num_studies = self.encode(batch), len(batch.ids)
        found = finished_beams(
            self.encoder_decoder,
            encoded,
            num_studies=num_studies,
            **decode.beam_settings,
        )
        if not decode.num_samples:
            return found
        drawn = sample_many(
            self.encoder_decoder,
            encoded,
            num_studies=num_studies,
            num_samples=decode.num_samples,
            max_words=decode.max_new_tokens,
            temperature=decode.temperature,
            block_trigrams=decode.block_trigrams,
            seed=seed,
        )
        return [beams + samples for beams, samples in zip(found, drawn, strict=True)]

    def attention(self, batch: Batch, ids: list[int]) -> Tensor:
        """The maps' mean over layers and heads: (words, views, rows, columns)."""
        encoded, decoder = self.encode(batch), self.encoder_decoder
        tokens = torch.tensor([[decoder.begin, *ids]], device=decoder.device)
        maps = decoder.attention_maps(encoded, tokens)[0]  # (words + 1, n)
        # The last row precedes the word after the report, so it belongs to no word.
        maps = maps[: max(1, len(ids))].float()
        return maps.view(len(maps), int(batch.num_views), *decoder.grid)

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        """See `ReportModel`."""
        if batch.images is None:
            return super().encode_images(batch, decode)
        maps = self.backbone.stage_maps(batch.images)
        return replace(
            batch,
            images=None,
            features=maps[-1].flatten(2).transpose(1, 2),
            summaries=summarize_stages(maps, batch.images.shape[2]),
        )

    def summaries(self, batch: Batch) -> Tensor:
        """Statistics of the maps of all stages."""
        assert batch.summaries is not None, "a batch of images was encoded"
        return batch.summaries

    def frozen_summaries(self) -> nn.Module | None:
        """Those of a frozen backbone."""
        return StageSummaries(self.backbone) if self.backbone.frozen else None

    def encode(self, batch: Batch) -> Encoded:
        """Encode the images, or the cached features, of a batch."""
        labels = None
        if self.label_tokens is not None:
            if batch.label_buckets is None and batch.images is not None:
                batch = self.encode_images(batch, DecodeOptions())
            labels = self.label_tokens(batch, self.summaries)
        features = self.features(batch)
        if self.feature_norm is not None:
            features = self.feature_norm(features.float().flatten(0, 1)).view_as(features)
        if self.enhancer is not None:
            features = self.enhancer(features)
        return self.encoder_decoder.encode(features, batch.num_views, labels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean negative log-likelihood of the real tokens, the closing 0 included, as "loss"."""
        return {"loss": self.likelihood(self.encode(batch), batch)}

    encode_studies = encode  # see `PolicyModel`

    def likelihood(self, encoded: Encoded, batch: Batch) -> Tensor:
        """See `PolicyModel`."""
        assert batch.tokens is not None, "a batch to learn from has tokens"
        assert batch.lengths is not None, "a batch to learn from has lengths"
        log_probs = self.encoder_decoder.log_probs(encoded, batch.tokens[:, :-1])
        targets = batch.tokens[:, 1:]
        # By length and not by id: padding is 0, and so is the closing token.
        places = torch.arange(targets.shape[1], device=targets.device)
        real = places < batch.lengths[:, None] - 1
        losses = -log_probs.gather(-1, targets[..., None]).squeeze(-1)  # (b, l - 1)
        weights = None if batch.token_weights is None else batch.token_weights[:, 1:]
        return mean_token_loss(losses, real, weights)

    def draw(self, encoded: Encoded, uniforms: Tensor, temperature: float) -> list[list[int]]:
        """See `PolicyModel`."""
        with without_dropout(self.encoder_decoder):
            return draw_reports(self.encoder_decoder, encoded, uniforms, temperature=temperature)

    def log_probs(self, encoded: Encoded, tokens: Tensor, temperature: float) -> Tensor:
        """See `PolicyModel`."""
        with without_dropout(self.encoder_decoder):
            return self.encoder_decoder.log_probs_of_drawn(encoded, tokens, temperature)
