"""A whole recipe, and what must hold between its sections."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from radrep.errors import RecipeError
from radrep.recipe.data import Data
from radrep.recipe.models import MODELS, Contrastive, CsrLmca, Discriminator, Emrrg, Model
from radrep.recipe.section import Folder, Name, Rule, Section
from radrep.recipe.training import Decode, Optim, Parallel, Train
from radrep.sections import TWO_SECTIONS

_TASKS: Mapping[str, tuple[str, ...]] = {
    "train": ("reports", "labels"),
    "pretrain": ("encoder", "labels"),
}


class Recipe(Section):
    """The complete description of one run."""

    # What it is known by, its file's name unless it has another: no setting, so no `differences`.
    name: Name | None = Field(default=None, exclude=True)
    task: Literal["train", "pretrain"]
    out: Folder  # the run, made anew
    data: Data
    model: Model
    optim: Optim
    train: Train
    parallel: Parallel = Parallel()
    decode: Decode = Decode()

    def require_model(self, name: str, why: str) -> None:
        """Refuse other models where weights of one kind are read."""
        if self.model.name != name:
            text = f"must be {name} {why}, got {self.model.name}"
            raise RecipeError("this recipe", [("model.name", text)])

    def rules(self) -> Iterable[Rule]:
        """What must hold between sections."""
        model, monitor, decode = self.model, self.train.monitor, self.decode
        fitting = [name for name, kind in MODELS.items() if kind.output in _TASKS[self.task]]
        text = f"does not go with task: {self.task}, which takes {' or '.join(fitting)}"
        yield model.output not in _TASKS[self.task], "model.name", text
        text = "must describe the X-ray Mamba to pretrain; a backbone is trained with task: train"
        bare = isinstance(model, Discriminator) and model.encoder is None
        yield bare and self.task == "pretrain", "model.encoder", text
        masked = self.data.images != "views"
        text = f"'{self.data.images}' is for models that write reports; this one takes views"
        yield masked and model.output != "reports", "data.images", text
        two = self.data.target == TWO_SECTIONS
        text = f"'{TWO_SECTIONS}' is for models that write reports; take both"
        yield two and model.output != "reports", "data.target", text
        text = "leaves no room for an impression behind findings of data.max_tokens "
        text += f"({self.data.max_tokens}); set it above, got {decode.max_new_tokens}"
        short = two and decode.max_new_tokens <= self.data.max_tokens
        yield short, "decode.max_new_tokens", text
        text = "is for models that write reports; leave it out"
        yield bool(self.data.context) and model.output != "reports", "data.context", text
        yield from self._feature_rules()
        sharded = self.parallel.data == "fsdp"
        text = "does not go with train.reward: drawn reports differ in length, and each layer of "
        text += "a sharded model waits for all processes; use ddp"
        yield sharded and self.train.reward is not None, "parallel.data", text
        text = "is for other models: contrastive's temperature is one number, of which no process "
        text += "can have a part; use ddp"
        yield sharded and isinstance(model, Contrastive), "parallel.data", text
        text = "does not go with train.precision: fp16, whose loss scale no process knows alone; "
        text += "use bf16, or ddp"
        yield sharded and self.train.precision == "fp16", "parallel.data", text
        again = self.parallel.activation_checkpointing
        again |= isinstance(model, Emrrg) and model.language_model.gradient_checkpointing
        text = "does not go with parallel.activation_checkpointing and gradient_checkpointing: the "
        text += "passes that compute again may take other graphs; set one of the two to false"
        yield self.parallel.compile and again, "parallel.compile", text
        known = [f"val/{metric}" for metric in model.scores]
        text = f"must be one of {', '.join(known)} here, got '{monitor}'"
        yield monitor not in known, "train.monitor", text
        for name in ("preset", "min_new_tokens", "repetition_penalty"):
            value = getattr(decode, name)
            misplaced = isinstance(model, CsrLmca) and value != Decode.model_fields[name].default
            yield misplaced, f"decode.{name}", f"is for emrrg alone, got {value}"
        for name in ("start_from", "reward", "finding_weight", "repeat_abnormal"):
            changed = getattr(self.train, name) != type(self.train).model_fields[name].default
            text = "is for models that write reports"
            yield changed and model.output != "reports", f"train.{name}", text
        if isinstance(model, Emrrg) and self.train.reward is not None:
            language = model.language_model
            text = "recomputes layers with another dropout than drawn reports had; set one of "
            text += "gradient_checkpointing: false and train: frozen for train.reward"
            yield (
                again and language.train != "frozen",
                "model.language_model.gradient_checkpointing",
                text,
            )
        other = decode.method == "sample" or decode.block_trigrams
        text = "emrrg writes by beam, greedy, select or consensus, without block_trigrams"
        yield isinstance(model, Emrrg) and other, "decode.method", text

    def _feature_rules(self) -> Iterator[Rule]:
        """Features of a frozen encoder are computed once, so its images must not vary."""
        model = self.model
        key, frozen = "model.train_encoder: frozen", False
        if isinstance(model, Emrrg) or (isinstance(model, Discriminator) and model.encoder):
            frozen = model.train_encoder == "frozen"
        elif isinstance(model, CsrLmca | Discriminator):
            key, frozen = "model.backbone.frozen: true", model.backbone.frozen
        for name in ("random_crop", "random_resized_crop", "random_flip"):
            text = f"{name.rpartition('_')[2]}s training images at random, but {key} computes "
            text += "their features once; set one of the two to false"
            yield frozen and getattr(self.data, name), f"data.{name}", text
        # A classifier takes the mean over any map; what reads patches needs a fixed number of them.
        crops = () if model.output == "labels" else ("random_crop",)
        for name in (*crops, "random_resized_crop", "random_flip"):
            text = "cannot be had of the cached maps of model.backbone.frozen_stages; set one of "
            text += "the two off"
            yield model.takes_early_maps and getattr(self.data, name), f"data.{name}", text
        asked = isinstance(model, CsrLmca | Emrrg) and model.label_tokens is not None
        text = f"needs {key}: findings are predicted from the encoder's features once, before "
        text += "training, and one that is trained would change them; freeze it, or set "
        text += "model.label_tokens to null"
        yield asked and not frozen, "model.label_tokens", text

    def without_effect(self) -> Mapping[str, str]:
        """Keys and sections that other keys switch off, to what would switch them on."""
        data, model = self.data, self.model
        off: dict[str, str] = {}
        if self.parallel.data != "fsdp":
            for name in ("shard", "cpu_offload"):
                off[f"parallel.{name}"] = "parallel.data: fsdp"
        if data.images == "views":
            off["data.saliency"] = "data.images: frontal+mask or views+mask"
        elif data.saliency and data.saliency.mask == "soft":
            off["data.saliency.threshold"] = "data.saliency.mask: hard"
        if not data.context:
            for name in ("context_words", "drop_context"):
                off[f"data.{name}"] = "data.context"
        if not data.random_crop and not data.random_resized_crop:
            off["data.random_flip"] = "data.random_crop: true or data.random_resized_crop: true"
        if isinstance(model, Discriminator) and model.encoder is not None:
            off["model.backbone"] = "model.encoder: null"
        elif isinstance(model, CsrLmca | Discriminator) and model.backbone.frozen:
            off["model.backbone.frozen_stages"] = "model.backbone.frozen: false"
        if isinstance(model, Discriminator) and model.encoder is None:
            off["model.train_encoder"] = "model.encoder"
        elif isinstance(model, CsrLmca):
            if model.enhancer.mode != "tokens":
                off["model.enhancer.gate"] = "model.enhancer.mode: tokens"
            if model.enhancer.mode != "pooled":
                for name in ("pool_dim", "pooled_weight"):
                    off[f"model.enhancer.{name}"] = "model.enhancer.mode: pooled"
        elif isinstance(model, Emrrg):
            if model.train_encoder != "adapters":
                off["model.lora"] = "model.train_encoder: adapters"
            if model.language_model.train != "lora":
                off["model.language_model.lora"] = "model.language_model.train: lora"
        sized = {Emrrg: "language_model", Contrastive: "text_encoder"}.get(type(model))
        if sized is not None and getattr(model, sized).name != "small":
            for name in ("dim", "num_layers", "num_heads"):
                off[f"model.{sized}.{name}"] = f"model.{sized}.name: small"
        return off


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The keys in which two recipes differ, with the value of each, None where there is none."""
    first, second = (dict(flatten(recipe.model_dump(mode="json"))) for recipe in (one, other))
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested sections, each with its key: "optim.lr"."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        yield from flatten(value, f"{key}.") if isinstance(value, dict) else ((key, value),)
