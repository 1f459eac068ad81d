"""A short run of the fuzzer, and that it would notice: benchmarks/fuzz.py is what `0 findings` rests on."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.mutations import MARK, Parts, mutated, seeds, signed
from flexor_search.errors import FormatError
from flexor_search.packing import from_bytes

SEEDS = seeds()


def run(*arguments, folder):
    command = [sys.executable, "-m", "benchmarks.fuzz", *arguments, "--json", "--findings", str(folder)]
    done = subprocess.run(command, cwd=Path(fuzz.__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_some_hundred_mutations_have_no_finding(tmp_path):
    found = run("mutate", "--files", "400", "--seed", "7", folder=tmp_path)
    assert found["files"] == 400
    assert found["findings"] == []
    assert found["accepted"] > 10
    assert found["refused"] == sum(found["causes"].values()) > 200
    assert len(found["causes"]) > 25  # the hash does not hide what is behind it


def test_guided_with_or_without_atheris(tmp_path):
    found = run("guided", "--seconds", "2", folder=tmp_path)
    assert found["files"] > 0
    assert found["findings"] == []


def test_the_files_to_start_from_are_small_and_of_both_versions():
    assert {Parts.of(seed.raw).metadata["version"] for seed in SEEDS} == {1, 2}
    assert max(len(seed.raw) for seed in SEEDS) < 1500
    for seed in SEEDS:
        assert signed(seed.raw) == seed.raw
        assert Parts.of(seed.raw).joined() == seed.raw
        from_bytes(seed.raw)


def test_mutations_depend_on_their_seed_alone():
    def drawn(seed):
        rng = random.Random(seed)
        return [mutated(rng, rng.choice(SEEDS).raw, rng.choice(SEEDS).raw) for _ in range(200)]

    assert drawn(3) == drawn(3) != drawn(4)


def test_most_mutations_are_signed_again():
    rng = random.Random(5)
    files = [mutated(rng, rng.choice(SEEDS).raw, rng.choice(SEEDS).raw)[1] for _ in range(500)]
    assert sum(MARK in raw and signed(raw) == raw for raw in files) > 350


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda raw: from_bytes(SEEDS[2].raw), "one reader refuses|differ"),
        (lambda raw: 1 / 0, "from_bytes raised ZeroDivisionError"),
        (lambda raw: bytes(10**7), "bytes of memory"),
        (lambda raw: (open("/dev/null").close(), from_bytes(raw))[1], "from_bytes did open"),  # noqa: PTH123
        (lambda raw: (exec("0"), from_bytes(raw))[1], "from_bytes did"),
        (lambda raw: (_ for _ in ()).throw(FormatError("no reason")), "one reader refuses"),
        (lambda raw: (_ for _ in ()).throw(FormatError()), "without a reason"),
    ],
)
def test_a_broken_reader_would_be_found(broken, message, monkeypatch, tmp_path):
    tally = fuzz.Tally()
    fuzz.attempt(SEEDS[0].raw, tally, tmp_path)
    fuzz.attempt(SEEDS[0].raw, tally, tmp_path)
    assert tally.accepted >= 1
    tally = fuzz.Tally()
    monkeypatch.setattr(fuzz, "from_bytes", broken)
    fuzz.attempt(SEEDS[0].raw, tally, tmp_path)
    assert len(tally.findings) == 1
    assert re.search(message, tally.findings[0])
    assert (tmp_path / "finding-0.safetensors").read_bytes() == SEEDS[0].raw
