import inspect
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType

import numpy as np
import pytest
from huggingface_hub import close_session, constants

from radrep.errors import DataError
from radrep.metrics.radeval import CLINICAL_METRICS, ClinicalMetric, score_clinical

REFERENCES = ("no effusion .", "small left effusion .", "the heart is large .")
HYPOTHESES = ("no effusion .", "no effusion .", "the heart is normal .")


class StandIn:
    """RadEval as its release 2.2.1 behaves, over metrics that count words."""

    made: list["StandIn"] = []
    failing: dict[str, BaseException] = {}

    def __init__(
        self,
        metrics=None,
        openai_api_key=None,
        gemini_api_key=None,
        per_sample=False,
        detailed=False,
        show_progress=True,
        cache_dir=None,
    ):
        warnings.filterwarnings("ignore")
        sys.stdout.write("Using device: cpu\n")
        (self.metric,) = metrics
        self.per_sample, self.detailed = per_sample, detailed
        self.show_progress = show_progress
        self.offline = constants.HF_HUB_OFFLINE
        self.made.append(self)
        if error := self.failing.get(self.metric):
            raise error

    def __call__(self, refs, hyps):
        if not (isinstance(hyps, list) and isinstance(refs, list)):
            raise TypeError("hyps and refs must be of type list")
        warnings.warn("RadEval's own affair", DeprecationWarning, stacklevel=2)
        samples = [
            len(set(ref.split()) & set(hyp.split())) / len(ref.split())
            for ref, hyp in zip(refs, hyps, strict=True)
        ]
        if self.metric == "f1chexbert":
            f1 = sum(samples) / len(samples)
            if self.per_sample:
                return {"f1chexbert_sample_acc_all": samples}
            if self.detailed:
                labels = {"f1chexbert_5": {"Edema": f1}}
                return {"f1chexbert_all_micro_f1": f1, "f1chexbert_label_scores_f1": labels}
            return {"f1chexbert_all_micro_f1": round(f1, 4)}
        # RadEval's score of all reports: the inverse of the mean for RadCliQ, rounded.
        assert self.per_sample
        if self.metric == "radgraph":
            return {"radgraph_simple": samples, "radgraph_partial": [x / 2 for x in samples]}
        return {{"radcliq": "radcliq_v1"}.get(self.metric, self.metric): samples}


SAMPLES = [1.0, 0.5, 0.8]


@pytest.fixture
def radeval(monkeypatch):
    """RadEval's stand-in, with a hub that is not asked."""
    module = ModuleType("radeval")
    module.RadEval = StandIn
    monkeypatch.setitem(sys.modules, "radeval", module)
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(StandIn, "failing", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return StandIn


def test_every_metric_is_computed_by_itself(radeval):
    scores = score_clinical(REFERENCES, HYPOTHESES, list(CLINICAL_METRICS))
    assert [made.metric for made in radeval.made] == [
        metric.radeval_name for metric in CLINICAL_METRICS.values()
    ]
    assert scores.notes == ()
    mean = pytest.approx(2.3 / 3, abs=1e-12)  # not rounded to four places
    assert dict(scores.values) == {
        "bertscore": mean,
        "f1chexbert_all_micro_f1": mean,
        "radgraph_simple": mean,
        "radgraph_partial": pytest.approx(2.3 / 6),
        "radcliq_v1": mean,
        "green": mean,
    }
    assert set(scores.values) - set(scores.per_report) == {"f1chexbert_all_micro_f1"}
    np.testing.assert_allclose(scores.per_report["radgraph_partial"], np.array(SAMPLES) / 2)
    np.testing.assert_allclose(scores.per_report["radcliq_v1"], SAMPLES)


def test_a_metric_asked_for_twice_runs_once(radeval):
    scores = score_clinical(REFERENCES, HYPOTHESES, ["green", "green"])
    assert len(radeval.made) == 1
    assert list(scores.values) == ["green"]


def test_one_metric_that_does_not_load_costs_no_other(radeval):
    radeval.failing["radgraph"] = OSError("cannot reach\nthe hub" + 300 * "!")
    scores = score_clinical(REFERENCES, HYPOTHESES, ["radgraph", "bertscore"])
    assert list(scores.values) == ["bertscore"]
    (note,) = scores.notes
    assert note.startswith("radgraph: not computed (OSError: cannot reach the hub!")
    assert "...). It needs the weights StanfordAIMI/RRG_scorers (radgraph-xl.tar.gz)" in note


@pytest.mark.parametrize(
    "figures", [{"green": 0.5}, {"green": [0.5, None, 0.5]}, {"green": [0.5, 0.5]}, {}]
)
def test_figures_that_are_no_scores_are_noted_and_not_averaged(radeval, monkeypatch, figures):
    monkeypatch.setattr(StandIn, "__call__", lambda self, refs, hyps: figures)
    scores = score_clinical(REFERENCES, HYPOTHESES, ["green"])
    assert not scores.values
    assert not scores.per_report
    assert scores.notes[0].startswith("green: not computed (ValueError: RadEval gave no")


def test_an_interrupt_stops_everything(radeval):
    radeval.failing["bertscore"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        score_clinical(REFERENCES, HYPOTHESES, ["bertscore", "green"])
    assert len(radeval.made) == 1


def test_standard_output_and_warnings_stay_the_callers(radeval, capsys):
    before = list(warnings.filters)
    score_clinical(REFERENCES, HYPOTHESES, ["green"])
    assert warnings.filters == before
    assert capsys.readouterr().out == ""
    assert not radeval.made[0].show_progress


def test_without_radeval_each_metric_states_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)
    scores = score_clinical(REFERENCES, HYPOTHESES, ["chexbert", "green"])
    assert scores.notes == (
        "chexbert: needs pip install 'radrep[clinical]'",
        "green: needs pip install 'radrep[clinical]'",
    )
    assert not scores.values


@pytest.mark.parametrize("broken", ["import absent_dependency", "raise ValueError('other build')"])
def test_a_radeval_that_does_not_import_states_why(monkeypatch, tmp_path, broken):
    (tmp_path / "radeval.py").write_text(broken)
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (note,) = score_clinical(REFERENCES, HYPOTHESES, ["green"]).notes
    assert note.startswith("green: RadEval cannot be imported (")
    assert ("absent_dependency" in note) or ("ValueError: other build" in note)


def test_unknown_names_are_refused(radeval):
    with pytest.raises(DataError, match=r"no clinical metric bluert: choose from bertscore, chex"):
        score_clinical(REFERENCES, HYPOTHESES, ["green", "bluert"])
    assert not radeval.made


@pytest.fixture
def open_hub(monkeypatch):
    """Start a hub on this machine that answers everything with one status."""
    servers = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()  # one that knows another NO_PROXY

    def start(status):
        class Hub(BaseHTTPRequestHandler):
            def do_HEAD(self):  # noqa: N802
                self.send_error(status)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    close_session()


def test_weights_are_fetched_from_a_hub_that_answers(radeval, open_hub):
    open_hub(status=404)
    radeval.failing["green"] = OSError("no such weights")
    (note,) = score_clinical(REFERENCES, HYPOTHESES, ["green"]).notes
    assert not radeval.made[0].offline
    assert note.endswith("28 GB on a CPU")


@pytest.mark.parametrize("status", [503, None])
def test_a_hub_that_does_not_answer_is_not_waited_for(radeval, open_hub, monkeypatch, status):
    address = "http://127.0.0.1:1"  # where nobody listens
    if status is None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
    else:
        address = open_hub(status)
    notes = score_clinical(REFERENCES, HYPOTHESES, ["green", "bertscore"]).notes
    assert not radeval.made
    assert [note.split(":")[0] for note in notes] == ["green", "bertscore"]
    assert (
        f"{address} does not answer; with the weights in its cache, set HF_HUB_OFFLINE"
        in (notes[0])
    )


@pytest.mark.slow
def test_the_real_package_is_called_as_it_wants(monkeypatch, tmp_path):
    radeval = pytest.importorskip("radeval", reason="RadEval is not installed")
    assert inspect.signature(radeval.RadEval) == inspect.signature(StandIn)
    from radeval.metrics._registry import METRIC_REGISTRY

    assert {metric.radeval_name for metric in CLINICAL_METRICS.values()} <= set(METRIC_REGISTRY)
    # ROUGE is no clinical metric, but needs no weights.
    rouge = ClinicalMetric("rouge", needs="nothing")
    monkeypatch.setattr(
        "radrep.metrics.radeval.CLINICAL_METRICS", {**CLINICAL_METRICS, "rouge": rouge}
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    scores = score_clinical(REFERENCES, HYPOTHESES, ["bertscore", "rouge"])
    # Words without the full stop: 2 of 2 and 2, 1 of 3 and 2, 3 of 4 and 4.
    np.testing.assert_allclose(scores.per_report["rouge1"], [1, 2 / 5, 3 / 4])
    assert scores.values["rouge1"] == pytest.approx(2.15 / 3)
    assert len(scores.notes) == 1
    assert scores.notes[0].startswith("bertscore: not computed (OSError: ")
    assert "the weights distilbert-base-uncased" in scores.notes[0]
