"""How far a training has come, written down every so many seconds, so that a killed one goes on from there.

One file for one training, replaced as a whole: a safetensors container whose metadata is JSON, under a SHA-256; no
pickle. It holds all that a training is made of: tensors of the models, of the optimizer and of torch's random
generators, and as JSON the position and the scores so far; schedules and orders of images follow from position and
seed. On the same processor, with as many threads, a training that goes on comes to the same bits as one that was never
interrupted. One that cannot be used (damaged, of another training, of another version of torch) is no error: that is
told, and the training begins anew.

A loop uses a `Saver`: `restore` and `restore_optimizer` before its first step, `save` after a step where it `is_due`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from flexor_search.files import write_atomically
from flexor_search.workloads.own import first_line

CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints, and before the first: a training that is shorter is begun anew at less cost."""

_VERSION = 1
_ABOUT, _SHA256 = "about", "sha256"


def say_nothing(_text: str) -> None:
    """Tell nobody."""


def do_nothing() -> None:
    """Nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a training is written down.

    Attributes:
        path: of the file; its folder exists. Who started the training removes it when the result is safe.
        every_seconds: between two, and before the first; 0: after every step.
        identity: what else it must be the same training by, as JSON: the allocation, say. The seed, the recipe and the
            number of images are checked anyway.
        tell: is told whether the training went on from it, and if not, why.
        written: is called after each time that it was written.
    """

    path: Path
    every_seconds: float = CHECKPOINT_SECONDS
    identity: Any = None
    tell: Callable[[str], None] = say_nothing
    written: Callable[[], None] = do_nothing


class Saver:
    """Writes one training down, and takes it up again.

    Args:
        checkpoint: where and how often; None: never.
        identity: what the training is, as JSON.
        models: by name; parameters and buffers are kept, those that a state_dict leaves out too.
    """

    def __init__(self, checkpoint: Checkpoint | None, identity: Any, models: Mapping[str, nn.Module]) -> None:
        self._checkpoint, self._models = checkpoint, models
        own = checkpoint.identity if checkpoint is not None else None
        if checkpoint is not None and (kind := _with_hidden_state(models)):
            checkpoint.tell(f"no checkpoints: {kind} keeps state that is no tensor")
            self._checkpoint = None
        self._identity = _plain([_VERSION, torch.__version__, own, identity])
        self._last = time.monotonic()
        self._saved: dict[str, Tensor] = {}

    def restore(self) -> dict[str, Any] | None:
        """Give models and torch's random generators back what they held, and return the progress saved with it.

        None if there is nothing to go on from; then nothing was changed. `restore_optimizer` is next.
        """
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return None
        try:
            tensors, about = read_checkpoint(self._checkpoint.path)
            if about["identity"] != self._identity:
                raise ValueError("it is of another training or version")
            current = self._state()
            for name in current.keys() | {name for name in tensors if not name.startswith("optimizer.")}:
                now, then = current.get(name), tensors.get(name)
                if now is None or then is None or (now.shape, now.dtype) != (then.shape, then.dtype):
                    raise ValueError(f"{name} is of another shape")
        except Exception as error:  # there is no end to what a damaged file can raise
            reason = first_line(error)
            self._checkpoint.tell(f"{self._checkpoint.path} cannot be used ({reason}); its training begins anew")
            return None
        for name, tensor in self._model_tensors().items():
            with torch.no_grad():
                tensor.copy_(tensors[name])
        torch.set_rng_state(tensors["random.cpu"])
        for index in range(_cuda_devices()):
            torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"], index)
        self._saved = tensors
        self._checkpoint.tell(f"{self._checkpoint.path}: its training goes on from there")
        return about["progress"]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer over the restored models back its state; does nothing if nothing was restored."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for name, tensor in self._saved.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                parameter = parameters[int(index)]
                value = tensor.to(parameter.device)
                if value.shape == parameter.shape:  # fused optimizers go through memory as it lies
                    value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                optimizer.state[parameter][key] = value
        self._saved = {}

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._checkpoint is not None and time.monotonic() - self._last >= self._checkpoint.every_seconds

    def save(self, optimizer: torch.optim.Optimizer, progress: Any) -> None:
        """Write everything down, in the place of what was written before.

        Args:
            optimizer: of the models.
            progress: the position and all else that the loop must know again, as JSON.

        Raises:
            RunError: the file cannot be written.
        """
        assert self._checkpoint is not None, "it is never due"
        tensors = self._state() | _optimizer_tensors(optimizer)
        write_checkpoint(self._checkpoint.path, tensors, {"identity": self._identity, "progress": progress})
        self._checkpoint.written()
        self._last = time.monotonic()

    def _model_tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for prefix, model in self._models.items():
            found |= {f"{prefix}.{name}": parameter.detach() for name, parameter in model.named_parameters()}
            found |= {f"{prefix}.{name}": buffer for name, buffer in model.named_buffers()}
        return found

    def _state(self) -> dict[str, Tensor]:
        devices = {f"random.cuda.{index}": torch.cuda.get_rng_state(index) for index in range(_cuda_devices())}
        return self._model_tensors() | devices | {"random.cpu": torch.get_rng_state()}


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and JSON as one file, whole or not at all.

    Raises:
        RunError: the folder is not writable or the disk is full.
    """
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(about, sort_keys=True)
    write_atomically(path, save(whole, metadata={_ABOUT: text, _SHA256: _digest(whole, text)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_checkpoint` wrote.

    Raises:
        ValueError: it was changed since; other errors of a damaged file are safetensors' and json's.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no dict
    text = metadata.get(_ABOUT, "")
    if metadata.get(_SHA256) != _digest(tensors, text):
        raise ValueError("its SHA-256 does not match its content")
    return tensors, json.loads(text)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"optimizer.{index}.{key}": value
        for index, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _with_hidden_state(models: Mapping[str, nn.Module]) -> str:
    """The class of a module that has more state than its tensors, "" if none has."""
    modules = (module for model in models.values() for module in model.modules())
    hidden = (m for m in modules if type(m).get_extra_state is not nn.Module.get_extra_state)
    return next((type(module).__name__ for module in hidden), "")


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _plain(body: Any) -> Any:
    """As it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(body))
