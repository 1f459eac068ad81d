"""The study command: its table on stdout, its progress on stderr, its errors in one line."""

import pytest

ROWS = '[[row]]\nname = "taps"\nworkload = "digits-convnet"\nrate = "8/20"\nfamily = "taps"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.toml").write_text(f'question = "Is it so?"\nseeds = 2\n{ROWS}')
    return tmp_path / "mine"


def test_it_prints_the_table_and_writes_it(command, folder, tmp_path):
    ended = command("study", folder, "--epochs", 1, "--images", 64, "--seeds", 1, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("# Is it so?\n\nFinished; the test set was read once")
    assert ended.out == (tmp_path / "out" / "table.md").read_text()
    assert "taps, seed 0: validation " in ended.err
    assert list(folder.iterdir()) == [folder / "study.toml"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--row", "tap"), "'tap' is no row of this study; did you mean 'taps'"),
        (("--epochs", "-1"), "epochs: must not be negative, got -1"),
        (("--device", "tpu"), "device: 'tpu' cannot be used here"),
    ],
)
def test_wrong_usage_is_one_line(command, folder, options, message):
    ended = command("study", folder, *options)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_a_folder_without_a_study_is_one_line(command, tmp_path):
    ended = command("study", tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "holds no study.toml" in ended.err


def test_a_call_whose_time_ends_within_a_search_has_no_table_yet(command, folder):
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace('rate = "8/20"\nfamily = "taps"', 'search = "0.5bpw"\ntrials = 2'))
    ended = command("study", folder, "--epochs", 1, "--images", 64, "--seeds", 1, "--seconds", 0.5)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.endswith("the time is over; the same command goes on\n")
