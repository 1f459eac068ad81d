"""Write the packed files that every version of the project must read: python tests/golden/packed/make_packed.py.

digits-vN is a trained model of the built-in workload; parts-vN has every part that the format knows. Beside each lies
a .json of what it decodes to. Run it again only to add a file for a new version of the format, never to change one.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from flexor_search.packing import from_bytes, load_packed, pack, prove, save
from flexor_search.planning import Allocation, LayerSpec
from flexor_search.planning.file_layout import FORMAT_VERSION
from flexor_search.quantization import describe, quantize_
from flexor_search.training import evaluate, seeded, train
from flexor_search.workloads import workload

FOLDER = Path(__file__).parent
DIGITS = f"digits-v{FORMAT_VERSION}"


class Parts(nn.Module):
    """Folded and kept batch norms, a transposed convolution with groups, a tied weight, buffers of several kinds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.up = nn.ConvTranspose1d(6, 4, 2, groups=2)
        self.late = nn.BatchNorm1d(4)
        self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 9)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("order", torch.tensor([3, -1, 2], dtype=torch.int32))

    def forward(self, x):
        x = self.late(torch.relu(self.up(self.norm(self.conv(x)))))
        return self.head(x.mean(2) @ torch.ones(4, 5) + self.embedding.weight[0])


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def write(name, model, allocation, build, images, model_name, **more):
    path = FOLDER / f"{name}.safetensors"
    packed = pack(model, allocation, model_name)
    save(packed, allocation, path)
    prove(model, allocation, path, build, images, model_name)
    found = from_bytes(path.read_bytes())
    expected = {
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "allocation": allocation.to_json(),
        "model_name": found.model_name,
        "kept_dtype": found.kept_dtype,
        "folded": found.folded,
        "weight_bits_sha256": {layer.name: digest(layer.weight_bits("reference")) for layer in found.layers},
        "weight_sha256": {layer.name: digest(layer.weight("reference")) for layer in found.layers},
        "kept_sha256": {tensor: digest(value) for tensor, value in found.kept.items()},
        "exact": {tensor: [str(value.dtype), value.tolist()] for tensor, value in found.exact.items()},
    }
    path.with_suffix(".json").write_text(json.dumps(expected | more, indent=1) + "\n", encoding="utf-8")


def digits():
    chosen = workload("digits-convnet")
    data = chosen.load(None)
    specs = {
        "conv2": LayerSpec(n_in=16),
        "conv3": LayerSpec("taps", 14),
        "conv4": LayerSpec("random", 7, 9, n_planes=2),
        "conv5": LayerSpec(n_in=8, n_tap=3, code_seed=4),
        "conv6": LayerSpec(n_in=8),
    }
    with seeded(0):
        model = chosen.build()
        allocation = Allocation.of(describe(model), specs)
        quantize_(model, allocation)
    train(model, data, replace(chosen.recipe, epochs=15), seed=0)
    write(DIGITS, model, allocation, chosen.build, data.validation.batch(slice(None))[0], chosen.name)
    score = evaluate(load_packed(FOLDER / f"{DIGITS}.safetensors"), data.validation)
    path = FOLDER / f"{DIGITS}.json"
    body = json.loads(path.read_text()) | {"validation_accuracy": score.accuracy}
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def parts():
    with seeded(0):
        model = Parts()
        matrix = LayerSpec("matrix", 2, 3, 2, matrix=((0,), (1,), (0, 1)))
        specs = {"conv": matrix, "up": LayerSpec(n_in=4, n_out=7, n_planes=2), "head": LayerSpec(n_in=19)}
        allocation = Allocation.of(describe(model), specs, "float32")
        quantize_(model, allocation)
        with torch.no_grad():
            for tensor in (*model.parameters(), model.norm.running_mean, model.late.running_mean):
                tensor.add_(torch.randn(tensor.shape))
        write(f"parts-v{FORMAT_VERSION}", model.eval(), allocation, Parts, torch.randn(4, 2, 6), "")


if __name__ == "__main__":
    digits()
    parts()
