"""What a model is given of the context of studies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from radrep.data.context.study_context import TITLES, StudyContext, reads_prior, study_context
from radrep.data.store import PreparedStudies
from radrep.data.tokenizer import ContextCodec


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
        prior = studies.priors.get(chosen) if reads_prior(self.kinds) else None
        found = study_context(studies, chosen, self.kinds, prior)
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
