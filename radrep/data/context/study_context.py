"""Indication, comparison and prior study: the context in which a study is read.

Absent context is the common case. In training each kind is dropped at random, so that a model
writes reports without it too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from radrep.data.store import PreparedStudies
from radrep.data.text import target_text
from radrep.data.tokenizer import ContextCodec
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

    def without(self, dropped: Sequence[str]) -> "StudyContext":
        """What is left of it without some kinds."""
        kept = {name: text for name, text in self.texts.items() if name not in dropped}
        return StudyContext(kept, None if PRIOR_IMAGE in dropped else self.prior)


@dataclass(frozen=True)
class ContextReader:
    """Reads the context of studies, `most_words` of each text.

    `source` gives the study whose context another one is given, by index, or None for no context;
    by default its own. `dropped` is the share of studies that training shows without a kind.
    """

    kinds: tuple[str, ...]
    codec: object  # a ContextCodec, as those of models that write reports are
    most_words: int
    dropped: float = 0.0
    source: Callable[[int], int | None] | None = None

    def read(self, studies: PreparedStudies, index: int, seed: int) -> StudyContext:
        """The context of a study, of which the seed draws what is dropped."""
        chosen = index if self.source is None else self.source(index)
        if chosen is None:
            return StudyContext()
        found = study_context(studies, chosen, self.kinds)
        if not self.dropped:
            return found
        draws = torch.rand(len(self.kinds), generator=torch.Generator().manual_seed(seed))
        pairs = zip(self.kinds, (draws < self.dropped).tolist(), strict=True)
        return found.without([kind for kind, is_dropped in pairs if is_dropped])

    def encode(self, texts: Mapping[str, str]) -> tuple[Tensor, Tensor]:
        """Ids and the kind of each, from 1 in the order of `TITLES`, int64 (t,) and (t,)."""
        assert isinstance(self.codec, ContextCodec), "context is for models that write reports"
        ids: list[int] = []
        kinds: list[int] = []
        for kind, (name, title) in enumerate(TITLES.items(), start=1):
            if any(map(str.isalnum, texts.get(name, ""))):
                found = self.codec.encode_context(title, texts[name], self.most_words)
                ids += found
                kinds += [kind] * len(found)
        return torch.tensor(ids, dtype=torch.long), torch.tensor(kinds, dtype=torch.long)


def study_context(studies: PreparedStudies, index: int, kinds: Sequence[str]) -> StudyContext:
    """The context of a prepared study, of some kinds."""
    sections = studies[index].sections
    texts = {name: sections.get(name, "") for name in TITLES if name in kinds}
    prior = studies.priors.get(index) if {PRIOR_REPORT, PRIOR_IMAGE} & {*kinds} else None
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
