"""What a user's model does only in training is found before the search, as one clear error."""

import pytest
import torch
from torch import nn

from flexor_search.errors import ModelError
from flexor_search.training import check_fits
from flexor_search.workloads import Data, Split


class OnlyInTraining(nn.Module):
    """Well behaved in evaluation; in training it does what it is told."""

    def __init__(self, misbehave):
        super().__init__()
        self.linear, self.misbehave = nn.Linear(4, 3), misbehave

    def forward(self, images):
        logits = self.linear(images)
        return self.misbehave(logits) if self.training else logits


def raising(logits):
    raise RuntimeError("no teacher was given\nsecond line")


def data():
    splits = (Split(name, torch.randn(12, 4), torch.arange(12) % 3) for name in ("train", "validation", "test"))
    return Data(*splits)


@pytest.mark.parametrize(
    "misbehave",
    [raising, lambda logits: (logits, logits), lambda logits: logits[:1], lambda logits: logits.detach()],
    ids=["raises", "a tuple, like Inception", "fewer rows", "no gradient"],
)
def test_a_failing_training_step_is_a_model_error(misbehave):
    with pytest.raises(ModelError, match=r"^model: one training step on 8 images failed: [^\n]+$"):
        check_fits(OnlyInTraining(misbehave), data())


def test_a_model_that_trains_is_left_in_evaluation_mode():
    model = OnlyInTraining(lambda logits: 2 * logits)
    check_fits(model, data())
    assert not model.training
