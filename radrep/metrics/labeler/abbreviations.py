"""Abbreviations of chest radiograph reports and what they stand for, one table.

Sources, facts only:
  devices    Hunter and Taljanovic, "Glossary of Medical Devices and Procedures: Abbreviations,
             Acronyms, and Definitions", RadioGraphics 2003;23:195
  findings   Hansell et al., "Fleischner Society: Glossary of Terms for Thoracic Imaging",
             Radiology 2008;246:697 (GGO, ILD, IPF); a radiologist's public list of short forms,
             github.com/tsaiid/ahk-smartwonder (PTX, PNA, HTX, BPN, GGN, METS, TB, WNL)
  places     lobes as in the above; zones (LLZ, RMZ) as in British reports
  shorthand  radily.ai/blog/common-radiology-abbreviations (R/O, S/P, H/O, F/U, WNL, NL);
             shaderware.com/legacy/glossary_rh.html (# for fracture); contractions as in NegEx
One that means several things is expanded only where its neighbours decide: see `in_context`.
"""

from collections.abc import Sequence

from radrep.metrics.labeler.vocabulary import word_set

_FINDINGS = {
    "pneumothorax": "ptx pnx pthx",
    "hydropneumothorax": "hptx hydroptx hydropnx",
    "hemothorax": "htx",
    "pneumonia": "pna bpn vap pjp",
    "infection": "lrti",
    "atelectasis": "atx atel",
    "consolidation": "consol",
    "infiltrate": "infil infiltr",
    "effusion": "eff effs",
    "pleural effusion": "peff pleff",
    "cardiomegaly": "cmg cmgly cardiomeg",
    "heart failure": "lvf chf",
    "ground glass opacity": "ggo ggos",
    "interstitial lung disease": "ild",
    "pulmonary fibrosis": "ipf",
    "nodule": "spn ggn",
    "metastasis": "mets",
    "fracture": "fx fxs frx fract",
    "acute respiratory distress syndrome": "ards",
    "tuberculosis": "tb ptb",
    "chronic obstructive": "copd",
    "degenerative": "djd ddd",
    "aneurysm": "aaa",
    "cardiothoracic ratio": "ctr",
}
_DEVICES = {
    "endotracheal tube": "ett etts",
    "gastric tube": "ngt ngts ogt ogts dht dobhoff dobbhoff corpak peg",
    "central venous catheter": "cvc cvcs cvl uvc uac",
    "catheter": "picc piccs",
    "pacemaker": "ppm",
    "defibrillator": "aicd aicds icds",
    "balloon pump": "iabp",
    "support apparatus": "ecmo impella lvad",
    "stimulator": "vns",
    "artificial valve": "tavr tavi avr mvr",
    "chest drain": "icc",
    "stent": "tevar evar",
}
_PLACES = {
    "left": "lt",
    "right": "rt",
    "bilateral": "bilat bil",
    "right upper lobe": "rul",
    "right middle lobe": "rml",
    "right lower lobe": "rll",
    "left upper lobe": "lul",
    "left lower lobe": "lll",
    "right upper zone": "ruz",
    "right middle zone": "rmz",
    "right lower zone": "rlz",
    "left upper zone": "luz",
    "left middle zone": "lmz",
    "left lower zone": "llz",
    "right internal jugular": "rij",
    "left internal jugular": "lij",
    "right upper extremity": "rue",
    "left upper extremity": "lue",
    "pleural": "pl pleur",
    "pulmonary": "pulm",
    "costophrenic angle": "cpa cpas",
}
_SHORTHAND = {
    "within normal limits": "wnl",
    "normal": "nl",
    "negative": "neg",
    "positive": "pos",
    "possible": "poss",
    "probable": "prob",
    "suspected": "susp",
    "differential diagnosis": "ddx",
    "with": "w/",
    "without": "w/o w/out",
    "consistent with": "c/w",
    "associated with": "a/w",
    "due to": "d/t",
    "status post": "s/p",
    "history of": "h/o",
    "rule out": "r/o",
    "ruled out": "r/od",
    "follow up": "f/u",
    "bilateral": "b/l",
    "is not": "isnt",
    "are not": "arent",
    "was not": "wasnt",
    "were not": "werent",
    "has not": "hasnt",
    "have not": "havent",
    "had not": "hadnt",
    "does not": "doesnt",
    "do not": "dont",
    "did not": "didnt",
    "cannot": "cant",
    "could not": "couldnt",
    "would not": "wouldnt",
    "should not": "shouldnt",
}

# Abbreviation -> its words.
WRITTEN_OUT: dict[str, tuple[str, ...]] = {
    short: tuple(words.split())
    for table in (_FINDINGS, _DEVICES, _PLACES, _SHORTHAND)
    for words, forms in table.items()
    for short in forms.split()
}

_SIDES = word_set("left right bilateral bibasilar bibasal lt rt l r b/l bilat")
_PLACED = _SIDES | word_set(
    "patchy focal multifocal diffuse perihilar basilar basal lobe zone base confluent rul rml rll "
    "lul lll"
)
_NODES = word_set("hilar mediastinal axillary paratracheal cervical subcarinal bulky")
_FLUID = frozenset(("loculated", "layering"))
AMBIGUOUS = word_set("cm pe asd lad r l icd ij trach #")
_ORDINAL = ("st", "nd", "rd", "th")
_BONES = word_set(
    "rib ribs clavicle clavicular humerus humeral sternum sternal scapula vertebra vertebral bone "
    "bones bony spine wrist hip"
)
_OF_TRACHEA = word_set("midline central deviated deviation shift shifted")
_AT_VEIN = word_set("tip terminates ends ending terminating in projects")


def in_context(words: Sequence[str], i: int, written: str) -> tuple[str, ...] | None:
    """What an ambiguous abbreviation, `words[i]`, stands for beside these words, if they decide.

    `written`: the abbreviation in its own case.
    """
    word = words[i]
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if word in ("r", "l"):  # not L1, 2 L, R/O, L-spine
        level = after[:1].isdigit() and "".join(words[i + 2 : i + 3]) not in _ORDINAL
        is_side = after and not level and after not in ("/", "spine")
        at_end = not after or after in (",", ")")
        if (is_side or at_end) and not before[:1].isdigit() and before != "/":
            return ("left",) if word == "l" else ("right",)
        return None
    if word == "cm":  # cardiomegaly, or the unit
        is_unit = before[:1].isdigit() or before in ("in", "x", "/", "few", "-")
        return ("cardiomegaly",) if written == "CM" and not is_unit else None
    if word == "pe":  # pleural effusion, or pulmonary embolism
        near = set(words[max(0, i - 2) : i])
        return ("pleural", "effusion") if near & (_SIDES | _FLUID) else None
    if word == "asd":  # airspace disease, or atrial septal defect
        near = set(words[max(0, i - 3) : i])
        return ("airspace", "disease") if near & _PLACED and after != "closure" else None
    if word == "lad":  # lymphadenopathy, or the left anterior descending artery
        return ("lymphadenopathy",) if set(words[max(0, i - 3) : i]) & _NODES else None
    if word == "icd":  # not a code of the ICD-10
        return None if after in ("9", "10", "11") else ("defibrillator",)
    if word == "ij":  # a line in the internal jugular vein
        return ("jugular", "line") if after in _AT_VEIN else None
    if word == "trach":  # tracheostomy, or the trachea
        near = set(words[i + 1 : i + 4])
        return None if near & _OF_TRACHEA else ("tracheostomy",)
    return ("fracture",) if not _BONES.isdisjoint(words) else None  # "#"
