"""Public checkpoints, imported as weights or checkpoints of radrep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from radrep.atomic import check_output
from radrep.build import build_language_model, build_model, build_tokenizer
from radrep.data.manifest import hash_file, read_image_size
from radrep.data.store import PreparedStudies
from radrep.data.tokenizer import Tokenizer
from radrep.errors import CheckpointError
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import XRAY_MAMBA_SIZES, make_stage_one_encoder, make_xray_mamba
from radrep.recipe import models as schema
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.torch_files import BrokenFileError, read_torch_file
from radrep.weights.checkpoint import save_checkpoint
from radrep.weights.pretrained import ADAPTERS, load_pretrained, save_encoder
from radrep.weights.public_names import (
    CSR_LMCA,
    EMRRG,
    XRAY_MAMBA_OF_AUTOREGRESSIVE,
    XRAY_MAMBA_OF_CONTRASTIVE,
    KeyReport,
    load_public,
)

_STATES = ("model", "state_dict")  # where the weights may lie in a file
_ENCODERS = {f"xray-mamba-{size}": size for size in XRAY_MAMBA_SIZES}
_RECIPES = {"emrrg": "emrrg_iu_published", "csr-lmca": "csr_lmca_iu_published"}
KINDS = (*_ENCODERS, *_RECIPES)
_RECIPES_OF_FILES = (
    "--recipe must be that of the file's language model and encoder: mambaxray_iu, mambaxray_mimic "
    "or mambaxray_chexpert_plus for IU-, Mimic- and CheXpert-Finetune, "
    "emrrg_chexpert_plus_published for EMRRG-CXP"
)
_END = "</s>"  # ended every report in the released code, whatever the tokenizer
_PREPARED_SIZE = 256  # the default of radrep prepare


@dataclass(frozen=True)
class ImportResult:
    """What an import did."""

    out: Path
    keys: KeyReport  # missing ones are initialised as by the recipe
    changed: Mapping[str, str] = field(default_factory=dict)  # recipe keys that the file decides
    unprepared: Path | None = None  # the prepared folder that a whole model lacked


def import_public(
    path: Path,
    kind: str,
    *,
    out: Path,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
) -> ImportResult:
    """Import a public checkpoint of one of `KINDS`.

    An X-ray Mamba, of stage 1, 2 or 3, becomes a folder for model.encoder.weights; the others
    become whole checkpoints of the recipe's model, with the vocabulary of the recipe's prepared
    data, which EMRRG does not need.

    Published EMRRG files were trained with all visual tokens in line and neither hybrid layers nor
    LoRA in the language model, so that is what they get, whatever the recipe has; with the
    encoder's size and, for Qwen, the BOS id and the text "</s>" that ended reports.
    The recipe, by default emrrg_iu_published or csr_lmca_iu_published, is that of the file, see
    `_RECIPES_OF_FILES`.

    Raises:
        CheckpointError: If the file cannot be read or does not fit, or `out` exists.
        RecipeError: If the recipe is wrong, or of another model.
        DataError: If the prepared folder of a CSR-LMCA recipe is missing.
    """
    if kind not in KINDS:
        raise CheckpointError(f"--format must be one of {', '.join(KINDS)}, got '{kind}'")
    check_output(out, "--out", folder=True, new=True)
    if kind not in _ENCODERS:
        return _import_model(path, kind, recipe or _RECIPES[kind], overrides, out)
    if recipe is not None or overrides:
        raise CheckpointError(f"--recipe and --set do not go with --format {kind}")
    return _import_encoder(path, kind, out)


def _import_encoder(path: Path, kind: str, out: Path) -> ImportResult:
    state = read_public(path)
    dim, depth = XRAY_MAMBA_SIZES[_ENCODERS[kind]]
    # In stage 1 the encoder is all of the model, and has no class token.
    first_stage = "ar_token" in state
    prefix = "" if first_stage else "visual_encoder."
    positions = state.get(f"{prefix}pos_embed")
    patches = state.get(f"{prefix}patch_embed.proj.weight")
    if positions is None or patches is None or positions.dim() != 3 or patches.dim() != 4:
        raise CheckpointError(
            f"{path} is not {kind}: it has no {prefix}pos_embed and {prefix}patch_embed.proj.weight"
        )
    num_patches, patch_size = positions.shape[1] - (not first_stage), patches.shape[-1]
    found = (positions.shape[2], _count_blocks(state, prefix))
    if found != (dim, depth):
        raise CheckpointError(
            f"{path} is not {kind}, which is {dim} wide and {depth} blocks deep: it is "
            f"{found[0]} wide and {found[1]} deep"
        )
    make = make_stage_one_encoder if first_stage else make_xray_mamba
    image_size = max(round(num_patches**0.5), 1) * patch_size
    encoder = make(_ENCODERS[kind], image_size=image_size, patch_size=patch_size)
    rules = XRAY_MAMBA_OF_AUTOREGRESSIVE if first_stage else XRAY_MAMBA_OF_CONTRASTIVE
    keys = load_public(encoder, state, rules)
    _check_complete(path, kind, keys.missing, keys)
    about = {"kind": kind, "file": path.name, "sha256": hash_file(path)}
    save_encoder(encoder, out, about)
    mapped = {name: f"encoder.{ours}" for name, ours in keys.mapped.items()}
    return ImportResult(out, replace(keys, mapped=mapped))


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    start = f"{prefix}layers."
    return len({name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)})


def _import_model(
    path: Path, kind: str, title: str, overrides: Sequence[str], out: Path
) -> ImportResult:
    recipe = load_recipe(title, overrides)
    recipe.require_model(kind.replace("-", "_"), f"for --format {kind}")
    state = read_public(path)
    changed: dict[str, str] = {}
    encoder_elsewhere = False
    if kind == "emrrg":
        encoder_elsewhere = _lacks_encoder(path, state, recipe)
        changed = _as_trained(recipe, state)
        forced = [f"{key}={value}" for key, value in changed.items()]
        recipe = load_recipe(title, [*overrides, *forced])
    data = recipe.data
    # The words of EMRRG are those of its language model, so it needs no prepared data.
    unprepared = data.prepared if kind == "emrrg" and not data.prepared.exists() else None
    if unprepared is not None:
        settings, short_side = data.tokenizer, _PREPARED_SIZE
        tokenizer = Tokenizer.build((), min_count=settings.min_count, cleaner=settings.cleaner)
    else:
        studies = PreparedStudies(data.prepared, "train", target=data.target)
        tokenizer, short_side = build_tokenizer(data, studies), read_image_size(data.prepared)
    num_words = len(tokenizer.vocabulary)
    words = state.get("encoder_decoder.model.tgt_embed.0.lut.weight")
    if words is not None and len(words) != num_words + 1:
        raise CheckpointError(
            f"{path} was made for {len(words) - 1} words and the training reports of "
            f"{data.prepared} give {num_words}: prepare the data that it was trained on, or change "
            "data.tokenizer"
        )
    model = build_model(
        recipe, tokenizer.vocabulary, pretrained=encoder_elsewhere, language_weights=False
    )
    if encoder_elsewhere:
        load_pretrained(model, recipe)
    if kind == "emrrg":
        try:
            keys = load_public(cast(Emrrg, model), state, EMRRG, model.checkpoint_state())
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {_RECIPES_OF_FILES}") from error
        # New adapters start without effect.
        required = ("projector.",) if encoder_elsewhere else ("projector.", "encoder.")
        missing = [n for n in keys.missing if n.startswith(required) and ADAPTERS not in n]
    else:
        keys = load_public(cast(nn.Module, model), state, CSR_LMCA)
        missing = list(keys.missing)
    _check_complete(path, kind, missing, keys)
    save_checkpoint(out, model=model, recipe=recipe, tokenizer=tokenizer, prepared_size=short_side)
    return ImportResult(out, keys, changed, unprepared)


def _as_trained(recipe: Recipe, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Keys of a recipe that differ from the network of a stage-3 file, with its values."""
    section = cast(schema.Emrrg, recipe.model)
    has = build_language_model(section.language_model, (), weights=False)
    keys = {"visual_tokens": "all", "hybrid": "null", "language_model.train": "frozen"}
    if has.bos_id is None:
        keys["language_model.bos_token_id"] = "0"  # "!" for Qwen, which has no BOS token
    if has.encode(_END) != [has.eos_id]:
        keys["language_model.eos_text"] = _END
    if (positions := state.get("visual_encoder.pos_embed")) is not None:
        found = (positions.shape[-1], _count_blocks(state, "visual_encoder."))
        for name, size in XRAY_MAMBA_SIZES.items():
            if found == size:
                keys["encoder.size"] = name
    typed = {"null": None, "0": 0}
    return {
        f"model.{key}": value
        for key, value in keys.items()
        if attrgetter(key)(section) != typed.get(value, value)
    }


def _lacks_encoder(path: Path, state: Mapping[str, Tensor], recipe: Recipe) -> bool:
    """Whether the encoder of a stage-3 file, which must have a projector, was frozen."""
    for name in ("llama_proj.weight", "layer_norm.weight"):
        if name not in state:
            raise CheckpointError(f"{path} is not emrrg: it has no {name}")
    without = "visual_encoder.pos_embed" not in state
    if without and cast(schema.Emrrg, recipe.model).encoder.weights == "none":
        raise CheckpointError(
            f"{path} was trained with a frozen encoder, which it does not hold; name it with: "
            "--set model.encoder.weights=FOLDER"
        )
    return without


def _check_complete(path: Path, kind: str, missing: Sequence[str], keys: KeyReport) -> None:
    if missing:
        unexpected = keys.unexpected
        also = f"; {len(unexpected)} are unexpected: {unexpected[0]} ..." if unexpected else ""
        raise CheckpointError(
            f"{path} is not the {kind} asked for: {len(missing)} tensors are missing, the first: "
            f"{missing[0]}{also}"
        )


def read_public(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file that PyTorch or safetensors wrote, without running its code.

    They lie under "model" or "state_dict", or are the whole content. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} {'is a folder, not a file' if path.exists() else 'not found'}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_torch_file(path)
    except (SafetensorError, BrokenFileError) as error:
        raise CheckpointError(f"{path} is broken or cut off: {error}") from error
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely: {error}"
        ) from error
    except Exception as error:  # unpickling raises many kinds, all mean a foreign file
        raise CheckpointError(
            f"{path} is not a checkpoint that PyTorch wrote ({type(error).__name__}: {error})"
        ) from error
    state = _find_state(content)
    if not state:
        raise CheckpointError(
            f"{path} holds no weights, neither on top nor under {' or '.join(_STATES)}"
        )
    if all(name.startswith("module.") for name in state):  # DataParallel's prefix
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _find_state(content: object) -> dict[str, Tensor]:
    parts = map(content.get, _STATES) if isinstance(content, Mapping) else ()
    for part in (*parts, content):
        pairs = part.items() if isinstance(part, Mapping) else ()
        if found := {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, Tensor)}:
            return found
    return {}
