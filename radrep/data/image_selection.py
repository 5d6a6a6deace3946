"""Which of a study's images a model is given, and which of them is masked."""

from dataclasses import dataclass

from radrep.data.study import Study


@dataclass(frozen=True)
class View:
    """One image that a model is given: which of the study's, bare or under its SDAM mask."""

    number: int
    masked: bool = False


def masked_view(study: Study) -> int:
    """Which of a study's images SDAM masks: the first frontal one, or else the first of all."""
    projections = [image.projection for image in study.images]
    return projections.index("frontal") if "frontal" in projections else 0


@dataclass(frozen=True)
class ImageSelection:
    """Which images of a study a model is given, and in which order.

    "views" are its views in order, "frontal+mask" the frontal one bare and masked, "views+mask" its
    views in order and the frontal one masked.
    """

    images: str = "views"
    max_views: int = 2  # at most so many bare ones; a study with fewer has fewer, never a copy

    @property
    def has_mask(self) -> bool:
        """Whether a masked image is among them."""
        return self.images != "views"

    @property
    def max_files(self) -> int:
        """How many images of a study are used at most, the masked one not counted."""
        return 1 if self.images == "frontal+mask" else self.max_views

    @property
    def max_images(self) -> int:
        """How many images a model is given at most, the masked one too."""
        return self.max_files + self.has_mask

    def bare(self, study: Study) -> tuple[View, ...]:
        """The images of a study but the masked one."""
        return tuple(view for view in self.of(study) if not view.masked)

    def of(self, study: Study) -> tuple[View, ...]:
        """The images of a study."""
        masked = masked_view(study)
        if self.images == "frontal+mask":
            return View(masked), View(masked, masked=True)
        views = tuple(map(View, range(min(len(study.images), self.max_views))))
        return (*views, View(masked, masked=True)) if self.has_mask else views
