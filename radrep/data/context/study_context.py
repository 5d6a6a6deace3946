"""Indication, comparison and prior study: the context in which a study is read.

Absent context is the common case. In training each kind is dropped at random, so that a model
writes reports without it too. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from radrep.data.store import PreparedStudies
from radrep.data.text import target_text
from radrep.errors import DataError

PRIOR_REPORT, PRIOR_IMAGE = "prior_report", "prior_image"
# Texts by their key in recipes, each with its title in a prompt.
TITLES = {
    "indication": "indication:",
    "comparison": "comparison:",
    PRIOR_REPORT: "prior report:",
}
CONTEXT = (*TITLES, PRIOR_IMAGE)


@dataclass(frozen=True)
class StudyContext:
    """Of one study."""

    texts: Mapping[str, str] = field(default_factory=dict)  # raw ones by `TITLES`, none empty
    prior: int | None = None  # the study whose images are shown too, by its index

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there is of it."""
        return (*self.texts, *[PRIOR_IMAGE] * (self.prior is not None))

    def without(self, dropped: Sequence[str]) -> "StudyContext":
        """What is left of it without some kinds."""
        kept = {name: text for name, text in self.texts.items() if name not in dropped}
        return StudyContext(kept, None if PRIOR_IMAGE in dropped else self.prior)


def reads_prior(kinds: Sequence[str]) -> bool:
    """Whether any of these kinds is of the study before."""
    return bool({PRIOR_REPORT, PRIOR_IMAGE} & {*kinds})


def study_context(
    studies: PreparedStudies, index: int, kinds: Sequence[str], prior: int | None
) -> StudyContext:
    """The context of a prepared study, of some kinds; `prior` is the index of the study before."""
    sections = studies[index].sections
    texts = {name: sections.get(name, "") for name in TITLES if name in kinds}
    if PRIOR_REPORT in kinds:
        texts[PRIOR_REPORT] = "" if prior is None else target_text(studies[prior].sections, "both")
    kept = {name: text for name, text in texts.items() if text.strip()}
    return StudyContext(kept, prior if PRIOR_IMAGE in kinds else None)


def check_context(studies: PreparedStudies, kinds: Sequence[str]) -> None:
    """Raise DataError unless some training study has each kind of context."""
    of_prior = {PRIOR_REPORT, PRIOR_IMAGE} & {*kinds}
    missing = {*kinds} - of_prior
    for study in studies if missing else ():
        missing -= study.sections.keys()
        if not missing:
            break
    if of_prior and not studies.priors:
        missing |= of_prior
    if lacking := [kind for kind in kinds if kind in missing]:
        raise DataError(
            f"{studies.prepared}: none of its {len(studies)} training studies has "
            f"{' or '.join(lacking)}, which data.context asks for. If it was prepared by an older "
            "radrep, prepare it again; else take it out of data.context"
        )
