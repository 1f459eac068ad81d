"""The run folder: what is appended stays, what a crash tore is healed, what is damaged is refused in words."""

import csv
import errno
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search.errors import FlexorError, RunError
from flexor_search.runs import Run
from flexor_search.runs.measurement import COLUMNS

from .examples import FINGERPRINT, PLAIN, QUESTION, measured, measurements

TRICKY = 'a "quoted", one\nwith 🙂, ü\nand a comma'


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "run", QUESTION, FINGERPRINT)


def filled(run, *found):
    for one in found:
        run.append(one)
    return run.folder / "measurements.csv"


def test_a_new_run_holds_the_question_and_nothing_else(run):
    body = tomllib.loads((run.folder / "run.toml").read_text())
    assert body == {"question": QUESTION, "fingerprint": FINGERPRINT}
    assert run.measurements == ()
    assert run.summary() is None
    assert list(run.frame().columns) == list(COLUMNS)
    again = Run.open(run.folder)
    assert (again.question, again.fingerprint) == (QUESTION, FINGERPRINT)


def test_each_append_adds_one_line_that_is_on_disk_before_it_returns(run, monkeypatch):
    path, synced, fsync = run.folder / "measurements.csv", [], os.fsync

    def watched(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    before = f"{','.join(COLUMNS)}\n".encode()
    for number in range(3):
        run.append(measured(number))
        after = path.read_bytes()
        assert after.startswith(before)
        assert after[len(before) :].count(b"\n") == 1
        assert after.endswith(b"\n")
        assert synced == [after]
        before, synced[:] = after, []
    assert [row["number"] for row in csv.DictReader(path.read_text().splitlines())] == ["0", "1", "2"]


@settings(max_examples=40)
@given(st.lists(measurements(), max_size=4))
def test_whatever_was_appended_is_read_again(found):
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(folder, QUESTION, FINGERPRINT)
        filled(run, *found)
        again = Run.open(folder)
        assert repr(again.measurements) == repr(tuple(found)) == repr(run.measurements)
        assert len(again.frame()) == len(found)


def test_the_file_is_a_plain_table_for_others(run):
    path = filled(run, measured(0), measured(1, reason=TRICKY, val_accuracy=float("nan")))
    table = pd.read_csv(path, keep_default_na=False)
    assert list(table["reason"]) == ["", TRICKY]
    assert list(table.columns) == list(run.frame().columns)


@pytest.mark.parametrize("reason", ["", TRICKY])
def test_a_last_line_torn_anywhere_is_dropped_and_the_file_healed(run, reason):
    path = filled(run, measured(0), measured(1, label=TRICKY))
    whole = path.read_bytes()
    run.append(measured(2, reason=reason, kind='"'))
    every = path.read_bytes()
    for cut in range(len(whole), len(every)):
        path.write_bytes(every[:cut])
        healed = Run.open(run.folder)
        assert [m.number for m in healed.measurements] == [0, 1], cut
        assert path.read_bytes() == every[:cut], cut  # reading changes nothing: somebody may be writing that line
        healed.lock()
        healed.unlock()
        assert path.read_bytes() == whole, cut
        dropped = [f"the last line of {path} was torn and is dropped; its training is made again"]
        assert healed.notices == (dropped if cut > len(whole) else []), cut
    path.write_bytes(every[: len(whole) + 7])
    healed = Run.open(run.folder)
    healed.append(measured(2))
    assert [m.number for m in Run.open(run.folder).measurements] == [0, 1, 2]
    assert sorted(p.name for p in run.folder.iterdir()) == [".lock", "measurements.csv", "run.toml", "trained"]


def test_a_header_torn_anywhere_is_written_anew(run):
    path = filled(run, measured(0))
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n")):
        path.write_bytes(whole[:cut])
        healed = Run.open(run.folder)
        assert healed.measurements == ()
        healed.append(measured(0))
        assert path.read_bytes() == whole


DAMAGES = {
    "a field is missing": lambda lines: [lines[0], lines[1].replace(b"uniform,", b"", 1), *lines[2:]],
    "a field too many": lambda lines: [lines[0], lines[1].replace(b"uniform", b"uni,form", 1), *lines[2:]],
    "a number that is none": lambda lines: [lines[0], lines[1].replace(b"17136", b"17x36", 1), *lines[2:]],
    "two lines run together": lambda lines: [lines[0], lines[1].rstrip(b"\n") + lines[2], *lines[3:]],
    "half a line is missing": lambda lines: [lines[0], lines[1][:40] + b"\n", *lines[2:]],
    "a quote too many": lambda lines: [lines[0], lines[1].replace(b"uniform", b'"uniform', 1), *lines[2:]],
    "text behind a quote": lambda lines: [lines[0], lines[1].replace(b"uniform", b'"uni"form', 1), *lines[2:]],
    "bytes that are no text": lambda lines: [lines[0], lines[1].replace(b"uniform", b"\xff\xfe", 1), *lines[2:]],
    "the header is missing": lambda lines: lines[1:],
    "the header is another": lambda lines: [lines[0].replace(b"digest", b"digits"), *lines[1:]],
    "zeros": lambda lines: [lines[0], b"\0" * 100 + b"\n", *lines[1:]],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it_and_nothing_is_thrown_away(run, name):
    path = filled(run, *(measured(number) for number in range(4)))
    header, *lines = path.read_bytes().splitlines(keepends=True)
    damaged_lines, line = DAMAGES[name]([header, *lines]), 2
    if "header" not in name:
        damaged_lines, line = [header, lines[0], *DAMAGES[name]([header, *lines[1:]])[1:]], 3
    damaged = b"".join(damaged_lines)
    path.write_bytes(damaged)
    with pytest.raises(
        RunError, match=rf"measurements\.csv is damaged: line {line}: .+; mend that line, .*another --out"
    ):
        Run.open(run.folder)
    with pytest.raises(RunError, match=r"measurements\.csv is damaged: "):
        Run.start(run.folder, QUESTION, FINGERPRINT)
    assert path.read_bytes() == damaged


def test_a_file_from_before_there_was_a_worker_is_read_and_gets_the_column_with_the_next_line(run):
    found = [measured(0, reason='a "quoted", one'), measured(1)]
    path = run.folder / "measurements.csv"
    filled(run, *found)
    with path.open(newline="") as file:
        rows = [row[:-1] for row in csv.reader(file)]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    old = Run.open(run.folder)
    assert old.measurements == tuple(found)
    old.append(measured(2, worker="3"))
    assert Run.open(run.folder).measurements == (*found, measured(2, worker="3"))
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_line_may_be_longer_than_the_csv_modules_limit(run):
    filled(run, measured(0, allocation="x" * 300_000), measured(1))
    limit = csv.field_size_limit(131_072)
    try:
        assert [len(m.allocation) for m in Run.open(run.folder).measurements] == [300_000, len(PLAIN.allocation)]
    finally:
        csv.field_size_limit(limit)


def test_of_equal_keys_the_last_is_found(run):
    filled(run, measured(0, digest="a" * 16), measured(1), measured(2, digest="a" * 16))
    assert run.find(("a" * 16, "search", 0)).number == 2
    assert run.find(("a" * 16, "confirm", 0)) is None


def test_run_toml_cut_anywhere_is_never_taken_for_this_question(run):
    path = run.folder / "run.toml"
    whole = path.read_bytes()
    for cut in range(len(whole.rstrip())):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError):
            Run.start(run.folder, QUESTION, FINGERPRINT)
        assert path.read_bytes() == whole[:cut]
    path.write_bytes(whole)
    Run.start(run.folder, QUESTION, FINGERPRINT)


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"question = 3\n[fingerprint]\n", b"[question]\n", b"[fingerprint]\n", b"question = [", b""],
)
def test_a_damaged_run_toml_is_an_error_in_words(run, text):
    (run.folder / "run.toml").write_bytes(text)
    with pytest.raises(RunError, match=r"run\.toml is damaged"):
        Run.open(run.folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match=r"is not a run folder: it holds no run\.toml"):
            Run.open(folder)


def test_another_question_is_refused_naming_exactly_what_differs(run):
    before = (run.folder / "run.toml").read_bytes()
    other = {"data": "a701748bcff3", "seed": "5", "space": "da8b8e0df2ee"}
    with pytest.raises(RunError, match="belongs to another question") as refused:
        Run.start(run.folder, QUESTION, other)
    text = str(refused.value)
    assert "seed (there 0, here 5)" in text
    assert "code (there 0.1.0, here absent)" in text
    assert "space (there absent, here da8b8e0df2ee)" in text
    assert "data (" not in text
    assert (run.folder / "run.toml").read_bytes() == before


def test_the_same_question_may_change_what_is_not_fingerprinted(run):
    filled(run, measured(0))
    again = Run.start(run.folder, QUESTION | {"trials": 40}, FINGERPRINT)
    assert Run.open(run.folder).question["trials"] == 40
    assert [m.number for m in again.measurements] == [0]


def test_a_damaged_summary_says_how_to_get_another(run):
    run.write_summary({"state": "complete", "budgets": []})
    assert run.summary() == {"state": "complete", "budgets": []}
    path = run.folder / "summary.json"
    for cut in (0, 5):
        path.write_text(path.read_text()[:cut])
        with pytest.raises(RunError, match=r"summary\.json is damaged.*flexor-search resume"):
            run.summary()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_disk_that_refuses_a_line_keeps_none_of_it(run, monkeypatch, code, earlier):
    path = filled(run, *(measured(number) for number in range(earlier)))
    before = path.read_bytes() if earlier else b""

    def refuse(_descriptor):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(RunError, match=rf"cannot write .*measurements\.csv: {os.strerror(code)}"):
            run.append(measured(earlier))
    assert path.read_bytes() == before
    assert len(run.measurements) == earlier
    run.append(measured(earlier))
    assert len(Run.open(run.folder).measurements) == earlier + 1


def test_a_folder_that_cannot_be_made_or_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Run.start(tmp_path / "file", QUESTION, FINGERPRINT)
    with pytest.raises(RunError, match="cannot write"):
        Run.start(tmp_path / "file" / "inside", QUESTION, FINGERPRINT)
    run = Run.start(tmp_path / "run", QUESTION, FINGERPRINT)

    def read_only(self, mode="r", *rest, **more):
        if mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open(self, mode, *rest, **more)  # noqa: PTH123

    monkeypatch.setattr(Path, "open", read_only)
    for work in (lambda: run.append(PLAIN), run.lock, lambda: Run.start(run.folder, QUESTION, FINGERPRINT)):
        with pytest.raises(RunError, match="Read-only file system"):
            work()
    assert issubclass(RunError, FlexorError)


FILL = """
import resource, sys
from dataclasses import replace
from flexor_search.errors import RunError
from flexor_search.runs import Run
from runs.examples import FINGERPRINT, QUESTION, measured
run = Run.start(sys.argv[1], QUESTION, FINGERPRINT)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    for number in range(1000):
        run.append(measured(number))
except RunError as error:
    print(number, error)
"""


def test_a_file_that_the_system_refuses_to_grow_ends_with_a_whole_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path / "run"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    number, message = done.stdout.strip().split(" ", 1)
    assert message.startswith("cannot write ")
    raw = (tmp_path / "run" / "measurements.csv").read_bytes()
    assert len(raw) <= 2000
    assert raw.endswith(b"\n")
    assert [m.number for m in Run.open(tmp_path / "run").measurements] == list(range(int(number)))
