"""EMRRG from drawn films to reports: supervised encoder, then a language model trained whole."""

import json
from pathlib import Path

import pytest

from tests.whole_way import radrep


def _best(run: Path, name: str) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(row[name] for row in rows if name in row)


@pytest.mark.slow
def test_images_matter_from_films_to_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipes on fewer, larger findings and patches; 3,000 films are seen six times."""
    monkeypatch.chdir(tmp_path)
    for command in (
        "prepare phantom --num-studies 3000 --image-size 64 --finding-scale 2",
        "pretrain pretrain_labels_phantom --set model.encoder.patch_size=16"
        " --set train.epochs=6 --set train.batch_size=16",
        "train emrrg_phantom --set model.encoder.patch_size=16 --set optim.lr=2.0e-3"
        " --set train.epochs=3",
    ):
        result = radrep(*command.split())
        assert result.exit_code == 0, result.output
    assert _best(tmp_path / "runs/pretrain_labels_phantom", "val/auroc") > 0.7  # chance 0.5
    # What another study's film adds to the loss of the 300 held out; 0 where films are ignored.
    assert _best(tmp_path / "runs/emrrg_phantom", "val/image_gain") > 0.02
