"""ImageNet's layout at ImageNet's size: how long the listing takes, and how much memory a split and its batches.

python -m benchmarks.image_folder --json                         # 1,281,167 images of 1,000 classes
python -m benchmarks.image_folder --images 20000 --classes 20    # to try it out

The images of a class are hard links to one made photograph of usual size (500 x 375), so that little is written. Each
number of images runs in a process of its own, which tells the most memory it ever held; that of a decoding process is
beside it. Prints a table, or JSON: `images`, `list_seconds`, `images_per_second`, `peak_mib`, `readers_mib`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STREAMED = 1_280
"""Images that are decoded, ten batches of 128."""


def make(folder: Path, images: int, classes: int) -> None:
    """Write a data set of ImageNet's layout; its val/ has one image a class."""
    from PIL import Image

    random = np.random.Generator(np.random.PCG64(0))
    for label in range(classes):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        for part in ("train", "val"):
            (folder / part / f"n{label:08d}").mkdir(parents=True)
        first = folder / "val" / f"n{label:08d}" / "first.JPEG"
        small.resize((500, 375), Image.Resampling.BICUBIC).save(first, quality=90)
        for number in range(images // classes + (label < images % classes)):
            os.link(first, folder / "train" / f"n{label:08d}" / f"n{label:08d}_{number}.JPEG")


def measure(folder: Path) -> dict[str, float]:
    """List the folder and stream some of its images, in this process."""
    import torch

    from flexor_search.workloads.image_files import FileSplit
    from flexor_search.workloads.image_folder import load

    started = time.perf_counter()
    data = load(folder)
    listed = time.perf_counter()
    assert isinstance(data.train, FileSplit)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:STREAMED]
    count = sum(len(labels) for _, labels in data.train.stream(order, torch.arange(len(order))[:, None], 128))
    ended = time.perf_counter()
    return {
        "images": len(data.train) + len(data.validation),
        "list_seconds": round(listed - started, 2),
        "images_per_second": round(count / (ended - listed), 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "readers_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }


def main() -> None:
    """Make the folders, measure each in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, default=None, help="measure this one only, in this process")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(measure(given.folder)))
        return
    rows = []
    for images in (max(2 * given.classes, given.images // 100), given.images):
        with tempfile.TemporaryDirectory() as made:
            make(Path(made), images, given.classes)
            command = [sys.executable, "-m", "benchmarks.image_folder", "--folder", made]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    if given.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value:,}" for name, value in row.items()))


if __name__ == "__main__":
    main()
