import json
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.metrics.nlg import METRICS, corpus_bleu, corpus_meteor, score_nlg, score_systems

WORDS = ["the", "lungs", "are", "clear", ".", "no", "effusion", "heart", "mild", "xxxx"]


def random_reports(num_reports, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 25))) for _ in range(num_reports)]


@pytest.fixture(scope="module")
def nlg_pairs(vectors_dir):
    return json.loads((vectors_dir / "nlg_pairs.json").read_text())


def test_vectors_of_every_metric_but_meteor(nlg_pairs):
    scores = score_nlg(nlg_pairs["references"], nlg_pairs["hypotheses"], meteor="skip")
    for metric in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"):
        expected = nlg_pairs["expected"][metric]
        assert scores.corpus[metric] == pytest.approx(expected, abs=1e-6), metric
    for metric in ("rouge_l", "cider"):
        expected = nlg_pairs["expected_per_report"][metric]
        assert scores.per_report[metric] == pytest.approx(expected, abs=1e-6), metric


def test_bleu_matches_hand_count():
    scores = score_nlg(["a b c d", "a a"], ["a b d", "a a a"], meteor="skip")
    # 1-grams: 3 of 3 and 2 (clipped) of 3; 2-grams: "a b" of 2 and one "a a" of 2.
    assert scores.bleu_counts.matches.tolist() == [[3, 1, 0, 0], [2, 1, 0, 0]]
    assert scores.bleu_counts.totals.tolist() == [[3, 2, 1, 0], [3, 2, 1, 0]]
    assert scores.bleu_counts.lengths.tolist() == [3, 3]
    assert scores.bleu_counts.reference_lengths.tolist() == [4, 2]
    assert scores.corpus["bleu1"] == pytest.approx(5 / 6)  # 6 words for 6: no brevity penalty
    assert scores.corpus["bleu2"] == pytest.approx((5 / 6 * 2 / 4) ** 0.5)


def test_bleu_is_penalised_for_brevity():
    scores = score_nlg(["a b c d"], ["a b"], meteor="skip")
    assert scores.corpus["bleu1"] == pytest.approx(np.exp(1 - 4 / 2))


def test_rouge_l_matches_hand_count():
    scores = score_nlg(["a b c d e", "x y"], ["a c e f", "z"], meteor="skip")
    precision, recall = 3 / 4, 3 / 5  # longest common subsequence: a c e
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert scores.per_report["rouge_l"] == pytest.approx([expected, 0])
    assert scores.corpus["rouge_l"] == pytest.approx(expected / 2)


def test_identical_texts_score_one_and_cider_ten():
    reports = ["the heart is normal in size .", "there is no pleural effusion today ."]
    scores = score_nlg(reports, reports, meteor="skip")
    for metric in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"):
        assert scores.corpus[metric] == pytest.approx(1, abs=1e-8), metric
    assert scores.corpus["cider"] == pytest.approx(10)


def test_order_of_the_studies_does_not_matter():
    references, hypotheses = random_reports(30, 1), random_reports(30, 2)
    order = random.Random(3).sample(range(30), 30)
    scores = score_nlg(references, hypotheses, meteor="skip")
    shuffled = score_nlg(
        [references[i] for i in order], [hypotheses[i] for i in order], meteor="skip"
    )
    for metric in ("bleu1", "bleu4", "rouge_l", "cider"):
        assert shuffled.corpus[metric] == pytest.approx(scores.corpus[metric], abs=1e-12)
    assert shuffled.per_report["cider"] == pytest.approx(scores.per_report["cider"][order])


@pytest.mark.parametrize("seed", range(5))
def test_bleu_from_counts_equals_the_scorers(seed):
    references, hypotheses = random_reports(40, seed), random_reports(40, seed + 100)
    hypotheses[0] = ""
    scores = score_nlg(references, hypotheses, meteor="skip")
    counts = scores.bleu_counts
    bleu = corpus_bleu(
        counts.matches.sum(axis=0),
        counts.totals.sum(axis=0),
        counts.lengths.sum(),
        counts.reference_lengths.sum(),
    )
    assert bleu.tolist() == pytest.approx([scores.corpus[f"bleu{k}"] for k in (1, 2, 3, 4)])


def test_white_space_does_not_count():
    spaced = score_nlg([" clear\nlungs  ."], ["lungs\t. "], meteor="skip")
    plain = score_nlg(["clear lungs ."], ["lungs ."], meteor="skip")
    assert spaced.corpus == plain.corpus


def test_scoring_prints_nothing(capfd):
    score_nlg(["a b", "c"], ["a", "c"], meteor="skip")
    assert capfd.readouterr() == ("", "")


def test_names_come_in_one_order_and_skipped_meteor_is_none_without_a_note():
    scores = score_nlg(["a", "b"], ["a", "c"], meteor="skip")
    assert tuple(scores.corpus) == METRICS
    assert scores.corpus["meteor"] is None
    assert "meteor" not in scores.per_report
    assert scores.notes == ()


def test_single_study_states_that_its_cider_means_nothing():
    scores = score_nlg(["a b"], ["a b"], meteor="skip")
    assert scores.corpus["cider"] == 0
    assert "CIDEr of a single study is always 0" in scores.notes[0]


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["a"], ["a", "b"], "model: 1 references but 2 generated reports"),
        ([], [], "model: no report to score"),
        ([" ", ""], ["a", "b"], "model: every reference is empty"),
    ],
)
def test_unusable_input_is_a_clear_error(references, hypotheses, message):
    with pytest.raises(DataError, match=message):
        score_systems({"model": (references, hypotheses)})


# METEOR: the statistics are those METEOR 1.5 writes; the Java program itself runs in slow tests.


def test_meteor_from_counts_matches_hand_count():
    # "the heart is normal ." against "the hearts size is normal .": the (function, exact),
    # hearts (content, stem), is (function), normal . (content, exact), in two chunks.
    line = "6 5 3 3 1 1 3 3 1 1 0 0 0 0 0 0 0 0 0 0 2 5 5"
    counts = np.array(line.split(), dtype=float)
    matches = 0.75 * (1 + 0.6 * 1) + 0.25 * 3
    precision = matches / (0.75 * 3 + 0.25 * 3)
    recall = matches / (0.75 * 2 + 0.25 * 3)
    f_mean = 1 / (0.15 / precision + 0.85 / recall)
    expected = f_mean * (1 - 0.6 * (2 / 5) ** 0.2)
    assert corpus_meteor(counts) == pytest.approx(expected)
    assert corpus_meteor(np.stack([counts, 3 * counts, 0 * counts])) == pytest.approx(
        [expected, expected, 0]
    )


def fake_java(folder, monkeypatch, script):
    """Put a program called java on an otherwise empty PATH."""
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    return program


def test_without_java_meteor_is_left_out_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    scores = score_nlg(["a b", "c"], ["a b", "c"])
    assert scores.corpus["meteor"] is None
    assert scores.corpus["bleu1"] == pytest.approx(1)
    (note,) = scores.notes
    assert note.startswith("METEOR skipped: no `java` on the PATH")
    assert "apt install default-jre-headless" in note
    assert "\n" not in note


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Unable to locate a Java Runtime' >&2; exit 1", "Unable to locate a Java Runtime"),
        ("echo 1.0; exit 0", r"after 0 of 2 reports"),
        ("kill -9 $$", "code -9"),
        # One answer for two reports must not be taken for the first or the second.
        (f"read line; echo {' 1' * 23}", "after 1 of 2 reports"),
    ],
)
def test_broken_java_leaves_meteor_out_and_states_so(tmp_path, monkeypatch, script, said):
    fake_java(tmp_path, monkeypatch, script)
    scores = score_nlg(["a b", "c"], ["a b", "d"])
    assert scores.corpus["meteor"] is None
    assert scores.corpus["rouge_l"] == pytest.approx(0.5)
    (note,) = scores.notes
    assert note.startswith("METEOR skipped: java ended with code")
    assert said in note
    assert "\n" not in note


def test_java_that_ends_before_it_has_read_everything_is_noted(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, "exit 3")
    references = [f"{i} {'word ' * 50}" for i in range(2000)]  # more than a pipe holds
    (note,) = score_nlg(references, references).notes
    assert note.startswith("METEOR skipped: java ended with code 3 after 0 of 2000 reports")


FRAMES = "\\tat Meteor.main(Unknown Source)\\n\\t... 3 more\\n"


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            f'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space\\n{FRAMES}',
            'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space.',
        ),
        (
            "Error occurred during initialization of VM\\nToo small maximum heap\\n",
            "Error occurred during initialization of VM / Too small maximum heap.",
        ),
        (
            "Unrecognized option: -Xmy8m\\nError: Could not create the Java Virtual Machine.\\n"
            "Error: A fatal exception has occurred. Program will exit.\\n",
            "Unrecognized option: -Xmy8m / Error: Could not create the Java Virtual Machine. / ",
        ),
        (
            'Exception in thread "main" java.lang.UnsupportedClassVersionError: Meteor has been\\n'
            f"{FRAMES}Caused by: java.lang.ClassNotFoundException: x\\n{FRAMES}",
            "UnsupportedClassVersionError: Meteor has been / Caused by: java.lang.ClassNotFound",
        ),
        ("Killed\\n", ": Killed."),
        ("", ": it wrote nothing."),
    ],
)
def test_the_error_of_java_is_named(stderr, told, tmp_path, monkeypatch):
    monkeypatch.setenv("_JAVA_OPTIONS", "-Xmx8m")
    picked = "Picked up _JAVA_OPTIONS: -Xmx8m\\n" if stderr else ""
    fake_java(tmp_path, monkeypatch, f"printf '{picked}{stderr}' >&2\nexit 1")
    (note,) = score_nlg(["a b", "c"], ["a b", "c"]).notes
    assert told in note
    assert "under _JAVA_OPTIONS=-Xmx8m" in note
    assert "Picked up" not in note
    assert "Unknown Source" not in note


def test_ctrl_c_while_java_works_ends_both(tmp_path, monkeypatch):
    """The signal goes to Python alone; from a terminal Java would get it as well."""
    alive = tmp_path / "alive"  # has a writer as long as Java runs
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    path = os.environ["PATH"]
    fake_java(tmp_path, monkeypatch, f'exec 3> "{alive}"\necho >&3\nexec sleep 600')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{path}")
    code = "from radrep.metrics.nlg import score_nlg; score_nlg(['a b', 'c'], ['a b', 'd'])"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as program:
        assert read_within(60, reader) == b"\n"
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in said
    assert read_within(30, reader) == b""
    os.close(reader)


def read_within(seconds, reader):
    """One byte, or none where the last writer is gone."""
    ready, _, _ = select.select([reader], [], [], seconds)
    assert ready, f"nothing within {seconds} s"
    return os.read(reader, 1)


def test_java_that_cannot_be_started_is_noted(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, "").chmod(0o644)
    (note,) = score_nlg(["a b", "c"], ["a b", "c"]).notes
    assert note.startswith("METEOR skipped: `java` cannot be started")


def test_java_sees_each_distinct_pair_once_and_answers_go_to_their_reports(tmp_path, monkeypatch):
    # Answers with the line's number as the count of test words, and keeps what it was given.
    zeros = " 0" * 22
    script = (
        f'n=0\nwhile read -r line; do\nn=$((n+1)); echo "$line" >> "{tmp_path}/seen"\n'
        f'echo "OpenJDK warning"\necho "$n{zeros}"\ndone'
    )
    fake_java(tmp_path, monkeypatch, script)
    systems = {
        "model": (["a\nb", "c", "a b"], ["x ||| y\nz", "", "x  y z"]),
        "constant": (["c", "d |||"], ["", "e"]),
    }
    scores = score_systems(systems)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert [line.strip() for line in seen] == [
        "SCORE ||| a b ||| x y z",
        "SCORE ||| c |||",
        "SCORE ||| d ||| e",
    ]
    assert scores["model"].meteor_counts[:, 0].tolist() == [1, 2, 1]
    assert scores["constant"].meteor_counts[:, 0].tolist() == [2, 3]


@pytest.fixture(scope="module")
def java_scores(vectors_dir):
    """One start of Java for every test that needs its answers."""
    if shutil.which("java") is None:
        pytest.skip("METEOR needs a Java runtime on the PATH")
    pairs = json.loads((vectors_dir / "nlg_pairs.json").read_text())
    hostile = [
        ("no effusion", "no effusion"),
        ("no effusion", ""),
        ("", "no effusion"),
        ("no effusion", "no ||| effusion\nSCORE ||| x"),
        ("no effusion", "\u00e9\u4e2d \ud800 |"),
        ("no effusion .", "no effusion ."),
    ]
    references, hypotheses = zip(*hostile, strict=True)
    return score_systems(
        {
            "pairs": (pairs["references"], pairs["hypotheses"]),
            "hostile": (references, hypotheses),
            "spaced": (["no effusion"], ["no  effusion  SCORE x"]),
            "identical": (["the lungs are clear .", "no edema ."],) * 2,
        }
    )


@pytest.mark.slow
def test_vectors_of_meteor(java_scores, nlg_pairs):
    scores = java_scores["pairs"]
    assert scores.notes == ()
    expected = nlg_pairs["expected"]["meteor"]
    assert scores.corpus["meteor"] == pytest.approx(expected, abs=1e-6)
    expected = nlg_pairs["expected_per_report"]["meteor"]
    assert scores.per_report["meteor"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_hostile_texts_neither_hang_nor_shift_meteor(java_scores):
    values = java_scores["hostile"].per_report["meteor"]
    assert values[[0, 5]] == pytest.approx(1)
    assert values[[1, 2, 4]] == pytest.approx(0)
    assert values[3] == pytest.approx(java_scores["spaced"].per_report["meteor"][0])
    assert 0 < values[3] < 1


@pytest.mark.slow
def test_identical_texts_have_meteor_one(java_scores):
    assert java_scores["identical"].corpus["meteor"] == pytest.approx(1)
