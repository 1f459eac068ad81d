"""One training step: as it stands, compiled, or recorded once as a CUDA graph and replayed.

A small model's step on a GPU is mostly launches: a graph launches the whole of it, optimizer included, at once. So that
it can be recorded, whatever a step reads stays at its address: batches are copied into buffers, and what follows a
schedule (learning rate, slope of the surrogate) is a tensor that is filled anew.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

ROUTES = ("eager", "compiled", "replayed", "compiled and replayed")

Losses = Callable[..., Tensor]
Work = Callable[[], Tensor]
Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_WARM_UP = 3
"""Real steps before recording: libraries choose their algorithms and optimizers make their state in the first ones."""
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records device work."""

    def warm_up(self, work: Work) -> Tensor:
        """Do work as it will be recorded."""
        ...

    def record(self, work: Work) -> Work:
        """Record work without doing it; the result does it, and returns the tensor that it returned then."""
        ...


class CudaGraphs:
    """Records into CUDA graphs."""

    def warm_up(self, work: Work) -> Tensor:
        """On a side stream, as recording does it."""
        if torch.cuda.current_stream() != torch.cuda.default_stream():
            return work()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = work()
        torch.cuda.current_stream().wait_stream(side)
        return result

    def record(self, work: Work) -> Work:
        """One graph for all of it."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # Scratch memory of matrix products belongs to the stream of the recording: two graphs that may run at the same
        # time must not share it.
        aside = stream if stream != torch.cuda.default_stream() else None
        with torch.cuda.graph(graph, stream=aside):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class Step:
    """Forward, backward and the optimizer's step.

    Args:
        losses: the loss of a batch's images and labels, a scalar.
        optimizer: steps after every backward pass.
        route: one of ROUTES.
        recorder: for the replayed ones; those that cannot be recorded go on as they stand.
        prepare: makes images and labels of what a step is given; recorded with it.

    Attributes:
        route: the one taken now.

    Raises:
        ValueError: no such route.
    """

    def __init__(
        self,
        losses: Losses,
        optimizer: torch.optim.Optimizer,
        route: str = "eager",
        recorder: Recorder | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        if route not in ROUTES:
            raise ValueError(f"route: must be one of {', '.join(ROUTES)}, got {route!r}")
        self.route, self._optimizer = route, optimizer
        self._losses = torch.compile(losses, dynamic=False) if "compiled" in route else losses
        self._recorder = (recorder or CudaGraphs()) if "replayed" in route else None
        self._prepare = prepare
        self._done = 0
        self._replay: Work | None = None
        self._batch: list[Tensor] = []

    def __call__(self, *batch: Tensor) -> Tensor:
        """One step on a batch; returns the loss, which the next step may overwrite."""
        if self._recorder is None:
            return self._as_it_stands(*batch)
        if self._done < _WARM_UP:
            self._done += 1
            return self._recorder.warm_up(lambda: self._as_it_stands(*batch))
        if self._replay is None:
            self._record(self._recorder, batch)
            if self._replay is None:
                return self._as_it_stands(*batch)
        for buffer, tensor in zip(self._batch, batch, strict=True):
            buffer.copy_(tensor)
        return self._replay()

    def _as_it_stands(self, *batch: Tensor) -> Tensor:
        loss = self._losses(*(self._prepare(*batch) if self._prepare is not None else batch))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _record(self, recorder: Recorder, batch: tuple[Tensor, ...]) -> None:
        self._batch = [tensor.clone() for tensor in batch]
        self._optimizer.zero_grad()  # so that the gradients are the recording's own
        try:
            self._replay = recorder.record(lambda: self._as_it_stands(*self._batch))
        except torch.OutOfMemoryError:  # who trains may try with less
            raise
        except RuntimeError as error:  # a model that looks at its values, or copies to the processor
            _log.info("a training step cannot be recorded and goes on as it stands: %s", str(error).splitlines()[0])
            self._recorder, self.route = None, self.route.removesuffix("replayed").removesuffix(" and ") or "eager"


def default_route(device: str) -> str:
    """How a step is done where nothing else is measured: replayed on a GPU, where launches cost most."""
    return "replayed" if device.startswith("cuda") else "eager"
