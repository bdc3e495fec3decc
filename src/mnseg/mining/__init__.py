"""Knowledge mining: a small network's predictions prompt a frozen large model, whose masks become pseudo-labels."""

from mnseg.mining.decisions import count_decisions, require_some_kept, told, write_decisions
from mnseg.mining.embedding_cache import EmbeddingCache
from mnseg.mining.miner import KEPT, NOTHING_FOUND, MinedImage, Miner
from mnseg.mining.models import build_promptable
from mnseg.mining.promptable import Prompt, PromptableModel

__all__ = [
    "KEPT",
    "NOTHING_FOUND",
    "EmbeddingCache",
    "MinedImage",
    "Miner",
    "Prompt",
    "PromptableModel",
    "build_promptable",
    "count_decisions",
    "require_some_kept",
    "told",
    "write_decisions",
]
