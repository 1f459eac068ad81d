"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 grey; the last 5,000 train to validate."""

from pathlib import Path

from flexor_search.errors import DataError
from flexor_search.workloads.data import Data, Split
from flexor_search.workloads.idx_files import FILES, find_idx_files, read_four
from flexor_search.workloads.known_folders import missing

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_FOLDER = "FashionMNIST/raw"
N_VALIDATION = 5_000


def load(data_dir: Path | None = None) -> Data:
    """Read Fashion-MNIST.

    Args:
        data_dir: a folder with the four idx files, gzipped or not, or the root that torchvision downloads to. None: the
            folder of Debian's package dataset-fashion-mnist, else torchvision's download.

    Raises:
        DataError: no data to be had, or a damaged file.
    """
    images, labels, test_images, test_labels = read_four(_find(data_dir), "Fashion-MNIST")
    if len(images) <= N_VALIDATION:
        raise DataError(
            f"data: {len(images)} training images leave none after {N_VALIDATION} for validation; "
            "give the full data set"
        )
    splits = (
        ("train", images[:-N_VALIDATION], labels[:-N_VALIDATION]),
        ("validation", images[-N_VALIDATION:], labels[-N_VALIDATION:]),
        ("test", test_images, test_labels),
    )
    return Data(*(Split(name, x.unsqueeze(1), y.long(), mean=0.286, std=0.353) for name, x, y in splits))


def _find(data_dir: Path | None) -> list[Path]:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(f"data: the folder {data_dir} does not exist; --data-dir must name a folder")
        found = find_idx_files(data_dir, TORCHVISION_FOLDER)
        if found is None:
            raise missing(data_dir, "Fashion-MNIST", f"the four files {', '.join(FILES)} (gzipped or not)")
        return found
    found = find_idx_files(DEBIAN_FOLDER, TORCHVISION_FOLDER)
    if found is not None:
        return found
    cache = Path.home() / ".cache" / "flexor-search"
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), download=True)
    except Exception as error:  # whatever a network can do
        raise DataError(
            "data: Fashion-MNIST is not here. Any of three ways gets it: --data-dir FOLDER with its four idx files; "
            "Debian's package dataset-fashion-mnist (apt-get install dataset-fashion-mnist); or a network, for "
            f"torchvision's download, which failed: {type(error).__name__}"
        ) from error
    found = find_idx_files(cache, TORCHVISION_FOLDER)
    if found is None:
        raise DataError(f"data: torchvision's download left no Fashion-MNIST in {cache}; use --data-dir")
    return found
