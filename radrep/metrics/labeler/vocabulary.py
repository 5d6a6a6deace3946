"""Radiologists' names of the fourteen observations, as phrases of base words.

A phrase is matched word by word after `words.read_words`. The longest wins: "pericardial effusion"
hides the effusion in it. Which observation a phrase counts for follows the CheXpert labeler (Irvin
et al., 2019): scars are opacities, surgical clips and sternotomy wires are no support devices.
"""

NO_FINDING = "No Finding"
ENLARGED = "Enlarged Cardiomediastinum"
CARDIOMEGALY = "Cardiomegaly"
OPACITY = "Lung Opacity"
LESION = "Lung Lesion"
EDEMA = "Edema"
CONSOLIDATION = "Consolidation"
PNEUMONIA = "Pneumonia"
ATELECTASIS = "Atelectasis"
PNEUMOTHORAX = "Pneumothorax"
EFFUSION = "Pleural Effusion"
PLEURAL_OTHER = "Pleural Other"
FRACTURE = "Fracture"
DEVICES = "Support Devices"

OBSERVATIONS: tuple[str, ...] = (
    *(NO_FINDING, ENLARGED, CARDIOMEGALY, OPACITY, LESION, EDEMA, CONSOLIDATION),
    *(PNEUMONIA, ATELECTASIS, PNEUMOTHORAX, EFFUSION, PLEURAL_OTHER, FRACTURE, DEVICES),
)
ABNORMAL = tuple(name for name in OBSERVATIONS if name != NO_FINDING)

# One phrase between commas. A finding that carries its own doubt stands in DOUBTFUL.
_NAMED = {
    CARDIOMEGALY: "cardiomegaly, cardiac enlargement, heart enlargement, megalocardia",
    ENLARGED: """mediastinal widening, mediastinal enlargement, widening of the mediastinum,
        widening of mediastinum, cardiomediastinal enlargement""",
    OPACITY: """opacity, opacification, airspace disease, air space disease, alveolar disease,
        airspace process, airspace density, airspace opacity, air space opacity, air space density,
        infiltrate, infiltration, infiltrative process, haziness, patchy density, streaky density,
        hazy density, increased density, interstitial disease, interstitial lung disease,
        interstitial marking, interstitial pattern, interstitial prominence, interstitial change,
        interstitial thickening, interstitial pulmonary disease, interstitial pulmonary pattern,
        reticular pattern, reticular marking, reticulation, scar, scarring, cicatrix, pulmonary
        fibrosis, interstitial fibrosis, fibrotic change, reticular nodular opacity, reticulonodular
        opacity, lung marking, bronchovascular marking, pulmonary marking, ground glass,
        ground glass opacity, ground glass density, ground glass opacification, shadowing,
        whiteout, white out, opacified""",
    LESION: """nodule, mass, lung lesion, pulmonary lesion, cavitary lesion, nodular lesion, nodular
        opacity, nodular density, nodular infiltrate, nodularity, masslike opacity, mass like
        opacity, masslike consolidation, masslike density, masslike opacification, mass like
        opacification, carcinoma, neoplasm, tumor, lung cancer, malignancy, pulmonary metastasis,
        lung metastasis, metastasis""",
    EDEMA: """edema, heart failure, cardiac failure, congestive failure, fluid overload, volume
        overload, acute failure, overt failure""",
    CONSOLIDATION: "consolidation, consolidative, consolidated, consolidating",
    PNEUMONIA: """pneumonia, bronchopneumonia, pneumonic, infection, infectious, infectious process,
        pneumonitis""",
    ATELECTASIS: "atelectasis, atelectatic, collapse, collapsed",
    PNEUMOTHORAX: "pneumothorax",
    EFFUSION: """effusion, pleural effusion, pleural fluid, pleural collection, hemothorax, fluid in
        the pleural space, fluid in the right pleural space, fluid in the left pleural space,
        pleural fluid collection, fissural fluid, empyema""",
    PLEURAL_OTHER: """pleural thickening, apical thickening, biapical thickening, pleural plaque,
        pleural calcification, calcified pleural plaque, pleural scarring, pleural scar, pleural
        parenchymal scarring, pleural parenchymal scar, pleuroparenchymal scarring,
        pleuroparenchymal scar, pleuroparenchymal thickening, fibrothorax, pleural fibrosis,
        thickening of the pleura, pleural based density, pleural density, pleural reaction, pleural
        cap, apical cap, apical capping""",
    FRACTURE: "fracture, fractured",
    DEVICES: """pacemaker, pacer, defibrillator, pacemaker lead, pacing lead, defibrillator lead,
        pacer lead, pacer wire, pacing wire, pacemaker wire, monitor lead, cardiac monitor lead, ekg
        lead, ecg lead, overlying lead, distal lead, cardiac device, catheter fracture, generator,
        lead tip, dual lead, single lead, tube, chest tube, tubing, tracheostomy, catheter, pic
        line, catheter line, hickman, broviac, groshong, permcath, jugular line, jugular tip, crt d,
        crt p, mediport, port a cath, portacath, portacatheter, chest port, infusion port, port tip,
        line, cannula, drain, hardware, arthroplasty, prosthesis, prosthetic, screw, plate, rod,
        orthopedic device, device, stimulator, neurostimulator, stent, coil, embolization coil, cabg
        marker, graft marker, valve replacement, mechanical valve, artificial valve, valve
        prosthesis, prosthetic valve, vp shunt, support apparatus, occluder, implantable generator,
        pulse generator, balloon pump, swan ganz, ivc filter, port,
        introducer, jugular sheath, ij sheath, venous sheath, vascular sheath, subclavian sheath""",
}
_NAMED[EFFUSION] += "".join(
    f", fluid {where} {fissure} fissure"
    for where in ("in", "in the", "within the", "along the", "tracking into the")
    for fissure in ("", "minor", "major", "horizontal", "oblique", "right", "left", "right minor",
                    "right major", "left major")
)  # fmt: skip
_SEVERAL = {
    "hydropneumothorax": (PNEUMOTHORAX, EFFUSION),
    "hemopneumothorax": (PNEUMOTHORAX, EFFUSION),
}

# Congestion short of edema: the CheXpert labeler reads it as uncertain edema.
DOUBTFUL = """vascular congestion, pulmonary congestion, venous congestion, vascular engorgement,
    venous engorgement, pulmonary engorgement, central congestion, vascular prominence, congestive
    change, vascular congestive change, prominent vascularity, pulmonary vascular congestion,
    pulmonary venous congestion, pulmonary vascular engorgement, pulmonary vascular prominence,
    vascular indistinctness"""

# Failure of the heart doubts its size too, as in the CheXpert labeler.
HEART_FAILURE = """heart failure, cardiac failure, congestive failure, acute failure, overt
    failure"""

# Organs, not findings: their size decides (organs.py).
_ORGANS = {
    CARDIOMEGALY: """heart, heart size, heart silhouette, heart contour, heart shadow, cardiac
        silhouette, cardiac size, cardiac contour, cardiac shadow, cardiac border, cardiac
        silhouette size, cardiac fluid, size of the heart, size of the cardiac silhouette, cardiac
        diameter, cardiac, cardiothoracic ratio, cardio thoracic ratio, cardiothoracic index, c / t
        ratio, c : t ratio, ct ratio""",
    ENLARGED: """mediastinum, cardiomediastinum, mediastinal, mediastinal contour, mediastinal
        silhouette, mediastinal configuration, mediastinal border, mediastinal shadow, mediastinal
        width, mediastinal structure, mediastinal and hilar contour, mediastinal size,
        cardiomediastinal silhouette, cardiomediastinal contour, cardiomediastinal size,
        cardiomediastinal shadow, cardio mediastinal silhouette, cardio mediastinal contour, cardiac
        mediastinal silhouette, cardiac mediastinal contour, cardiomediastinal structure,
        cardiomediastinal, superior mediastinum""",
}

# Longer names that hide a word of the above and do not mention it.
_NOTHING = """mass effect, joint effusion, suprapatellar effusion, knee effusion, elbow effusion,
    ankle effusion, soft tissue edema, subcutaneous edema, heart disease, heart border, left heart,
    right heart, over the heart, overlying the heart, behind the heart, superior to the heart, heart
    rate, heart monitor, cardiac apex, cardiac disease, cardiac history, cardiac decompensation,
    cardiac surgery, cardiac chamber, anterior mediastinum, posterior mediastinum, pleural line,
    pleural edge, fracture line, suture line, skin line, midclavicular line, paratracheal line,
    paraspinal line, in line, junction line, septal line, b line, kerley line, lung line, line of,
    fractured sternotomy, fractured xxxx sternotomy, sternotomy wire fracture, breast prosthesis,
    breast implant, osseous infection, bony infection, bone infection, tuberculosis infection, end
    plate, growth plate, plate like, plate atelectasis, line shadow, prior infection, old infection,
    remote infection, previous infection, cardiac and pulmonary, lung mass like, mediastinal clip,
    infection control, nodule like, metastasis survey, cardiac pulmonary, acute cardiac, not
    clear whether, not clear if, not clear why, not clear from"""

# Abnormal, yet none of the thirteen: with one of them a report is not "No Finding".
_OTHER = """emphysema, emphysematous, chronic obstructive, obstructive pulmonary disease,
    obstructive lung disease, chronic lung disease, chronic change, hyperexpanded, hyperinflated,
    hyperinflation, hyperexpansion, hyperaerated, hyperlucent, hyperlucency, air trapping,
    degenerative, degenerated, spondylosis, spondylitic, osteophyte, osteophytosis, spurring, spur,
    syndesmophyte, scoliosis, scoliotic, dextroscoliosis, levoscoliosis, kyphosis, kyphotic,
    curvature, arthritis, arthritic, osteoarthritis, arthropathy, hypertrophic change, granuloma,
    granulomatous, granulomatous disease, granulomatous infection, calcified, calcification,
    calcific, atherosclerotic, atherosclerosis, tortuous, tortuosity, ectasia, ectatic, unfolded,
    unfolding, uncoiled, uncoiling, aneurysm, hernia, eventration, elevated, elevation, blunting,
    blunted, flattening, flattened, deformity, deformed, compression deformity, wedging, wedge,
    wedge deformity, height loss, loss of height, osteopenia, osteopenic, osteoporosis,
    demineralization, bulla, bullous, bleb, cyst, cystic, bronchiectasis, bronchitis, bronchiolitis,
    cuffing, peribronchial thickening, wall thickening, thickening, adenopathy, lymphadenopathy,
    lucency, dislocation, subluxation, pneumoperitoneum, free air, free intraperitoneal air,
    pneumomediastinum, subcutaneous emphysema, pericardial effusion, hilar enlargement, hilar
    fullness, hilar prominence, fullness, dextrocardia, volume loss, sclerosis, sclerotic,
    aspiration, hypertension, sarcoidosis, sarcoid, tuberculosis, cystic fibrosis, fibrosis,
    density, plaque, cavity, cavitary, cavitation, pectus, lesion, metastatic disease, lymphoma,
    erosion, destruction, crowding, vertebral collapse, vertebral body collapse, contusion,
    hematoma, hemorrhage, obstruction, dilated bowel, goiter, shift, cardiac hypertrophy,
    ventricular hypertrophy, atrial enlargement, cholelithiasis, gallstone, ventricular enlargement,
    foreign body, bullet, shrapnel, hypoinflated, hypoinflation, hypoventilation, low lung volume,
    pneumatocele, separation, epicardial fat, pericardial fat, retraction, mastectomy, lobectomy,
    pneumonectomy, amputation, spondylolisthesis, fibronodular, effacement, bronchospasm, asthma,
    airway disease, hypoventilated, dish, hyperostosis, respiratory distress syndrome"""

# Abnormal by a denial of the normal.
_NOT_NORMAL = "not normal, not clear, not unremarkable, not intact, not within normal limits"

_PLURALS = """pneumothoraces pneumothorax, pneumothoraxes pneumothorax, hydropneumothoraces
    hydropneumothorax, metastases metastasis, atelectases atelectasis, prostheses prosthesis, bullae
    bulla, granulomata granuloma, bodies body, plaques plaque, hernias hernia"""
# Misspelt forms, after the word they stand for.
_MISSPELT = {
    "atelectasis": "atelectesis atelectais atelectasi atelactasis atelecasis atalectasis "
    "atelectsis atelecatsis atelectacis atelectisis",
    "cardiomegaly": "cardiomegally cardiomegaley cardiomeagly cardiomegly cardimegaly "
    "cardiomyegaly",
    "cardiomediastinal": "cardiomedistinal cardiomediastinial cardimediastinal cardiomeadistinal",
    "consolidation": "consolidaton consoldation consolidiation consolidatin consilidation",
    "edema": "oedema edma",
    "effusion": "effusoin efusion effussion effsion",
    "infiltrate": "infiltrat inflitrate infitrate",
    "mediastinal": "medistinal mediastinial mediastinl",
    "mediastinum": "medistinum mediastium mediastinun",
    "opacity": "opactiy opacitiy opacty",
    "opacities": "opacites opacitites opactities opacitiess",
    "osseous": "osseus",
    "pleural": "plueral plural pleual pluerl pleurl",
    "pneumonia": "pnuemonia pneumnia neumonia penumonia pneumona",
    "pneumothorax": "pneumothroax pneumonthorax pnuemothorax pneumothoax penumothorax "
    "pneumothorx pneumothorac pneumothoras",
    "tortuous": "torturous tortous",
    "silhouette": "silhoutte silouette sillhouette silhoette",
    "granuloma": "graunloma granluoma",
    "fracture": "fractue fracure",
    "scoliosis": "scolosis",
    "tumor": "tumour",
    "normal": "nomal noraml",
}


def phrases(text: str) -> list[tuple[str, ...]]:
    """The phrases of a list between commas, each as words."""
    return [tuple(phrase.split()) for phrase in text.split(",")]


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Phrase -> (kind, observations).
MENTIONS: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(phrases(_OTHER), ("other", (NO_FINDING,))),
    **{p: ("organ", (name,)) for name, text in _ORGANS.items() for p in phrases(text)},
    **{p: ("finding", (name,)) for name, text in _NAMED.items() for p in phrases(text)},
    **{(word,): ("finding", names) for word, names in _SEVERAL.items()},
    **dict.fromkeys(phrases(DOUBTFUL), ("doubtful", (EDEMA,))),
    **dict.fromkeys(phrases(HEART_FAILURE), ("failure", (EDEMA,))),
    **dict.fromkeys(phrases(_NOTHING), ("nothing", ())),
    **dict.fromkeys(phrases(_NOT_NORMAL), ("abnormal", (NO_FINDING,))),
}


def _forms(word: str) -> list[str]:
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies"]
    if word.endswith(("s", "x", "sh", "ch")):
        return [word + "es"]
    return [word + "s"]


def _base_words() -> dict[str, str]:
    words = {word for phrase in MENTIONS for word in phrase if len(word) > 3}
    base = {form: word for word in sorted(words) for form in _forms(word)}
    base = {form: word for form, word in base.items() if form not in words}
    base |= {phrase[0]: phrase[1] for phrase in phrases(_PLURALS)}
    for word, misspelt in _MISSPELT.items():
        base.update(dict.fromkeys(misspelt.split(), base.get(word, word)))
    return {form: word for form, word in base.items() if form not in words}


# A form or misspelling -> its base word.
BASE: dict[str, str] = _base_words()
