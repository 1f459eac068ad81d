"""The question as a file: written with every key, read back to the same question, refused in words."""

import dataclasses
import tomllib

import pytest
import typer

from flexor_search import cli, workloads
from flexor_search.asking import ALL, PLAN, RESUME, SEARCH, STRATEGIES, WORKLOADS, Question, keys
from flexor_search.completing import VALUES
from flexor_search.config import question_text, read_config
from flexor_search.errors import UsageError


def options_of(command):
    group = typer.main.get_command(cli.app)
    found = group if command == "search" else group.commands[command]
    return {name for parameter in found.params for name in parameter.opts}


def uncommented(text):
    """Every key of a question file, set."""
    lines = (line.removeprefix("# ") for line in text.splitlines())
    return "\n".join(
        line for line in lines if " = " in line and line.partition(" = ")[0] in Question.__dataclass_fields__
    )


def test_every_key_is_in_the_file_and_on_the_command_line():
    fields = {field.name for field in dataclasses.fields(Question)}
    assert {key.name for key in keys()} == fields
    assert tomllib.loads(uncommented(question_text({}))).keys() == fields
    for command in ("search", "plan", "resume"):
        missing = {key.option for key in keys(command)} - options_of(command)
        assert not missing, f"{command} lacks {missing}"
    assert all("search" in key.commands for key in keys())
    assert all(key.commands in (SEARCH, PLAN, RESUME, ALL) for key in keys())
    assert all(key.help.endswith(".") and (not key.complete or key.complete in VALUES) for key in keys())


def test_names_that_are_told_without_importing_them_are_right():
    assert tuple(workloads.WORKLOADS) == WORKLOADS
    assert all(name in next(key.help for key in keys() if key.name == "strategy") for name in STRATEGIES)


def test_init_writes_a_file_that_asks_what_the_defaults_ask(command, tmp_path):
    ended = command("init")
    assert (ended.code, ended.out, ended.err) == (0, "question.toml\n", "")
    text = (tmp_path / "question.toml").read_text()
    assert Question(**read_config(tmp_path / "question.toml")) == Question("0.7bpw")
    assert Question(**tomllib.loads(uncommented(text))) == Question("0.7bpw")
    assert max(map(len, text.splitlines())) <= 100
    assert all(key.help.split()[0] in text for key in keys())
    ended = command("init", "question.toml")
    assert (ended.code, ended.out) == (2, "")
    assert "question.toml is there already" in ended.err
    assert (tmp_path / "question.toml").read_text() == text
    assert command("init", "absent/q.toml").err.startswith("flexor-search: cannot write absent/q.toml")


def test_the_command_line_wins_over_the_file(command, tmp_path):
    (tmp_path / "q.toml").write_text('budget = "0.01bpw"\nworkload = "lenet5-fashion-mnist"\n')
    assert "0.01bpw is below the least reachable size" in command("plan", "--config", "q.toml").err
    ended = command("plan", "--config", "q.toml", "--budget", "0.7bpw")
    assert (ended.code, ended.err) == (0, "")
    assert "budget 0.7bpw: reachable" in ended.out
    assert "1,605,632" in ended.out  # LeNet-5's third layer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trails = 3", "config: q.toml: unknown key 'trails'; did you mean 'trials'?"),
        ("timeout = 3", "unknown key 'timeout'; did you mean 'timeout_seconds'?"),
        ("budget = 0.7", "config: q.toml: budget: input should be a valid string, got 0.7"),
        ('trials = "many"', "trials: input should be a valid integer, got 'many'"),
        ("trials = 1.5", "trials: input should be a valid integer, got 1.5"),
        ("trials = true", "trials: input should be a valid integer, got True"),
        ("[budget]\nx = 1", "budget: input should be a valid string"),
        ("budget = ", "config: q.toml is not a readable TOML file: "),
        ("\udcff", "config: q.toml is not a readable TOML file: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_words(command, tmp_path, text, words):
    (tmp_path / "q.toml").write_bytes(text.encode(errors="surrogateescape"))
    ended = command("--config", "q.toml", "--budget", "0.7bpw")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert words in ended.err
    with pytest.raises(UsageError):
        read_config(tmp_path / "q.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["q.toml"]


def test_a_file_that_is_not_there(command):
    assert "config: absent.toml is not a readable TOML file: No such file" in command("--config", "absent.toml").err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"trials": "many"}, "trials: must be a whole number, got 'many'"),
        ({"trials": True}, "trials: must be a whole number, got True"),
        ({"trials": 1.5}, "trials: must be a whole number, got 1.5"),
        ({"budget": 0.7}, "budget: must be a text, got 0.7"),
        ({"timeout_seconds": "soon"}, "timeout_seconds: must be a number, got 'soon'"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds: must not be negative and a number, got inf"),
        ({"space": None}, "space: must be a text, got None"),
        ({"seed": 2**32}, "seed: must be below"),
        ({"ahead": -2}, "ahead: must be from -1 to 1000, got -2"),
    ],
)
def test_values_of_a_wrong_type_are_refused_in_python(wrong, words):
    with pytest.raises(UsageError) as refused:
        Question(**({"budget": "1bpw"} | wrong))
    assert words in str(refused.value)


def test_values_of_numpy_and_paths_become_plain(tmp_path):
    import numpy as np

    asked = Question("1bpw", trials=np.int64(3), timeout_seconds=7, space=tmp_path)
    assert [type(value) for value in (asked.trials, asked.timeout_seconds, asked.space)] == [int, float, str]
