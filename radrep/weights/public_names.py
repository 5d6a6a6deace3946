"""Parameter names of the public reference code and of radrep, side by side.

Each table lists (public name, our name or why it is ignored). `*` stands for one part of a dotted
name, `**` for the rest of it and `#` for a number that our name lacks; the first row that fits
counts. No tensor of a file is dropped in silence.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radrep.errors import CheckpointError


@dataclass(frozen=True)
class IgnoredKeys:
    """Public tensors that our models have no place for."""

    reason: str


Names = Sequence[tuple[str, str]]
Rules = Sequence[tuple[str, str | IgnoredKeys]]

_SCAN_PARTS = ("conv1d", "x_proj", "dt_proj")
_LINEARS = {"linears.0": "query", "linears.1": "key", "linears.2": "value", "linears.3": "out"}


def _inside(theirs: str, ours: str, rules: Names) -> Names:
    """The rules of a part for a file that holds more."""
    return tuple((theirs + name, ours + own) for name, own in rules)


SR_MAMBA_MIXER: Names = (
    ("A_log", "in_order.A_log"),
    ("A_b_log", "strided.A_log"),
    ("D", "in_order.D"),
    ("D_b", "strided.D"),
    *((f"{part}.*", f"in_order.{part}.*") for part in _SCAN_PARTS),
    *((f"{part}_b.*", f"strided.{part}.*") for part in _SCAN_PARTS),
    ("in_proj.weight", "in_proj.weight"),
    ("out_proj.weight", "out_proj.weight"),
)
POOLED_ENHANCER: Names = (
    ("_fc1.0.*", "stack.project.0.*"),
    ("layers.*.0.*", "stack.norms.*.*"),
    *_inside("layers.*.1.", "stack.mixers.*.", SR_MAMBA_MIXER),
    ("norm.*", "stack.norm.*"),
    ("attention.**", "attention.**"),
    ("fc_to_#.*", "expand.*"),
)
MEMORY: Names = tuple((f"{theirs}.*", f"{ours}.*") for theirs, ours in _LINEARS.items())
REGION_ENCODER: Names = (
    ("layers.0.norm.*", "norm_within.*"),
    ("layers.0.attn.attn.qkv.*", "within.qkv.*"),
    ("layers.0.attn.attn.proj.*", "within.out.*"),
    ("layers.0.attn.attn.pe.*", "within.epeg.*"),
    ("cr_msa.norm.*", "norm_across.*"),
    ("cr_msa.attn.phi", "across.phi"),
    ("cr_msa.attn.attn.qkv.*", "across.qkv.*"),
    ("cr_msa.attn.attn.proj.*", "across.out.*"),
    ("norm.*", "norm.*"),
)


def _transformer_rules() -> Names:
    rules: list[tuple[str, str]] = []
    for stack, norms in (
        ("encoder", ("self_norm", "ff_norm")),
        ("decoder", ("self_norm", "cross_norm", "ff_norm")),
    ):
        layer, own = f"model.{stack}.layers.*.", f"{stack}.layers.*."
        named = [(f"{layer}sublayer.{i}.norm.", f"{own}{norm}.") for i, norm in enumerate(norms)]
        for theirs, ours in (*named, (f"model.{stack}.norm.", f"{stack}.norm.")):
            rules += [(f"{theirs}a_2", f"{ours}weight"), (f"{theirs}b_2", f"{ours}bias")]
        rules += _inside(f"{layer}self_attn.", f"{own}self_attention.", MEMORY)
        rules += _inside(f"{layer}src_attn.", f"{own}cross_attention.", MEMORY)
        rules.append((f"{layer}feed_forward.w_1.*", f"{own}feed_forward.0.*"))
        rules.append((f"{layer}feed_forward.w_2.*", f"{own}feed_forward.3.*"))
    return rules


_ENCODER_DECODER: Names = (
    ("att_embed.0.*", "project.0.*"),
    ("memory_matrix", "memory.memory"),
    *_inside("cmn.", "memory.", MEMORY),
    *_inside("model.cmn.", "memory.", MEMORY),  # the same module, registered twice
    *_inside("rrt.", "regions.", REGION_ENCODER),
    *_transformer_rules(),
    ("model.tgt_embed.0.lut.weight", "words.weight"),
    ("logit.*", "to_words.*"),
)
_SINES = IgnoredKeys("a fixed table of sines and cosines")
_POSITIONS = ("model.src_embed.0.pe", "model.tgt_embed.1.pe")
ENCODER_DECODER: Rules = (*_ENCODER_DECODER, *((name, _SINES) for name in _POSITIONS))
# The children of a torchvision ResNet in order, of which some have no weights; timm names them.
_RESNET_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
_ENHANCERS = ("feature_enhancer.", "enhanced_feats.")  # the same module, registered twice
_UNUSED = IgnoredKeys("the released code never calls it")
CSR_LMCA: Rules = (
    *(
        (f"visual_extractor.model.{i}.**", f"backbone.model.{name}.**")
        for i, name in _RESNET_CHILDREN.items()
    ),
    *((f"{enhancer}classifier.**", _UNUSED) for enhancer in _ENHANCERS),
    *(rule for name in _ENHANCERS for rule in _inside(name, "enhancer.", POOLED_ENHANCER)),
    *_inside("encoder_decoder.", "encoder_decoder.", _ENCODER_DECODER),
    *((f"encoder_decoder.{name}", _SINES) for name in _POSITIONS),
    *((name, _UNUSED) for name in ("linear_1.*", "linear_2.*")),
)

_DIRECTIONS = {"": "rows", "_b": "rows_reversed", "_c": "columns", "_c_b": "columns_reversed"}
_BLOCK = "layers.*."
_XRAY_BLOCK: Names = (
    *(
        (f"{_BLOCK}mixer.{theirs}", f"{_BLOCK}mixer.branches.{direction}.{ours}")
        for end, direction in _DIRECTIONS.items()
        for theirs, ours in (
            (f"A{end}_log", "A_log"),
            (f"D{end}", "D"),
            *((f"{part}{end}.*", f"{part}.*") for part in _SCAN_PARTS),
        )
    ),
    *(
        (f"{_BLOCK}{part}.*", f"{_BLOCK}{part}.*")
        for part in ("mixer.in_proj", "mixer.out_proj", "norm1", "norm2")
    ),
    *((f"{_BLOCK}mlp.w{i}.*", f"{_BLOCK}mlp.w{i}.*") for i in (1, 2, 3)),
    ("patch_embed.proj.*", "patch_embed.*"),
    ("pos_embed", "positions"),
)
XRAY_MAMBA: Names = (*_XRAY_BLOCK, ("cls_token", "class_token"), ("norm_f.*", "norm_f.*"))
XRAY_MAMBA_EXPORT: Names = tuple((ours, theirs) for theirs, ours in XRAY_MAMBA)
_WRONG_ADAPTERS = tuple(
    (
        f"visual_encoder.layers.*.mixer.lora_*.adapter_{way}.**",
        IgnoredKeys(
            "the released code adds it to the output of the mixer by mistake, where no low-rank "
            "update of the weights can be"
        ),
    )
    for way in ("down", "up")
)
_HEAD = IgnoredKeys("of the head that compares the towers")
_OF_REPORT_MODEL = IgnoredKeys("of a report model, which --format emrrg imports whole")
# The encoder out of a file that holds both towers of contrastive pretraining, or a report model.
XRAY_MAMBA_OF_CONTRASTIVE: Rules = (
    *_inside("visual_encoder.", "", XRAY_MAMBA),
    *_WRONG_ADAPTERS,
    ("text_encoder.**", IgnoredKeys("of the text tower")),
    *((name, _HEAD) for name in ("vision_proj.*", "text_proj.*", "logit_scale")),
    *((name, _OF_REPORT_MODEL) for name in ("llama_proj.*", "layer_norm.*")),
)
EMRRG: Rules = (
    *_inside("visual_encoder.", "encoder.", XRAY_MAMBA),
    ("llama_proj.*", "projector.0.*"),
    ("layer_norm.*", "projector.1.*"),
    *_WRONG_ADAPTERS,
)
_DECODER_PARTS = {
    "norm2_1": "query_norm",
    "norm2_2": "token_norm",
    "norm2": "mlp_norm",
    "attn2.q": "attention.query",
    "attn2.kv": "attention.key_value",
    "attn2.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_STAGE_ONE_DECODER: Rules = (
    *((f"norm_{i + 1}.*", f"tap_norms.{i}.*") for i in range(4)),
    ("enc2dec.*", "to_decoder.*"),
    ("ar_token", "query"),
    *(
        (f"dec_block.*.{theirs}.*", f"decoder.*.{ours}.*")
        for theirs, ours in _DECODER_PARTS.items()
    ),
    ("ar_norm.*", "norm.*"),
    ("ar_pred.*", "to_pixels.*"),
    *((name, IgnoredKeys("a fixed table")) for name in ("dec_pos_embed", "mask")),
)
AUTOREGRESSIVE_PRETRAINING: Rules = (*_inside("", "encoder.", _XRAY_BLOCK), *_STAGE_ONE_DECODER)
# The encoder alone: stage 2 starts without the decoder of stage 1.
XRAY_MAMBA_OF_AUTOREGRESSIVE: Rules = (
    *_XRAY_BLOCK,
    *((name, IgnoredKeys("of the decoder of stage 1")) for name, _ in _STAGE_ONE_DECODER),
)


@dataclass(frozen=True)
class KeyReport:
    """What became of every tensor of a public file."""

    mapped: Mapping[str, str]  # public name to ours
    missing: tuple[str, ...]  # names of ours
    unexpected: tuple[str, ...]  # public names that fit no rule, or nothing in this model
    ignored: Mapping[str, str]  # public name to the reason why our model has no place for it


def rename(
    state: Mapping[str, Tensor], rules: Rules, wanted: Collection[str] | None = None
) -> tuple[dict[str, Tensor], KeyReport]:
    """Rename the tensors of a file by one of this module's tables; `wanted` names alone, if given.

    Raises:
        CheckpointError: If two tensors that map to one parameter differ.
    """
    patterns = [(_pattern(theirs), ours) for theirs, ours in rules]
    renamed: dict[str, Tensor] = {}
    mapped, unexpected, ignored = {}, [], {}
    for name, tensor in state.items():
        target = _target(name, patterns)
        if isinstance(target, IgnoredKeys):
            ignored[name] = target.reason
        elif target is None or (wanted is not None and target not in wanted):
            unexpected.append(name)
        elif target in renamed and not torch.equal(renamed[target], tensor):
            raise CheckpointError(f"{name} differs from another tensor that is also {target}")
        else:
            renamed[target] = tensor
            mapped[name] = target
    missing = tuple(name for name in wanted or () if name not in renamed)
    return renamed, KeyReport(mapped, missing, tuple(unexpected), ignored)


def _pattern(name: str) -> re.Pattern[str]:
    pattern = re.escape(name).replace(r"\*\*", "(.+)").replace(r"\*", "([^.]+)")
    return re.compile(pattern.replace(r"\#", r"\d+"))


def _target(
    name: str, patterns: Sequence[tuple[re.Pattern[str], str | IgnoredKeys]]
) -> str | IgnoredKeys | None:
    for pattern, ours in patterns:
        if match := pattern.fullmatch(name):
            if isinstance(ours, IgnoredKeys):
                return ours
            return ours.replace("**", "*").replace("*", "{}").format(*match.groups())
    return None


def load_public(
    module: nn.Module,
    state: Mapping[str, Tensor],
    rules: Rules,
    wanted: Collection[str] | None = None,
) -> KeyReport:
    """Load public weights into a module of ours, by default all that it has a place for.

    A convolution whose patches do not overlap is a matrix in ours, and is reshaped to it. Raises
    CheckpointError if a tensor has another shape than ours, or two that map to one differ.
    """
    ours = module.state_dict()
    renamed, report = rename(state, rules, ours if wanted is None else wanted)
    wrong = []
    for name, tensor in renamed.items():
        if tensor.dim() == 4 and ours[name].dim() == 2:
            renamed[name] = tensor.flatten(1)
        if renamed[name].shape != ours[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)} and should be {tuple(ours[name].shape)}")
    if wrong:
        raise CheckpointError(
            f"the published weights are of another size: {len(wrong)} tensors do not fit, the "
            f"first: {wrong[0]}"
        )
    module.load_state_dict(renamed, strict=False)
    return report
