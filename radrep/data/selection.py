"""Which of a study's images a model is given."""

from dataclasses import dataclass

from radrep.data.study import Study

PAIRS = ("views", "saliency", "views_saliency")


@dataclass(frozen=True)
class View:
    """One image that a model is given.

    Attributes:
        number: Which of the study's images.
        saliency: It is masked by a saliency map.
    """

    number: int
    saliency: bool = False


def masked_view(study: Study) -> int:
    """Which of a study's images SDAM masks: the first frontal one, or else the first of all."""
    projections = [image.projection for image in study.images]
    return projections.index("frontal") if "frontal" in projections else 0


def views_of(study: Study, *, pair: str, max_views: int) -> tuple[View, ...]:
    """The images of a study that a model is given.

    Args:
        study: The study.
        pair: "views" for its views in order, "saliency" for the frontal one bare and masked,
            "views_saliency" for its views in order and the frontal one masked.
        max_views: At most this many bare views; a study with fewer has fewer, never a copied one.
    """
    masked = masked_view(study)
    if pair == "saliency":
        return View(masked), View(masked, saliency=True)
    views = tuple(map(View, range(min(len(study.images), max_views))))
    return views if pair == "views" else (*views, View(masked, saliency=True))
