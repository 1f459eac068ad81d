"""Speed of decoding beside the memory's own: `python -m benchmarks.decode --json`.

Codes of 8, 12 and 16 stored bits for 20 weights, as many weights as told. Every route writes into memory that is there
already, and so do the roofs: copying as many bytes as the packed output has, and filling as many as the float32 output
has, with the same number of threads. Ratios are of the best rounds; those of the medians stand beside them.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.first_prediction import first_prediction
from benchmarks.straight_line import compile_straight_line
from benchmarks.timing import Route, Seconds, hardware, take_turns, versions
from flexor_search.codes import XorCode, decode_reference, decode_rows, decode_signs, kernels, make_code, plane_bytes
from flexor_search.codes.bitpack import unpack_planes
from flexor_search.codes.sharing import n_processors, share
from flexor_search.packing import torch_decode

N_INS, N_OUT, CHANNELS = (8, 12, 16), 20, 500
SLOW_EVERY = 5  # rounds
REFERENCE_SHARE = 20  # the reference makes 64-bit integers of all bits: it is timed on this part of the weights


def unpackbits_slices(code: XorCode, stream: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Numpy by way of unpacked bits in the paper's order: the stored bits of a slice side by side, then its weights.

    Args:
        code: of n_in and n_out bits.
        stream: packed bits, slice after slice.

    Returns:
        Packed output bits, slice after slice.
    """
    bits = np.unpackbits(stream, bitorder="little").reshape(-1, code.n_in)
    weights = np.empty((len(bits), code.n_out), np.uint8)
    for row, taps in enumerate(code.taps):
        np.bitwise_xor.reduce(bits[:, list(taps)], axis=1, out=weights[:, row])
    return np.packbits(weights.reshape(-1), bitorder="little")


def unpackbits_xor(code: XorCode, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same on this format's planes, as fast as numpy writes it: XOR in place of 0/1 planes."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    rows = np.empty((code.n_out, bits.shape[1]), np.uint8)
    for row, taps in zip(rows, code.taps, strict=True):
        row[:] = bits[taps[0]]
        for tap in taps[1:]:
            row ^= bits[tap]
    return np.packbits(rows, axis=1, bitorder="little")


def unpackbits_reduce(code: XorCode, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same with one reduction a row, as `decode_rows` does it on bytes."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    rows = np.empty((code.n_out, bits.shape[1]), np.uint8)
    for row, taps in zip(rows, code.taps, strict=True):
        np.bitwise_xor.reduce(bits[list(taps)], axis=0, out=row)
    return np.packbits(rows, axis=1, bitorder="little")


def unpackbits_product(code: XorCode, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same as the paper writes it: a matrix product, in float32, modulo 2."""
    bits = np.unpackbits(packed, axis=1, bitorder="little").astype(np.float32)
    product = code.matrix.astype(np.float32) @ bits
    return np.packbits(product.astype(np.uint8) & 1, axis=1, bitorder="little")


class Bench:
    """Inputs and outputs that the routes share, so that no route pays for touching fresh memory.

    Attributes:
        n_weights: weights of the layer.
        n_threads: threads of the kernels and of the roofs.
    """

    def __init__(self, n_weights: int, n_threads: int, rounds: int) -> None:
        self.n_weights, self.n_threads, self.rounds = n_weights, n_threads, rounds
        self.n_slices = -(-n_weights // N_OUT)
        self.rows = np.ones((N_OUT, plane_bytes(self.n_slices)), np.uint8)
        self.copied = np.ones(self.rows.size, np.uint8)
        self.signs = np.ones(n_weights, np.int8)
        self.weight = np.ones(n_weights, np.float32)
        self.scale = np.random.default_rng(1).random((1, CHANNELS), np.float32)

    def measure(self, n_in: int) -> dict[str, Seconds]:
        """Time every route for the systematic code of n_in stored bits."""
        code = make_code("systematic", n_in, N_OUT)
        packed = np.random.default_rng(0).integers(0, 256, (n_in, self.rows.shape[1]), np.uint8)
        if self.n_slices % 8:
            packed[:, -1] &= (1 << self.n_slices % 8) - 1
        taken = take_turns(self._packed_routes(code, packed), self.rounds)
        return taken | take_turns(self._number_routes(code, packed), max(2, self.rounds // 4))

    def measure_straight_line(self, n_in: int) -> dict[str, float]:
        """Time the alternative, taps written out as source, beside the kernel and the copy.

        Returns:
            Weights per second of each, and the seconds that compiling for this one code took.
        """
        code = make_code("systematic", n_in, N_OUT)
        packed = np.zeros((n_in, self.rows.shape[1]), np.uint8)
        started = time.perf_counter()
        straight_line = compile_straight_line(code)
        compile_seconds = time.perf_counter() - started
        routes = {
            name: route
            for name, route in self._packed_routes(code, packed).items()
            if name in ("roof_copy", "numba_rows")
        }
        routes["straight_line_rows"] = Route(
            lambda: share(lambda a, b: straight_line(packed, self.rows, a, b), packed.shape[1], self.n_threads)
        )
        taken = take_turns(routes, self.rounds)
        speeds = {name: round(self.n_weights / seconds.best) for name, seconds in taken.items()}
        return speeds | {"compile_seconds": round(compile_seconds, 2)}

    def _packed_routes(self, code: XorCode, packed: NDArray[np.uint8]) -> dict[str, Route]:
        part = packed[:, : packed.shape[1] // REFERENCE_SHARE]
        stored = unpack_planes(part, 8 * part.shape[1])
        planes, taps = torch.from_numpy(packed), torch_decode.tap_indices(code)
        stream = packed.reshape(-1)  # as many bits; which, makes no difference to the time
        rows, flat = self.rows, self.rows.reshape(-1)

        def copy(start: int, stop: int) -> None:
            np.copyto(self.copied[start:stop], flat[start:stop])

        def fill(start: int, stop: int) -> None:
            self.copied[start:stop].fill(7)

        return {
            "roof_fill_packed": Route(lambda: share(fill, flat.size, self.n_threads)),
            "roof_copy": Route(lambda: share(copy, flat.size, self.n_threads)),
            "numba_rows": Route(lambda: kernels.decode_rows(code, packed, out=rows, threads=self.n_threads)),
            "numpy_rows": Route(lambda: decode_rows(code, packed), SLOW_EVERY),
            "torch_rows": Route(lambda: torch_decode.decode_rows(planes, taps), SLOW_EVERY),
            "unpackbits_slices": Route(lambda: unpackbits_slices(code, stream), 3 * SLOW_EVERY),
            "unpackbits_xor": Route(lambda: unpackbits_xor(code, packed), SLOW_EVERY),
            "unpackbits_reduce": Route(lambda: unpackbits_reduce(code, packed), SLOW_EVERY),
            "unpackbits_product": Route(lambda: unpackbits_product(code, packed), 3 * SLOW_EVERY),
            "reference": Route(lambda: decode_reference(code, stored, stored.shape[1] * N_OUT), 3 * SLOW_EVERY),
        }

    def _number_routes(self, code: XorCode, packed: NDArray[np.uint8]) -> dict[str, Route]:
        n_weights, n_threads = self.n_weights, self.n_threads
        planes, taps = torch.from_numpy(packed), torch_decode.tap_indices(code)
        routes = {
            "roof_fill_int8": Route(
                lambda: share(lambda a, b: self.signs[a:b].fill(1), n_weights, n_threads),
            ),
            "numba_int8": Route(
                lambda: kernels.decode_signs(code, packed, n_weights, out=self.signs, threads=n_threads),
            ),
            "roof_fill_float32": Route(
                lambda: share(lambda a, b: self.weight[a:b].fill(0.5), n_weights, n_threads),
            ),
            "numba_float32": Route(
                lambda: kernels.decode_weight(
                    (code,), (packed,), self.scale, n_weights, out=self.weight, threads=n_threads
                ),
            ),
            "numpy_int8": Route(lambda: decode_signs(code, packed, n_weights), SLOW_EVERY),
            "torch_float32": Route(lambda: torch_decode.decode_signs(planes, taps, n_weights), SLOW_EVERY),
        }
        if torch.cuda.is_available():
            on_gpu, gpu_taps = planes.cuda(), taps.cuda()

            def decode() -> None:
                torch_decode.decode_signs(on_gpu, gpu_taps, n_weights)
                torch.cuda.synchronize()

            routes["torch_cuda_float32"] = Route(decode)
        return routes


def ratios(taken: dict[str, Seconds], statistic: str) -> dict[str, float]:
    """How the kernels stand to the roofs and to numpy, more is faster, of the "best" or of the "median" rounds."""
    seconds = {name: getattr(value, statistic) for name, value in taken.items()}
    return {
        "packed_over_copy": seconds["roof_copy"] / seconds["numba_rows"],
        "packed_over_unpackbits": seconds["unpackbits_slices"] / seconds["numba_rows"],
        "packed_over_unpackbits_xor": seconds["unpackbits_xor"] / seconds["numba_rows"],
        "packed_over_unpackbits_reduce": seconds["unpackbits_reduce"] / seconds["numba_rows"],
        "packed_over_unpackbits_product": seconds["unpackbits_product"] / seconds["numba_rows"],
        "float32_over_write": seconds["roof_fill_float32"] / seconds["numba_float32"],
        "int8_over_write": seconds["roof_fill_int8"] / seconds["numba_int8"],
    }


def run(n_weights: int, n_threads: int, rounds: int, prediction_rounds: int) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    torch.set_num_threads(n_threads)
    bench = Bench(n_weights // CHANNELS * CHANNELS, n_threads, rounds)
    measured = {str(n_in): bench.measure(n_in) for n_in in N_INS}
    best = {n_in: ratios(taken, "best") for n_in, taken in measured.items()}
    median = {n_in: ratios(taken, "median") for n_in, taken in measured.items()}
    result: dict[str, Any] = {
        name: {n_in: round(values[name], 3) for n_in, values in best.items()} for name in best[str(N_INS[0])]
    }
    result["medians"] = {
        name: {n_in: round(values[name], 3) for n_in, values in median.items()} for name in median[str(N_INS[0])]
    }
    result["weights_per_second"] = {
        n_in: {
            name: round(bench.n_weights / (REFERENCE_SHARE if name == "reference" else 1) / seconds.best)
            for name, seconds in taken.items()
        }
        for n_in, taken in measured.items()
    }
    result["straight_line"] = bench.measure_straight_line(12)
    result["n_weights"], result["n_out"] = bench.n_weights, N_OUT
    result["reference_n_weights"] = bench.n_weights // REFERENCE_SHARE
    result["threads"], result["rounds"] = n_threads, rounds
    result["hardware"] = hardware()
    result["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result["versions"] = versions("numpy", "numba", "llvmlite", "torch", "torchvision", "safetensors")
    result["first_prediction"] = first_prediction(prediction_rounds) if prediction_rounds else None
    return result


def _table(result: dict[str, Any]) -> str:
    """The speeds for people to read."""
    speeds = result["weights_per_second"]
    lines = [f"{'G weights/s':24}" + "".join(f"{n_in + ' of 20':>10}" for n_in in speeds)]
    lines += [
        f"{name:24}" + "".join(f"{values[name] / 1e9:10.3f}" for values in speeds.values())
        for name in speeds[str(N_INS[0])]
    ]
    lines += [f"{name:32}" + "  ".join(f"{value:.2f}" for value in result[name].values()) for name in result["medians"]]
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--weights", type=int, default=100_000_000, help="weights of the layer (default: 100 million)")
    parser.add_argument("--threads", type=int, default=n_processors(), help="default: all processors")
    parser.add_argument("--rounds", type=int, default=40, help="rounds in which routes take turns (default: 40)")
    parser.add_argument("--quick", action="store_true", help="a million weights, two rounds: does it run at all")
    arguments = parser.parse_args()
    n_weights, rounds, predictions = arguments.weights, arguments.rounds, 7
    if arguments.quick:
        n_weights, rounds, predictions = min(n_weights, 1_000_000), 2, 1
    if n_weights < 100_000 or rounds < 1 or arguments.threads < 1:
        parser.error("--weights must be at least 100000, --rounds and --threads at least 1")
    result = run(n_weights, arguments.threads, rounds, predictions)
    print(json.dumps(result, indent=2) if arguments.json else _table(result))


if __name__ == "__main__":
    main()
