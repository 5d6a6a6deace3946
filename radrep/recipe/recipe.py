"""A whole recipe, and what must hold between its sections."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from radrep.errors import RecipeError
from radrep.recipe.data import Data
from radrep.recipe.models import MODELS, Contrastive, CsrLmca, Discriminator, Emrrg, Model
from radrep.recipe.section import Folder, Rule, Section
from radrep.recipe.training import Decode, Optim, Train

_TASKS: Mapping[str, tuple[str, ...]] = {"train": ("reports", "labels"), "pretrain": ("encoder",)}


class Recipe(Section):
    """The complete description of one run."""

    task: Literal["train", "pretrain"]
    out: Folder  # the run, made anew
    data: Data
    model: Model
    optim: Optim
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

    def rules(self) -> Iterable[Rule]:
        """What must hold between sections."""
        model, monitor, decode = self.model, self.train.monitor, self.decode
        known = [f"val/{metric}" for metric in model.scores]
        fitting = [name for name, kind in MODELS.items() if kind.output in _TASKS[self.task]]
        yield (
            model.output not in _TASKS[self.task],
            "model.name",
            f"does not go with task: {self.task}, which takes {' or '.join(fitting)}",
        )
        yield (
            self.data.images != "views" and model.output != "reports",
            "data.images",
            f"'{self.data.images}' is for models that write reports; this one takes views",
        )
        yield from self._feature_rules()
        yield (
            monitor not in known,
            "train.monitor",
            f"must be one of {', '.join(known)} here, got '{monitor}'",
        )
        for name in ("preset", "min_new_tokens", "repetition_penalty"):
            value = getattr(decode, name)
            changed = value != Decode.model_fields[name].default
            yield (
                isinstance(model, CsrLmca) and changed,
                f"decode.{name}",
                f"is for emrrg alone, got {value}",
            )
        yield (
            isinstance(model, Emrrg) and (decode.method == "sample" or decode.block_trigrams),
            "decode.method",
            "emrrg writes by beam or greedy, without block_trigrams",
        )

    def _feature_rules(self) -> Iterator[Rule]:
        """Features of a frozen encoder are computed once, so its images must not vary."""
        model = self.model
        frozen = isinstance(model, CsrLmca | Discriminator) and model.backbone.frozen
        key = "model.backbone.frozen: true" if frozen else "model.train_encoder: frozen"
        frozen = frozen or (isinstance(model, Emrrg) and model.train_encoder == "frozen")
        effects = {
            "random_crop": "crops", "random_resized_crop": "crops", "random_flip": "flips",
        }  # fmt: skip
        for name, effect in effects.items():
            yield (
                frozen and getattr(self.data, name),
                f"data.{name}",
                f"{effect} training images at random, but {key} computes "
                "their features once; set one of the two to false",
            )

    def without_effect(self) -> Mapping[str, str]:
        """Keys and sections that other keys switch off, to what would switch them on."""
        data, model = self.data, self.model
        off: dict[str, str] = {}
        if data.images == "views":
            off["data.saliency"] = "data.images: frontal+mask or views+mask"
        elif data.saliency and data.saliency.mask == "soft":
            off["data.saliency.threshold"] = "data.saliency.mask: hard"
        if not data.random_crop and not data.random_resized_crop:
            off["data.random_flip"] = "data.random_crop: true or data.random_resized_crop: true"
        if isinstance(model, CsrLmca):
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
        elif isinstance(model, Contrastive) and model.text_encoder.name != "small":
            for name in ("dim", "num_layers", "num_heads"):
                off[f"model.text_encoder.{name}"] = "model.text_encoder.name: small"
        return off
