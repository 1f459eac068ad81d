"""A long training tells how far it is."""

import logging
from dataclasses import replace

import pytest

from flexor_search.planning import Recipe
from flexor_search.training import train, trainer
from flexor_search.workloads import workload

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("seconds", "lines"), [(-1.0, 4), (3600.0, 0)])
def test_how_far_it_is_is_logged_about_so_often(caplog, monkeypatch, seconds, lines):
    monkeypatch.setattr(trainer, "TELL_SECONDS", seconds)
    task = workload("digits-convnet")
    data = task.load(None)
    data = replace(data, train=data.train.take(96))
    with caplog.at_level(logging.INFO, logger="flexor_search.training"):
        train(task.build(), data, Recipe(epochs=2, batch_size=32), seed=3)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == lines
    if told:
        assert told[0].startswith("seed 3: epoch 1 of 2, image 32 of 96, loss 2.")
        assert told[-1].startswith("seed 3: epoch 2 of 2, image 96 of 96, loss ")
        assert told[-1].endswith("min so far")
