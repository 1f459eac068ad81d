"""The account of a file against the size model, which knew it before: layer by layer, to the byte."""

import pytest
from hypothesis import given, settings

from flexor_search.errors import FormatError
from flexor_search.packing import inspect_file, pack, save
from flexor_search.planning import file_layout
from flexor_search.planning.allocation import layer_payload_bits

from .models import cases, digits_case


@settings(max_examples=60)
@given(cases())
def test_the_account_is_the_layout_and_adds_up(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("inspected") / "model.safetensors"
    save(pack(case.model, case.allocation), case.allocation, path)
    found, layout = inspect_file(path), file_layout(case.allocation)
    layers = found.layers
    rest = (found.code_table_bytes, found.other_kept_bytes, found.exact_bytes, found.container_bytes)
    assert sum(layer.total_bytes for layer in layers) + sum(rest) == found.file_bytes == path.stat().st_size
    assert 8 * sum(layer.payload_bytes for layer in layers) == layout.payload_bits
    assert sum(layer.padding_bits for layer in layers) == layout.padding_bits
    assert sum(layer.scale_bytes for layer in layers) == layout.scale_bytes
    assert found.code_table_bytes == layout.code_table_bytes
    kept = sum(layer.kept_bytes for layer in layers) + found.other_kept_bytes + found.exact_bytes
    assert kept == layout.kept_bytes
    header = sum(layer.header_bytes for layer in layers) + found.container_bytes
    assert header == layout.container_bytes
    for layer, shape, spec in zip(layers, case.allocation.model.layers, case.allocation.specs, strict=True):
        assert (layer.name, layer.n_weights) == (shape.name, shape.n_weights)
        assert 8 * layer.payload_bytes == layer_payload_bits(shape.n_weights, spec)
        assert (layer.code == "kept") == spec.is_kept


def test_a_layers_entry_counts_as_what_it_takes_in_the_header(tmp_path):
    """Without the last layer's entry, and the comma before it, the header is so much shorter."""
    case = digits_case()
    save(pack(case.model, case.allocation), case.allocation, tmp_path / "model.safetensors")
    entry = b'[\\"8\\",[10,100],[],1]'
    assert entry in (tmp_path / "model.safetensors").read_bytes()
    assert inspect_file(tmp_path / "model.safetensors").layers[-1].header_bytes == len(b"," + entry)


def test_codes_have_short_names(tmp_path):
    case = digits_case()
    save(pack(case.model, case.allocation), case.allocation, tmp_path / "model.safetensors")
    assert [layer.code for layer in inspect_file(tmp_path / "model.safetensors").layers] == [
        *("2x6/8", "4/7", "2x6/8", "kept")
    ]


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(FormatError, match=r"model\.safetensors: it is not a packed file"):
        inspect_file(tmp_path / "model.safetensors")
