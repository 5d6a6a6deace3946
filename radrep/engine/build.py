"""Recipe sections to objects: the only module that knows both schema and classes."""

from dataclasses import dataclass
from pathlib import Path

from radrep.data.dataset import ReportDataset, View, views_of
from radrep.data.preprocess import Preprocess
from radrep.data.reports import target_text
from radrep.data.study import Study, read_manifest
from radrep.data.tokenizer import Tokenizer
from radrep.engine.features import FeatureStore
from radrep.errors import DataError
from radrep.models.csr_lmca import CsrLmca, EncoderDecoder
from radrep.modules.backbone import Backbone
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import PooledEnhancer, SrMambaStack, TokenEnhancer
from radrep.recipe.schema import Data, Enhancer, Recipe


@dataclass(frozen=True)
class Split:
    """The studies of a split that have the text a recipe asks for.

    Attributes:
        name: "train", "val" or "test".
        studies: The studies.
        texts: Raw report text of each.
        views: Views of each.
        num_without_text: Studies left out for want of the text.
    """

    name: str
    studies: list[Study]
    texts: list[str]
    views: list[tuple[View, ...]]
    num_without_text: int


def read_split(data: Data, name: str) -> Split:
    """Read one split of the prepared folder.

    Raises:
        DataError: If the folder is missing or the split has no study with the text.
    """
    studies = read_manifest(data.prepared, (name,))
    texts = [target_text(study.sections, data.target) for study in studies]
    kept = [(study, text) for study, text in zip(studies, texts, strict=True) if text]
    if not kept:
        raise DataError(
            f"{data.prepared}: none of the {len(studies)} studies of the split '{name}' has "
            f"{data.target}; choose another data.target"
        )
    return Split(
        name=name,
        studies=[study for study, _ in kept],
        texts=[text for _, text in kept],
        views=[views_of(study, pair=data.pair, max_views=data.max_views) for study, _ in kept],
        num_without_text=len(studies) - len(kept),
    )


def build_tokenizer(data: Data, train: Split) -> Tokenizer:
    """Collect the vocabulary of the training reports."""
    section = data.tokenizer
    return Tokenizer.build(train.texts, min_count=section.min_count, cleaner=section.cleaner)


def build_preprocess(data: Data, backbone: Backbone) -> Preprocess:
    """The one preprocessing of training, evaluation and generation."""
    return Preprocess(
        size=data.image_size,
        mean=backbone.mean,
        std=backbone.std,
        published=data.published,
    )


def build_dataset(
    recipe: Recipe,
    split: Split,
    *,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    training: bool = False,
    features: FeatureStore | None = None,
) -> ReportDataset:
    """The samples of a split; random crops in training only."""
    return ReportDataset(
        split.studies,
        split.texts,
        split.views,
        prepared=Path(recipe.data.prepared),
        preprocess=preprocess,
        tokenizer=tokenizer,
        max_tokens=recipe.data.max_tokens,
        random_crop=training and recipe.data.random_crop,
        seed=recipe.train.seed,
        features=features,
    )


def build_model(recipe: Recipe, vocabulary_size: int, *, pretrained: bool = True) -> CsrLmca:
    """The model of a recipe.

    Args:
        recipe: The recipe.
        vocabulary_size: Words of the tokenizer, <unk> included.
        pretrained: Load the backbone weights that the recipe names; false when a checkpoint
            brings them.
    """
    section = recipe.model
    backbone = Backbone(
        name=section.backbone.name,
        weights=section.backbone.weights if pretrained else "none",
        image_size=recipe.data.image_size,
        frozen=section.backbone.frozen,
        stride=section.backbone.stride,
    )
    transformer = section.transformer
    encoder_decoder = EncoderDecoder(
        in_dim=backbone.out_dim,
        vocabulary_size=vocabulary_size,
        grid=backbone.grid,
        memory=CrossModalMemory(
            dim=transformer.dim,
            size=section.memory.size,
            top_k=section.memory.topk,
            num_heads=transformer.num_heads,
            dropout=transformer.dropout,
        ),
        regions=RegionEncoder(
            dim=transformer.dim,
            num_heads=transformer.num_heads,
            counts=section.regions.counts,
            joined=section.regions.grid == "joined",
            num_slots=section.regions.num_slots,
            epeg_kernel=section.regions.epeg_kernel,
            dropout=transformer.dropout,
        ),
        dim=transformer.dim,
        num_layers=transformer.num_layers,
        num_heads=transformer.num_heads,
        ff_dim=transformer.ff_dim,
        dropout=transformer.dropout,
        projection_dropout=section.projection_dropout,
    )
    enhancer = _build_enhancer(section.enhancer, backbone.out_dim)
    return CsrLmca(
        backbone=backbone,
        feature_norm=section.feature_norm,
        enhancer=enhancer,
        encoder_decoder=encoder_decoder,
    )


def _build_enhancer(section: Enhancer, in_dim: int) -> PooledEnhancer | TokenEnhancer | None:
    if section.mode == "none":
        return None
    stack = SrMambaStack(
        in_dim=in_dim,
        dim=section.dim,
        num_layers=section.num_layers,
        dropout=section.dropout,
        state_dim=section.state_dim,
        conv_width=section.conv_width,
        expand=section.expand,
        rate=section.rate,
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
        blend=section.blend,
        dropout=section.dropout,
    )
