"""Files that an earlier version wrote are read today, bit for bit (tests/golden/packed/make_packed.py wrote them)."""

import hashlib
import json
from pathlib import Path

import pytest

from flexor_search.packing import load, load_packed, verify_file
from flexor_search.planning import Allocation, file_layout
from flexor_search.planning.file_layout import FORMAT_VERSION
from flexor_search.quantization import describe
from flexor_search.training import evaluate
from flexor_search.workloads import workload

FILES = sorted((Path(__file__).parents[1] / "golden" / "packed").glob("*.safetensors"))


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def expected_of(path):
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_golden_files_are_there():
    assert {"digits-v1.safetensors", "parts-v1.safetensors"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_decodes_to_what_it_did(path):
    expected, found = expected_of(path), load(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected["file_sha256"], "the golden file itself changed"
    assert (found.model_name, found.kept_dtype) == (expected["model_name"], expected["kept_dtype"])
    assert list(found.folded) == expected["folded"]
    for decoder in ("reference", "fast"):
        assert {layer.name: digest(layer.weight_bits(decoder)) for layer in found.layers} == expected[
            "weight_bits_sha256"
        ]
        assert {layer.name: digest(layer.weight(decoder)) for layer in found.layers} == expected["weight_sha256"]
    assert {name: digest(value) for name, value in found.kept.items()} == expected["kept_sha256"]
    assert {name: [str(value.dtype), value.tolist()] for name, value in found.exact.items()} == expected["exact"]
    verify_file(path)


def test_the_digits_are_still_recognized_at_the_size_that_is_predicted_today():
    (path,) = (path for path in FILES if path.stem == "digits-v1")
    expected, chosen = expected_of(path), workload("digits-convnet")
    score = evaluate(load_packed(path), chosen.load(None).validation)
    assert score.accuracy == pytest.approx(expected["validation_accuracy"], abs=0.006)  # two images
    assert score.accuracy > 0.9
    if FORMAT_VERSION == 1:
        allocation = Allocation.from_json(describe(chosen.build()), expected["allocation"])
        assert file_layout(allocation, "digits-convnet").file_bytes == path.stat().st_size
