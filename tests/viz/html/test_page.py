import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from radrep.viz.html.page import Passage, render_page
from tests.viz.example import (
    OBSERVATIONS,
    SYSTEMS,
    draw_film,
    make_card,
    make_page,
    make_study,
)

VOID = {"meta", "link", "input", "img", "br", "line", "circle", "rect", "path"}


class Reader(HTMLParser):
    """The elements of a page with their attributes and their whole text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(html)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        element["inside"] = list(self._open)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs), "inside": list(self._open)})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def find(self, tag, within=None, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and (within is None or any(each is within for each in element["inside"]))
            and all(element.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]


def read(page):
    return Reader(render_page(page))


@pytest.fixture(scope="module")
def html():
    return render_page(make_page())


@pytest.fixture(scope="module")
def reader(html):
    return Reader(html)


def numbers_of(text):
    return [float(n.replace("−", "-")) for n in re.findall(r"[-+−]?\d+\.\d+", text)]


def test_the_page_needs_nothing_but_itself(html, reader):
    links = [e[key] for e in reader.elements for key in ("src", "href", "srcset") if e.get(key)]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not reader.find("script")
    assert not [key for e in reader.elements for key in e if key.startswith("on")]
    style = reader.find("style")[0]["text"]
    assert "@import" not in style
    assert re.findall(r"url\((.*?)\)", style) == ["#hatch"]
    assert "://" not in html
    policy = reader.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("; base-uri 'none'; form-action 'none'")


def test_one_heading_captions_scopes_and_unique_ids(reader):
    assert [heading["text"] for heading in reader.find("h1")] == ["runs/csr_lmca_iu_cpu"]
    assert [len(reader.find(tag)) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    tables = reader.find("table")
    assert len(tables) > 5
    for table in tables:
        assert len(reader.find("caption", table)) == 1
        assert all("scope" in cell for cell in reader.find("th", table))
    idents = [e["id"] for e in reader.elements if "id" in e]
    assert len(idents) == len(set(idents))
    targets = [e["href"][1:] for e in reader.find("a")]
    targets += [e["for"] for e in reader.find("label")]
    targets += [e["aria-labelledby"] for e in reader.elements if "aria-labelledby" in e]
    assert set(targets) <= set(idents)
    assert all(image["alt"] for image in reader.find("img"))


def test_the_answer_comes_first_and_the_constant_is_not_hidden(reader):
    first = reader.find("section")[0]
    answer = reader.find("p", first, class_="answer")[0]["text"]
    assert answer == (
        "This model uses the image. No significant difference in CIDEr over 295 studies to one "
        "constant report, the nearest training study’s report and the training report that image "
        "features select. So there is no evidence that it does more than choose among training "
        "reports."
    )
    assert "Not for clinical use" in reader.find("footer")[0]["text"]


def test_every_plot_can_be_chosen_and_no_choice_is_empty(reader):
    style = reader.find("style")[0]["text"]
    shown = {
        plot: re.findall(r":has\(#([\w-]+):checked\)", choice)
        for choice, plot in re.findall(r"#answer(\S+) #(plot\S+) \{ display: block", style)
    }
    plots = [figure["id"] for figure in reader.find("figure") if "panel" in figure.get("class", "")]
    assert set(plots) == set(shown)
    radios = {e["id"]: e["name"] for e in reader.find("input")}
    assert {ident for needs in shown.values() for ident in needs} == set(radios)
    assert len(plots) == 7 * 2 + 3
    for name in ("metric", "protocol"):
        chosen = [e["id"] for e in reader.find("input", name=name) if "checked" in e]
        assert chosen == [{"metric": "m-cider", "protocol": "p-full"}[name]]


def test_dots_and_intervals_stand_where_the_scores_are(reader):
    plot = reader.find("figure", id="plot-m-cider-p-full")[0]
    rows = [row for row in reader.find("li", plot) if row["class"] != "axis"]
    assert [reader.find("span", row, class_="name")[0]["text"] for row in rows] == list(SYSTEMS)
    end = float(reader.find("text", plot)[-1]["text"])
    for row, (cider, _) in zip(rows, SYSTEMS.values(), strict=True):
        place = float(reader.find("circle", row)[0]["cx"].rstrip("%"))
        assert place == pytest.approx(100 * cider / end, abs=0.01)
        span = next(e for e in reader.find("line", row, class_="range") if e["x1"] != e["x2"])
        ends = [float(span[key].rstrip("%")) * end / 100 for key in ("x1", "x2")]
        assert ends == pytest.approx([cider - 0.09, cider + 0.09], abs=1e-3)
        told = numbers_of(reader.find("span", row, class_="value")[0]["text"])
        assert told == pytest.approx([cider, cider - 0.09, cider + 0.09])
    higher = [row["text"] for row in rows if reader.find("span", row, class_="difference higher")]
    assert len(higher) == 2
    assert numbers_of(higher[0])[-4:] == pytest.approx([0.228, 0.138, 0.318, 0.002])


def test_all_scores_stand_in_tables_with_intervals(reader):
    for protocol in ("full", "published"):
        region = reader.find("div", **{"aria-label": f"Scores, {protocol} protocol"})[0]
        rows = reader.find("tr", region)[1:]
        assert len(rows) == len(SYSTEMS)
        cells = reader.find("td", rows[0])
        assert len(cells) == 7
        assert numbers_of(cells[-1]["text"]) == pytest.approx([0.352, 0.262, 0.442])
    text = reader.find("section", id="scores")[0]["text"]
    assert "cuts 24 of 295 references (8.1 %)" in text
    assert "55 of 295 references also occur verbatim in train (seen), 240 do not" in text


def test_bars_of_the_findings_are_as_long_as_their_counts(reader):
    rows = reader.find("li", reader.find("ul", class_="bars")[0])[1:]
    longest = max(max(row[:2]) for row in OBSERVATIONS.values())
    for row, (name, (ours, theirs, right, _)) in zip(rows, OBSERVATIONS.items(), strict=True):
        assert row["text"].split("\n")[0] == name
        assert re.findall(r"(references|generated|both) (\d+)", row["text"]) == [
            ("references", str(ours)),
            ("generated", str(theirs)),
            ("both", str(right)),
        ]
        widths = {}
        for bar in reader.find("rect", row):
            widths[bar["class"]] = float(bar["width"].rstrip("%")) * longest / 100
        assert widths["right"] == pytest.approx(right, abs=0.02)
        assert widths.get("missed-bar", 0) == pytest.approx(ours - right, abs=0.02)
        assert widths.get("not-in-reference-bar", 0) == pytest.approx(theirs - right, abs=0.02)
    text = reader.find("section", id="findings")[0]["text"]
    assert "findings F1 (rules)" in text
    assert "no CheXbert scores" in text


def test_reports_are_whole_and_what_is_marked_is_named_in_words(reader):
    study = make_study("best")
    article = reader.find("article")[0]
    for report, passages in zip(
        reader.find("p", article, class_="report"), (study.reference, study.generated), strict=True
    ):
        text = report["text"]
        marks = reader.find("mark", report)
        assert [mark["class"] for mark in marks] == [p.kind for p in passages if p.kind != "plain"]
        for mark, passage in zip(marks, [p for p in passages if p.kind != "plain"], strict=True):
            said = reader.find("span", mark, class_="spoken")[0]["text"]
            assert said == f"[{passage.kind.replace('-', ' ')}: {passage.note}] "
            assert mark["title"] == passage.note
            assert mark["text"].removeprefix(said) == passage.text.strip()
            text = text.replace(said, "", 1)
        edits = reader.find("ins", report)
        assert len(edits) == len({passage.edit for passage in passages} - {""})
        for edit in edits:
            assert edit["text"].startswith("inserted small pleural ")
            text = text.replace("inserted ", "", 1)
        assert text == "".join(passage.text for passage in passages)


def test_each_kind_of_mark_has_its_legend_and_its_sign_without_colour(reader):
    legend = reader.find("p", reader.find("section", id="studies")[0], class_="note keys")[0]
    told = {mark["class"]: mark["text"] for mark in reader.find("mark", legend)}
    kinds = {"agree", "wrong-side", "missed", "not-in-reference"}
    assert set(told) == kinds
    assert told["wrong-side"] == "wrong side"
    style = reader.find("style")[0]["text"]
    signs = dict(re.findall(r'mark\.([\w-]+)::before \{ content: "(\S)', style))
    lines = dict(re.findall(r"mark\.([\w-]+) \{[^}]*text-decoration-style: (\w+)", style))
    for found in (signs, lines):
        assert set(found) == kinds
        assert len(set(found.values())) == len(kinds), "no two kinds look alike"


def test_films_lie_inside_as_they_are_and_are_never_enlarged():
    tall, small = draw_film(900, 600), draw_film(120, 100)
    study = replace(make_study("best", heatmaps=False), images=[tall, small])
    reader = read(make_page(studies=[study]))
    films = []
    for image in reader.find("img"):
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        films.append(Image.open(io.BytesIO(data)))
        assert films[-1].size == (int(image["width"]), int(image["height"]))
    assert [film.size for film in films] == [(256, 384), (100, 120)]
    pixels = np.asarray(films[1]).astype(float)
    assert np.abs(pixels - small).mean() < 5
    assert pixels[10:30, 10:18].mean() > 245, "the mark stays in the upper left corner"


def test_heatmaps_stand_beside_their_views(reader):
    captions = [e["text"] for e in reader.find("figcaption", reader.find("article")[0])]
    assert captions == ["PA view", "PA view, heatmap", "lateral view", "lateral view, heatmap"]


def test_nothing_that_was_written_becomes_markup():
    evil = "</pre><script>alert('1')</script><img src=x onerror=alert(1)>\" onclick=\"alert(1)"
    card = make_card()
    seen = replace(card.diversity["model"], most_frequent=evil)
    passages = [Passage(evil, kind, evil) for kind in ("plain", "agree")]
    study = replace(
        make_study("worst"),
        id=evil,
        projections=[evil, evil],
        reference=passages,
        generated=passages,
    )
    page = make_page(
        card=replace(card, diversity={**card.diversity, "model": seen}),
        title=evil,
        target=evil,
        answer=evil,
        evidence=[(evil, [evil])],
        constants={"constant": evil},
        notes=[evil],
        clinical={evil: 0.5},
        provenance={"checkpoint": evil, evil: evil},
        studies=[study],
        recipe=evil,
        environment={evil: evil},
    )
    reader = read(page)
    assert not reader.find("script")
    assert all(image["src"].startswith("data:") for image in reader.find("img"))
    assert not [key for e in reader.elements for key in e if key.startswith("on")]
    for tag in ("h1", "h4", "pre", "dd", "blockquote", "mark", "td"):
        assert any(evil in element["text"] for element in reader.find(tag)), tag


def test_text_that_utf8_cannot_hold_does_not_stop_the_page():
    study = replace(make_study("best"), generated=[Passage("broken \ud800 text", "plain")])
    assert "broken &#55296; text" in render_page(make_page(studies=[study]))


def test_what_was_not_computed_is_left_out_or_named():
    card = make_card({"model": (0.3, 0.4)})
    system = card.full.systems[0]
    intervals = {key: found for key, found in system.intervals.items() if key != "meteor"}
    system = replace(system, scores={**system.scores, "meteor": None}, intervals=intervals)
    full = replace(card.full, systems=(system,), on_seen={}, on_unseen={})
    reader = read(
        make_page(
            card=replace(card, num_seen=None, protocols=(full,)),
            notes=["METEOR was not computed: it needs Java"],
            studies=[],
            recipe="",
            environment={},
        )
    )
    assert not reader.find("section", id="studies")
    assert not reader.find("a", href="#studies")
    assert not reader.find("input", id="m-meteor")
    assert not reader.find("input", id="p-published")
    cells = reader.find("td", reader.find("div", **{"aria-label": "Scores, full protocol"})[0])
    assert [cell["text"] for cell in cells if not numbers_of(cell["text"])] == ["–"]
    text = reader.find("main")[0]["text"]
    assert "training reports not available" in text
    assert "METEOR was not computed: it needs Java" in text
    summaries = [summary["text"] for summary in reader.find("summary")]
    assert "Recipe" not in summaries
    assert "Environment" not in summaries


def test_several_runs_stand_beside_each_other():
    card = make_card({"runs/a": (0.4, 0.5), "runs/b": (0.2, 0.3)}, main="runs/a")
    llm = replace(card.full, protocol="published_llm", tokenizer="SmolLM2", num_cut=7)
    card = replace(card, protocols=(card.protocols[0], llm, card.full))
    reader = read(make_page(card=card, main="runs/a"))
    answer = reader.find("p", class_="answer")[0]["text"]
    assert answer.startswith("runs/a scores higher than runs/b in CIDEr.")
    text = reader.find("section", id="scores")[0]["text"]
    assert "Sub-words of SmolLM2. It cuts 7 of 295 references" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": "good"}, "rank must be one of best, median, worst, got 'good'"),
        ({"projections": ["PA"]}, "2 images, but 1 projections and 2 heatmaps"),
        ({"heatmaps": [draw_film()]}, "2 images, but 2 projections and 1 heatmaps"),
        (
            {"reference": [Passage("x", "not-in-reference")]},
            "wrong-side, missed, got 'not-in-reference'",
        ),
        ({"generated": [Passage("x", "missed")]}, "wrong-side, not-in-reference, got 'missed'"),
        ({"images": [np.zeros((4, 4)), np.zeros((4, 4))]}, "must be uint8, got float64"),
    ],
)
def test_a_study_that_does_not_fit_is_refused(changes, message):
    study = replace(make_study("best"), **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        render_page(make_page(studies=[study]))
