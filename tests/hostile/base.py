"""What bad inputs are made from: prepared phantoms, a run, a film, a tiny language model."""

import shutil
from pathlib import Path

import yaml

from radrep.modules.language_model import load_language_model
from tests.saliency.test_sdam import write_discriminator
from tests.whole_way import draw_prepared, radrep, write_films, write_recipe


def make_base(folder: Path) -> None:
    """data, run, film.png, tiny.yaml, lm, masked (data with masks) and masked.yaml in a folder."""
    folder = folder.absolute()
    recipe = write_recipe(
        folder, draw_prepared(folder / "data", 24), train={"epochs": 1}, decode={"select": None}
    )
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    _make_masks(folder)
    (film,) = write_films(folder / "data", folder, num=1)
    film.rename(folder / "film.png")
    language = load_language_model("tiny:llama", cache_folder=folder)
    language.model.save_pretrained(folder / "lm")
    language.tokenizer.save_pretrained(folder / "lm")


def _make_masks(folder: Path) -> None:
    masked = shutil.copytree(folder / "data", folder / "masked")
    (folder / "sdam").mkdir()
    for words in (
        ["train", write_discriminator(folder / "sdam", folder / "data"), "--set", "train.epochs=1"],
        ["prepare", "saliency", "--data", masked, "--checkpoint", folder / "sdam/run"],
    ):
        result = radrep(*words)
        assert result.exit_code == 0, result.output
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
    recipe["data"] |= {
        "images": "frontal+mask",
        "saliency": {"discriminator": str(folder / "sdam/run")},
    }
    (folder / "masked.yaml").write_text(yaml.safe_dump(recipe))
