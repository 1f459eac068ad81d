import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small nets train faster on one thread, and to the same values everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
