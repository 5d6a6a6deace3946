"""Weights of the public reference code, brought to our parameter names.

Each table lists (pattern of the public name, our name); patterns must match whole names and the
first that fits counts. A name that maps to nothing, or two names that map to one parameter and
differ, is an error: nothing is dropped in silence.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from radrep.errors import CheckpointError

Rules = Sequence[tuple[str, str]]

SR_MAMBA_MIXER: Rules = (
    (r"A_log", "in_order.A_log"),
    (r"A_b_log", "strided.A_log"),
    (r"D", "in_order.D"),
    (r"D_b", "strided.D"),
    (r"(conv1d|x_proj|dt_proj)\.(weight|bias)", r"in_order.\1.\2"),
    (r"(conv1d|x_proj|dt_proj)_b\.(weight|bias)", r"strided.\1.\2"),
    (r"(in_proj|out_proj)\.weight", r"\1.weight"),
)
POOLED_ENHANCER: Rules = (
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
MEMORY: Rules = tuple((rf"linears\.{i}\.(.+)", rf"{name}.\1") for i, name in MEMORY_LINEARS.items())
REGION_ENCODER: Rules = (
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
    (r"model\.(?:src_embed\.0|tgt_embed\.1)\.pe", ""),  # fixed sine and cosine tables
    (r"logit\.(.+)", r"to_words.\1"),
)

_XRAY_BRANCHES = {
    "": "rows",
    "_b": "rows_reversed",
    "_c": "columns",
    "_c_b": "columns_reversed",
}
_XRAY_BLOCK: Rules = (
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
XRAY_MAMBA: Rules = (
    *_XRAY_BLOCK,
    (r"cls_token", "class_token"),
    (r"norm_f\.(.+)", r"norm_f.\1"),
)
# The encoder out of a file that holds both towers of contrastive pretraining.
XRAY_MAMBA_OF_CONTRASTIVE: Rules = (
    *((rf"visual_encoder\.{theirs}", ours) for theirs, ours in XRAY_MAMBA),
    (r"(?:text_encoder|vision_proj|text_proj)\..+|logit_scale", ""),
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
    (r"dec_pos_embed|mask", ""),  # fixed tables
)


def rename(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Bring public parameter names to ours.

    Args:
        state: Tensors by public name.
        rules: One of this module's tables.

    Returns:
        Tensors by our name; names that a table maps to "" are left out.

    Raises:
        CheckpointError: If a name fits no rule, or two that map to one parameter differ.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        matches = ((re.fullmatch(pattern, name), ours) for pattern, ours in rules)
        target = next((match.expand(ours) for match, ours in matches if match), None)
        if target is None:
            unknown.append(name)
            continue
        if target in renamed and not torch.equal(renamed[target], tensor):
            raise CheckpointError(f"{name} differs from another tensor that is also {target}")
        if target:
            renamed[target] = tensor
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are not known, the first: {', '.join(unknown[:5])}"
        )
    return renamed


def load_published(module: nn.Module, state: Mapping[str, Tensor], rules: Rules) -> None:
    """Load public weights into a module of ours, every parameter, strictly.

    A convolution that is a matrix of ours, its patches not overlapping, is laid out as one.

    Raises:
        CheckpointError: If a name is unknown, missing or has another shape than ours.
    """
    renamed = rename(state, rules)
    for name, parameter in module.named_parameters():
        if name in renamed and renamed[name].dim() == 4 and parameter.dim() == 2:
            renamed[name] = renamed[name].flatten(1)
    try:
        module.load_state_dict(renamed)
    except RuntimeError as error:
        raise CheckpointError(f"the published weights do not fit: {error}") from error
