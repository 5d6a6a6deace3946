"""A study's labels: the fourteen observations, from a table or read from the reports by rules."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from radrep.build import label_source
from radrep.data.store import PreparedStudies
from radrep.data.study import Study
from radrep.data.text import get_cleaner, target_text
from radrep.errors import DataError
from radrep.metrics.labeler import OBSERVATIONS, label_report
from radrep.metrics.labeler import vocabulary as o
from radrep.recipe.recipe import Recipe

_UNCERTAIN = {"ignore": np.nan, "zero": 0.0, "one": 1.0}
_RAREST, _COMMONEST = 0.015, 0.85  # shares of the training reports
_VALUES = {"positive": 1, "negative": 0, "uncertain": -1, "absent": 0}


@dataclass(frozen=True)
class _Vocabulary:
    """The observations of a table's names, in lower case and with spaces for underscores."""

    present: Mapping[str, tuple[str, ...]]  # none: a known name that means none of the fourteen
    doubtful: Mapping[str, tuple[str, ...]]  # those that a name leaves uncertain
    open: bool = False  # any other name is a finding too, which is none of the fourteen

    def knows(self, name: str) -> bool:
        return name in self.present or name in self.doubtful

    def means(self, name: str, value: int) -> list[tuple[str, int]]:
        """Observations with 1, 0 or -1."""
        sure = [(observation, value) for observation in self.present.get(name, ())]
        doubt = -1 if value == 1 else value
        return sure + [(observation, doubt) for observation in self.doubtful.get(name, ())]


def _by_name(named: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Observations by name, of the names by observation."""
    table: dict[str, tuple[str, ...]] = {}
    for observation, names in named.items():
        for name in names.split(" | "):
            table[name] = (*table.get(name, ()), observation)
    return table


# ChestX-ray14 (Wang et al., CVPR 2017): an infiltration and fibrosis are opacities and a mass is a
# lesion, as for the CheXpert labeler. Emphysema and hernias are findings, but none of the fourteen.
_NIH = {"emphysema": (), "hernia": ()} | _by_name(
    {
        o.NO_FINDING: "no finding",
        o.ATELECTASIS: "atelectasis",
        o.CARDIOMEGALY: "cardiomegaly",
        o.CONSOLIDATION: "consolidation",
        o.EDEMA: "edema",
        o.EFFUSION: "effusion",
        o.LESION: "mass | nodule",
        o.OPACITY: "fibrosis | infiltration",
        o.PLEURAL_OTHER: "pleural thickening",
        o.PNEUMONIA: "pneumonia",
        o.PNEUMOTHORAX: "pneumothorax",
    }
)
# Open-i's leading terms, without the qualifiers: a cardiac shadow is one that is enlarged and a
# mediastinum one that is prominent in most of its reports, and the pleura is what thickens.
_MESH = _by_name(
    {
        o.NO_FINDING: "normal",
        o.CARDIOMEGALY: "cardiomegaly | cardiac shadow",
        o.ENLARGED: "mediastinum",
        o.OPACITY: "opacity | airspace disease | infiltrate | cicatrix | fibrosis | "
        "pulmonary fibrosis | lung diseases, interstitial",
        o.LESION: "nodule | mass",
        o.EDEMA: "pulmonary edema | heart failure",
        o.CONSOLIDATION: "consolidation",
        o.PNEUMONIA: "pneumonia",
        o.ATELECTASIS: "pulmonary atelectasis",
        o.PNEUMOTHORAX: "pneumothorax | hydropneumothorax | hemopneumothorax",
        o.EFFUSION: "pleural effusion | hemothorax | hydropneumothorax | hemopneumothorax",
        o.PLEURAL_OTHER: "thickening",
        o.FRACTURE: "fractures, bone",
        o.DEVICES: "catheters, indwelling | implanted medical device | medical device | stents | "
        "tube, inserted",
    }
)
# Terms whose reports state the observation in about every third to second case: congestion short of
# edema, blunted costophrenic angles, prominent markings, densities that are opacities or nodules.
_MESH_DOUBTFUL = {
    "pulmonary congestion": (o.EDEMA,),
    "costophrenic angle": (o.EFFUSION,),
    "markings": (o.OPACITY,),
    "density": (o.OPACITY, o.LESION),
}
# Rad-ReStruct's topics, which have a place: those in which the training reports with the same MeSH
# terms and places mostly state the observation, and below those in which about half do or few
# reports are there to count.
_RAD_RESTRUCT = _by_name(
    {
        o.NO_FINDING: "normal",
        o.CARDIOMEGALY: "cardiovascular system/cardiomegaly",
        o.ENLARGED: "mediastinum/infos",
        o.OPACITY: "lung/opacity | lung/airspace disease | lung/infiltrate | lung/cicatrix | "
        "lung/pulmonary fibrosis | lung/lung diseases, interstitial | pleura/cicatrix | "
        "cardiovascular system/opacity | thorax/opacity",
        o.LESION: "lung/nodule | lung/mass | thorax/nodule | thorax/mass",
        o.EDEMA: "lung/pulmonary edema | cardiovascular system/heart failure",
        o.CONSOLIDATION: "lung/consolidation",
        o.PNEUMONIA: "lung/pneumonia",
        o.ATELECTASIS: "lung/pulmonary atelectasis",
        o.PNEUMOTHORAX: "pleura/pneumothorax | pleura/hydropneumothorax | pleura/hemopneumothorax",
        o.EFFUSION: "pleura/pleural effusion | pleura/hemothorax | pleura/hydropneumothorax | "
        "pleura/hemopneumothorax",
        o.PLEURAL_OTHER: "pleura/thickening | pleura/cicatrix | pleura/calcinosis",
        o.FRACTURE: "skeletal system/fractures, bone",
        o.DEVICES: "foreign objects/catheters, indwelling | foreign objects/medical device | "
        "foreign objects/implanted medical device | foreign objects/stents | "
        "foreign objects/tube, inserted",
    }
)
_RAD_RESTRUCT_DOUBTFUL = _by_name(
    {
        o.CARDIOMEGALY: "cardiovascular system/heart",
        o.EDEMA: "lung/pulmonary congestion",
        o.EFFUSION: "lung/costophrenic angle | pleura/sulcus | pleura/pleura",
        o.PLEURAL_OTHER: "pleura/pleura | pleura/density | pleura/opacity",
        o.OPACITY: "lung/markings | lung/density | lung/thickening | thorax/density | "
        "cardiovascular system/density | pleura/density | pleura/opacity | mediastinum/opacity",
        o.LESION: "lung/density | thorax/density | cardiovascular system/density | "
        "pleura/density | pleura/nodule",
    }
)
_VOCABULARIES = {
    "chexpert": _Vocabulary({name.casefold(): (name,) for name in OBSERVATIONS}, {}),
    "nih": _Vocabulary(_NIH, {}),
    "mesh": _Vocabulary(_MESH, _MESH_DOUBTFUL, open=True),
    "rad-restruct": _Vocabulary(_RAD_RESTRUCT, _RAD_RESTRUCT_DOUBTFUL),
}


class LabelReader:
    """Gives a study's labels, by one vocabulary for the whole of a data set.

    Table: the names in all the training studies decide the vocabulary; it is the one that knows
    most of them. A study with one of its names has 0 for every observation that is not named.

    - "chexpert": the fourteen names, as in the tables of MIMIC-CXR. A study that its table leaves
      blank altogether counts as one that has no row.
    - "nih": ChestX-ray14. A study with Emphysema and Hernia alone has No Finding 0.
    - "mesh": the MeSH terms that people gave IU X-Ray's reports. Any term is a finding. On the
      2,068 training studies the F1 against the reports' labels, where both are certain, is .61 for
      Pleural Other, .65 for Enlarged Cardiomediastinum (13 studies), .85 to .99 for the others.
    - "rad-restruct": the topics of its structured reports, 1 or 0 each (see `RadReStruct`).

    Observations that no training study names are unknown in every study, since the table does not
    name them, such as fractures in ChestX-ray14.

    Reports: radrep's own labeller on findings and impression. What a report does not mention is 0,
    as for the classifiers that were trained on CheXpert (Irvin et al., 2019).

    `uncertain` is U-Ignore (unknown), U-Zeros or U-Ones of CheXpert, `vocabulary` one of the above
    or "reports", `known` the observations that can be other than unknown. `studies` are those for
    training.

    Raises:
        DataError: If no study has a known label, or the names are of several vocabularies.
    """

    def __init__(
        self,
        studies: Iterable[Study],
        *,
        source: Literal["table", "reports"],
        uncertain: Literal["ignore", "zero", "one"],
    ) -> None:
        if uncertain not in _UNCERTAIN:
            raise DataError(
                f"uncertain labels cannot be '{uncertain}'; choose from {', '.join(_UNCERTAIN)}"
            )
        self._uncertain = _UNCERTAIN[uncertain]
        if source == "reports":
            if not any(_text(study) for study in studies):
                raise DataError(
                    "no study has a report that labels could be read from: take those of the "
                    "table with labels: table, if the data set came with one"
                )
            self.vocabulary, self.known = "reports", OBSERVATIONS
        elif source == "table":
            names = {name for study in studies for name in study.labels}
            self.vocabulary = _choose_vocabulary(names)
            means = _VOCABULARIES[self.vocabulary].means
            named = {observation for name in names for observation, _ in means(_plain(name), 1)}
            self.known = tuple(name for name in OBSERVATIONS if name in named)
        else:
            raise DataError(f"labels cannot come from '{source}'; choose from table, reports")
        self._is_known = np.isin(OBSERVATIONS, self.known)

    def __call__(self, study: Study) -> np.ndarray:
        """The labels of a study of any split: 1 present, 0 absent, NaN unknown; float32 (14,).

        All of them are unknown where the study has no text, or no label that is known.
        """
        if self.vocabulary == "reports":
            text = _text(study)
            states = label_report(text).states if text else {}
            return self._array({name: _VALUES[state] for name, state in states.items()})
        vocabulary = _VOCABULARIES[self.vocabulary]
        named = [(_plain(name), value) for name, value in study.labels.items()]
        if not any(vocabulary.open or vocabulary.knows(name) for name, _ in named):
            return self._array({})
        found = dict.fromkeys(OBSERVATIONS, 0)
        for name, value in named:
            for observation, meant in vocabulary.means(name, value):
                found[observation] = max(found[observation], meant, key=(0, -1, 1).index)
        return self._array(found)

    def _array(self, found: Mapping[str, int]) -> np.ndarray:
        labels = np.array([found.get(name, np.nan) for name in OBSERVATIONS], np.float32)
        labels[labels == -1] = self._uncertain
        labels[~self._is_known] = np.nan
        return labels


class FrequentWords:
    """Which of the most frequent words and whole sentences of the training reports a report has.

    Those in 1.5 % to 85 % of the reports, the most frequent first; `known` is how many there are,
    at most `number`. Raises DataError where there is none.
    """

    def __init__(
        self, studies: PreparedStudies, number: int, *, target: str, clean: Callable[[str], str]
    ) -> None:
        self._target, self._clean, self._number = target, clean, number
        reports = [self._parts(text) for text in studies.texts(target)]
        counts = Counter(part for report in reports for part in report)
        frequent = [
            part
            for part in sorted(counts, key=lambda part: (-counts[part], part))
            if _RAREST * len(reports) < counts[part] < _COMMONEST * len(reports)
        ]
        self._place = {part: i for i, part in enumerate(frequent[:number])}
        self.known = len(self._place)
        if not frequent:
            raise DataError(
                f"model.words: no word is in {_RAREST:.1%} to {_COMMONEST:.0%} of the training "
                "reports; set it to 0"
            )

    def __call__(self, study: Study) -> np.ndarray:
        """1 or 0 for each of them, then NaN up to their number; float32 (number,)."""
        found = np.full(self._number, np.nan, np.float32)
        found[: self.known] = 0
        for part in self._parts(target_text(study.sections, self._target)):
            if part in self._place:
                found[self._place[part]] = 1
        return found

    def _parts(self, text: str) -> set[str]:
        cleaned = self._clean(text)
        return {*cleaned.split(), *(part.strip(" .") for part in cleaned.split(" . "))} - {"", "."}


@dataclass(frozen=True)
class _LabelsAndWords:
    labels: LabelReader
    words: FrequentWords

    def __call__(self, study: Study) -> np.ndarray:
        return np.concatenate([self.labels(study), self.words(study)])


def _text(study: Study) -> str:
    return target_text(study.sections, "both")


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _choose_vocabulary(names: Iterable[str]) -> str:
    """The vocabulary that knows most of the names."""
    plain = {_plain(name): name for name in names}
    knows = {key: set(filter(value.knows, plain)) for key, value in _VOCABULARIES.items()}
    chosen = max(knows, key=lambda vocabulary: len(knows[vocabulary]))
    if not knows[chosen]:
        shown = ", ".join(sorted(plain.values())[:5])
        raise DataError(
            "no study has a label of one of the fourteen observations (what there is: "
            f"{shown or 'nothing'}): read them from the reports with labels: reports, or name them "
            f"in the table as CheXpert does ({', '.join(OBSERVATIONS)})"
        )
    strange = set().union(*knows.values()) - knows[chosen]
    if strange and not _VOCABULARIES[chosen].open:
        other = sorted(plain[name] for name in strange)[0]
        own = sorted(plain[name] for name in knows[chosen])[0]
        raise DataError(
            f"the labels are of several vocabularies: '{own}' is {chosen}'s and '{other}' is not, "
            "so that an observation which is not named may still be there. Name all of them as "
            f"CheXpert does ({', '.join(OBSERVATIONS)}), or read them from the reports with "
            "labels: reports"
        )
    return chosen


def build_labels(recipe: Recipe, train: PreparedStudies) -> LabelReader | None:
    """The labels of a discriminator's studies; None for other models."""
    settings = label_source(recipe.model)
    return settings and LabelReader(train, source=settings[0], uncertain=settings[1])


def build_targets(
    recipe: Recipe, labels: LabelReader | None, train: PreparedStudies
) -> Callable[[Study], np.ndarray] | None:
    """What a discriminator learns of a study: its labels, behind them frequent words if any."""
    number = recipe.model.num_words
    if labels is None or not number:
        return labels
    clean = get_cleaner(recipe.data.tokenizer.cleaner)
    words = FrequentWords(train, number, target=recipe.data.target, clean=clean)
    return _LabelsAndWords(labels, words)


def check_labels(labels: Callable[[Study], np.ndarray], studies: PreparedStudies) -> None:
    """Raise DataError, before the work of hours, if no label is both present and absent."""
    table = np.stack([labels(study) for study in studies])
    if not ((table == 1).any(axis=0) & (table == 0).any(axis=0)).any():
        raise DataError(
            f"{studies.prepared}: no label is both present and absent in {studies.split}, so that "
            "nothing can be scored; prepare more studies, or choose other model.labels"
        )
