"""Proof that an ONNX file computes what the packed model does, in onnxruntime as anybody starts it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn

from flexor_search.errors import FormatError, VerificationError
from flexor_search.packing.onnx_export import IMAGES, LOGITS
from flexor_search.packing.onnx_file import OnnxFile, read_onnx
from flexor_search.packing.onnx_nodes import OPSET, every_node
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.verify import Checks

RUNTIME_TOLERANCE = 1e-4
"""Largest difference of a logit between torch and onnxruntime, both float32, as a share of the largest logit."""
BATCH_SIZES = (1, 3)


def verify_onnx(path: Path) -> Checks:
    """Check an ONNX file by itself.

    Args:
        path: of a file that `save_onnx` wrote.

    Returns:
        What was checked.

    Raises:
        FormatError: the file is damaged, or not ours.
        VerificationError: it is no valid ONNX, onnxruntime cannot run it, or a decoded weight is not the reference's.
    """
    return _verified(path)[0]


def prove_onnx(path: Path, packed: PackedModel, loaded: nn.Module, images: Tensor) -> Checks:
    """Prove that an ONNX file gives the packed model.

    Args:
        path: of the file.
        packed: what it was made from.
        loaded: `unpack_into(packed, plain)`, the model with decoded weights in torch.
        images: at least one, float32.

    Returns:
        What was checked.

    Raises:
        FormatError: the file is damaged, or not ours.
        VerificationError: as `verify_onnx`, or a weight or a logit is not that of the packed model.
    """
    checks, file, session = _verified(path)
    weights = {layer.name: layer.weight("reference") for layer in packed.layers if layer.name not in file.unused}
    found = {layer.name: layer.weight("reference") for layer in file.layers}
    known = {layer.name for layer in packed.layers} >= set(file.unused)
    same = weights.keys() == found.keys() and all(_same_bits(found[name], value) for name, value in weights.items())
    left_out = f"; not needed for logits and left out: {', '.join(file.unused)}" if file.unused else ""
    checks.add(known and same, f"weights of {len(found)} layers equal those of the packed model bit for bit{left_out}")
    _stores_the_rest(file, packed, checks)
    for batch in (images[:1], images if len(images) > 1 else images.repeat_interleave(2, 0)):
        _logits_agree(session, loaded, batch, checks)
    return checks


def _verified(path: Path) -> tuple[Checks, OnnxFile, onnxruntime.InferenceSession]:
    checks = Checks()
    file = read_onnx(path)
    checks.add(True, "the file is whole and its SHA-256 matches every byte")
    _is_standard(file.model, checks)
    session = _session(file.raw)
    checks.add([value.name for value in session.get_inputs()] == [IMAGES], "onnxruntime loads it as it is")
    _decodes(file, checks)
    _runs(file.model, session, checks)
    return checks, file, session


def _stores_the_rest(file: OnnxFile, packed: PackedModel, checks: Checks) -> None:
    """Kept tensors and exact ones, to the bit; of the exact ones the file has those that its graph reads."""
    kept = {name: value for name, value in packed.kept.items() if name not in file.unused_kept}
    flat = np.concatenate([np.zeros(0, packed.kept_dtype), *(value.ravel() for value in kept.values())])
    left_out = f"; not needed for logits and left out: {', '.join(file.unused_kept)}" if file.unused_kept else ""
    same = _same_bits(file.kept, flat) and packed.kept.keys() >= set(file.unused_kept)
    checks.add(same, f"{len(kept)} biases and kept tensors equal those of the packed model bit for bit{left_out}")
    same = all(name in packed.exact and _same_bits(value, packed.exact[name]) for name, value in file.exact.items())
    checks.add(same, f"{len(file.exact)} integer tensors equal those of the packed model")


def decoded_weights(file: OnnxFile) -> dict[str, NDArray[np.float32]]:
    """What onnxruntime decodes, by layer name: the part of the file's graph that ends in the quantized weights."""
    if not file.layers:
        return {}
    wanted = {layer.weight_name: layer for layer in file.layers}
    nodes, needed = [], set(wanted)
    for node in reversed(file.model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    made = {name for node in nodes for name in node.output}
    if not made >= wanted.keys():
        raise FormatError(f"its graph does not decode {', '.join(sorted(wanted.keys() - made))}")
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, layer.weight_shape) for name, layer in wanted.items()
    ]
    initializers = [tensor for tensor in file.model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes[::-1], "decoder", [_images(file.model)], outputs, initializers)
    part = helper.make_model(graph, opset_imports=list(file.model.opset_import), ir_version=file.model.ir_version)
    found = _run(_session(part.SerializeToString()), _random_images(file.model, 1), list(wanted))
    return {layer.name: value for layer, value in zip(file.layers, found, strict=True)}


def _is_standard(model: ModelProto, checks: Checks) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises its own, shape inference others, and all of them mean the same
        raise VerificationError(f"verify: failed: onnx.checker refuses it: {_line(error)}") from error
    checks.add(True, "onnx.checker accepts it, shapes included")
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    foreign = {node.op_type for node in every_node(model.graph) if node.domain not in ("", "ai.onnx")}
    standard = opsets == [("", OPSET)] and not foreign and not model.functions
    checks.add(standard, f"all its operators are standard ones of opset {OPSET}")


def _decodes(file: OnnxFile, checks: Checks) -> None:
    found, total = decoded_weights(file), 0
    for layer in file.layers:
        if not _same_bits(found[layer.name], layer.weight("reference")):
            raise VerificationError(f"verify: failed: onnxruntime decodes other weights of layer {layer.name}")
        total += layer.n_weights
    checks.add(True, f"onnxruntime decodes all {total} weights of {len(found)} layers as the reference, bit for bit")


def _runs(model: ModelProto, session: onnxruntime.InferenceSession, checks: Checks) -> None:
    for size in BATCH_SIZES:
        (logits,) = _run(session, _random_images(model, size), [LOGITS])
        finite = logits.shape[:1] == (size,) and bool(np.isfinite(logits).all())
        checks.add(finite, f"finite logits at batch size {size}")


@torch.no_grad()
def _logits_agree(session: onnxruntime.InferenceSession, loaded: nn.Module, images: Tensor, checks: Checks) -> None:
    wanted = loaded.eval()(images.clone()).double().numpy()
    (found,) = _run(session, images.numpy(), [LOGITS])
    if found.shape != wanted.shape:
        raise VerificationError(
            f"verify: failed: onnxruntime gives logits of shape {found.shape}, torch {wanted.shape}"
        )
    share = float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-6)
    checks.add(
        share <= RUNTIME_TOLERANCE,
        f"onnxruntime's logits of {len(images)} images equal torch's within {RUNTIME_TOLERANCE:g} of the largest "
        f"(measured {share:.1e})",
    )


def _session(raw: bytes) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise VerificationError(f"verify: failed: onnxruntime cannot load it: {_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.float32], outputs: list[str]) -> list[NDArray]:
    try:
        return [np.asarray(value) for value in session.run(outputs, {IMAGES: images})]
    except Exception as error:
        raise VerificationError(
            f"verify: failed: onnxruntime cannot run it on a batch of {len(images)}: {_line(error)}"
        ) from error


def _images(model: ModelProto) -> ValueInfoProto:
    found = next((value for value in model.graph.input if value.name == IMAGES), None)
    if found is None or not all(size.dim_value for size in found.type.tensor_type.shape.dim[1:]):
        raise FormatError(f"its graph has no input '{IMAGES}' of a shape that is fixed but for the batch size")
    return found


def _random_images(model: ModelProto, count: int) -> NDArray[np.float32]:
    """From 0 to 1: a model may take the logarithm of its inputs, or their root."""
    shape = tuple(size.dim_value for size in _images(model).type.tensor_type.shape.dim[1:])
    return np.random.default_rng(count).random((count, *shape), np.float32)


def _same_bits(one: NDArray, other: NDArray) -> bool:
    """Equal in dtype, shape and every bit, signs of zeros included."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
