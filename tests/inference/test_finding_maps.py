import numpy as np

from radrep.inference.finding_maps import map_findings

TEXT = "no pleural effusion on the right . there is a left pleural effusion . heart is normal ."


def test_the_sentence_that_decides_is_the_one_that_is_shown() -> None:
    words = TEXT.split()
    attention = np.arange(len(words), dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 4))
    (found,) = map_findings(TEXT, attention, [])
    assert (found.name, found.status) == ("Pleural Effusion", "positive")
    assert found.sentence.startswith("there is a left pleural effusion")
    first = words.index("there")
    last = first + len(found.sentence.split())
    assert len(found.attention) == 2
    assert np.allclose(found.attention[0], np.mean(range(first, last)))
    assert found.probability is None
    assert not found.grad_cam


def test_a_model_without_maps_has_sentences_alone() -> None:
    (found,) = map_findings(TEXT, np.zeros((0, 0, 0, 0)), [])
    assert found.sentence
    assert not found.attention
