"""Where every byte of a packed file goes, layer by layer, read from the file and adding up to its size."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexor_search.codes import padding_bits
from flexor_search.packing.container import header_object
from flexor_search.packing.packed_model import PackedLayer
from flexor_search.packing.safetensors_file import from_bytes, named, read_bytes
from flexor_search.packing.tables import LayerEntry, read_tables


@dataclass(frozen=True)
class LayerBytes:
    """What one layer takes.

    Attributes:
        name: as in the model.
        code: "8/20" (stored bits per slice over weights per slice), "2x8/20" or "7/20+8/20" for two planes, or "kept".
        n_weights: its weights.
        payload_bytes: stored planes.
        padding_bits: bits of the payload that only fill a plane's last byte.
        scale_bytes: scales of all planes.
        kept_bytes: its weight, if kept, and its bias.
        header_bytes: its entry in the header's table.
    """

    name: str
    code: str
    n_weights: int
    payload_bytes: int
    padding_bits: int
    scale_bytes: int
    kept_bytes: int
    header_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.payload_bytes + self.scale_bytes + self.kept_bytes + self.header_bytes


@dataclass(frozen=True)
class FileBytes:
    """What everything in a packed file takes; the parts add up to the file.

    Attributes:
        layers: in the order of the file.
        code_table_bytes: the distinct codes.
        other_kept_bytes: tensors in the kept dtype that belong to no layer.
        exact_bytes: tensors in their own dtype.
        container_bytes: the header without the layers' entries.
        file_bytes: the file.
        kept_dtype: "float16" or "float32".
        model_name: the built-in workload whose model this is, or "".
    """

    layers: tuple[LayerBytes, ...]
    code_table_bytes: int
    other_kept_bytes: int
    exact_bytes: int
    container_bytes: int
    file_bytes: int
    kept_dtype: str
    model_name: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object; each layer with its total."""
        body = asdict(self)
        body["layers"] = [asdict(layer) | {"total_bytes": layer.total_bytes} for layer in self.layers]
        return body


def inspect_file(path: Path) -> FileBytes:
    """Account for every byte of a packed file.

    Raises:
        FormatError: the file is damaged or no packed file.
    """
    raw = read_bytes(path)
    with named(path):
        packed, tables = from_bytes(raw), read_tables(raw)
    begin, end = header_object(raw).get("codes", {"data_offsets": (0, 0)})["data_offsets"]
    kept: dict[str, int] = defaultdict(int)
    for name, value in packed.kept.items():
        owner, _, tensor = name.rpartition(".")
        kept[owner if tensor in ("weight", "bias") else name] += value.nbytes
    quantized = {layer.name: layer for layer in packed.layers}
    layers = tuple(_layer(entry, quantized.get(entry.name), kept.pop(entry.name, 0)) for entry in tables.layers)
    parts = {
        "code_table_bytes": end - begin,
        "other_kept_bytes": sum(kept.values()),
        "exact_bytes": sum(value.nbytes for value in packed.exact.values()),
    }
    rest = len(raw) - sum(layer.total_bytes for layer in layers) - sum(parts.values())
    return FileBytes(
        layers,
        **parts,
        container_bytes=rest,
        file_bytes=len(raw),
        kept_dtype=packed.kept_dtype,
        model_name=packed.model_name,
    )


def _layer(entry: LayerEntry, layer: PackedLayer | None, kept_bytes: int) -> LayerBytes:
    rates = [f"{code.n_in}/{code.n_out}" for code in layer.codes] if layer else []
    equal = len(rates) > 1 and len(set(rates)) == 1
    return LayerBytes(
        name=entry.name,
        code=f"{len(rates)}x{rates[0]}" if equal else "+".join(rates) or "kept",
        n_weights=entry.n_weights,
        payload_bytes=sum(plane.nbytes for plane in layer.planes) if layer else 0,
        padding_bits=sum(
            code.n_in * padding_bits(-(-entry.n_weights // code.n_out)) for code in (layer.codes if layer else ())
        ),
        scale_bytes=layer.scale.nbytes if layer else 0,
        kept_bytes=kept_bytes,
        header_bytes=entry.header_bytes,
    )
