"""A console that lacks our characters: stand-ins, in every screen, and never an encoding error."""

import io
import sys

import pytest

from flexor_search import cli
from flexor_search.characters import STAND_INS, write_anywhere
from flexor_search.runs import Run
from flexor_search.terminal import print_results


@pytest.fixture
def on_a_console(monkeypatch):
    """A function that runs the command on a console of an encoding, and gives back its code and what it wrote there."""

    def call(encoding, *args):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]  # strict, as stdout is
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["flexor-search", *map(str, args)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr("signal.signal", lambda *_: None)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        for stream in streams:
            stream.flush()
        return ended.value.code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    return call


@pytest.mark.parametrize(("encoding", "spread"), [("ascii", " +/- "), ("cp1252", " ± ")])
def test_every_screen_is_written(real_run, on_a_console, monkeypatch, tmp_path, encoding, spread):
    monkeypatch.setattr(cli, "app", lambda **_: print_results(Run.open(real_run.folder)))
    code, out, err = on_a_console(encoding)
    monkeypatch.undo()
    assert (code, err) == (0, "")
    assert spread in out
    name = next(real_run.folder.glob("*.safetensors"))
    for args in (
        ("plan",),
        ("plan", "--workload", "resnet20-cifar10"),
        ("inspect", name),
        ("verify", name),
        ("--help",),
        ("study", "--help"),
    ):
        code, out, err = on_a_console(encoding, *args)
        assert (code, err) == (0, ""), args
        assert out
    code, out, err = on_a_console(encoding, "inspect", tmp_path / "統 ≤")
    assert (code, out) == (1, "")
    assert "\\u7d71 <=: cannot be read" in err.replace("≤", "<=")


def test_progress_is_written(on_a_console, monkeypatch, tmp_path, one_thread):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal, and draws its bar
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    short = ("--budget", "0.7bpw", "--trials", "1", "--epochs", "1", "--seeds", "1", "--device", "cpu")
    code, out, err = on_a_console("ascii", *short, "--out", tmp_path / "run ✓")
    assert code == 0, err
    assert "confirm " in err
    assert "left" in err
    assert "run ok" in out


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252"])
def test_what_an_encoding_has_is_left_alone_and_the_rest_stood_in_for(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no bytes behind it: nothing to set
    write_anywhere()
    for character, instead in STAND_INS.items():
        stream.buffer.seek(0)
        stream.buffer.truncate()
        stream.write(character)
        stream.flush()
        try:
            own = character.encode(encoding)
        except UnicodeEncodeError:
            own = instead.encode("ascii")
        assert stream.buffer.getvalue() == own


def test_a_file_name_that_is_no_text_comes_out_as_its_bytes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    write_anywhere()
    stream.write(b"run \xff \xc3\xa9".decode(errors="surrogateescape"))
    stream.flush()
    assert stream.buffer.getvalue() == b"run \xff \xc3\xa9"
