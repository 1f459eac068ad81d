"""What is shipped: packed models, the file that holds them, and the proof that it decodes bit for bit."""

from flexor_search.packing.folder import read_config, save_folder, weights_path
from flexor_search.packing.inspect import FileBytes, LayerBytes, inspect_file
from flexor_search.packing.pack import check_storable, pack
from flexor_search.packing.packed_model import PackedLayer, PackedModel
from flexor_search.packing.prove import Proof, Step, prove
from flexor_search.packing.safetensors_file import from_bytes, load, save, to_bytes
from flexor_search.packing.unpack import load_packed, unpack_into
from flexor_search.packing.verify import Checks, verify_file
from flexor_search.packing.verilog_file import save_verilog, simulate

__all__ = [
    "Checks",
    "FileBytes",
    "LayerBytes",
    "PackedLayer",
    "PackedModel",
    "Proof",
    "Step",
    "check_storable",
    "from_bytes",
    "inspect_file",
    "load",
    "load_packed",
    "pack",
    "prove",
    "read_config",
    "save",
    "save_folder",
    "save_verilog",
    "simulate",
    "to_bytes",
    "unpack_into",
    "verify_file",
    "weights_path",
]
