"""What makes two runs the same question, part by part: a run folder refuses another one and says what differs.

Sources count as bytes: a changed comment is another question too, which costs a new folder; a missed change would mix
measurements of two models in one run.
"""

import ast
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexor_search.asking import Question
from flexor_search.errors import RunError
from flexor_search.model_code import INSTALLED, model_code_digest
from flexor_search.planning import Recipe
from flexor_search.planning.file_layout import FORMAT_VERSION
from flexor_search.training import seeded
from flexor_search.workloads import Data

if TYPE_CHECKING:
    from flexor_search.question import Plan

DECIDING = ("codes", "planning", "workloads", "quantization", "training", "packing", "tuning")
"""Folders of this package whose sources decide what a search measures; the others only ask, store and show."""

_PACKAGE = Path(__file__).parent


def fingerprint(question: Question, planned: "Plan", recipe: Recipe, data: Data) -> dict[str, str]:
    """Each part of a question and its digest. Budgets, trials, timeouts and seed counts may differ on resuming.

    Args:
        question: what is asked.
        planned: its model and space.
        recipe: before anything left open in it is closed by a measurement.
        data: the splits.
    """
    shapes = [(layer.name, layer.kind, layer.weight_shape) for layer in planned.space.model.layers]
    menus = [(variable.layers, [spec.to_json() for spec in variable.menu]) for variable in planned.space.variables]
    parts = {
        "workload": planned.workload.name or f"{question.model} {question.data}",
        "model": _digest([shapes, planned.space.model.float_elements, frozen_parameters(planned.workload.build)]),
        "model code": model_code_digest(planned.workload.build),
        "given values": given_values_digest(planned.workload.build),
        "data": data_digest(data),
        "space": _digest([menus, planned.space.kept_dtype, *planned.space.found_ties]),
        "recipe": _digest(recipe.to_json()),
        "strategy": question.strategy,
        "seed": str(question.seed),
        "format": str(FORMAT_VERSION),
        "code": code_digest(),
    }
    parts |= {name: text for name, text in (("train", question.train), ("metric", question.metric)) if text}
    for reference in (question.model, question.data, question.train, question.metric):
        parts |= {f"source of {name}": digest for name, digest in source_digests(reference).items()}
    return parts


def refuse_other_code(asked: dict[str, str], build: Callable[[], nn.Module], place: Path) -> None:
    """Refuse to make a model of today's code for weights that were measured with other code of the same shapes.

    Args:
        asked: the fingerprint of the run that the weights are of.
        build: makes models of today's code.
        place: of the run.

    Raises:
        RunError: what it computes has changed since.
    """
    known = asked.get("model code")  # a run of an earlier version has none
    if known is not None and known != model_code_digest(build):
        raise RunError(
            f"the model's code has changed since {place} was measured, and its weights would be put into another "
            "network; bring back the code of then, or search anew with another --out"
        )


def study_name(asked: dict[str, str], budgets: Sequence[str]) -> str:
    """The name under which workers of one question find each other in a storage.

    Trials, timeouts and seed counts are not in it: who asks for more goes on with the same study.

    Args:
        asked: the fingerprint.
        budgets: their texts.
    """
    return f"flexor-search-{_digest([asked, list(budgets)])}"


def frozen_parameters(build: Callable[[], nn.Module]) -> list[str]:
    """Names of the parameters that no training changes."""
    with seeded(0):
        return [name for name, parameter in build().named_parameters() if not parameter.requires_grad]


def given_values_digest(build: Callable[[], nn.Module]) -> str:
    """Digest of the parameters and buffers that a new model has whatever the seed: what it is built with, not drawn.

    Of a pretrained model that is all; of others constants, and parts whose values cannot be drawn anew.
    """
    states = []
    for seed in (0, 1):
        with seeded(seed):
            states.append({name: _bytes(t) for name, t in build().state_dict().items() if isinstance(t, Tensor)})
    digest = hashlib.sha256()
    for name, value in states[0].items():
        if states[1].get(name) == value:
            digest.update(f"{name}\n".encode())
            digest.update(value)
    return digest.hexdigest()[:12]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def code_digest(package: Path = _PACKAGE) -> str:
    """Digest of this package's own sources, as far as they decide what a search measures; a version is too coarse."""
    digest = hashlib.sha256()
    for folder in DECIDING:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(_source(path))
    return digest.hexdigest()[:12]


def source_digests(reference: str) -> dict[str, str]:
    """Module -> digest of its source, for the module of `module:function` and what it imports of the same project.

    The imports are read from the sources, those inside of functions too, and followed as far as they lie in the same
    folder as the first module's package. Of an installed package the module alone is read.

    Args:
        reference: "module:function"; anything else, such as "" or a mark for a function that was given as an object,
            has no source that could be compared.
    """
    name, _, function = reference.partition(":")
    if not function or not all(part.isidentifier() for part in name.split(".")):
        return {}
    file = getattr(import_module(name), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    path = Path(file).resolve()
    depth = name.count(".") + (path.name == "__init__.py")
    root = path.parents[depth] if depth < len(path.parents) else path.parent
    is_installed = root in INSTALLED
    found: dict[str, str] = {}
    waiting = {name: path}
    while waiting:
        module, path = waiting.popitem()
        source = _source(path)
        found[module] = hashlib.sha256(source).hexdigest()[:12]
        if not is_installed:
            waiting |= {
                name: where
                for name in _imported(source, module, is_package=path.name == "__init__.py")
                if name not in found and (where := _module_file(root, name)) is not None
            }
    return dict(sorted(found.items()))


def _imported(source: bytes, module: str, *, is_package: bool) -> set[str]:
    """Full names of all that a source may import, and of the packages around them, which are imported with them."""
    names: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was compiled before, or fails where it is imported
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            around = parts[: len(parts) - node.level + is_package] if node.level else []
            start = ".".join([*around, *([node.module] if node.module else [])])
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}


def _module_file(root: Path, name: str) -> Path | None:
    """The source of a module below a folder, if it lies there."""
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _source(path: Path) -> bytes:
    """A source, with line breaks as they are everywhere."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def data_digest(data: Data) -> str:
    """Of everything that three splits hold; of images in files their names and sizes."""
    digest = hashlib.sha256()
    for split in (data.train, data.validation, data.test):
        digest.update(str((split.name, tuple(split.images.shape), split.mean, split.std)).encode())
        for part in split.identity():
            digest.update(part)
    return digest.hexdigest()[:12]
