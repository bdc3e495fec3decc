"""A miner that needs no promptable model: for tests of what surrounds it."""

from __future__ import annotations

import numpy as np

from mnseg.mining import KEPT, MinedImage, Miner


class FakeModel:
    """Is never asked."""

    def __init__(self, identity):
        self.identity = identity


class FakeMiner(Miner):
    """Keeps, of every image, the pixels that the network finds likelier than most; leaves ``rejected`` out.

    Its masks depend on the network's weights, and it always finds something.
    """

    def __init__(self, rejected=(), identity="fake", **settings):
        super().__init__(FakeModel(identity), **settings)
        self.rejected = set(rejected)
        self.mined = []

    def mine(self, case, image, probabilities):
        assert image.dtype == np.uint8 and image.shape[:2] == probabilities.shape[1:]
        self.mined.append(case)
        if case in self.rejected:
            return MinedImage(case, None, "agreement too low", [])
        label = (probabilities[1] > np.quantile(probabilities[1], 0.8)).astype(np.uint8)
        return MinedImage(case, label, KEPT, [])


class ToldMiner(FakeMiner):
    """Answers with the image that it was given for a case."""

    def __init__(self, images):
        super().__init__()
        self.images = {image.case: image for image in images}

    def mine(self, case, image, probabilities):
        return self.images[case]
