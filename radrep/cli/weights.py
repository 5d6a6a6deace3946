"""radrep import, export, push and merge: public weights in, models out, adapters merged."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say
from radrep.cli.outputs import nested_file, new_folder
from radrep.errors import RadrepError

if TYPE_CHECKING:
    from radrep.weights.import_public import ImportResult

SHOWN = 3  # names per group without --verbose

Out = Annotated[Path, typer.Option(help="A new folder.", callback=new_folder)]
Checkpoint = Annotated[Path, typer.Argument(help="A run or a checkpoint.")]
WithoutReports = Annotated[
    bool,
    typer.Option(
        "--without-reports",
        help="Without sentences of the training reports: reports are decoded, not selected or "
        "edited.",
    ),
]


def import_(
    file: Annotated[Path, typer.Argument(help="A PyTorch or safetensors file.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="xray-mamba-base, xray-mamba-large, xray-mamba-tiny, xray-mamba-nano, emrrg or "
            "csr-lmca.",
        ),
    ],
    out: Out,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe file or a shipped recipe's name, for emrrg and csr-lmca: mambaxray_iu, "
            "mambaxray_mimic or mambaxray_chexpert_plus for IU-, Mimic- and CheXpert-Finetune.",
            show_default="emrrg_iu_published or csr_lmca_iu_published",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every tensor.")] = False,
) -> None:
    """Import published weights without running code from the file.

    Example:  radrep import MambaXrayCLIP-B.pth --format xray-mamba-base --out runs/clip_b
    """
    from radrep.weights.import_public import import_public

    result = import_public(file, kind, out=out, recipe=recipe, overrides=overrides or ())
    _show_import(result, verbose)
    if recipe is None and kind.startswith("xray-mamba"):
        say(f"{out}\nTrain on it with:  --set model.encoder.weights={out}")
    elif result.unprepared is not None:
        say(
            f"{out}\n{result.unprepared} is not prepared, so the model has no training vocabulary "
            "to be scored with: prepare it and import again.\n"
            f"Use it with:       radrep generate IMAGE --checkpoint {out}"
        )
    else:
        say(f"{out}\nScore it with:     radrep eval {out}")


def _show_import(result: "ImportResult", verbose: bool) -> None:
    keys = result.keys
    renamed = [f"{theirs} -> {ours}" for theirs, ours in keys.mapped.items()]
    _show_group("mapped", renamed, "", verbose)
    _show_group("missing", keys.missing, "not in the file, initialised", verbose)
    _show_group("unexpected", keys.unexpected, "unknown, not used", verbose)
    if result.changed:
        say("recipe keys set to what the file was trained with:")
        for key, value in result.changed.items():
            say(f"  {key}: {value}")
    for reason in Counter(keys.ignored.values()):
        names = [name for name, why in keys.ignored.items() if why == reason]
        _show_group("ignored", names, reason, verbose)


def _show_group(label: str, names: Sequence[str], note: str, verbose: bool) -> None:
    say(f"{label:<11} {len(names)} tensors{f': {note}' if note and names else ''}")
    shown = names if verbose else names[:SHOWN]
    for name in shown:
        say(f"  {name}")
    if len(names) > len(shown):
        say(f"  ... and {len(names) - len(shown)} more (--verbose)")


def export(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None, typer.Option(help="A new .safetensors file.", callback=nested_file)
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zip",
            help="A new .zip file with all that generate needs: weights, recipe, vocabulary, model "
            "card, checksums.",
            callback=nested_file,
        ),
    ] = None,
    without_reports: WithoutReports = False,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Only the low-rank adapters.")
    ] = False,
    all_learned: Annotated[
        bool,
        typer.Option(
            "--all-learned", help="With --adapters: projector, hybrid layers and LoRA as well."
        ),
    ] = False,
) -> None:
    """Export a whole model as one file, an encoder under its public names, or its adapters.

    Example:  radrep export runs/csr_lmca_iu_cpu --bundle model.zip

    Then:     radrep generate frontal.png --checkpoint model.zip

    Adapters: radrep export runs/emrrg_iu --out adapters.safetensors --adapters
    """
    if (out is None) == (bundle is None):
        raise RadrepError("name one of --bundle FILE.zip and --out FILE.safetensors")
    if all_learned and not adapters:
        raise RadrepError("--all-learned goes with --adapters")
    if bundle is not None:
        if adapters:
            raise RadrepError("a bundle holds the whole model; leave --adapters out")
        _export_bundle(checkpoint, bundle, with_reports=not without_reports)
        return
    if without_reports:
        raise RadrepError("--without-reports goes with --bundle")
    assert out is not None
    from radrep.weights.adapters import export_adapters, export_encoder

    if adapters:
        result = export_adapters(checkpoint, out, all_learned=all_learned)
    else:
        result = export_encoder(checkpoint, out)
    say(f"{result.out}: {result.num_tensors} tensors, {result.num_elements:,} elements")


def _export_bundle(checkpoint: Path, file: Path, *, with_reports: bool) -> None:
    from radrep.weights.bundle import export_bundle

    with TerminalReporter() as reporter:
        made = export_bundle(checkpoint, file, with_reports=with_reports, reporter=reporter)
        if made.from_reports:
            reporter.warn(
                f"it holds {made.num_reports:,} training reports word for word, and sentences of "
                f"others ({', '.join(made.from_reports)}): hand it on only where the licence of "
                "the data lets you, or export it with --without-reports"
            )
        for key, name in made.needs:
            reporter.info("needs", f"{name} ({key}), which is not in it")
    say(
        f"{file}: {made.num_bytes / 1e6:.1f} MB\nUse it with:  radrep generate IMAGE "
        f"--checkpoint {file}"
    )


def push(
    checkpoint: Annotated[Path, typer.Argument(help="A run, a checkpoint or a bundle.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Of the hub.")],
    with_reports: Annotated[
        bool, typer.Option("--with-reports", help="With sentences of the training reports.")
    ] = False,
    without_reports: WithoutReports = False,
    public: Annotated[
        bool, typer.Option("--public", help="Anyone may read the repository.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", show_default="main", help="Made if missing.")
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub, after hf auth login.

    A new repository is private. What it holds is what radrep export --bundle writes; training
    reports in it (for selection and editing) leave the machine only if you say so.

    Example:  radrep push runs/csr_lmca_iu_cpu me/chest-reports --without-reports

    Then:     ReportGenerator.from_pretrained("me/chest-reports") in Python
    """
    if with_reports and without_reports:
        raise RadrepError("--with-reports and --without-reports exclude one another")
    from radrep.weights.bundle import push as run

    chosen = with_reports if with_reports or without_reports else None
    say(run(checkpoint, repository, with_reports=chosen, public=public, revision=revision))


def merge(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A run or a checkpoint; with --adapters their encoder."),
    ],
    out: Out,
    adapters: Annotated[
        Path | None, typer.Option(help="A file of radrep export --adapters to merge.")
    ] = None,
) -> None:
    """Merge low-rank adapters into the encoder.

    Reports do not change. With --adapters, the result is an encoder to start training from.

    Example:  radrep merge runs/emrrg_iu --out runs/emrrg_iu_merged
    """
    from radrep.weights.adapters import merge_adapters, merge_checkpoint

    if adapters is not None:
        merge_adapters(adapters, checkpoint, out)
        say(f"{out}\nTrain on it with:  --set model.encoder.weights={out}")
    else:
        merge_checkpoint(checkpoint, out)
        say(f"{out}\nScore it with:     radrep eval {out}")
