"""Recipe section `data`: which studies are read, and how images and reports enter a model."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from radrep.recipe.section import (
    Count,
    Folder,
    Fraction,
    Number,
    Repeats,
    Rule,
    Section,
    Whole,
)


class Tokenizer(Section):
    """How report text becomes words and ids."""

    name: Literal["r2gen"] = "r2gen"
    cleaner: Literal["r2gen_iu", "r2gen_mimic", "r2gengpt_mimic", "plain"] = "plain"
    min_count: Count = 3  # words rarer in train become <unk>


class Saliency(Section):
    """SDAM: which masked images data.images takes, made by radrep prepare saliency."""

    discriminator: Folder  # a run or a checkpoint
    aggregate: Literal["max", "mean"] = "max"  # of the maps of all positive labels
    mask: Literal["hard", "soft"] = "hard"  # hard: 0 or 1; soft: the map itself
    threshold: Annotated[Number, Field(gt=0, le=1)] = 0.5  # mask hard only


class Fold(Section):
    """One fold of a cross-validation by patient; radrep train --folds writes it."""

    number: Whole  # whose patients are held out, from 0
    of: Annotated[int, Field(ge=2)]

    def rules(self) -> Iterable[Rule]:
        """Folds count from 0."""
        text = f"must be below data.fold.of ({self.of}), got {self.number}"
        yield self.number >= self.of, "data.fold.number", text


class Data(Section):
    """Which prepared studies are read, and how images and reports enter the model."""

    prepared: Folder  # made by radrep prepare
    # Prepared folders: pretraining refuses studies, patients or images of their test splits. The
    # test split of `prepared` itself it never reads.
    exclude_test_of: Annotated[tuple[Folder, ...], Field(strict=False)] = ()
    fold: Fold | None = None  # stays inside the training split: parts train, val, heldout
    # both: as one text; findings_impression: two sections, of which each is scored too
    target: Literal["findings", "impression", "both", "findings_impression"] = "findings"
    # frontal+mask: the frontal image, bare and masked; views+mask: the views and it masked
    images: Literal["views", "frontal+mask", "views+mask"] = "views"
    saliency: Saliency | None = None  # images frontal+mask and views+mask only
    max_views: Repeats = 2  # bare ones
    image_size: Annotated[int, Field(ge=32, le=4096)] = 224
    random_crop: bool = False  # in training only
    random_resized_crop: bool = False  # in place of it: 20 to 100 % of the image
    random_flip: bool = False  # of such crops; swaps left and right, while the report does not
    equalize_and_sharpen: bool = False  # in training and evaluation, but no masked image
    tokenizer: Tokenizer = Tokenizer()
    # Of a training target, the opening 0 included; of each section where it has two.
    max_tokens: Annotated[int, Field(ge=3, le=65_536)] = 60
    # What is read beside the study's images, of prepared data and of generate alike; absent context
    # is the common case, and a model writes without it too.
    context: Annotated[
        tuple[Literal["indication", "comparison", "prior_report", "prior_image"], ...],
        Field(strict=False),
    ] = ()
    context_words: Annotated[int, Field(ge=1, le=1000)] = 60  # of each text, the first ones
    drop_context: Fraction = 0.3  # share of training studies shown without a kind, for each kind
    num_workers: Annotated[int, Field(ge=0, le=1_000)] = 2

    def rules(self) -> Iterable[Rule]:
        """Masked images need a discriminator."""
        text = f"must name a discriminator for data.images {self.images}, for example "
        text += "data.saliency.discriminator=runs/sdam_discriminator"
        yield self.images != "views" and self.saliency is None, "data.saliency", text
        text = f"names one twice: {', '.join(self.context)}"
        yield len({*self.context}) < len(self.context), "data.context", text
