"""radrep import, export and merge: weights in from elsewhere, out again, and folded together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import say

if TYPE_CHECKING:
    from radrep.weights.import_public import ImportResult

SHOWN = 3  # names of a group, unless --all is typed

Out = Annotated[Path, typer.Option(help="A new folder.")]
Checkpoint = Annotated[Path, typer.Argument(help="A run or a checkpoint.")]


def import_(
    file: Annotated[Path, typer.Argument(help="A file that PyTorch or safetensors wrote.")],
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="KIND",
            help="xray-mamba-base, xray-mamba-large, xray-mamba-tiny, emrrg or csr-lmca.",
        ),
    ],
    out: Out,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe file or a shipped recipe's name, for emrrg and csr-lmca: mambaxray_iu, "
            "mambaxray_mimic or mambaxray_chexpert_plus for IU-, Mimic- and CheXpert-Finetune.",
            show_default="emrrg_iu or csr_lmca_iu",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe."),
    ] = None,
    all_names: Annotated[bool, typer.Option("--all", help="Name every tensor.")] = False,
) -> None:
    """Bring in published weights; nothing of the file is run.

    Example:  radrep import MambaXrayCLIP-B.pth --as xray-mamba-base --out runs/mambaxray_clip_b
    """
    from radrep.weights.import_public import import_published

    result = import_published(file, kind, out=out, recipe=recipe, overrides=overrides or ())
    _show_import(result, all_names)
    if recipe is None and kind.startswith("xray-mamba"):
        say(f"{out}\nTrain on it with:  --set model.encoder.weights={out}")
    elif result.lacks is not None:
        say(
            f"{out}\nThere is no {result.lacks}, so it knows no training words to be scored by: "
            "import it again once that is prepared.\n"
            f"Use it with:       radrep generate IMAGE --checkpoint {out}"
        )
    else:
        say(f"{out}\nScore it with:     radrep eval {out}")


def _show_import(result: "ImportResult", all_names: bool) -> None:
    """Tell of every tensor, by number and first names, or by all names."""
    renamed = [f"{theirs} -> {ours}" for theirs, ours in result.mapped.items()]
    _show_group("mapped", renamed, "", all_names)
    _show_group("missing", result.missing, "not in the file, they begin anew", all_names)
    _show_group("unexpected", result.unexpected, "unknown, not used", all_names)
    if result.changed:
        say("the recipe is changed to what the file was trained with:")
        for key, value in result.changed.items():
            say(f"  {key}: {value}")
    for reason in Counter(result.left_out.values()):
        names = [name for name, why in result.left_out.items() if why == reason]
        _show_group("left out", names, reason, all_names)


def _show_group(label: str, names: Sequence[str], note: str, all_names: bool) -> None:
    told = f": {note}" if note and names else ""
    say(f"{label:<11} {len(names)} tensors{told}")
    shown = names if all_names else names[:SHOWN]
    for name in shown:
        say(f"  {name}")
    if len(names) > len(shown):
        say(f"  ... and {len(names) - len(shown)} more (--all)")


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="A new .safetensors file.")],
    adapters: Annotated[
        bool, typer.Option("--adapters", help="The low-rank adapters alone.")
    ] = False,
    all_learned: Annotated[
        bool,
        typer.Option(
            "--all-learned", help="With --adapters: projector, hybrid layers and LoRA as well."
        ),
    ] = False,
) -> None:
    """Write an encoder under its public names, or its adapters.

    Example:  radrep export runs/emrrg_iu --out adapters.safetensors --adapters
    """
    from radrep.errors import RadrepError

    if all_learned and not adapters:
        raise RadrepError("--all-learned goes with --adapters")
    from radrep.weights.adapters import export_adapters, export_encoder

    if adapters:
        result = export_adapters(checkpoint, out, all_learned=all_learned)
    else:
        result = export_encoder(checkpoint, out)
    say(f"{result.out}: {result.num_tensors} tensors, {result.num_elements:,} numbers")


def merge(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A run or a checkpoint; with --adapters what they were trained on."),
    ],
    out: Out,
    adapters: Annotated[
        Path | None, typer.Option(help="A file of radrep export --adapters to fold in.")
    ] = None,
) -> None:
    """Fold low-rank adapters into the encoder.

    The reports stay what they were. With --adapters, an encoder comes out that one can train on.

    Example:  radrep merge runs/emrrg_iu --out runs/emrrg_iu_merged
    """
    from radrep.weights.adapters import merge_adapters, merge_checkpoint

    if adapters is not None:
        merge_adapters(adapters, checkpoint, out)
        say(f"{out}\nTrain on it with:  --set model.encoder.weights={out}")
        return
    merge_checkpoint(checkpoint, out)
    say(f"{out}\nScore it with:     radrep eval {out}")
