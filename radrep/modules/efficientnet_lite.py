"""EfficientNet-Lite with the parameters, initial weights and numbers of timm's, and no timm.

timm imports torchvision, and with it torch._dynamo: half of the time that one report takes.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Width, depth: factors of channels and of blocks.
SIZES = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
    "tf_efficientnet_lite3": (1.2, 1.4),
    "tf_efficientnet_lite4": (1.4, 1.8),
}
MEAN = STD = (0.5, 0.5, 0.5)  # of pixels from 0 to 1
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of each stage
_KERNELS = (3, 3, 5, 3, 5, 5, 3)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
_EXPANSION = 6
_STEM, _HEAD = 32, 1280
_EPS = 1e-3


class EfficientNetLite(nn.Module):
    """Normalised images (b, 3, h, w) to the map of the head or of a finer stride, (b, c, h, w).

    The stages behind a finer map keep their names in a checkpoint, and do not run.

    Args:
        name: One of `SIZES`.
        stride: Pixels per side of a patch.
    """

    def __init__(self, name: str, stride: int = 32) -> None:
        super().__init__()
        width, depth = SIZES[name]
        self.conv_stem = _Conv(3, _STEM, 3, stride=2)
        self.bn1 = _Norm(_STEM)
        for _ in range(2):  # as timm does on trial: a seed gives later parts the weights as with it
            nn.Conv2d(8, 8, 1)
        stages, strides, channels = list[nn.Module](), [2], [_STEM]
        for i, (blocks, kernel) in enumerate(zip(_BLOCKS, _KERNELS, strict=True)):
            if 0 < i < len(_BLOCKS) - 1:
                blocks = math.ceil(blocks * depth)
            expansion, dim = _EXPANSION if i else 1, _round(_CHANNELS[i] * width)
            first = _Block(channels[-1], dim, kernel, _STRIDES[i], expansion)
            others = [_Block(dim, dim, kernel, 1, expansion) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *others))
            strides.append(strides[-1] * _STRIDES[i])
            channels.append(dim)
        self.blocks = nn.Sequential(*stages)
        self.stride, self._used = stride, len(stages)
        self.whole = stride == strides[-1]
        if self.whole:
            self.conv_head = _Conv(channels[-1], _HEAD, 1)
            self.bn2 = _Norm(_HEAD)
            self.out_dim = _HEAD
        else:
            self._used = max(i for i, each in enumerate(strides) if each == stride)
            self.out_dim = channels[self._used]
            self.blocks[self._used :].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def stages(self) -> tuple[nn.Module, ...]:
        """From the image to the map, each from the map of the one before."""
        stem = _Pairs(self.conv_stem, self.bn1)
        used = (stem, *self.blocks[: self._used])
        return (*used, _Pairs(self.conv_head, self.bn2)) if self.whole else used

    def forward(self, images: Tensor) -> Tensor:
        """Run the stages."""
        for stage in self.stages():
            images = stage(images)
        return images


class _Conv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does it: to ceil(size / stride)."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            in_dim, out_dim, kernel, stride=stride, padding=padding, groups=groups, bias=False
        )

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(self.pad(maps) if self.stride[0] > 1 else maps)

    def pad(self, maps: Tensor) -> Tensor:
        """Maps with the zeros around them that its stride asks for."""
        down, right = self.missing(maps)
        return F.pad(maps, (right // 2, right - right // 2, down // 2, down - down // 2))

    def missing(self, maps: Tensor) -> tuple[int, int]:
        """How many rows and columns of zeros that are."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size in maps.shape[2:]
        )
        return height, width


class _Norm(nn.BatchNorm2d):
    """With ReLU6 behind it, or without."""

    def __init__(self, dim: int, *, activated: bool = True) -> None:
        super().__init__(dim, eps=_EPS)
        self.act = nn.ReLU6(inplace=True) if activated else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(maps))
        return activated


class _Pairs(nn.Sequential):
    """Convolutions, each with a norm behind it: two passes to learn by, one to infer."""

    def forward(self, maps: Tensor) -> Tensor:
        parts = [*self]
        for conv, norm in zip(parts[::2], parts[1::2], strict=True):
            learns = norm.training or torch.is_grad_enabled()
            maps = norm(conv(maps)) if learns else _infer(conv, norm, maps)
        return maps


def _infer(conv: _Conv, norm: _Norm, maps: Tensor) -> Tensor:
    """The norm in the weights of the convolution: equal but for rounding, a third faster."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - mean * scale
    around = conv.padding[0]
    if conv.stride[0] > 1:
        down, right = conv.missing(maps)
        if down == right and right % 2:  # a row and a column of zeros before a kernel pad as well
            weight, around = F.pad(weight, (1, 0, 1, 0)), right // 2 + 1
        else:
            maps = conv.pad(maps)
    whole = F.conv2d(maps, weight, bias, conv.stride, around, groups=conv.groups)
    activated: Tensor = norm.act(whole)
    return activated


class _Block(_Pairs):
    """A depthwise convolution between two of one pixel, without the first where nothing widens."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int, expansion: int) -> None:
        wide, parts = in_dim * expansion, OrderedDict[str, nn.Module]()
        if expansion > 1:
            parts["conv_pw"], parts["bn1"] = _Conv(in_dim, wide, 1), _Norm(wide)
        norm = f"bn{len(parts) // 2 + 1}"
        parts["conv_dw"] = _Conv(wide, wide, kernel, stride, groups=wide)
        parts[norm] = _Norm(wide)
        last, norm = ("conv_pwl", "bn3") if expansion > 1 else ("conv_pw", "bn2")
        parts[last], parts[norm] = _Conv(wide, out_dim, 1), _Norm(out_dim, activated=False)
        super().__init__(parts)
        self.skips = stride == 1 and in_dim == out_dim

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = super().forward(maps)
        return changed + maps if self.skips else changed


def _round(channels: float) -> int:
    """To a multiple of 8, at most a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
