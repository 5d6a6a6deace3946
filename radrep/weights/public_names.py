"""Weights of the public reference code, brought to our parameter names.

Each table lists (pattern of the public name, our name or why it is left out); patterns must match
whole names and the first that fits counts. Every name is told of, and two names that map to one
parameter and differ are an error: nothing is dropped in silence.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radrep.errors import CheckpointError


@dataclass(frozen=True)
class IgnoredKeys:
    """That a public tensor has no place in a model of ours.

    Attributes:
        reason: Why not.
    """

    reason: str


Names = Sequence[tuple[str, str]]
Rules = Sequence[tuple[str, str | IgnoredKeys]]


def _inside(theirs: str, ours: str, rules: Rules) -> Rules:
    """The rules of a part for a file that holds more; theirs is a pattern without groups."""
    return [
        (rf"{theirs}(?:{pattern})", name if isinstance(name, IgnoredKeys) else ours + name)
        for pattern, name in rules
    ]


SR_MAMBA_MIXER: Names = (
    (r"A_log", "in_order.A_log"),
    (r"A_b_log", "strided.A_log"),
    (r"D", "in_order.D"),
    (r"D_b", "strided.D"),
    (r"(conv1d|x_proj|dt_proj)\.(weight|bias)", r"in_order.\1.\2"),
    (r"(conv1d|x_proj|dt_proj)_b\.(weight|bias)", r"strided.\1.\2"),
    (r"(in_proj|out_proj)\.weight", r"\1.weight"),
)
POOLED_ENHANCER: Names = (
    (r"_fc1\.0\.(.+)", r"stack.project.0.\1"),
    (r"layers\.(\d+)\.0\.(.+)", r"stack.norms.\1.\2"),
    *((rf"layers\.(\d+)\.1\.{theirs}", _shifted) for theirs, _shifted in (
        (theirs, "stack.mixers.\\1." + re.sub(r"\\(\d)", lambda m: f"\\{int(m[1]) + 1}", ours))
        for theirs, ours in SR_MAMBA_MIXER
    )),
    (r"norm\.(.+)", r"stack.norm.\1"),
    (r"attention\.(.+)", r"attention.\1"),
    (r"fc_to_\d+\.(.+)", r"expand.\1"),
)  # fmt: skip
MEMORY_LINEARS = {"0": "query", "1": "key", "2": "value", "3": "out"}
MEMORY: Names = tuple((rf"linears\.{i}\.(.+)", rf"{name}.\1") for i, name in MEMORY_LINEARS.items())
REGION_ENCODER: Names = (
    (r"layers\.0\.norm\.(.+)", r"norm_within.\1"),
    (r"layers\.0\.attn\.attn\.qkv\.(.+)", r"within.qkv.\1"),
    (r"layers\.0\.attn\.attn\.proj\.(.+)", r"within.out.\1"),
    (r"layers\.0\.attn\.attn\.pe\.(.+)", r"within.epeg.\1"),
    (r"cr_msa\.norm\.(.+)", r"norm_across.\1"),
    (r"cr_msa\.attn\.phi", "across.phi"),
    (r"cr_msa\.attn\.attn\.qkv\.(.+)", r"across.qkv.\1"),
    (r"cr_msa\.attn\.attn\.proj\.(.+)", r"across.out.\1"),
    (r"norm\.(.+)", r"norm.\1"),
)


def _transformer_rules() -> list[tuple[str, str]]:
    rules = []
    for stack, parts in (
        ("encoder", {"0": "self_norm", "1": "ff_norm"}),
        ("decoder", {"0": "self_norm", "1": "cross_norm", "2": "ff_norm"}),
    ):
        layer = rf"model\.{stack}\.layers\.(\d+)\."
        ours = rf"{stack}.layers.\1."
        for i, norm in parts.items():
            rules.append((rf"{layer}sublayer\.{i}\.norm\.a_2", f"{ours}{norm}.weight"))
            rules.append((rf"{layer}sublayer\.{i}\.norm\.b_2", f"{ours}{norm}.bias"))
        for theirs, attention in (("self_attn", "self_attention"), ("src_attn", "cross_attention")):
            for i, linear in MEMORY_LINEARS.items():
                rules.append(
                    (rf"{layer}{theirs}\.linears\.{i}\.(.+)", rf"{ours}{attention}.{linear}.\2")
                )
        rules.append((rf"{layer}feed_forward\.w_1\.(.+)", rf"{ours}feed_forward.0.\2"))
        rules.append((rf"{layer}feed_forward\.w_2\.(.+)", rf"{ours}feed_forward.3.\2"))
        rules.append((rf"model\.{stack}\.norm\.a_2", f"{stack}.norm.weight"))
        rules.append((rf"model\.{stack}\.norm\.b_2", f"{stack}.norm.bias"))
    return rules


ENCODER_DECODER: Rules = (
    (r"att_embed\.0\.(.+)", r"project.0.\1"),
    (r"memory_matrix", "memory.memory"),
    # One module that the public code lists twice.
    *(
        (rf"(?:model\.)?cmn\.linears\.{i}\.(.+)", rf"memory.{name}.\1")
        for i, name in MEMORY_LINEARS.items()
    ),
    *((rf"rrt\.{theirs}", f"regions.{ours}") for theirs, ours in REGION_ENCODER),
    *_transformer_rules(),
    (r"model\.tgt_embed\.0\.lut\.weight", "words.weight"),
    (
        r"model\.(?:src_embed\.0|tgt_embed\.1)\.pe",
        IgnoredKeys("a fixed table of sines and cosines"),
    ),
    (r"logit\.(.+)", r"to_words.\1"),
)
# The children of a torchvision ResNet in order, of which some have no weights; timm names them.
_RESNET_CHILDREN = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
_UNUSED = IgnoredKeys("the released code never calls it")
CSR_LMCA: Rules = (
    *(
        (rf"visual_extractor\.model\.{i}\.(.+)", rf"backbone.model.{name}.\1")
        for i, name in _RESNET_CHILDREN.items()
    ),
    # One module that the public code lists twice.
    (r"(?:feature_enhancer|enhanced_feats)\.classifier\..+", _UNUSED),
    *_inside(r"(?:feature_enhancer|enhanced_feats)\.", "enhancer.", POOLED_ENHANCER),
    *_inside(r"encoder_decoder\.", "encoder_decoder.", ENCODER_DECODER),
    (r"linear_[12]\..+", _UNUSED),
)

_XRAY_BRANCHES = {
    "": "rows",
    "_b": "rows_reversed",
    "_c": "columns",
    "_c_b": "columns_reversed",
}
_XRAY_BLOCK: Names = (
    *(
        rule
        for theirs, direction in _XRAY_BRANCHES.items()
        for rule in (
            (
                rf"layers\.(\d+)\.mixer\.A{theirs}_log",
                rf"layers.\1.mixer.branches.{direction}.A_log",
            ),
            (rf"layers\.(\d+)\.mixer\.D{theirs}", rf"layers.\1.mixer.branches.{direction}.D"),
            (
                rf"layers\.(\d+)\.mixer\.(conv1d|x_proj|dt_proj){theirs}\.(weight|bias)",
                rf"layers.\1.mixer.branches.{direction}.\2.\3",
            ),
        )
    ),
    (r"(layers\.\d+\.mixer\.(?:in_proj|out_proj)\.weight)", r"\1"),
    (r"(layers\.\d+\.(?:norm1|norm2|mlp\.w[123])\.(?:weight|bias))", r"\1"),
    (r"patch_embed\.proj\.(.+)", r"patch_embed.\1"),
    (r"pos_embed", "positions"),
)
XRAY_MAMBA: Names = (
    *_XRAY_BLOCK,
    (r"cls_token", "class_token"),
    (r"norm_f\.(.+)", r"norm_f.\1"),
)
# The other way, for who exports: our name to the public one.
XRAY_MAMBA_EXPORT: Names = (
    *(
        rule
        for theirs, direction in _XRAY_BRANCHES.items()
        for rule in (
            (
                rf"(layers\.\d+\.mixer)\.branches\.{direction}\.A_log",
                rf"\1.A{theirs}_log",
            ),
            (rf"(layers\.\d+\.mixer)\.branches\.{direction}\.D", rf"\1.D{theirs}"),
            (
                rf"(layers\.\d+\.mixer)\.branches\.{direction}\.(\w+)\.(weight|bias)",
                rf"\1.\2{theirs}.\3",
            ),
        )
    ),
    (r"(layers\.\d+\.(?:mixer\.(?:in_proj|out_proj)|norm1|norm2|mlp\.w[123])\.\w+)", r"\1"),
    (r"patch_embed\.(.+)", r"patch_embed.proj.\1"),
    (r"positions", "pos_embed"),
    (r"class_token", "cls_token"),
    (r"(norm_f\..+)", r"\1"),
)
_WRONG_ADAPTERS = (
    r"visual_encoder\.layers\.\d+\.mixer\.lora_\w+\.adapter_(?:down|up)\..+",
    IgnoredKeys(
        "the released code adds it to the output of the mixer by mistake, where no low-rank "
        "update of the weights can be"
    ),
)
# The encoder out of a file that holds both towers of contrastive pretraining, or a report model.
XRAY_MAMBA_OF_CONTRASTIVE: Rules = (
    *_inside(r"visual_encoder\.", "", XRAY_MAMBA),
    _WRONG_ADAPTERS,
    (r"text_encoder\..+", IgnoredKeys("of the text tower")),
    (
        r"(?:vision_proj|text_proj)\..+|logit_scale",
        IgnoredKeys("of the head that compares the towers"),
    ),
    (
        r"(?:llama_proj|layer_norm)\..+",
        IgnoredKeys("of a report model, which --as emrrg takes whole"),
    ),
)
EMRRG: Rules = (
    *_inside(r"visual_encoder\.", "encoder.", XRAY_MAMBA),
    (r"llama_proj\.(.+)", r"projector.0.\1"),
    (r"layer_norm\.(.+)", r"projector.1.\1"),
    _WRONG_ADAPTERS,
)
AUTOREGRESSIVE_PRETRAINING: Rules = (
    *((theirs, f"encoder.{ours}") for theirs, ours in _XRAY_BLOCK),
    *((rf"norm_{i + 1}\.(.+)", rf"tap_norms.{i}.\1") for i in range(4)),
    (r"enc2dec\.(.+)", r"to_decoder.\1"),
    (r"ar_token", "query"),
    *(
        (rf"dec_block\.(\d+)\.{theirs}\.(.+)", rf"decoder.\1.{ours}.\2")
        for theirs, ours in (
            ("norm2_1", "query_norm"),
            ("norm2_2", "token_norm"),
            ("norm2", "mlp_norm"),
            (r"attn2\.q", "attention.query"),
            (r"attn2\.kv", "attention.key_value"),
            (r"attn2\.proj", "attention.out"),
            (r"mlp\.fc1", "mlp.0"),
            (r"mlp\.fc2", "mlp.2"),
        )
    ),
    (r"ar_norm\.(.+)", r"norm.\1"),
    (r"ar_pred\.(.+)", r"to_pixels.\1"),
    (r"dec_pos_embed|mask", IgnoredKeys("a fixed table")),
)
# The encoder alone: stage 2 begins with a decoder of nobody's.
XRAY_MAMBA_OF_AUTOREGRESSIVE: Rules = (
    *_XRAY_BLOCK,
    (
        r"(?:norm_\d|enc2dec|dec_block|ar_norm|ar_pred)\..+|ar_token|dec_pos_embed|mask",
        IgnoredKeys("of the decoder of stage 1"),
    ),
)


@dataclass(frozen=True)
class KeyReport:
    """What became of every tensor of a public file.

    Attributes:
        mapped: Public name to our name.
        missing: Names of ours that the file does not have.
        unexpected: Public names that fit no rule, or nothing in this model.
        left_out: Public name to why it has no place with us.
    """

    mapped: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    left_out: Mapping[str, str]


def rename(
    state: Mapping[str, Tensor], rules: Rules, wanted: Collection[str] | None = None
) -> tuple[dict[str, Tensor], KeyReport]:
    """Bring parameter names of one side to those of the other.

    Args:
        state: Tensors by name.
        rules: One of this module's tables.
        wanted: The new names that there is a place for; by default all.

    Returns:
        Tensors by new name, and what became of every name.

    Raises:
        CheckpointError: If two tensors that map to one parameter differ.
    """
    renamed: dict[str, Tensor] = {}
    mapped, unexpected, left_out = {}, [], {}
    for name, tensor in state.items():
        target = _target(name, rules)
        if isinstance(target, IgnoredKeys):
            left_out[name] = target.reason
        elif target is None or (wanted is not None and target not in wanted):
            unexpected.append(name)
        elif target in renamed and not torch.equal(renamed[target], tensor):
            raise CheckpointError(f"{name} differs from another tensor that is also {target}")
        else:
            renamed[target] = tensor
            mapped[name] = target
    missing = tuple(name for name in wanted or () if name not in renamed)
    return renamed, KeyReport(mapped, missing, tuple(unexpected), left_out)


def _target(name: str, rules: Rules) -> str | IgnoredKeys | None:
    for pattern, ours in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return ours if isinstance(ours, IgnoredKeys) else match.expand(ours)
    return None


def load_public(
    module: nn.Module,
    state: Mapping[str, Tensor],
    rules: Rules,
    wanted: Collection[str] | None = None,
) -> KeyReport:
    """Load those public weights into a module of ours that it has a place for.

    A convolution that is a matrix of ours, its patches not overlapping, is laid out as one.

    Args:
        module: The module, which is changed.
        state: Tensors by public name.
        rules: One of this module's tables.
        wanted: Our names that the file may bring; by default all of the module's state.

    Returns:
        What became of every name, of theirs and of ours.

    Raises:
        CheckpointError: If a tensor has another shape than ours, or two that are to be one differ.
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


def load_published(module: nn.Module, state: Mapping[str, Tensor], rules: Rules) -> None:
    """Load public weights into a module of ours, every parameter, strictly.

    Raises:
        CheckpointError: If a name is unknown or missing, or for a reason of `load_public`.
    """
    report = load_public(module, state, rules)
    for names, text in ((report.unexpected, "not known"), (report.missing, "missing")):
        if names:
            raise CheckpointError(
                f"{len(names)} tensors are {text}, the first: {', '.join(names[:5])}"
            )
