"""Write codes.json, the codes that every version of the project must draw: python tests/golden/make_codes.py.

Run it again only to add cases. A case that changes means that old seeds no longer name the same codes.
"""

import json
from pathlib import Path

from flexor_search.codes import make_code

CASES = [
    ("systematic", 1, 4, 2, 0),
    ("systematic", 4, 20, 2, 0),
    ("systematic", 8, 20, 2, 0),
    ("systematic", 8, 20, 2, 1),
    ("systematic", 12, 20, 3, 0),
    ("systematic", 20, 20, 2, 0),
    ("systematic", 100, 120, 2, 0),
    ("systematic", 40, 60, 5, 7),
    ("taps", 8, 20, 2, 0),
    ("taps", 16, 20, 2, 5),
    ("taps", 12, 20, 3, 0),
    ("taps", 1, 3, 2, 0),
    ("random", 8, 20, 2, 0),
    ("random", 2, 10, 2, 18446744073709551616),
    ("dense", 4, 20, 2, 0),
    ("dense", 14, 20, 2, 3),
]


def main():
    lines = []
    for family, n_in, n_out, n_tap, seed in CASES:
        taps = make_code(family, n_in, n_out, n_tap=n_tap, seed=seed).taps
        case = {"family": family, "n_in": n_in, "n_out": n_out, "n_tap": n_tap, "seed": seed, "taps": taps}
        lines.append(json.dumps(case))
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    Path(__file__).with_name("codes.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
