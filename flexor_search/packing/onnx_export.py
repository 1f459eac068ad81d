"""A plain torch model as an ONNX graph whose weights are inputs, so that no exporter can fold or transpose them."""

import contextlib
import io
import warnings
from collections.abc import Iterator

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.func import functional_call

from flexor_search.errors import ModelError, UsageError
from flexor_search.packing.onnx_nodes import OPSET, rename

IMAGES, LOGITS = "images", "logits"
EXPORT_BATCH = 3  # 0 and 1 are special to the exporter


class _WeightsAsInputs(nn.Module):
    """The model as a function of images and of its own tensors. It must not own them: they would be exported too."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self._function = lambda images, tensors: functional_call(
            model, dict(zip(names, tensors, strict=True)), (images,)
        )

    def forward(self, images: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        return self._function(images, tensors)


def export_with_weights_as_inputs(model: nn.Module, names: list[str], example: Tensor) -> ModelProto:
    """Export a model in evaluation mode with a free batch size.

    Args:
        model: takes one float32 batch and returns one tensor of logits.
        names: of those tensors of its state that become graph inputs.
        example: a batch of inputs; only its shape past the first dimension matters.

    Returns:
        A graph with the inputs "images" and `value_of(name)` of all names, and the output "logits". The names of
        all its other values begin with "|".

    Raises:
        UsageError: the example is empty.
        ModelError: the exporter cannot express the model, or only for one batch size.
    """
    if example.ndim < 2 or not example.numel():
        raise UsageError(f"example: must be a batch of at least one input, got shape {tuple(example.shape)}")
    state = model.state_dict()
    tensors = tuple(state[name].detach() for name in names)
    labels = [f"flexor_tensor_{index}" for index in range(len(names))]
    images = example[:1].detach().to(torch.float32).repeat_interleave(EXPORT_BATCH, 0)
    try:
        with _quiet():
            program = torch.onnx.export(
                _WeightsAsInputs(model, names).eval(),
                (images, tensors),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGES, *labels],
                output_names=[LOGITS],
                dynamic_shapes=({0: torch.export.Dim("batch")}, tuple({} for _ in names)),
                verbose=False,
            )
            assert program is not None
            exported = program.model_proto
    except Exception as error:  # any user code may run here, and the exporter raises what its parts raise
        raise ModelError(f"model: cannot be exported to ONNX: {_reason(error)}") from error
    _check(exported)
    known = {IMAGES: IMAGES, LOGITS: LOGITS} | dict(zip(labels, map(value_of, names), strict=True))
    rename(exported.graph, lambda name: known.get(name, f"|{name}"))
    return exported


def value_of(name: str) -> str:
    """The graph's value of one of the model's own tensors; it may be called "images", or as any other value is."""
    return f":{name}"


def _check(exported: ModelProto) -> None:
    graph = exported.graph
    domains = {opset.domain: opset.version for opset in exported.opset_import}
    if domains != {"": OPSET} or exported.functions:
        raise ModelError(f"model: cannot be exported to ONNX opset {OPSET} alone, it takes {domains}")
    if len(graph.output) != 1 or graph.input[0].name != IMAGES:
        raise ModelError(
            f"model: must take one batch of inputs and return one tensor of logits, got {len(graph.output)} outputs"
        )
    for value in (graph.input[0], graph.output[0]):
        sizes = value.type.tensor_type.shape.dim
        if not sizes or not sizes[0].dim_param:
            raise ModelError(f"model: its ONNX graph has no free batch size, {value.name} is of a fixed size")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns about itself; what fails is raised anyway."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
