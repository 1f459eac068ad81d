"""MNIST: 60,000 training and 10,000 test images of written digits, 28x28 grey; the last 5,000 of train validate."""

from pathlib import Path

from flexor_search.workloads.data import Data, Split
from flexor_search.workloads.idx_files import FILES, find_idx_files, read_four
from flexor_search.workloads.known_folders import folder_given, missing

N_VALIDATION = 5_000
"""Of a smaller set a tenth, if that is less."""


def load(data_dir: Path | None = None) -> Data:
    """Read MNIST.

    Args:
        data_dir: a folder with the four idx files, gzipped or not, or the root that torchvision downloads to.

    Raises:
        DataError: no such folder, another data set, or a damaged file.
    """
    folder = folder_given(data_dir, "MNIST")
    paths = find_idx_files(folder, "MNIST/raw")
    if paths is None:
        raise missing(folder, "MNIST", f"the four files {', '.join(FILES)} (gzipped or not)")
    images, labels, test_images, test_labels = read_four(paths, "MNIST")
    last = max(1, min(N_VALIDATION, len(images) // 10))
    splits = (
        ("train", images[:-last], labels[:-last]),
        ("validation", images[-last:], labels[-last:]),
        ("test", test_images, test_labels),
    )
    return Data(*(Split(name, x.unsqueeze(1), y.long(), mean=0.1307, std=0.3081) for name, x, y in splits))
