"""What a report model is given: the views of several studies and, in training, their words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_TENSORS = (
    *("images", "early_maps", "features", "summaries", "tokens", "lengths", "labels"),
    *("label_buckets", "token_weights", "context", "context_kinds"),
)


@dataclass(frozen=True)
class Batch:
    """Studies side by side. The views of all studies stand in one row, study after study.

    Letters: b studies, v views of all of them, n patches, c backbone width, l report tokens, t
    tokens of context.
    """

    ids: tuple[str, ...]
    # Of each study, (b,), at least 1 but in a `prior`; on the CPU, since shapes hang on it.
    num_views: Tensor
    images: Tensor | None = None  # normalised pixels, (v, 3, h, w); None when these are given:
    early_maps: Tensor | None = None  # cached, of a backbone's frozen stages, (v, k, h', w')
    features: Tensor | None = None  # cached backbone patches, (v, n, c)
    summaries: Tensor | None = None  # statistics of each image for linear models, (v, k)
    tokens: Tensor | None = None  # 0, words, 0, padding 0: (b, l); None: nothing to learn from
    lengths: Tensor | None = None  # tokens of each study without padding, (b,)
    labels: Tensor | None = None  # 1 present, 0 absent, NaN not known, (b, 14), then words
    label_buckets: Tensor | None = None  # for label tokens, (b, 13); None: the model predicts them
    token_weights: Tensor | None = None  # of each token in the loss, (b, l); None: 1
    seeds: tuple[int, ...] = ()  # of what is drawn for each study in this epoch
    context: Tensor | None = None  # ids of texts to be read with the images, (b, t), padded with 0
    context_kinds: Tensor | None = None  # which text each is of, from 1; padding 0: (b, t)
    prior: "Batch | None" = None  # views of the study before each, of some 0; None: of none

    @classmethod
    def of_study(cls, id: str, images: Sequence[Tensor]) -> "Batch":
        """One study by itself, of its normalised images, (3, h, w) each."""
        return cls(ids=(id,), num_views=torch.tensor([len(images)]), images=torch.stack([*images]))

    def study(self, number: int) -> "Batch":
        """One of its studies by itself."""
        first = int(self.num_views[:number].sum())
        views = slice(first, first + int(self.num_views[number]))
        of_views, own = ("images", "early_maps", "features", "summaries"), slice(number, number + 1)

        def part(name: str) -> Tensor | None:
            value: Tensor | None = getattr(self, name)
            return None if value is None else value[views if name in of_views else own]

        cut = {name: part(name) for name in ("num_views", *_TENSORS)}
        prior = None if self.prior is None else self.prior.study(number)
        if prior is not None and not prior.num_views.any():
            prior = None
        return replace(self, ids=self.ids[own], seeds=self.seeds[own], prior=prior, **cut)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where its images or features lie."""
        given = (self.images, self.early_maps, self.features)
        return next(views.device for views in given if views is not None)

    def with_images_of_others(self) -> "Batch":
        """Each study with the images of the one before it, the first with those of the last.

        Its context stays.
        """
        views = self.num_views.tolist()
        rolled: dict[str, Tensor] = {"num_views": self.num_views.roll(1)}
        for name in ("images", "early_maps", "features", "summaries"):
            if (rows := getattr(self, name)) is not None:
                *first, last = rows.split(views)
                rolled[name] = torch.cat([last, *first])
        if self.label_buckets is not None:
            rolled["label_buckets"] = self.label_buckets.roll(1, dims=0)
        return replace(self, **rolled)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device; from pinned memory the copy runs alongside."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; a DataLoader with pin_memory=True calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        given = {name: getattr(self, name) for name in _TENSORS}
        moved: dict[str, Any] = {name: move(t) for name, t in given.items() if t is not None}
        if self.prior is not None:
            moved["prior"] = self.prior._map(move)
        return replace(self, **moved)
