"""One checked recipe out of YAML, a shipped name and --set; all problems in one error."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from radrep.errors import RadrepError, RecipeError
from radrep.recipe.load import (
    change_section,
    dump_recipe,
    load_recipe,
    shipped_name,
    shipped_recipe_text,
    shipped_recipes,
)
from radrep.recipe.problems import RENAMED, RENAMED_VALUES
from radrep.recipe.recipe import differences
from tests.runaway import no_runaway

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
SMALLEST = """\
task: train
out: runs/x
data: {prepared: data/x}
model: {name: csr_lmca}
optim: {name: adam, lr: 1.0e-3, encoder_lr: 1.0e-4, betas: [0.9, 0.999], eps: 1.0e-8,
  weight_decay: 0.0, amsgrad: false, min_lr: 0.0}
train: {epochs: 1, batch_size: 2}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write text to bad.yaml in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write_recipe(text: str) -> str:
        Path("bad.yaml").write_text(text, encoding="utf-8")
        return "bad.yaml"

    return write_recipe


def problems_of(path: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return dict(caught.value.problems)


def message_of(path: str) -> str:
    with pytest.raises(RadrepError) as caught:
        load_recipe(path)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_file_loads_and_its_dump_loads_to_the_same(path, write):
    recipe = load_recipe(str(path))
    assert load_recipe(write(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_header_states_what_it_needs_how_to_run_and_change_it(path):
    header = path.read_text(encoding="utf-8").split("\ntask:")[0]
    for word in ("# Needs:  ", "# Run:  ", "# Change:  "):
        assert f"\n{word}" in header


def test_a_recipe_is_called_as_its_file_unless_it_has_a_name(write):
    recipe = load_recipe(write(SMALLEST))
    assert (recipe.name, load_recipe("demo").name) == ("bad", "demo")
    assert load_recipe(write(f"name: own\n{SMALLEST}")).name == "own"
    Path("recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe("recipe.yaml").name == "bad", "a run keeps it"
    Path("above.yaml").write_text("extends: recipe.yaml\n")
    assert load_recipe("above.yaml").name == "above", "not as what it extends"
    Path("recipe.yaml").write_text(SMALLEST)
    assert load_recipe("recipe.yaml").name is None, "of an older radrep"
    assert not differences(recipe, load_recipe("recipe.yaml"))
    assert change_section(recipe, {"out": Path("x")}, title="x").name == "bad"
    Path("b\udcff.yaml").write_text(SMALLEST)
    assert load_recipe("b\udcff.yaml").name is None, "no text in UTF-8"


def test_seven_mistakes_are_named_together_with_the_nearest_key(write):
    path = write(
        """\
task: train
out: runs/bad
data: {prepared: data/iu, target: finding}
model:
  name: csr_lmca
  memory: {size: 16, top_k: 32}
  transformer: {num_layer: 2}
optim: {name: adam, lr: 1, encoder_lr: 1, betas: [0, 0], eps: 1, weight_decay: 0, amsgrad: false,
  warmup_step: 5}
train: {batch_size: 0}
"""
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert (
        str(caught.value)
        == """\
bad.yaml has 7 problems:
  data.target                  must be 'findings', 'impression', 'both' or \
'findings_impression', got 'finding'
  model.memory.top_k           must be at most model.memory.size (16), got 32
  model.transformer.num_layer  unknown key; did you mean 'num_layers'?
  optim.min_lr                 required, but missing
  optim.warmup_step            unknown key; did you mean 'warmup_steps'?
  train.epochs                 required, but missing
  train.batch_size             must be greater than 0, got 0"""
    )


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("train.precision=no", "train.precision", "got false (so YAML reads a bare no or off)"),
        ("train.batch_size=yes", "train.batch_size", "must be a whole number, got true"),
        ("train.epochs=1.5", "train.epochs", "must be a whole number, got 1.5"),
        ("data.max_tokens=2", "data.max_tokens", "must be at least 3, got 2"),
        ("data.prepared=''", "data.prepared", "must name a folder, got ''"),
        ("data.prepared=3", "data.prepared", "must be a path, got 3"),
        ("data.random_flip=1", "data.random_flip", "must be true or false, got 1"),
        ("decode.top_p=1.5", "decode.top_p", "must be at most 1, got 1.5"),
        ("decode.top_p=0", "decode.top_p", "must be greater than 0, got 0"),
        ("data.image_size=5000", "data.image_size", "must be at most 4096, got 5000"),
        (
            "model.transformer.dim=100_000",
            "model.transformer.dim",
            "must be at most 65536, got 100000",
        ),
        (
            "model.transformer.num_layers=1001",
            "model.transformer.num_layers",
            "must be at most 1000, got 1001",
        ),
        ("model=3", "model", "must be a section of keys, got 3"),
        (
            "out=runs/" + "a" * 200_000,
            "--set out=runs/" + "a" * 91 + "...",
            "the value has more than 100,000 characters",
        ),
        (
            "parallel.cpu_offload=true",
            "parallel.cpu_offload",
            "has no effect without parallel.data: fsdp",
        ),
        (
            "model.name=r2gen",
            "model.name",
            "must be one of csr_lmca, emrrg, discriminator, autoregressive, contrastive",
        ),
        ("model.backbone.name=''", "model.backbone.name", "must have at least 1 character, got ''"),
        (
            "model.regions.regions_per_side=[2, 0]",
            "model.regions.regions_per_side[1]",
            "must be greater than 0, got 0",
        ),
        (
            "model.regions.regions_per_side=[]",
            "model.regions.regions_per_side",
            "must have at least 1 item, got []",
        ),
        (
            "model.regions.regions_per_side=2",
            "model.regions.regions_per_side",
            "must be a list, got 2",
        ),
        ("model.regions.epeg_kernel=4", "model.regions.epeg_kernel", "must be odd"),
        (
            "model.transformer.num_heads=7",
            "model.transformer.num_heads",
            "must divide model.transformer.dim (512), got 7",
        ),
        ("model.memory.size=8", "model.memory.top_k", "must be at most model.memory.size (8)"),
        ("optim.lr=fast", "optim.lr", "must be a number, got 'fast'"),
        ("optim.lr=.nan", "optim.lr", "must be a finite number, got nan"),
        ("optim.lr={a: 1}", "optim.lr", "must be a number, got a section of keys"),
        ("optim.betas=[0.9, 1.0]", "optim.betas[1]", "must be less than 1, got 1.0"),
        ("train.monitor=test/bleu4", "train.monitor", "chosen by a test score"),
        ("train.monitor=val/blue4", "train.monitor", "must be one of val/bleu1, val/bleu2"),
        ("decoed.beam_size=3", "decoed", "unknown key; did you mean 'decode'?"),
        ("lr=3", "lr", "unknown key; did you mean 'optim.lr'?"),
        (
            "train.max_new_tokens=3",
            "train.max_new_tokens",
            "unknown key; did you mean 'decode.max_new_tokens'?",
        ),
        ("optim.lr.x=3", "--set optim.lr.x=3", "optim.lr is a value, not a section"),
        ("optim.lr", "--set optim.lr", "must have the form optim.lr=1e-4"),
        ("=3", "--set =3", "must have the form optim.lr=1e-4"),
        ("optim.lr=[", "--set optim.lr=[", "the value is not YAML"),
    ],
)
def test_each_mistake_is_named_with_its_key_value_and_bound(write, override, key, text):
    path = write(SMALLEST)
    problems = problems_of(path, override)
    assert list(problems) == [key]
    assert text in problems[key]


OLD_SECTIONS = {"model.hybrid": "emrrg", "model.language_model": "emrrg", "model.lora": "emrrg"}
OLD_SECTIONS |= {"model.cluster": "autoregressive"}


def old_recipe(keys: Iterable[tuple[str, object]]) -> list[str]:
    """--set of old keys, with the model that had them."""
    overrides = []
    for key, value in keys:
        for section, model in OLD_SECTIONS.items():
            if key == section or key.startswith(f"{section}."):
                overrides += [f"model.name={model}"]
        overrides.append(f"{key}={value}")
    return overrides


@pytest.mark.parametrize("key", RENAMED)
def test_an_old_key_is_refused_by_the_name_of_the_new_one(write, key):
    assert problems_of(write(SMALLEST), *old_recipe([(key, 1)])) == {
        key: f"renamed: write {RENAMED[key]}"
    }
    for new in RENAMED[key].split(":")[0].split(" and "):  # the new one is known
        problems = problems_of(write(SMALLEST), *old_recipe([(key, 1)])[:-1], f"{new}=[[]]")
        assert not any("unknown" in text for text in problems.values())


@pytest.mark.parametrize(("key", "value"), RENAMED_VALUES)
def test_an_old_value_is_refused_by_the_name_of_the_new_one(write, key, value):
    new = RENAMED_VALUES[key, value]
    assert problems_of(write(SMALLEST), *old_recipe([(key, value)])) == {
        key: f"renamed: write {new}, got '{value}'"
    }
    load_recipe(write(SMALLEST), ["model.name=emrrg", f"{key}={new}"])


def test_all_old_keys_of_a_recipe_are_named_in_one_error(write):
    old = SMALLEST.replace("data/x}", "data/x, pair: views, published: true}")
    old = old.replace("batch_size: 2}", "batch_size: 2, keep_best: val/loss, track: none}")
    old += "decode: {max_words: 60}\n"
    assert list(problems_of(write(old))) == [
        "data.pair", "data.published", "train.keep_best", "train.track", "decode.max_words"
    ]  # fmt: skip


def test_problems_of_the_file_and_of_set_are_named_together(write):
    problems = problems_of(
        write(SMALLEST + "modle: {}\ntask: train\n"), "nonsense", "train.seed=-1"
    )
    assert problems == {
        "task": "written twice, in lines 1 and 9",
        "--set nonsense": "must have the form optim.lr=1e-4",
        "train.seed": "must be at least 0, got -1",
        "modle": "unknown key; did you mean 'model'?",
    }


def test_a_recipe_extends_another_by_its_own_values(write):
    Path("base.yaml").write_text(SMALLEST)
    text = "extends: base.yaml\nout: runs/y\ntrain: {epochs: 3}\ndecode: {edit: {beta: 1.0}}\n"
    recipe, base = load_recipe(write(text)), load_recipe("base.yaml")
    assert (recipe.out, recipe.train.epochs, recipe.train.batch_size) == (Path("runs/y"), 3, 2)
    assert recipe.decode.edit.beta == 1.0
    assert recipe.optim == base.optim
    assert "extends" not in dump_recipe(recipe)
    changed = load_recipe("bad.yaml", ["train.epochs=5", "train.batch_size=4"])
    assert (changed.train.epochs, changed.train.batch_size) == (5, 4)


def test_what_is_extended_lies_beside_the_recipe_or_is_shipped(tmp_path, write):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "base.yaml").write_text(SMALLEST)
    (tmp_path / "inner" / "own.yaml").write_text("extends: base.yaml\nout: runs/own\n")
    assert load_recipe("inner/own.yaml").train.epochs == 1
    shipped = load_recipe(write("extends: demo\nout: runs/mine\n"))
    assert shipped.model == load_recipe("demo").model


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("extends: 3\n", "must be a file or the name of a shipped recipe, got 3"),
        ("extends: bad.yaml\n", "goes in a circle: bad.yaml extends bad.yaml"),
        ("extends: nothing_like_it\n", "nothing_like_it not found"),
        ("extends: demo\ntrain: {epoch: 3}\n", "train.epoch"),
        ("extends: demo\nmodel: {name: emrrg}\n", "model.backbone"),
    ],
)
def test_what_cannot_be_extended_is_named(write, text, problem):
    with pytest.raises(RadrepError) as error:
        load_recipe(write(text))
    assert problem in str(error.value)


def test_repeated_keys_alone_are_refused(write):
    text = SMALLEST.replace("epochs: 1,", "epochs: 1,\n  epochs: 2,")
    assert problems_of(write(text)) == {"train.epochs": "written twice, in lines 7 and 8"}


def test_set_changes_values_in_the_order_typed(write):
    recipe = load_recipe(
        write(SMALLEST),
        ["optim.lr=1e-4", "optim.betas=[0.8, 9e-1]", "train.seed=1", "train.seed=2", "out=runs/y"],
    )
    assert recipe.optim.lr == 1e-4
    assert recipe.optim.betas == (0.8, 0.9)
    assert recipe.train.seed == 2
    assert recipe.out == Path("runs/y")


def test_a_changed_section_is_checked_like_a_recipe():
    decode = load_recipe("demo").decode
    changed = change_section(decode, {"method": "sample", "top_p": 0.9}, title="here")
    assert changed == decode.model_copy(update={"method": "sample", "top_p": 0.9})
    with pytest.raises(
        RecipeError, match=r"^here has 1 problem:\n  top_p  must be at most 1, got 2"
    ):
        change_section(decode, {"top_p": 2.0}, title="here")


def test_null_switches_clipping_and_patience_off(write):
    recipe = load_recipe(write(SMALLEST), ["optim.clip_norm=null", "train.patience=null"])
    assert recipe.optim.clip_norm is None
    assert recipe.train.patience is None


def test_a_section_with_every_key_commented_out_has_its_defaults(write):
    bare = load_recipe(write(SMALLEST))
    empty = load_recipe(write(SMALLEST + "decode:\n  # beam_size: 1\n"))
    assert bare == empty


def test_exponents_without_a_point_are_numbers(write):
    assert yaml.safe_load("1e-4") == "1e-4", "the trap that this guards against"
    assert load_recipe(write(SMALLEST.replace("1.0e-3", "1e-4"))).optim.lr == 1e-4


def test_a_home_folder_is_expanded(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = load_recipe(write(SMALLEST), ["data.prepared=~/iu"])
    assert recipe.data.prepared == Path("/home/someone/iu")


def test_recipes_are_frozen(write):
    recipe = load_recipe(write(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.epochs = 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.yaml is empty. Start from one of: csr_lmca_iu, "),
        ("# only a comment\n", "bad.yaml is empty."),
        (
            "- task: train\n",
            "bad.yaml must hold keys and values such as 'task: train', got [{'task",
        ),
        ("train", "bad.yaml must hold keys and values such as 'task: train', got 'train'"),
        ("task: train\nout: [1\n", "bad.yaml has 1 problem:\n  line 3  expected ',' or ']'"),
        ("task: a: b\n", "  line 1  mapping values are not allowed here: 'task: a: b'"),
        ("data:\n\tprepared: x\n", "  line 2  a tab, where YAML wants spaces: 'prepared: x'"),
        ("a: !!python/name:os.system x\n", "  line 1  could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "  line 2  but found another document: '---'"),
        ("a: 2024-02-31\n", "  YAML  day is out of range for month"),
        ("[" * 600, "  line 1  more than 50 levels of nesting, as no recipe has"),
        ("- " * 600, "  line 1  more than 50 levels of nesting, as no recipe has"),
        ("a: [" + "1," * 30_000 + "]", "  line 1  more than 20,000 values, each alias written"),
        ("a: &x [*x]", "  line 1  an alias within what it stands for, as no recipe has"),
        ("a: " + "1:" * 20_000 + "1", "  YAML  a whole number of more than 128 bits"),
        ("a: 0x" + "f" * 90_000, "  YAML  a whole number of more than 128 bits"),
        ("a: " + "1:" * 20_000 + "1.0", "  YAML  int too large to convert to float"),
        ('a: !!int ""\n', "  YAML  a value is not of the type that its tag names"),
        ('a: !!float ""\n', "  YAML  a value is not of the type that its tag names"),
        ("a: !!bool x\n", "  YAML  a value is not of the type that its tag names"),
        ("a: !!timestamp x\n", "  YAML  a value is not of the type that its tag names"),
        ("# " + "x" * 100_000, "bad.yaml has more than 100,000 bytes, as no recipe has"),
        ("a: \0\n", "bad.yaml is not a text file in UTF-8. A recipe is YAML."),
    ],
)
def test_a_file_that_is_no_recipe_is_named_in_one_message(write, text, message):
    assert message in message_of(write(text))


@pytest.mark.parametrize("level", ["[{}]", "{{<<: [{}]}}"])
def test_a_few_lines_of_aliases_do_not_stand_for_more_than_memory_holds(write, level):
    lines = ["a0: &a0 {k: 1, l: 2}"]
    for number in range(1, 12):
        below = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {level.format(below)}")
    with no_runaway(10):
        message = message_of(write("\n".join(lines)))
        assert "line 5  more than 20,000 values, each alias written out" in message


def test_an_alias_is_still_a_short_way_to_write_a_value_twice(write):
    text = SMALLEST.replace("out: ", "x: &here a\nout: *here #")
    assert problems_of(write(text)) == {"x": "unknown key"}


def test_binary_files_folders_and_missing_files_state_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("picture.yaml").write_bytes(b"\x89PNG\xff")
    Path("run").mkdir()
    Path("empty").mkdir()
    Path("run/recipe.yaml").write_text(SMALLEST)
    assert message_of("picture.yaml") == (
        "picture.yaml is not a text file in UTF-8. A recipe is YAML."
    )
    assert message_of("run") == "run is a folder, not a recipe. Did you mean run/recipe.yaml?"
    assert message_of("empty") == "empty is a folder, not a recipe. Give a YAML file."
    assert message_of("recipes/csr_lmca_ui.yaml").startswith(
        "recipes/csr_lmca_ui.yaml not found. Did you mean 'csr_lmca_iu'? Shipped recipes: "
    )
    assert message_of("run/recipe.yaml/x").startswith("run/recipe.yaml/x not found.")
    assert message_of("x" * 300).endswith(" cannot be read: File name too long")


def test_shipped_recipes_are_found_by_name_but_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("csr_lmca_iu").mkdir()
    shipped = load_recipe("demo")
    assert load_recipe("demo.yaml") == shipped
    assert load_recipe("csr_lmca_iu").train.epochs == 80, "a folder of that name does not hide it"
    assert load_recipe("recipes/demo.yaml") == shipped, "nor a path into no checkout"
    assert shipped_name("recipes/demo.yaml") == shipped_name("demo") == "demo"
    assert shipped_name("other/demo.yaml") is None
    Path("recipes").mkdir()
    Path("recipes/demo.yaml").write_text(SMALLEST)
    assert load_recipe("recipes/demo.yaml").out == Path("runs/x")
    assert shipped_name("recipes/demo.yaml") is None
    Path("demo").write_text(SMALLEST)
    assert load_recipe("demo").out == Path("runs/x")


def test_shipped_recipes_are_those_of_the_repository():
    assert [name for name, _ in shipped_recipes()] == [path.stem for path in RECIPES]
    for (name, line), path in zip(shipped_recipes(), RECIPES, strict=True):
        text = path.read_text(encoding="utf-8")
        assert shipped_recipe_text(name) == text
        assert text.startswith(f"# {line}\n")
        assert 20 < len(line) < 65, "it must fit beside its name in a terminal"


def test_an_unknown_shipped_name_lists_those_that_exist():
    with pytest.raises(RadrepError, match=r"named 'dmeo'\. Did you mean 'demo'\? Shipped recipes"):
        shipped_recipe_text("dmeo")
    with pytest.raises(RadrepError, match="no shipped recipe is named '../pyproject'"):
        shipped_recipe_text("../pyproject")


@pytest.mark.parametrize(
    ("recipe", "overrides", "key", "needed"),
    [
        (
            "emrrg_iu",
            ["model.train_encoder=trained", "model.lora.rank=8"],
            "model.lora.rank",
            "model.train_encoder: adapters",
        ),
        (
            "emrrg_iu",
            ["model.lora={rank: 8}", "model.train_encoder=frozen"],
            "model.lora",
            "model.train_encoder: adapters",
        ),
        (
            "emrrg_iu",
            ["model.language_model.lora.alpha=8"],
            "model.language_model.lora.alpha",
            "model.language_model.train: lora",
        ),
        (
            "csr_lmca_iu_cpu",
            ["model.backbone.frozen_stages=3"],
            "model.backbone.frozen_stages",
            "model.backbone.frozen: false",
        ),
        (
            "sdam_discriminator_cpu",
            ["model.train_encoder=frozen"],
            "model.train_encoder",
            "model.encoder",
        ),
        (
            "pretrain_labels_cpu",
            ["model.backbone.frozen=true"],
            "model.backbone.frozen",
            "model.encoder: null",
        ),
        (
            "pretrain_contrastive",
            ["model.text_encoder.dim=64"],
            "model.text_encoder.dim",
            "model.text_encoder.name: small",
        ),
        (
            "emrrg_iu",
            ["model.language_model.dim=64"],
            "model.language_model.dim",
            "model.language_model.name: small",
        ),
    ],
)
def test_a_key_typed_without_effect_is_refused(recipe, overrides, key, needed):
    assert problems_of(recipe, *overrides) == {key: f"has no effect without {needed}"}


def test_a_key_without_effect_in_a_file_is_refused(write):
    text = SMALLEST.replace("csr_lmca}", "csr_lmca, enhancer: {gate: channel, pool_dim: 9}}")
    assert problems_of(write(text)) == {
        "model.enhancer.pool_dim": "has no effect without model.enhancer.mode: pooled"
    }
    flips = SMALLEST.replace("data/x}", "data/x, random_flip: true}")
    assert "without data.random_crop" in problems_of(write(flips))["data.random_flip"]
    # At its default it changes nothing: a run's whole recipe has it too.
    load_recipe(write(text.replace("pool_dim: 9", "pool_dim: 128")))


def test_set_may_switch_off_what_a_file_has(write):
    masks = SMALLEST.replace("data/x}", "data/x, images: views+mask, saliency: {discriminator: d}}")
    recipe = load_recipe(write(masks), ["data.images=views"])
    assert recipe.data.saliency is not None
    again = load_recipe(write(dump_recipe(recipe)))  # of a run, where it has no effect
    assert again == recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"saliency": None})}
    )


def test_a_key_takes_effect_with_what_switches_it_on():
    lora = ["model.language_model.train=lora", "model.language_model.lora.rank=8"]
    assert load_recipe("emrrg_iu", lora).model.language_model.lora.rank == 8
    small = ["model.text_encoder.name=small", "model.text_encoder.dim=64"]
    assert load_recipe("pretrain_contrastive", small).model.text_encoder.dim == 64
    small = ["model.language_model.name=small", "model.language_model.dim=64"]
    trained = [*small, "model.language_model.train=trained"]
    assert load_recipe("emrrg_iu", trained).model.language_model.dim == 64
    why = "must be trained for name: small, which starts from nothing, got frozen"
    assert problems_of("emrrg_iu", *small) == {"model.language_model.train": why}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('out=!!int ""', "is not of the type that its tag names"),
        ('out=!!float ""', "is not of the type that its tag names"),
        ("out=!!bool x", "is not of the type that its tag names"),
        ("out=!!timestamp x", "is not of the type that its tag names"),
        ("out=" + "[" * 20_000, "more than 50 levels of nesting"),
        ("train.seed=" + "1:" * 5000 + "1", "a whole number of more than 128 bits"),
        (f"train.seed={2**32}", "must be less than 4294967296"),
    ],
)
def test_odd_values_of_set_are_one_problem(write, override, message):
    (problem,) = problems_of(write(SMALLEST), override).values()
    assert message in problem


def test_very_many_unknown_keys_are_counted_in_a_moment(write):
    text = SMALLEST + "".join(f"key{number}: 1\n" for number in range(3000))
    with no_runaway(10):
        message = message_of(write(text))
    assert message.startswith("bad.yaml has 3000 problems:\n  key0     unknown key\n")
    assert message.endswith("  key99    unknown key\n  ... and 2900 more")


def test_compiled_blocks_are_not_computed_again() -> None:
    changes = ["parallel.compile=true", "parallel.activation_checkpointing=true"]
    with pytest.raises(RecipeError, match="set one of the two to false") as error:
        load_recipe("csr_lmca_iu_cpu", changes)
    assert [key for key, _ in error.value.problems] == ["parallel.compile"]
