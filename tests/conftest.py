import hashlib
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# no limits on time: a busy machine is no failure
LENIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("local", **LENIENT)
settings.register_profile("ci", derandomize=True, **LENIENT)
settings.load_profile("ci" if os.environ.get("CI") else "local")

if not torch.cuda.is_available():  # before anything imports Triton: its interpreter runs the kernels of a GPU then
    os.environ.setdefault("TRITON_INTERPRET", "1")

# numba keeps machine code by the age of one source file, and what was inlined from another may be older than that file
SOURCES = sorted((Path(__file__).parents[1] / "flexor_search" / "codes").glob("*.py"))
KEY = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"flexor-search-numba-{KEY}"))


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl+C, which some of them send."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread():
    """Small nets train faster on one thread, and to the same values everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def postgresql():
    """One throw-away server for all tests; each makes databases of its own with `postgresql.database(name)`."""
    from benchmarks.postgresql_server import binaries, server

    if binaries() is None:
        pytest.skip("needs Debian's postgresql")
    with server() as running:
        yield running
