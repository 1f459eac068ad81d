"""optuna-dashboard opens study.db: its own server code, asked as a browser would, without a socket."""

import io
import json
import warnings
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from flexor_search.tuning.optuna_backend import STUDY_NAME, StudyRecord

from .models import new_run
from .test_study import ROWS, SPACE


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Ask a path of the dashboard: status, body."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own and bottle's, on being imported
        dashboard = pytest.importorskip(
            "optuna_dashboard", reason="needs optuna-dashboard: pip install 'flexor-search[live]'"
        )
    run = new_run(tmp_path_factory.mktemp("dashboard") / "run")
    record = StudyRecord(run, SPACE)
    for row in ROWS:
        run.append(row)
        record.add(row)
    storage = optuna.storages.RDBStorage(f"sqlite:///{run.folder / 'study.db'}", skip_compatibility_check=True)
    app = dashboard.wsgi(storage)

    def asked(path):
        environ, told = {"PATH_INFO": path, "wsgi.errors": io.StringIO()}, []
        setup_testing_defaults(environ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = b"".join(app(environ, lambda status, headers, error=None: told.append(status)))
        return told[0], body

    return asked


def test_the_page_loads(ask):
    status, body = ask("/dashboard/")
    assert status.startswith("200")
    assert b"<html" in body


def test_the_study_is_listed_and_opens_with_its_trials(ask):
    status, body = ask("/api/studies")
    assert status.startswith("200")
    (study,) = json.loads(body)["study_summaries"]
    assert study["study_name"] == STUDY_NAME
    assert study["directions"] == ["maximize", "minimize"]
    status, body = ask(f"/api/studies/{study['study_id']}")
    assert status.startswith("200")
    trials = json.loads(body)["trials"]
    searched = [m for m in ROWS if m.phase == "search"]
    assert len(trials) == len(searched)
    done = [trial["values"] for trial in trials if trial["state"] == "Complete"]
    assert done == [[m.val_accuracy, m.bits_per_weight] for m in searched if m.state == "done"]
