"""Federated training: sites share weights, never scans. Through ``monai.fl``."""

from mnseg.federated.averaging import federated_average
from mnseg.federated.shared_weights import SharedWeights, product_of
from mnseg.federated.trainer import FederatedTrainer

__all__ = ["FederatedTrainer", "SharedWeights", "federated_average", "product_of"]
