"""Hostile packed files: each is refused with a reason, or is the same model for two readers that share no line.

    python -m benchmarks.fuzz mutate --files 100000 --seed 0
    python -m benchmarks.fuzz mutate --every-byte
    python -m benchmarks.fuzz guided --seconds 600

`mutate` draws mutations that know the format (benchmarks/mutations.py). `guided` lets atheris choose by coverage of
flexor_search.packing and docs/examples/decode_standalone.py; atheris is not a dependency (pip install atheris), and
without it hypothesis takes its place, blind to coverage. What is no refusal and no model that both readers agree on is
a finding: it is printed, the file that shows it is saved, and the command exits with 1.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import random
import re
import sys
import tempfile
import time
import tracemalloc
import types
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.mutations import ARCHITECTURES, Seed, mutated, seeds, signed
from flexor_search.errors import FlexorError, FormatError
from flexor_search.packing import PackedModel, from_bytes, inspect_file, unpack_into
from flexor_search.packing.packed_model import DECODERS

STANDALONE = Path(__file__).parents[1] / "docs" / "examples" / "decode_standalone.py"
MEMORY_PER_BYTE, MEMORY_BYTES = 64, 1_000_000  # docs/format.md promises it
SLOW_SECONDS = 5.0
FORBIDDEN = ("open", "exec", "compile", "import", "os.", "subprocess.", "socket.", "pickle.", "shutil.", "ctypes.")


class Finding(Exception):
    """A file that is neither refused nor the same model for every reader."""


@dataclass
class Tally:
    """What became of the files."""

    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    loaded: int = 0
    findings: list[str] = field(default_factory=list)
    largest_memory: float = 0.0

    @property
    def files(self) -> int:
        """How many were tried."""
        return sum(self.refused.values()) + self.accepted + len(self.findings)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "files": self.files,
            "refused": sum(self.refused.values()),
            "accepted": self.accepted,
            "loaded": self.loaded,
            "findings": self.findings,
            "largest_memory_per_byte": round(self.largest_memory, 1),
            "kinds": dict(self.kinds.most_common()),
            "causes": dict(self.refused.most_common()),
        }

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.files} files: {sum(self.refused.values())} refused, {self.accepted} accepted by both readers "
            f"({self.loaded} of them loaded into a model), {len(self.findings)} findings",
            f"most memory of a reader: {self.largest_memory:.1f} times the file",
            *(f"{count:8}  {kind}" for kind, count in self.kinds.most_common()),
            f"{len(self.refused)} causes of refusal:",
            *(f"{count:8}  {cause}" for cause, count in self.refused.most_common()),
            *self.findings,
        ]
        return "\n".join(lines)


class _Watch:
    """Tells of everything that a reader of bytes has no business with: files, code, processes, sockets."""

    def __init__(self) -> None:
        self.on, self.seen = False, ""
        sys.addaudithook(self._hook)  # for the rest of the process

    def _hook(self, event: str, _: tuple[Any, ...]) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen = self.seen or event

    def __enter__(self) -> None:
        self.on, self.seen = True, ""

    def __exit__(self, *_: object) -> None:
        self.on = False


@functools.cache
def watch() -> _Watch:
    """The only one."""
    return _Watch()


@functools.cache
def standalone() -> Any:
    """The reader that was written from docs/format.md alone."""
    spec = importlib.util.spec_from_file_location("decode_standalone", STANDALONE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def examine(raw: bytes, tally: Tally) -> None:
    """Give a file to both readers and hold them against each other.

    Args:
        raw: the file.
        tally: notes what became of the file.

    Raises:
        Finding: what should never be.
    """
    start = time.process_time()  # of this process alone: on a busy machine any file takes long
    packed, cause = _ours(raw, tally)
    other, other_cause = _theirs(raw)
    if (packed is None) != (other is None):
        raise Finding(f"one reader refuses what the other takes: {cause!r} against {other_cause!r}")
    if packed is None:
        tally.refused[_general(cause)] += 1
    else:
        compare(packed, other)
        _accounted(raw)
        fits = [_loaded(packed, other, build()) for build in ARCHITECTURES]
        tally.loaded += any(fits)
        tally.accepted += 1
    seconds = time.process_time() - start
    if seconds > SLOW_SECONDS:
        raise Finding(f"it took {seconds:.1f} s")


def _ours(raw: bytes, tally: Tally) -> tuple[PackedModel | None, str]:
    packed, cause = None, ""
    tracemalloc.start()
    try:
        with watch():
            packed = from_bytes(raw)
    except FormatError as error:
        cause = str(error)
        if not cause:
            raise Finding("refused without a reason") from error
    except Exception as error:
        raise Finding(f"from_bytes raised {type(error).__name__}: {error}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > MEMORY_PER_BYTE * len(raw) + MEMORY_BYTES:
        raise Finding(f"{peak} bytes of memory for a file of {len(raw)}")
    if len(raw) > 500:
        tally.largest_memory = max(tally.largest_memory, peak / len(raw))
    if watch().seen:
        raise Finding(f"from_bytes did {watch().seen}")
    return packed, cause


def _theirs(raw: bytes) -> tuple[Any, str]:
    try:
        with watch():
            found = standalone().read(raw)
    except standalone().Refused as error:
        return None, str(error)
    except Exception as error:
        raise Finding(f"decode_standalone raised {type(error).__name__}: {error}") from error
    if watch().seen:
        raise Finding(f"decode_standalone did {watch().seen}")
    return found, ""


def compare(packed: PackedModel, other: Any) -> None:
    """Every weight by both decoders and by the standalone one, and everything else that a file holds."""
    if [layer.name for layer in packed.layers] != [name for name, layer in other.layers.items() if layer.bits]:
        raise Finding("the readers differ in the quantized layers")
    for layer in packed.layers:
        theirs = other.layers[layer.name]
        bits = np.stack([bits.reshape(-1) for bits in theirs.bits])
        for decoder in DECODERS:
            if not np.array_equal(layer.weight_bits(decoder), bits):
                raise Finding(f"layer {layer.name!r}: the {decoder} decoder gives other bits")
            if layer.weight(decoder).tobytes() != theirs.weight.tobytes():
                raise Finding(f"layer {layer.name!r}: the {decoder} decoder gives other weights")
        if not np.isfinite(theirs.weight).all():
            raise Finding(f"layer {layer.name!r} has weights that are not finite")
    ours = {layer.weight_name: layer.weight() for layer in packed.layers} | packed.kept | packed.exact
    theirs = other.tensors()
    if ours.keys() != theirs.keys():
        raise Finding(f"the readers differ in tensors: {sorted(ours.keys() ^ theirs.keys())}")
    for name, value in ours.items():
        if (value.dtype, value.shape, value.tobytes()) != (
            *(theirs[name].dtype, theirs[name].shape, theirs[name].tobytes()),
        ):
            raise Finding(f"the readers differ in tensor {name!r}")
    if (packed.model_name, list(packed.folded)) != (other.model, other.folded):
        raise Finding("the readers differ in the model's name or the folded norms")


def _accounted(raw: bytes) -> None:
    """`inspect` accounts for every byte of what is accepted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(raw)
        try:
            found = inspect_file(path)
        except Exception as error:
            raise Finding(f"inspect_file raised {type(error).__name__}: {error}") from error
    if found.file_bytes != len(raw) or found.container_bytes <= 0:
        raise Finding(f"inspect_file accounts for {found.file_bytes} of {len(raw)} bytes")


def _loaded(packed: PackedModel, other: Any, model: nn.Module) -> bool:
    """Whether it fits the architecture; if so, the model holds what the other reader read, and nothing else."""
    tensors = other.tensors()
    try:
        with watch():
            unpack_into(packed, model)
    except FlexorError:
        return False
    except Exception as error:
        raise Finding(f"unpack_into raised {type(error).__name__}: {error}") from error
    if watch().seen:
        raise Finding(f"unpack_into did {watch().seen}")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if name not in state or not np.array_equal(state[name], value.astype(state[name].dtype)):
            raise Finding(f"the model holds another {name!r} than the file")
    return True


def _general(cause: str) -> str:
    """A message without what is particular to one file."""
    cause = re.sub(r"""'[^']*'|"[^"]*"|\[.*\]|\{.*\}""", "...", cause, flags=re.DOTALL)
    return re.sub(r"-?\d+", "N", cause)[:110]


def attempt(raw: bytes, tally: Tally, folder: Path) -> None:
    """`examine`, a finding noted and its file saved."""
    try:
        examine(raw, tally)
    except Finding as finding:
        path = folder / f"finding-{len(tally.findings)}.safetensors"
        path.write_bytes(raw)
        tally.findings.append(f"{path}: {finding}")
        print(tally.findings[-1], file=sys.stderr, flush=True)


def _warm_up(known: tuple[Seed, ...]) -> None:
    """Read and load what is whole: what is imported or compiled at first use is not the doing of a file."""
    standalone()
    tally = Tally()
    for _ in range(2):
        for start in known:
            try:
                examine(start.raw, tally)
            except Finding as finding:
                print(f"at first: {finding}", file=sys.stderr)
    if tally.loaded < len(known):
        raise RuntimeError(f"the files to start from are not all read and loaded: {tally.text()}")


def mutate(files: int, seed: int, folder: Path) -> Tally:
    """Draw mutations, one to three on top of each other, of the small files."""
    tally, rng, known = Tally(), random.Random(seed), seeds()
    _warm_up(known)
    for number in range(files):
        start = rng.choice(known)
        raw, kind = start.raw, ""
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            kind, raw = mutated(rng, raw, rng.choice(known).raw)
        tally.kinds[kind] += 1
        attempt(raw, tally, folder)
        if (number + 1) % 10_000 == 0:
            print(f"{number + 1} files, {len(tally.findings)} findings", file=sys.stderr, flush=True)
    return tally


def every_byte(folder: Path) -> Tally:
    """All 255 other values at every place of the smallest file, unsigned: each must be refused."""
    start, tally = min(seeds(), key=lambda seed: len(seed.raw)), Tally()
    _warm_up((start,))
    for place in range(len(start.raw)):
        for value in range(256):
            if value != start.raw[place]:
                raw = start.raw[:place] + bytes([value]) + start.raw[place + 1 :]
                attempt(raw, tally, folder)
    tally.kinds[f"one byte of {len(start.raw)}"] = tally.files
    if tally.accepted:
        tally.findings.append(f"{tally.accepted} changed files were accepted")
    return tally


def guided(seconds: float, seed: int, folder: Path, report: Callable[[Tally], int]) -> int:
    """Guided by coverage for a time; what report(tally) returns is the exit code, and atheris ends the process."""
    tally, known = Tally(), seeds()
    _warm_up(known)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: hypothesis takes its place, which does not see coverage", file=sys.stderr)
        return report(_drawn(time.monotonic() + seconds, tally, known, folder))

    whole = {start.raw: None for start in known}  # files that both readers accept

    def one(raw: bytes) -> None:
        if time.monotonic() > end:
            code = report(tally)
            sys.stdout.flush()
            os._exit(code)
        accepted = tally.accepted
        attempt(raw, tally, folder)
        if tally.accepted > accepted and len(whole) < 1000:
            whole[raw] = None

    def mutator(raw: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if raw not in whole and rng.random() < 0.6:  # most of what covers something new is broken: begin again
            raw = rng.choice(list(whole))
        if rng.random() < 0.2:
            return signed(atheris.Mutate(raw, most))
        return mutated(rng, raw, rng.choice(known).raw)[1][:most]

    for module in _instrumented():
        for function in _functions(module):
            atheris.instrument_func(function)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(known):
        (corpus / f"seed-{number}").write_bytes(start.raw)
    options = [f"-seed={seed + 1}", "-max_len=8192", "-timeout=60", "-rss_limit_mb=4096", "-verbosity=1", str(corpus)]
    end = time.monotonic() + seconds
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutator)
    atheris.Fuzz()
    raise AssertionError("atheris ends the process")


def _drawn(end: float, tally: Tally, known: tuple[Seed, ...], folder: Path) -> Tally:
    """Mutations that hypothesis chooses, until the time is over."""

    @settings(max_examples=500, deadline=None, database=None)
    @given(st.sampled_from(known), st.sampled_from(known), st.lists(st.integers(0), min_size=1, max_size=4))
    def batch(start: Seed, other: Seed, numbers: list[int]) -> None:
        raw = start.raw
        for number in numbers:
            raw = mutated(random.Random(number), raw, other.raw)[1]
        attempt(raw, tally, folder)

    while time.monotonic() < end:
        batch()
    return tally


def _instrumented() -> list[types.ModuleType]:
    names = [name for name in sys.modules if name.startswith("flexor_search.packing.")]
    return [*(sys.modules[name] for name in names), standalone()]


def _functions(module: types.ModuleType) -> list[Any]:
    """The functions and methods that a module defines."""
    found = []
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                found.append(function)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("mutate", help="mutations that know the format")
    drawing.add_argument("--files", type=int, default=100_000)
    drawing.add_argument(
        "--every-byte", action="store_true", help="all values at every place of the smallest file instead"
    )
    guiding = commands.add_parser("guided", help="by coverage, with atheris")
    guiding.add_argument("--seconds", type=float, default=600)
    for command in (drawing, guiding):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--json", action="store_true")
        command.add_argument("--findings", type=Path, default=Path("findings"), help="folder for files that show one")
    args = parser.parse_args()
    args.findings.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("error")

    def report(tally: Tally) -> int:
        print(json.dumps(tally.to_json(), indent=1) if args.json else tally.text())
        return 1 if tally.findings else 0

    if args.command == "guided":
        return guided(args.seconds, args.seed, args.findings, report)
    return report(every_byte(args.findings) if args.every_byte else mutate(args.files, args.seed, args.findings))


if __name__ == "__main__":
    sys.exit(main())
