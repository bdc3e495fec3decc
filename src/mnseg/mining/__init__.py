"""Knowledge mining: a small network's predictions prompt a frozen large model, whose masks become pseudo-labels."""

from mnseg.mining.decisions import count_decisions, require_some_kept, write_decisions
from mnseg.mining.miner import KEPT, MinedImage, Miner
from mnseg.mining.promptable import Prompt, PromptableModel

__all__ = [
    "KEPT",
    "MinedImage",
    "Miner",
    "Prompt",
    "PromptableModel",
    "count_decisions",
    "require_some_kept",
    "write_decisions",
]
