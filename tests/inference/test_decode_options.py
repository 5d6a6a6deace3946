"""Changes to the decoding of a run, as they are typed after --set."""

from pathlib import Path

import pytest

from radrep.errors import RadrepError, RecipeError
from radrep.inference.decode_options import change_decode, check_overrides
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.training import DECODE_PRESETS


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The recipe of an EMRRG, as a checkpoint holds it: with every key."""
    (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe("emrrg_iu_cpu")))
    return tmp_path


def test_only_what_was_typed_changes_and_is_told(checkpoint: Path) -> None:
    own, nothing = change_decode(checkpoint, [])
    assert nothing == []
    typed = f"decode.beam_size={own.beam_size + 1}"
    decode, told = change_decode(checkpoint, [typed])
    assert decode == own.model_copy(update={"beam_size": own.beam_size + 1})
    assert told == [
        f"decoding changed by --set: beam_size {own.beam_size + 1} instead of {own.beam_size}"
    ]
    assert change_decode(checkpoint, [f"decode.beam_size={own.beam_size}"]) == (own, [])


def test_a_preset_gives_its_values_except_for_keys_typed_beside_it(checkpoint: Path) -> None:
    decode, _ = change_decode(
        checkpoint, ["decode.min_new_tokens=7", "decode.preset=mambaxray_mimic"]
    )
    wanted = {**DECODE_PRESETS["mambaxray_mimic"], "preset": "mambaxray_mimic", "min_new_tokens": 7}
    assert wanted.items() <= decode.model_dump().items()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("optim.lr=1", "got 'optim.lr=1'. The rest was settled in training"),
        ("decode={beam_size: 1}", "got 'decode={beam_size: 1}'"),
        ("beam_size=1", "got 'beam_size=1'; did you mean decode.beam_size?"),
    ],
)
def test_other_keys_are_refused(typed: str, told: str) -> None:
    with pytest.raises(RadrepError) as error:
        check_overrides(["decode.batch_size=4", typed])
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("decode.beam_size=0", "must be greater than 0, got 0"),
        ("decode.beam=3", "unknown key"),
        ("decode.beam_size", "must have the form"),
        ("decode.block_trigrams=true", "decode"),  # not for this model
    ],
)
def test_wrong_values_are_refused_as_in_a_recipe(checkpoint: Path, typed: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        change_decode(checkpoint, [typed])
    assert told in str(error.value)
