"""What the training tests share beside models and data."""

import pytest

from flexor_search.training import step

from .models import Tape


@pytest.fixture
def tape(monkeypatch):
    """What is recorded goes onto one tape, whoever records."""
    found = Tape()
    monkeypatch.setattr(step, "CudaGraphs", lambda: found)
    return found
