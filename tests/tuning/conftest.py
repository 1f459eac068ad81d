import pytest


@pytest.fixture(autouse=True)
def _everything_here_trains_on_one_thread(one_thread):
    """What is trained here is small."""
