"""What bad inputs are made from: prepared phantoms, a run, a film, a tiny language model."""

from pathlib import Path

from radrep.modules.language_model import load_language_model
from tests.whole_way import draw_prepared, radrep, write_films, write_recipe


def make_base(folder: Path) -> None:
    """data, run, film.png, tiny.yaml and lm in a folder."""
    folder = folder.absolute()
    recipe = write_recipe(
        folder, draw_prepared(folder / "data", 24), train={"epochs": 1}, decode={"select": None}
    )
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    (film,) = write_films(folder / "data", folder, num=1)
    film.rename(folder / "film.png")
    language = load_language_model("tiny:llama", cache_folder=folder)
    language.model.save_pretrained(folder / "lm")
    language.tokenizer.save_pretrained(folder / "lm")
