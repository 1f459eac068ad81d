"""What packed files weigh, as written: beside their payload, beside float32, and as ONNX.

Weights need not be trained for it: a file's size is decided by the allocation. Every model is quantized at 8 bits of
20, by the project's systematic code and by the paper's code of two random taps; what is kept by default is kept.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import nn
from torchvision.models import (
    efficientnet_b0,
    mnasnet0_5,
    mobilenet_v2,
    mobilenet_v3_small,
    resnet18,
    shufflenet_v2_x0_5,
    squeezenet1_1,
)

from flexor_search.packing import pack, to_bytes
from flexor_search.planning import Allocation, LayerSpec, file_layout, make_space, savings
from flexor_search.quantization import describe, quantize_
from flexor_search.workloads import WORKLOADS
from flexor_search.workloads.resnet import ResNet

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits-convnet": (WORKLOADS["digits-convnet"].build, (1, 8, 8)),
    "lenet5": (WORKLOADS["lenet5-fashion-mnist"].build, (1, 28, 28)),
    "resnet20": (ResNet, (3, 32, 32)),
    "resnet18": (resnet18, (3, 224, 224)),
}
MODELS |= {
    build.__name__: (partial(build, num_classes=10), (3, 64, 64))
    for build in (mobilenet_v2, mobilenet_v3_small, efficientnet_b0, shufflenet_v2_x0_5, squeezenet1_1, mnasnet0_5)
}
CODES = {"systematic": LayerSpec("systematic", 8, 20), "two taps": LayerSpec("taps", 8, 20)}


@dataclass(frozen=True)
class Sizes:
    """One model's files.

    Attributes:
        model, code: which.
        weights: of the quantized layers.
        float_bytes: 4 for every parameter and buffer.
        payload_bytes, scale_bytes, kept_bytes: the parts that hold the model.
        file_bytes: the packed file.
        over_parts: file_bytes over the three parts.
        predicted_bytes: what the size model said before the file was written.
        onnx_bytes: the ONNX file, 0 if it was not asked for.
        saved_bytes: what each economy saves.
    """

    model: str
    code: str
    weights: int
    float_bytes: int
    payload_bytes: int
    scale_bytes: int
    kept_bytes: int
    file_bytes: int
    over_parts: float
    predicted_bytes: int
    onnx_bytes: int
    saved_bytes: dict[str, int]


def main() -> int:
    """Measure, print, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--onnx", action="store_true", help="write ONNX files too, some seconds each")
    parser.add_argument("--model", choices=MODELS, help="only this one")
    arguments = parser.parse_args()
    chosen = [arguments.model] if arguments.model else list(MODELS)
    found = [measure(model, code, onnx=arguments.onnx) for model in chosen for code in CODES]
    print(json.dumps({"sizes": [asdict(one) for one in found]}, indent=2) if arguments.json else table(found))
    return 0


def measure(model_name: str, code: str, *, onnx: bool = False) -> Sizes:
    """Write the files of one model."""
    build, image_shape = MODELS[model_name]
    torch.manual_seed(0)
    model = build()
    allocation = default_allocation(model, CODES[code])
    quantize_(model, allocation)
    packed = pack(model.eval(), allocation)
    raw, layout = to_bytes(packed, allocation), file_layout(allocation)
    onnx_bytes = 0
    if onnx:
        from flexor_search.packing.onnx_file import to_onnx_bytes

        onnx_bytes = len(to_onnx_bytes(packed, build(), torch.zeros(1, *image_shape)))
    parts = (layout.payload_bits // 8, layout.scale_bytes, layout.kept_bytes)
    return Sizes(
        model_name,
        code,
        sum(layer.n_weights for layer in packed.layers),
        allocation.model.float_bytes,
        *parts,
        file_bytes=len(raw),
        over_parts=round(len(raw) / sum(parts), 4),
        predicted_bytes=layout.file_bytes,
        onnx_bytes=onnx_bytes,
        saved_bytes={saving.name: saving.saved_bytes for saving in savings(allocation)},
    )


def default_allocation(model: nn.Module, spec: LayerSpec) -> Allocation:
    """Every layer at one spec but those that are kept by default."""
    space = make_space(describe(model), None)
    searched = {name for variable in space.variables for name in variable.layers}
    return Allocation.of(space.model, dict.fromkeys(searched, spec))


def table(found: list[Sizes]) -> str:
    """As a Markdown table."""
    lines = [
        "| model | code | float32 | payload | scales | kept | file | over the three | ONNX |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        numbers = (one.float_bytes, one.payload_bytes, one.scale_bytes, one.kept_bytes, one.file_bytes)
        sizes = " | ".join(f"{number:,}" for number in numbers)
        onnx = f"{one.onnx_bytes:,}" if one.onnx_bytes else "-"
        lines.append(f"| {one.model} | {one.code} | {sizes} | {one.over_parts:.3f} | {onnx} |")
    names = list(found[0].saved_bytes)
    lines += ["", f"| model | code | {' | '.join(names)} |", f"| --- | --- | {' | '.join(['---:'] * len(names))} |"]
    for one in found:
        lines.append(f"| {one.model} | {one.code} | {' | '.join(f'{n:,}' for n in one.saved_bytes.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
