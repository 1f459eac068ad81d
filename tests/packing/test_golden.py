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

FOLDER = Path(__file__).parents[1] / "golden" / "packed"
FILES = sorted(FOLDER.glob("*.safetensors"))


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def expected_of(path):
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_golden_files_are_there():
    names = {f"{name}-v{version}" for name in ("digits", "parts") for version in range(1, FORMAT_VERSION + 1)}
    assert names == {path.stem for path in FILES}


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


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_the_digits_are_still_recognized(version):
    path = FOLDER / f"digits-v{version}.safetensors"
    score = evaluate(load_packed(path), workload("digits-convnet").load(None).validation)
    assert score.accuracy == pytest.approx(expected_of(path)["validation_accuracy"], abs=0.006)  # two images
    assert score.accuracy > 0.9


def test_the_newest_has_the_size_that_is_predicted_today():
    path = FOLDER / f"digits-v{FORMAT_VERSION}.safetensors"
    shape = describe(workload("digits-convnet").build())
    allocation = Allocation.from_json(shape, expected_of(path)["allocation"])
    assert file_layout(allocation, "digits-convnet").file_bytes == path.stat().st_size
