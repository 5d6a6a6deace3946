import pytest

from radrep.metrics.labeler import label_report
from radrep.metrics.labeler.sizes import find_size


@pytest.mark.parametrize(
    ("sentence", "sizes"),
    [
        ("There is a small left pleural effusion.", ["small"]),
        ("Moderate to large right pneumothorax.", ["moderate to large"]),
        ("Small-to-moderate bilateral effusions .", ["small-to-moderate"]),
        ("The heart is mildly enlarged.", ["mildly"]),
        ("There is a pleural effusion, small.", ["small"]),
        ("Effusion is small.", ["small"]),
        ("An 8 mm nodule in the right lung.", ["8 mm"]),
        ("Nodule measuring 2.3 x 1.1 cm in the left apex.", ["2.3 x 1.1 cm"]),
        ("pneumothorax of about 3 cm", ["3 cm"]),
        ("Small amount of pleural fluid.", ["small"]),
        ("There is a large area of consolidation in the left lung.", ["large"]),
        ("Trace effusions with moderate edema.", ["trace", "moderate"]),
        ("Moderate cardiomegaly with small bilateral effusions.", ["moderate", "small"]),
        ("small right effusion and atelectasis .", ["small", None]),
        ("Right lower lobe consolidation, and large effusion.", [None, "large"]),
        ("1.5 cm nodule , 3 mm nodule", ["1.5 cm", "3 mm"]),
        ("Large left and small right pleural effusions.", [None]),
        ("Left pleural effusion.", [None]),
        (
            "The small left pleural effusion has increased and is now moderate.",
            ["moderate"],
        ),
        ("Decrease in the moderate right pleural effusion, now small.", ["small"]),
        (
            "Small effusion , which has slowly grown , now moderate to large .",
            ["moderate to large"],
        ),
        ("Small left effusion is stable and the pneumothorax is now large.", ["small", "large"]),
        ("Small effusion; now moderate edema.", ["small", "moderate"]),
        ("Small right effusion has increased with now moderate edema.", ["small", "moderate"]),
        ("The small effusion is moderate.", [None]),
        ("The small effusion is markedly increased.", ["small"]),
        ("Small right effusion, moderate left effusion.", ["small", "moderate"]),
        ("The small heart does not hide the pneumothorax.", [None]),
    ],
)
def test_the_size_of_each_finding(sentence: str, sizes: list[str | None]) -> None:
    mentions = label_report(sentence).mentions
    assert [find_size(sentence, m.start, m.end) for m in mentions] == sizes
