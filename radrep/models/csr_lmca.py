"""CSR-LMCA: SR-Mamba enhancer, cross-modal memory and LMCA region encoder before a transformer.

Source: Deng et al., "Enhanced Radiology Report Generation via Comprehensive Sequence
Rearrangement and Multi-scale Cross-region Attention", The Visual Computer, 2025; memory and
decoder from R2GenCMN (arXiv 2204.13258). On purpose unlike the released code: the region encoder
never mixes studies and runs once, in training and decoding alike; no random "triplet attention"
gate; a study with one view has no copied second one.

Letters: b studies, v views of all studies, n patches of a study, c backbone width, d width,
l report tokens, w words with the 0 that begins, ends and pads.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.generation.draws import draw_reports
from radrep.generation.search import beam_search, finished_beams, sample, sample_many
from radrep.guidance.image_features import StageSummaries, summarize_stages
from radrep.guidance.label_tokens import LabelTokens
from radrep.models.base import VisionModel, mean_token_loss, without_dropout
from radrep.models.encoder_decoder import Encoded, EncoderDecoder
from radrep.modules.backbone import Backbone, to_patches
from radrep.modules.sr_mamba import PooledEnhancer, TokenEnhancer


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
            on_tokens=decode.on_tokens,
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
        views = maps.unflatten(1, (-1, *decoder.grid))[:, : int(batch.num_views)]
        if batch.prior is None:
            return views
        return views / views.sum(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo().tiny)

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        """See `ReportModel`."""
        if batch.images is None:
            return super().encode_images(batch, decode)
        maps = self.backbone.stage_maps(batch.images)
        prior = None if batch.prior is None else self.with_features(batch.prior)
        return replace(
            batch,
            prior=prior,
            images=None,
            features=to_patches(maps[-1]),
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
        features, num_prior, texts = self.features(batch), None, None
        if batch.prior is not None:
            num_prior = batch.prior.num_views
            features = torch.cat([features, self.features(batch.prior)])
        if batch.context is not None and batch.context_kinds is not None:
            texts = batch.context, batch.context_kinds
        if self.feature_norm is not None:
            features = self.feature_norm(features.float().flatten(0, 1)).view_as(features)
        if self.enhancer is not None:
            features = self.enhancer(features)
        return self.encoder_decoder.encode(features, batch.num_views, labels, texts, num_prior)

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
