"""A trained model for others: as one file, or as a repository of the Hugging Face hub."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from radrep.atomic import atomic_write_text, check_output, make_folder
from radrep.errors import CheckpointError
from radrep.hub import first_line
from radrep.progress import Reporter
from radrep.recipe.load import change_section, dump_recipe
from radrep.recipe.recipe import Recipe
from radrep.weights.archive import FROM_REPORTS, NAMES, pack
from radrep.weights.checkpoint import check_whole, find_checkpoint, read_recipe
from radrep.weights.files import CHECKSUMS, write_checksums
from radrep.weights.guidance_files import SELECTION, read_selector
from radrep.weights.model_card import MODEL_CARD, describe_model
from radrep.weights.run_folder import RECIPE, run_dir

_FRONT_MATTER = """---
library_name: radrep
pipeline_tag: image-to-text
tags: [chest-x-ray, radiology-report-generation]
---

"""


@dataclass(frozen=True)
class Bundled:
    """What a bundle has; `needs` are the places, by the recipe's keys, of what it has not."""

    recipe: Recipe
    num_bytes: int
    from_reports: tuple[str, ...]  # its files with sentences of training reports
    num_reports: int  # of the training data, word for word in them
    needs: tuple[tuple[str, str], ...]


def export_bundle(
    checkpoint: Path, file: Path, *, with_reports: bool = True, reporter: Reporter | None = None
) -> Bundled:
    """Write a checkpoint and its model card as one zip file.

    Without reports it has no file with sentences of training reports, and its recipe decodes.

    Raises:
        CheckpointError: If the checkpoint is missing or broken.
    """
    check_output(file, "--bundle", folder=False, new=True, make_parents=True)
    if file.suffix != ".zip":
        raise CheckpointError(f"--bundle must end in .zip, got {file}")
    with _collected(checkpoint, with_reports=with_reports) as (folder, bundled):
        make_folder(file.parent)
        pack(folder, file, reporter or Reporter())
    return bundled


def push(
    checkpoint: Path,
    repository: str,
    *,
    with_reports: bool | None = None,
    public: bool = False,
    revision: str | None = None,
) -> str:
    """Upload the files of a bundle to a repository of the hub; return the commit's address.

    Raises:
        CheckpointError: If nobody is logged in, the hub refuses, the repository is public and that
            was not asked for, or `with_reports` is None for a checkpoint with sentences of training
            reports.
    """
    api = HfApi()
    try:
        api.whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"the hub does not know who you are ({first_line(error)}). Log in with: hf auth login"
        ) from error
    with _collected(checkpoint, with_reports=with_reports is not False) as (folder, bundled):
        if with_reports is None and bundled.from_reports:
            raise CheckpointError(
                f"{checkpoint} holds {bundled.num_reports:,} training reports word for word, and "
                f"sentences of others ({', '.join(bundled.from_reports)}). Where the licence of "
                "the data lets you publish them add --with-reports, else --without-reports"
            )
        card = (folder / MODEL_CARD).read_text(encoding="utf-8")
        (folder / "README.md").write_text(_FRONT_MATTER + card, encoding="utf-8")
        try:
            api.create_repo(repository, private=not public, exist_ok=True)
            if not public and not api.repo_info(repository).private:  # it was there before
                raise CheckpointError(
                    f"{repository} is public already, so anyone could read what is pushed: add "
                    "--public, or name another repository"
                )
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=f"{bundled.recipe.out.name}, by radrep",
                revision=revision,
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise CheckpointError(f"{repository} was not pushed: {first_line(error)}") from error
    return str(commit.commit_url)


def pull(repository: str, revision: str | None = None) -> Path:
    """The checkpoint in a repository of the hub: only a bundle's files, in the hub's own cache."""
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(NAMES)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        at = f" at {revision}" if revision else ""
        raise CheckpointError(
            f"{repository}{at} is neither a file or folder here nor a model that the hub gives "
            f"you: {first_line(error)}"
        ) from error


@contextmanager
def _collected(checkpoint: Path, *, with_reports: bool) -> Iterator[tuple[Path, Bundled]]:
    """A temporary folder with the files of a bundle."""
    source = find_checkpoint(checkpoint)
    present = [name for name in NAMES if (source / name).is_file()]
    check_whole(source, [name for name in present if name not in (MODEL_CARD, CHECKSUMS)])
    recipe = read_recipe(source)
    kept = [name for name in FROM_REPORTS if name in present and with_reports]
    num_reports = len(read_selector(source).pool) if SELECTION in kept else 0
    if not with_reports:
        decode = recipe.decode.by_decoder.model_dump() | {"select": None}
        recipe = change_section(recipe, {"decode": decode}, title="this recipe")
    card = next(
        (p for p in (source / MODEL_CARD, run_dir(source) / MODEL_CARD) if p.is_file()), None
    )
    with TemporaryDirectory(prefix="radrep-bundle-") as made:
        folder = Path(made)
        for name in present:
            if name in kept or name not in (*FROM_REPORTS, CHECKSUMS, RECIPE, MODEL_CARD):
                _place(source / name, folder / name)
        if with_reports:
            shutil.copyfile(source / RECIPE, folder / RECIPE)
        else:
            atomic_write_text(folder / RECIPE, dump_recipe(recipe))
        text = card.read_text(encoding="utf-8") if card else describe_model(recipe, None)
        atomic_write_text(folder / MODEL_CARD, text)
        write_checksums(folder)
        num_bytes = sum(file.stat().st_size for file in folder.iterdir())
        yield folder, Bundled(recipe, num_bytes, tuple(kept), num_reports, _needs(recipe))


def _place(file: Path, link: Path) -> None:
    """Have a file under another name, without a copy where the disk can."""
    try:
        link.symlink_to(file.resolve())
    except (OSError, NotImplementedError):
        shutil.copyfile(file, link)


def _needs(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """What a loaded model reads beside its checkpoint."""
    found = []
    if recipe.data.saliency is not None and recipe.data.images != "views":
        found.append(("data.saliency.discriminator", str(recipe.data.saliency.discriminator)))
    for key in ("language_model", "text_encoder"):
        name = getattr(getattr(recipe.model, key, None), "name", "small")
        if name != "small":
            found.append((f"model.{key}.name", name))
    return tuple(found)
