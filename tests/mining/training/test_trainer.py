"""One step of the trainer, computed by hand; the view of the small network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Resized
from PIL import Image
from torch import nn

from mnseg.data.pictures import LoadPictured
from mnseg.engines import NonFiniteLossError
from mnseg.losses import SupervisedLoss
from mnseg.mining.training import MinedLabels, MiningTrainer, Predictor, Schedule
from mnseg.mining.training.predict import as_uint8
from network_weights import changed, state_of


def trainer_of(network, batch, num_unlabeled, rate=0.1):
    class Counts:
        def attach(self, engine):
            engine.state.num_unlabeled = num_unlabeled

    optimizer = torch.optim.SGD(network.parameters(), rate)
    schedule = Schedule("one_time", 0, pseudo_weight=0.3)
    return MiningTrainer("cpu", 1, schedule, [batch], network, optimizer, epoch_length=1, train_handlers=[Counts()])


@pytest.mark.parametrize("num_unlabeled", [0, 1])
def test_a_step_is_that_of_the_labeled_and_the_weighted_mined_loss(num_unlabeled):
    image, label = torch.randn(3, 1, 8, 8), torch.randint(0, 2, (3, 1, 8, 8), dtype=torch.uint8)
    network, twin = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
    twin.load_state_dict(network.state_dict())
    trainer = trainer_of(network, {"image": image, "label": label, "case": ["a", "b", "c"]}, num_unlabeled)
    trainer.run()
    loss, split = SupervisedLoss(), 3 - num_unlabeled
    logits = twin(image)
    total = loss(logits[:split], label[:split])
    total = total + (0.3 * loss(logits[split:], label[split:]) if num_unlabeled else 0)
    total.backward()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)
    assert trainer.state.unlabeled_seen == num_unlabeled
    assert ("loss_unlabeled_2d" in trainer.state.output) == bool(num_unlabeled)


def test_of_several_outputs_the_last_one_learns():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return [self.first(x), self.last(x)]

    network = Deep()
    before = state_of(network)
    batch = {"image": torch.randn(2, 1, 8, 8), "label": torch.randint(0, 2, (2, 1, 8, 8)), "case": ["a", "b"]}
    trainer_of(network, batch, 0).run()
    assert changed(network, before) == {"last.weight", "last.bias"}


def test_a_broken_loss_names_the_images_and_leaves_the_weights():
    network = nn.Conv2d(1, 2, 1)
    before = network.weight.clone()
    batch = {"image": torch.full((1, 1, 4, 4), float("nan")), "label": torch.zeros(1, 1, 4, 4), "case": ["odd"]}
    with pytest.raises(NonFiniteLossError, match="loss is nan at epoch 1, iteration 1 .cases odd."):
        trainer_of(network, batch, 0).run()
    assert torch.equal(network.weight, before)


def test_the_predictor_gives_probabilities_on_the_images_own_grid(tmp_path):
    """A network that copies red into class 1: a bright half stays the same half at the image's own size."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")

    class Red(nn.Module):
        def forward(self, image):
            return [torch.cat([torch.full_like(image[:, :1], 127.0), image[:, :1]], dim=1)]

    load = Compose([LoadPictured(3, 2), Resized("image", (8, 8))])
    predictor = Predictor(Red(), SlidingWindowInferer((8, 8), 1, 0.0), load, "cpu")
    picture, probabilities = predictor({"image": str(tmp_path / "a.png"), "case": "a"})
    np.testing.assert_array_equal(picture, pixels)
    assert probabilities.shape == (2, 24, 40)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), pixels[..., 0] > 0)


def test_wide_images_are_scaled_to_8_bits():
    wide = np.linspace(-1000, 3000, 1001).reshape(1, -1)
    narrow = as_uint8(wide)
    assert narrow.dtype == np.uint8 and narrow[0, [0, 5, 500, 995, 1000]].tolist() == [0, 0, 128, 255, 255]
    assert as_uint8(narrow) is narrow


def test_mined_labels_lie_on_the_training_grid_and_old_ones_go():
    mined = MinedLabels((4, 4))
    mined.replace({"a": np.kron(np.eye(4, dtype=np.uint8) * 2, np.ones((3, 5), np.uint8))}.items())
    assert torch.equal(mined.labels["a"], torch.eye(4, dtype=torch.uint8)[None] * 2)
    mined.replace({"b": np.zeros((2, 2), np.uint8)}.items())
    assert list(mined.labels) == ["b"]
