"""Time from a file to the first prediction of ResNet-18, packed against float32, each in a fresh process."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Seconds

N_IN, N_OUT = 8, 20

# the model class is at hand in both cases, so its construction is not timed; imports are timed by themselves
PROBE = """
import json, sys, time
kind, path = sys.argv[1:]
started = time.perf_counter()
import torch
from torchvision.models import resnet18
imports = {"torch_import_seconds": time.perf_counter() - started}
started = time.perf_counter()
if kind == "packed":
    from flexor_search.packing import load_packed
else:
    from safetensors.torch import load_file
imports["loader_import_seconds"] = time.perf_counter() - started
model, image = resnet18(), torch.zeros(1, 3, 224, 224)
started = time.perf_counter()
if kind == "packed":
    model = load_packed(path, model)
else:
    model.load_state_dict(load_file(path))
    model.eval()
loaded = time.perf_counter()
with torch.inference_mode():
    model(image)
done = time.perf_counter()
print(json.dumps({"load_seconds": loaded - started, "forward_seconds": done - loaded,
                  "file_to_prediction_seconds": done - started, **imports}))
"""


def first_prediction(rounds: int) -> dict[str, object]:
    """Write both files, then load each in fresh processes, taking turns.

    Returns:
        file bytes and best and median seconds, for "packed" and "float32".
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.safetensors" for kind in ("packed", "float32")}
        _write(paths["packed"], paths["float32"])
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in paths}
        for _ in range(rounds):
            for kind, path in paths.items():
                command = [sys.executable, "-c", PROBE, kind, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[kind].append(json.loads(done.stdout))
        return {
            "model": f"torchvision resnet18, untrained, every convolution and the head {N_IN} of {N_OUT}",
            "rounds": rounds,
            **{kind: {"file_bytes": paths[kind].stat().st_size, **_summary(runs[kind])} for kind in paths},
        }


def _summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns = {key: sorted(run[key] for run in runs) for key in runs[0]}
    return {key: Seconds(times[0], times[len(times) // 2]).__dict__ for key, times in columns.items()}


def _write(packed_path: Path, float_path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    from flexor_search.packing import pack, save
    from flexor_search.planning import Allocation, LayerSpec
    from flexor_search.quantization import describe, quantize_

    torch.manual_seed(0)
    model = resnet18()
    save_file(model.state_dict(), float_path)
    shapes = describe(model)
    allocation = Allocation.of(shapes, {layer.name: LayerSpec(n_in=N_IN, n_out=N_OUT) for layer in shapes.layers})
    save(pack(quantize_(model, allocation).eval(), allocation), allocation, packed_path)
