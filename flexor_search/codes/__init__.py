"""What the stored bits mean: GF(2) algebra, XOR codes, the byte layout, the reference decoder.

This storey knows numpy and nothing else of the project. The decoders compiled with numba are in `codes.kernels`, which
is not imported here: numba takes a second to load.
"""

from flexor_search.codes.bitpack import pack_planes, padding_bits, plane_bytes, unpack_planes
from flexor_search.codes.decode import decode_packed, decode_reference, decode_rows, decode_signs
from flexor_search.codes.gf2 import gf2_rank, gf2_row_reduce
from flexor_search.codes.xor_code import FAMILIES, ReducedCode, XorCode, make_code

__all__ = [
    "FAMILIES",
    "ReducedCode",
    "XorCode",
    "decode_packed",
    "decode_reference",
    "decode_rows",
    "decode_signs",
    "gf2_rank",
    "gf2_row_reduce",
    "make_code",
    "pack_planes",
    "padding_bits",
    "plane_bytes",
    "unpack_planes",
]
