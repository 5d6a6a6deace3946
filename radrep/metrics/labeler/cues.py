"""Words that deny a finding, doubt it or place it at another time, and words that end their scope.

After NegBio and the CheXpert labeler (Peng et al., 2018; Irvin et al., 2019), on words, commas and
conjunctions instead of a parsed sentence. Terms of NegBio (public domain), of NegEx as in negspaCy
(MIT) and of medspaCy's ConText (MIT) are among them.
"""

from itertools import product
from typing import NamedTuple

from radrep.metrics.labeler.forms import ASK, BLANK, NO, OFF, ON, YES
from radrep.metrics.labeler.vocabulary import phrases, word_set


class Cue(NamedTuple):
    """The effect of a cue on a mention, and on which side of the cue."""

    # negative, uncertain, open (not excluded: stronger than a negation), answer (a negation that is
    # stronger still), aside (not of this exam), or none: words that only resemble a cue
    effect: str
    # after, before, both, next (one word), item (after, to the next comma), replaced (the mention
    # before, if another follows), or either: after it if a mention follows, else before
    reach: str


_DENYING = """no, without, negative for, free of, free from, clear of, absence of, lack of, neither,
    nor, no evidence of, no evidence for, no radiographic evidence of, no definite evidence of, no
    sign of, no signs of, no findings of, without evidence of, without evidence for, not, devoid of,
    denies, never, without radiographic evidence of, cleared of, clear from, instead of, none of,
    nothing to suggest, nothing to indicate, no features of, no suggestion of, no findings to
    indicate, cannot see, cannot identify, unable to identify, unable to see, unable to demonstrate,
    fails to reveal, fails to demonstrate, fails to show, failed to reveal, failed to demonstrate,
    failed to show, rules out, excludes, lacking, lacks, inconsistent with, not consistent with, not
    compatible with, unremarkable for, absent of, disappearance of, <off>,
    negative chest for, negative chest x ray for, negative exam for, negative examination for,
    negative study for, negative film for, negative radiograph for, negative scan for"""
_DENYING_BACK = """not seen, not identified, not present, not visualized, not evident, not noted,
    not demonstrated, not appreciated, not apparent, not detected, not visible, not found, none,
    not definitely seen, not definitely identified, not seen today, not observed, not displayed,
    not currently seen, not currently identified, removed, not confirmed, not clearly identified,
    cannot be seen, cannot be identified, cannot be demonstrated, cannot be detected, could not
    be seen, could not be identified, could not be demonstrated, could not be detected, can not
    be seen, can not be identified, disappeared, is artifact, is an artifact, was artifact, was
    an artifact, were artifacts, represents artifact, represents an artifact, artifactual, not
    persist, not persisted, not in place, no longer in place, not in situ, never present, never
    seen, never demonstrated, gone, vanished, is a nipple shadow, are nipple shadows, not
    recurred, not recur, not reaccumulated, not reaccumulate, represents a nipple shadow, was a
    nipple shadow, is a skin fold, represents a skin fold, was a skin fold"""
_DENYING_EITHER = """absent, negative, excluded, ruled out, resolved, cleared, no longer, nil,
    nonexistent, non existent, nonvisualized, non visualized, nonvisualised, non visualised,
    nonvisualization, nonvisualization of, non visualization of, nonvisualisation of, not
    visualised"""
# They only resemble a denial.
_HARMLESS = """no more than, not more than, no less than, not less than, not insignificant, not
    inconsiderable, no other than, not normal, not clear, not unremarkable, not intact, not within
    normal limits, not necessarily, not only, not known if, not certain if, not certain whether, not
    to mention, nothing but, nothing more than, nothing other than, negative chest, negative exam,
    negative examination, negative study, negative film, negative radiograph"""
_ENDED = "resolution of, clearing of, removal of, resolution in, clearance of"
_DOUBTING = """possible, possibly, probable, probably, presumed, presumably, presumptive,
    questionable, question, question of, suspected, suspect, suspicious for, suspicion of, suspicion
    for, concerning for, concern for, worrisome for, suggestion of, suggestive of, suggesting,
    suggests, suggest, evaluate for, evaluation for, evaluation of, assess for, assessment for,
    correlate for, correlation for, equivocal, favor, favored to represent, favored to be, thought
    to represent, perhaps, maybe, differential includes, differential diagnosis includes,
    differential considerations include, considerations include, whether, unclear whether, if,
    simulating, mimicking, rather than, raising possibility of, possibility of, potential, symptoms
    of, differential diagnosis, correlate clinically for, clinically correlate for, consider, raise
    the possibility of, raises the possibility of, raising the possibility of, question if, cannot
    be differentiated from, query, non diagnostic, nondiagnostic, indefinite for, concerned about,
    worried about, could this be, may this be, cannot be distinguished from, sensitivity for, doubt,
    little evidence for, little evidence of, insufficient evidence for, insufficient evidence of,
    low likelihood of, low probability of, trace if any, minimal if any, small if any, tiny if any,
    mild if any, little if any, more likely"""
_DOUBTING_EITHER = """unlikely, less likely, doubtful, considered, not likely, suspected,
    questioned, possible, probable, questionable, equivocal, is possible, are possible, <maybe>, not
    favored, not favoured"""
_DOUBTING_BACK = """poorly evaluated, incompletely evaluated, not well seen, not well visualized,
    not well evaluated, not clearly seen, not clearly visualized, not evaluated, a possibility, a
    consideration, another consideration, in the differential, less likely than, not fully
    evaluated, if present, if any, to be confirmed, ?, cannot be evaluated, cannot be assessed,
    cannot be well evaluated, cannot be reliably assessed, not assessed, not assessable"""
_UNABLE = """cannot exclude, can not exclude, cannot rule out, can not rule out, not exclude,
    difficult to exclude, hard to exclude, not rule out, cannot entirely exclude, to exclude, cannot
    completely exclude, could not exclude, rule out, r / o, unable to exclude, cannot definitely
    exclude, not entirely exclude, unable to rule out, not completely exclude, not definitely
    exclude"""
_NOT_EXCLUDED = """cannot be excluded, can not be excluded, not excluded, not be excluded, cannot be
    ruled out, can not be ruled out, not be ruled out, not ruled out, not entirely excluded, cannot
    be entirely excluded, not be entirely excluded, cannot be completely excluded, difficult to be
    excluded, cannot be totally excluded"""
# What stands before is meant otherwise.
_MEANT = "should read, should say, sorry, scratch that, correction, i mean, i meant"
# About another time, or about what these images cannot show at all.
_ASIDE = """history of, hx of, h / o, known history of, past history of, status post, s / p, cxr
    for, cxr to, exam for, examination for, referred for, requested for, performed for, obtained
    for"""
_NOT_SHOWN = "may not be demonstrated, may not be visible, may not be seen, may not be apparent"
_MODALS = ("may", "might", "could", "would")
_MAY = """represent, reflect, be, indicate, include, suggest, relate to, be related to, be due to,
    be secondary to, be representing, also represent, also be, simply represent, partially reflect,
    be reflective of, have, simply reflect, mimic, obscure"""
_MAY_BACK = """be present, be seen, exist, be considered, have this appearance, also be present,
    be missed, be overlooked"""
_DEGREES = ("likely", "probable", "probably", "possible", "possibly")
_MIMICS = "nipple shadow, nipple shadows, skin fold, skin folds"
_EARLIER = ("prior", "previous", "old", "earlier", "last")
_STUDIES = ("exam", "examination", "study", "film", "radiograph", "ct", "x ray", "chest x ray",
            "report", "scan", "chest radiograph")  # fmt: skip
_SHOWED = ("showed", "demonstrated", "revealed", "described")
# Denied these, a finding is as it was. Fillers may stand between.
_KEPT_NOUNS = word_set(
    "change changes increase decrease improvement difference progression worsening "
    "resolution clearing reduction regression doubt prior priors previous comparison comparisons"
)
_KEPT_VERBS = word_set(
    "changed increased decreased improved progressed worsened cleared resolved removed only "
    "without regressed altered"
)
_FILLERS = word_set(
    "significant significantly interval appreciable appreciably substantial substantially "
    "been marked major gross further the a any definite obvious completely fully entirely "
    "considerably greatly other available radiographic yet"
)
_KEPT_HEADS = {
    "no": _KEPT_NOUNS,
    "without": _KEPT_NOUNS,
    "not": _KEPT_VERBS | {"change", "changes", "difference"},
}
_PARTLY = word_set("partial partially near nearly incomplete incompletely almost some")
_OTHER_VIEWS = word_set("prior previous earlier old last lateral frontal pa comparison")
_ENDING = word_set("resolution clearing resolved cleared removed clearance")


def _table() -> dict[tuple[str, ...], Cue]:
    table: dict[tuple[str, ...], Cue] = {}
    for text, cue in (
        (_DOUBTING, Cue("uncertain", "after")),
        (_DOUBTING_EITHER, Cue("uncertain", "either")),
        (_DOUBTING_BACK, Cue("uncertain", "before")),
        (_DENYING, Cue("negative", "after")),
        (_ENDED, Cue("negative", "after")),
        (_DENYING_BACK, Cue("negative", "before")),
        (_DENYING_EITHER, Cue("negative", "either")),
        (_UNABLE, Cue("open", "after")),
        (_NOT_EXCLUDED, Cue("open", "before")),
        ("difficult to entirely exclude, difficult to completely exclude", Cue("open", "either")),
        (_ASIDE, Cue("aside", "after")),
        (_NOT_SHOWN, Cue("aside", "before")),
        ("may, might, could", Cue("uncertain", "after")),
        ("versus, vs, vs .", Cue("uncertain", "both")),
        ("non", Cue("negative", "next")),
        (ASK, Cue("uncertain", "item")),
        (_MEANT, Cue("aside", "replaced")),
        (NO, Cue("answer", "before")),
        (BLANK, Cue("aside", "before")),
        (_HARMLESS, Cue("none", "after")),
    ):
        table.update(dict.fromkeys(phrases(text), cue))
    for modal in _MODALS:
        table |= {(modal, *verb): Cue("uncertain", "after") for verb in phrases(_MAY)}
        table |= {(modal, *verb): Cue("uncertain", "before") for verb in phrases(_MAY_BACK)}
    for degree, article, mimic in product(_DEGREES, ((), ("a",)), phrases(_MIMICS)):
        table[(degree, *article, *mimic)] = Cue("uncertain", "before")
    for earlier, study, showed in product(_EARLIER, _STUDIES, _SHOWED):
        table[(earlier, *study.split(), showed)] = Cue("aside", "after")
    return table


CUES: dict[tuple[str, ...], Cue] = _table()


def denied_change(words: list[str], start: int) -> int:
    """The word after "no change" and its like if one starts here, otherwise 0."""
    heads = _KEPT_HEADS.get(words[start])
    if heads is None:
        return 0
    for i in range(start + 1, min(start + 6, len(words))):
        if words[i] in heads:
            return i + 1
        if words[i] not in _FILLERS:
            return 0
    return 0


def ended_in_part(words: list[str], start: int, end: int) -> bool:
    """Whether a cue is an end that is not complete, such as "near complete resolution"."""
    if _ENDING.isdisjoint(words[start:end]):
        return False
    return not _PARTLY.isdisjoint(words[max(0, start - 3) : start])


def of_another_view(words: list[str], start: int, end: int) -> bool:
    """Whether a cue such as "not seen" is about a prior image or one of two views."""
    if SEEN.isdisjoint(words[start:end]) or words[end : end + 1] not in (["on"], ["in"]):
        return False
    return not _OTHER_VIEWS.isdisjoint(words[end + 1 : end + 4])


SIDES = {
    **dict.fromkeys(word_set("left lingula lingular"), "left"),
    **dict.fromkeys(word_set("right midright"), "right"),
    **dict.fromkeys(
        word_set("bilateral bilaterally both bibasilar bibasal biapical bihilar"), "bilateral"
    ),
}
_BEFORE_SIDE = word_set("the on in")
_AFTER_SIDE = word_set(", but ) ;")


def denied_side(words: list[str], start: int) -> int:
    """The position of a side that "not" before `start` denies, "right, not the left", else 0."""
    i = start
    while i < len(words) and words[i] in _BEFORE_SIDE:
        i += 1
    if i == len(words) or words[i] not in SIDES:
        return 0
    end = i + 2 if words[i + 1 : i + 2] in (["side"], ["one"]) else i + 1
    return i if end == len(words) or words[end] in _AFTER_SIDE else 0


def of_one_side(words: list[str], start: int) -> bool:
    """Whether the answer at `start` denies one side of two: "right: moderate, left: none"."""
    side = SIDES.get(words[start - 1]) if start and words[start] == NO else None
    return side is not None and any(
        SIDES.get(words[i], side) != side and words[i + 1 : i + 2] != [NO]
        for i in range(max(0, start - 12), min(len(words), start + 12))
    )


# States of an organ.
ENLARGED_WORDS = word_set(
    "enlarged enlargement large enlarging larger prominent prominence widened widening wide "
    "increased increase big dilated generous"
)
NORMAL_WORDS = word_set("normal unremarkable nonenlarged negative satisfactory")
WITHIN_LIMITS = word_set("normal limits limit")  # of them what follows "within" is made
BORDERLINE = "borderline"
UNCHANGED = word_set("stable unchanged similar midline constant")

# Where the reach of a cue ends.
STOPS_AFTER = word_set(
    "but however although though except which while whereas now despite yet besides aside "
    "apart beyond with ; otherwise secondary because after following save bar barring excepting "
    f"{OFF} {ON}"
)
STOPS_BEFORE = word_set(
    f"but however although though except while whereas with ; {OFF} {ON} {YES} {NO}"
)
# No effusion but what follows one of these.
EXCEPTING = word_set("except but save bar barring excepting besides aside apart beyond other")
JOINED_WITH = word_set("consistent compatible associated concordant along")
VERBS = word_set(
    "is are was were has have had remains remain appears appear shows show demonstrates "
    "demonstrate persists persist reveals reveal suggests"
)
# What "versus" weighs stands behind the last of these, "opacity" before it.
STOPS_BEFORE_VERSUS = VERBS | word_set(
    "which that may might could represent represents representing reflect reflects "
    "reflecting due suggest suggests suggesting suggestive likely compatible consistent to"
)
# "No effusion or pneumothorax is seen": such a verb belongs to the whole list.
SEEN = word_set(
    "seen identified noted present visualized evident appreciated demonstrated detected "
    "found visible observed apparent"
)
# A new statement, not the next item of a denied list, begins with one of these.
NEW_STATEMENT = word_set("there the this these it heart cardiac lungs lung mediastinum")
AFFIRMING = word_set(
    "small mild mildly minimal moderate severe tiny trace slight stable unchanged left "
    "right bilateral bibasilar biapical persistent increased decreased interval streaky "
    "chronic old healed low residual again minor subtle possible probable likely some few "
    "multiple a an scattered minimally slightly moderately borderline marked extensive"
)
