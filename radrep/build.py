"""Recipe sections to objects: the only module that knows both schema and classes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor

from radrep.atomic import cache_folder
from radrep.data.context.reader import ContextReader
from radrep.data.context.study_context import PRIOR_IMAGE, TITLES
from radrep.data.dataset import ModelStudies, ReportDataset
from radrep.data.image_selection import ImageSelection, View
from radrep.data.preprocess import Preprocess
from radrep.data.store import PreparedStudies
from radrep.data.study import Image, Study
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import (
    CleanedCodec,
    ClosedCodec,
    PromptCodec,
    ReportCodec,
    Tokenizer,
)
from radrep.errors import RecipeError
from radrep.generation.contract import DecodeOptions
from radrep.guidance.editing import OperatingPoint
from radrep.guidance.image_features import NUM_SUMMARIES, StageSummaries
from radrep.guidance.label_tokens import LabelTokens
from radrep.guidance.selection import UtilityWeights
from radrep.metrics.labeler import OBSERVATIONS
from radrep.models.base import TrainableModel
from radrep.models.csr_lmca import CsrLmca
from radrep.models.discriminator import Discriminator
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.backbone import Backbone
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import PooledEnhancer, SrMambaStack, TokenEnhancer
from radrep.recipe import models as schema
from radrep.recipe.data import Data
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Decode, Edit, Select

# transformers and timm take seconds to import: what needs them is imported where a recipe asks.
if TYPE_CHECKING:
    from radrep.models.contrastive import ContrastivePretraining
    from radrep.models.emrrg import Emrrg
    from radrep.models.xray_mamba import XrayMamba
    from radrep.modules.language_model import LanguageModel

LabelSource = Literal["table", "reports"]
Uncertain = Literal["ignore", "zero", "one"]
SMALL = "small"  # a text encoder or a language model that is trained from nothing
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_tokenizer(data: Data, train: PreparedStudies) -> Tokenizer:
    """Collect the vocabulary of the training reports."""
    reports, section = train.texts(data.target), data.tokenizer
    return Tokenizer.build(reports, min_count=section.min_count, cleaner=section.cleaner)


def build_preprocess(data: Data, model: TrainableModel) -> Preprocess:
    """The one preprocessing of training, evaluation and generation."""
    mean, std = model.pixel_stats
    return Preprocess(
        size=data.image_size,
        mean=mean,
        std=std,
        equalize_and_sharpen=data.equalize_and_sharpen,
        random_flip=data.random_flip,
        resized_crop=data.random_resized_crop,
    )


def build_codec(recipe: Recipe, tokenizer: Tokenizer, model: TrainableModel) -> ReportCodec:
    """How the model of a recipe reads and writes reports."""
    section, clean = recipe.model, get_cleaner(recipe.data.tokenizer.cleaner)
    if isinstance(section, schema.Emrrg):
        language = cast("Emrrg", model).language
        return PromptCodec(language, clean, language.name, language.note)
    if not isinstance(section, schema.Contrastive):
        return tokenizer
    text = section.text_encoder
    if text.name == SMALL:
        return ClosedCodec(tokenizer)
    from radrep.modules.text_encoder import load_text_tokenizer

    return CleanedCodec(load_text_tokenizer(text.name, text.revision), clean)


def build_selection(data: Data) -> ImageSelection:
    """Which images of a study the model of a recipe is given."""
    return ImageSelection(data.images, data.max_views)


def build_decode(decode: Decode, train_precision: str) -> DecodeOptions:
    """The decoding of a recipe; `decode.precision: train` is the arithmetic of training."""
    return DecodeOptions(
        **decode.by_decoder.model_dump(
            exclude={"preset", "select", "consensus", "edit", "batch_size", "precision"}
        ),
        num_samples=decode.num_samples,
        precision=train_precision if decode.precision == "train" else "fp32",
        float32_weights={"auto": None, "fp32": True, "train": False}[decode.precision],
    )


def build_utility(section: Select) -> UtilityWeights:
    """The weights of a utility's parts."""
    return UtilityWeights(rouge=section.rouge, labels=section.labels)


def build_operating_point(section: Edit) -> OperatingPoint:
    """Where observations are called present."""
    return OperatingPoint(**section.model_dump())


def label_source(section: schema.Model) -> tuple[LabelSource, Uncertain] | None:
    """Where the labels that a model learns come from, and what uncertain ones are."""
    if not isinstance(section, schema.Discriminator):
        return None
    return section.labels, section.uncertain


def build_dataset(
    recipe: Recipe,
    studies: ModelStudies,
    *,
    preprocess: Preprocess,
    codec: ReportCodec,
    training: bool = False,
    features: Callable[[Image, View], Tensor] | None = None,
    labels: Callable[[Study], np.ndarray] | None = None,
    context_of: Callable[[int], int | None] | None = None,
) -> ReportDataset:
    """The samples of a split; random crops and dropped context in training only.

    For `context_of` see `ContextReader`.
    """
    data, context = recipe.data, None
    if data.context:
        dropped = data.drop_context if training else 0.0
        context = ContextReader(data.context, codec, data.context_words, dropped, context_of)
    return ReportDataset(
        studies,
        target=data.target,
        selection=build_selection(data),
        preprocess=preprocess,
        codec=codec,
        max_tokens=data.max_tokens,
        random_crop=training and (data.random_crop or data.random_resized_crop),
        seed=recipe.train.seed,
        features=features,
        early=recipe.model.takes_early_maps,
        labels=labels,
        context=context,
    )


def build_model(
    recipe: Recipe,
    words: Sequence[str],
    *,
    pretrained: bool = True,
    language_weights: bool = True,
) -> TrainableModel:
    """The model of a recipe. An X-ray Mamba is filled by `radrep.weights.pretrained`.

    The words are those of training reports, <unk> among them. A checkpoint brings the weights of a
    backbone that is not `pretrained`; a model that is only written down needs no
    `language_weights`.

    Raises:
        CheckpointError, RecipeError: If weights cannot be had or sizes do not fit one another.
    """
    section, image_size = recipe.model, recipe.data.image_size
    try:
        if isinstance(section, schema.CsrLmca):
            return _build_csr_lmca(section, recipe.data, len(words), pretrained)
        if isinstance(section, schema.Discriminator):
            return Discriminator(
                _build_xray_mamba(section.encoder, image_size)
                if section.encoder is not None
                else _build_backbone(section.backbone, image_size, pretrained),
                num_labels=len(OBSERVATIONS),
                num_words=section.words,
                dropout=section.dropout,
                frozen=section.train_encoder == "frozen",
            )
        if isinstance(section, schema.Emrrg):
            return _build_emrrg(section, recipe, words, language_weights)
        if isinstance(section, schema.Autoregressive):
            from radrep.models.autoregressive import AutoregressivePretraining

            return AutoregressivePretraining(
                encoder=_build_xray_mamba(section.encoder, image_size, stage_one=True),
                cluster_size=section.cluster_size,
                decoder_dim=section.decoder_dim,
            )
        return _build_contrastive(section, image_size, len(words), language_weights)
    except ValueError as error:  # sizes that only the parts themselves can check
        raise RecipeError("this run", [("model", str(error))]) from error


def _build_backbone(section: schema.Backbone, image_size: int, pretrained: bool) -> Backbone:
    own = section.weights if pretrained and not section.runs else "none"
    return Backbone(
        weights=str(own),
        image_size=image_size,
        **section.model_dump(exclude={"weights"}),
    )


def _build_csr_lmca(
    section: schema.CsrLmca, data: Data, vocabulary_size: int, pretrained: bool
) -> CsrLmca:
    backbone = _build_backbone(section.backbone, data.image_size, pretrained)
    memory, regions, transformer = section.memory, section.regions, section.transformer
    dim, num_heads, dropout = transformer.dim, transformer.num_heads, transformer.dropout
    encoder_decoder = EncoderDecoder(
        in_dim=backbone.out_dim,
        vocabulary_size=vocabulary_size,
        grid=backbone.grid,
        memory=CrossModalMemory(
            dim=dim, size=memory.size, top_k=memory.top_k, num_heads=num_heads, dropout=dropout
        ),
        regions=RegionEncoder(
            dim=dim,
            num_heads=num_heads,
            regions_per_side=regions.regions_per_side,
            joined=regions.grid == "joined",
            num_slots=regions.num_slots,
            epeg_kernel=regions.epeg_kernel,
            dropout=dropout,
        ),
        dim=dim,
        num_layers=transformer.num_layers,
        num_heads=num_heads,
        ff_dim=transformer.ff_dim,
        dropout=dropout,
        projection_dropout=section.projection_dropout,
        num_texts=len(TITLES) if set(data.context) & TITLES.keys() else 0,
        prior_images=PRIOR_IMAGE in data.context,
    )
    return CsrLmca(
        backbone=backbone,
        feature_norm=section.feature_norm,
        enhancer=_build_enhancer(section.enhancer, backbone.out_dim),
        encoder_decoder=encoder_decoder,
        label_tokens=_build_label_tokens(section.label_tokens, data, StageSummaries(backbone), dim),
    )


def label_tokens_section(section: schema.Model) -> schema.LabelTokens | None:
    """The label tokens of a recipe's model; None without any."""
    return section.label_tokens if isinstance(section, schema.CsrLmca | schema.Emrrg) else None


def _build_label_tokens(
    section: schema.LabelTokens | None,
    data: Data,
    statistics: StageSummaries | int,  # of an image, or how many
    dim: int,
) -> LabelTokens | None:
    if section is None:
        return None
    if not isinstance(statistics, int):
        with torch.no_grad():
            blank = torch.zeros(1, 3, data.image_size, data.image_size)
            statistics = int(statistics(blank).shape[-1])
    return LabelTokens(
        num_features=statistics,
        num_views=build_selection(data).max_images,
        dim=dim,
        num_buckets=section.buckets,
    )


def _build_xray_mamba(
    section: schema.XrayMamba, image_size: int, *, stage_one: bool = False
) -> "XrayMamba":
    from radrep.models.xray_mamba import make_stage_one_encoder, make_xray_mamba

    make = make_stage_one_encoder if stage_one else make_xray_mamba
    sizes = {"image_size": image_size, "patch_size": section.patch_size}
    return make(section.size, **sizes, drop_path=section.drop_path)


def _build_emrrg(
    section: schema.Emrrg, recipe: Recipe, words: Sequence[str], language_weights: bool
) -> "Emrrg":
    from radrep.models.emrrg import PROMPT, Emrrg
    from radrep.models.xray_mamba import add_partial_lora

    data = recipe.data
    encoder = _build_xray_mamba(section.encoder, data.image_size)
    if section.train_encoder == "adapters":
        lora = section.lora
        add_partial_lora(
            encoder,
            lora.target,
            rank=lora.rank,
            scale=lora.scale,
            dropout=lora.dropout,
            per_direction=lora.per_direction,
        )
    language = section.language_model
    titles = " ".join(TITLES.values()).split() if data.context else ()
    model = build_language_model(language, (*words, *titles), weights=language_weights)
    dim: int = model.model.config.hidden_size
    return Emrrg(
        encoder=encoder,
        language=model,
        encoder_training=section.train_encoder,
        language_training=language.train,
        **section.model_dump(include={"visual_tokens", "projector_scale"}),
        hybrid_every=section.hybrid.every_n_layers if section.hybrid else 0,
        gradient_checkpointing=language.gradient_checkpointing
        or recipe.parallel.activation_checkpointing,
        **{f"lora_{name}": value for name, value in language.lora},
        prompt=section.prompt or PROMPT,
        label_tokens=_build_label_tokens(
            section.label_tokens, data, NUM_SUMMARIES * encoder.dim, dim
        ),
        prior_images=PRIOR_IMAGE in data.context,
    )


def build_language_model(
    section: schema.LanguageModel, words: Sequence[str], *, weights: bool = True
) -> "LanguageModel":
    """The language model of a recipe, for `weights` see `load_language_model`."""
    from radrep.modules.language_model import load_language_model, small_language_model

    if section.name == SMALL:
        sizes = section.model_dump(include={"dim", "num_layers", "num_heads"})
        return small_language_model(words, **sizes)
    return load_language_model(
        section.name,
        cache_folder=cache_folder(),
        dtype=DTYPES[section.precision],
        bos_id=section.bos_token_id,
        eos_text=section.eos_text,
        weights=weights,
        revision=section.revision,
    )


def _build_contrastive(
    section: schema.Contrastive, image_size: int, vocabulary_size: int, language_weights: bool
) -> "ContrastivePretraining":
    from radrep.models.contrastive import ContrastivePretraining
    from radrep.modules.text_encoder import load_text_encoder, small_text_encoder

    text = section.text_encoder
    if text.name == SMALL:
        text_encoder = small_text_encoder(
            vocabulary_size, dim=text.dim, num_layers=text.num_layers, num_heads=text.num_heads
        )
    else:
        text_encoder = load_text_encoder(text.name, text.revision, weights=language_weights)
    return ContrastivePretraining(
        encoder=_build_xray_mamba(section.encoder, image_size),
        text_encoder=text_encoder,
        text_dim=text_encoder.config.hidden_size,
        projection_dim=section.projection_dim,
    )


def _build_enhancer(section: schema.Enhancer, in_dim: int) -> PooledEnhancer | TokenEnhancer | None:
    if section.mode == "none":
        return None
    stack = SrMambaStack(
        in_dim=in_dim,
        **section.model_dump(include={"dim", "num_layers", "dropout", "stride"}),
        **section.model_dump(include={"state_dim", "conv_width", "expand"}),
    )
    if section.mode == "tokens":
        return TokenEnhancer(
            stack, in_dim=in_dim, dim=section.dim, channel_gate=section.gate == "channel"
        )
    return PooledEnhancer(
        stack,
        in_dim=in_dim,
        dim=section.dim,
        pool_dim=section.pool_dim,
        pooled_weight=section.pooled_weight,
        dropout=section.dropout,
    )
