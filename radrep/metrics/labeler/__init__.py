"""Rule-based labeler of the fourteen CheXpert observations. It is not CheXbert."""

from radrep.metrics.labeler.labeler import STATES, Findings, Mention, label_report, label_reports
from radrep.metrics.labeler.vocabulary import OBSERVATIONS

__all__ = ["OBSERVATIONS", "STATES", "Findings", "Mention", "label_report", "label_reports"]
