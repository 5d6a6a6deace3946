"""The table of metrics names what is computed, and recipes read it without numpy."""

import subprocess
import sys

from radrep.metrics.baselines import best_constants
from radrep.metrics.classification import LabelScore
from radrep.metrics.labeler import label_reports
from radrep.metrics.labeler.scores import score_findings
from radrep.metrics.names import CONSTANTS, FINDINGS, LABELS, TEXT, metric_names
from radrep.metrics.nlg import score_nlg

REPORTS = ["small left pleural effusion .", "the lungs are clear ."]


def test_every_named_metric_is_computed():
    assert metric_names(TEXT) == tuple(score_nlg(REPORTS, REPORTS, meteor="skip").corpus)
    labelled = label_reports(REPORTS)
    assert set(metric_names(FINDINGS)) <= score_findings(labelled, labelled).corpus.keys()
    assert set(metric_names(LABELS)) <= LabelScore.__dataclass_fields__.keys()
    found = [f"constant, best {metric}" for metric in best_constants(REPORTS, REPORTS)]
    assert [control.name for control in CONSTANTS] == found


def test_the_table_imports_nothing_heavy():
    code = "import sys, radrep.metrics.names as n; assert not {'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
