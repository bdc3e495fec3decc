"""The teacher that is asked several times."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.noisy_teacher import NoisyTeacher


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.inputs.append(image)
        return torch.cat([image, -image], dim=1)


def test_softmax_of_the_answer_is_the_mean_probability_of_the_passes():
    network, image = Recorder(), torch.randn(2, 1, 3, 4, 5)
    answer = NoisyTeacher(network, passes=3, noise=0.5)(image).softmax(dim=1)
    mean = torch.stack([torch.cat([i, -i], dim=1).softmax(dim=1) for i in network.inputs]).mean(dim=0)
    assert len(network.inputs) == 3
    assert torch.allclose(answer, mean, atol=1e-6)


def test_noise_has_its_deviation_and_bound():
    network = Recorder()
    NoisyTeacher(network, passes=1, noise=0.1)(torch.zeros(1, 1, 40, 40, 40))
    noise = network.inputs[0]
    assert 0.08 < noise.std() < 0.1  # clipping at two deviations takes about 5 % off
    assert noise.abs().max() == pytest.approx(0.2)


def test_without_noise_it_is_the_network():
    image = torch.randn(1, 1, 2, 2, 2)
    answer = NoisyTeacher(Recorder(), passes=2, noise=0.0)(image)
    assert torch.allclose(answer.softmax(1), torch.cat([image, -image], dim=1).softmax(1), atol=1e-6)


def test_bad_settings():
    with pytest.raises(UserError, match="passes"):
        NoisyTeacher(nn.Identity(), passes=0)
