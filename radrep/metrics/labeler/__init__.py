"""Clinical findings: which of the fourteen CheXpert observations a report states, by rules."""

from radrep.metrics.labeler.labeler import STATES, Findings, Mention, label_report, label_reports
from radrep.metrics.labeler.vocabulary import OBSERVATIONS

__all__ = [
    "OBSERVATIONS",
    "STATES",
    "Findings",
    "Mention",
    "label_report",
    "label_reports",
]
