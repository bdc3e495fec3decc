"""Are the settings of a training sound? Asked before a scan is read or anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mnseg.engines.precision import AMP_DTYPES
from mnseg.engines.stages import ROLES
from mnseg.handlers.lrg_sampling import MODES
from mnseg.mining.training.schedules import SCHEDULES
from mnseg.networks.adaptation import STRATEGIES

__all__ = ["wrong_settings"]

MOST_CLASSES = 256  # labels and masks are kept as uint8

Rule = tuple[Callable[[Any], bool], str]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(minimum: int) -> Rule:
    return lambda value: _is_whole(value) and value >= minimum, f"a whole number of at least {minimum}"


def _number(low: float, high: float = float("inf"), open_low: bool = False, open_high: bool = False) -> Rule:
    ends = f"{'above' if open_low else 'at least'} {low:g}"
    ends += "" if high == float("inf") else f" and {'below' if open_high else 'at most'} {high:g}"

    def fits(value: Any) -> bool:
        return _is_number(value) and low <= value <= high and not (open_low and value == low) and not (
            open_high and value == high
        )  # fmt: skip

    return fits, f"a number {ends}"


def _one_of(*choices: Any) -> Rule:
    return lambda value: value in choices, f"one of {', '.join(map(str, choices))}"


def _or_null(rule: Rule) -> Rule:
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


def _is_patch(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_whole(v) and v > 0 for v in value)


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_whole(v) and v > 0 for v in value)


def _is_range(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return 0 < value[0] <= value[1]


def _is_axis(value: Any) -> bool:
    axes = value if isinstance(value, (list, tuple)) else [value]
    return all(_is_whole(axis) and axis in (0, 1, 2) for axis in axes) and 0 < len(axes) == len(set(axes))


def _are_names(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
        return False
    return 2 <= len(value) == len(set(value)) and len(value) <= MOST_CLASSES


def _is_orientation(value: Any) -> bool:
    """One letter for each of left-right, back-front and foot-head, as nibabel reads them: no small ones."""
    return isinstance(value, str) and len(value) == 3 and {"LRPAIS".find(code) // 2 for code in value} == {0, 1, 2}


def _is_spacing(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_number(v) and v > 0 for v in value)


def _is_definition(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")
FOLDER: Rule = (lambda value: isinstance(value, (str, os.PathLike)),
                "the name of a folder (./5 for one that is called 5)")  # fmt: skip
DEFINITION: Rule = (_is_definition, "an object whose _target_ names a class or function")

RULES: dict[str, Rule] = {
    "dataset_dir": FOLDER,
    "class_names": (_are_names, f"a list of 2 to {MOST_CLASSES} different names, the background first"),
    "in_channels": _whole(1),
    "orientation": (_is_orientation, "three letters, of R and L, A and P, S and I one each, such as RAS"),
    "spacing": _or_null((_is_spacing, "three numbers above 0, in mm")),
    "network_def": DEFINITION,
    "network_2d_def": DEFINITION,
    "model_2d": (lambda value: isinstance(value, str) and value != "", "the name or the folder of a model"),
    "slice_context": _one_of(1, 3),
    "sampling": _one_of(*MODES),
    "roles": _one_of(*ROLES),
    "finetuning": _one_of(*STRATEGIES),
    "amp_dtype": _or_null(_one_of("auto", *AMP_DTYPES)),
    "seed": _whole(0),
    "patch_size": (_is_patch, "three whole numbers above 0, one an axis"),
    "image_size": (_is_size, "two whole numbers above 0, rows and columns"),
    "overlap": _number(0, 1, open_high=True),
    "sw_batch_size": _whole(1),
    "batch_size": _whole(1),
    "min_labeled": _whole(1),
    "num_unlabeled": _whole(0),
    "epoch_length": _whole(1),
    "stage_1_epochs": _whole(0),
    "stage_2_epochs": _whole(0),
    "warmup_epochs": _whole(0),
    "learning_rate": _number(0, open_low=True),
    "learning_rate_2d": _number(0, open_low=True),
    "learning_rate_final": _number(0),
    "weight_decay": _number(0),
    "max_grad_norm": _or_null(_number(0, open_low=True)),
    "micro_batch_size": _or_null((lambda value: value == "auto" or (_is_whole(value) and value >= 1),
                                  "a whole number of at least 1, or auto")),  # fmt: skip
    "ema_momentum": _or_null(_number(0, 1, open_low=True, open_high=True)),
    "w_ce": _number(0),
    "w_kl": _number(0),
    "w_dice": _number(0),
    "foreground_probability": _number(0, 1),
    "min_zoom": _number(0, open_low=True),
    "max_zoom": _number(0, open_low=True),
    "gamma": (_is_range, "two numbers above 0, the smaller one first"),
    "refresh_interval": _whole(1),
    "refresh_cases": _or_null(_whole(1)),
    "lora_rank": _whole(1),
    "lora_dropout": _number(0, 1, open_high=True),
    "slice_axis": (_is_axis, "0, 1 or 2, or a list of different ones"),
    "slice_scale": _number(0, open_low=True),
    "slice_stride": _whole(1),
    "slice_chunk": _whole(1),
    "mix_share": _or_null(_number(0, 1, open_low=True, open_high=True)),
    "recalibrate_batches": _whole(0),
    "cache_rate": _number(0, 1),
    "cache_gb": _number(0, open_low=True),
    "num_workers": _whole(0),
    "val_interval": _whole(1),
    "val_overlap": _number(0, 1, open_high=True),
    "val_cases": _or_null(_whole(0)),
    "hidden_cases": _whole(0),
    "checkpoint_interval": _whole(1),
    "max_minutes": _or_null(_number(0)),
    "schedule": _one_of(*SCHEDULES),
    "mining_interval": _whole(1),
    "pseudo_weight": _number(0),
    "ramp_epochs": _whole(0),
    "rotation": _number(0, 180),
    "embedding_cache_gb": _number(0),
    **dict.fromkeys(
        ("resume", "lite", "restart", "channels_last", "cudnn_benchmark", "keep_freed_memory", "ema_teacher",
         "allow_empty_unlabeled", "pretrained", "slice_checkpoint", "cache_on_device"),
        SWITCH,
    ),
}


def wrong_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each setting of a config that cannot be meant.

    Args:
        config: train.json's top-level keys; expressions and references (texts that begin with ``$``, ``@``, ``%``)
            are left to whoever uses them.
    """
    known = {k: v for k, v in config.items() if not (isinstance(v, str) and v[:1] in ("$", "@", "%"))}
    wrong = {key for key, (fits, _) in RULES.items() if key in known and not fits(known[key])}
    yield from (f"{key} is {_told(known[key])}; it must be {RULES[key][1]}." for key in RULES if key in wrong)
    if not wrong:
        yield from _contradictions(known)


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _contradictions(known: Mapping[str, Any]) -> Iterator[str]:
    def given(*keys: str) -> bool:
        return all(known.get(key) is not None for key in keys)

    if given("stage_1_epochs", "stage_2_epochs") and known["stage_1_epochs"] + known["stage_2_epochs"] < 1:
        yield "stage_1_epochs and stage_2_epochs are both 0; at least one must be above 0."
    for key in ("learning_rate", "learning_rate_2d"):
        if given(key, "learning_rate_final") and known["learning_rate_final"] >= known[key]:
            yield f"learning_rate_final is {known['learning_rate_final']}; it must be below {key} ({known[key]})."
    if given("min_zoom", "max_zoom") and known["min_zoom"] > known["max_zoom"]:
        yield f"min_zoom is {known['min_zoom']}; it must not be above max_zoom ({known['max_zoom']})."
    if known.get("ema_teacher") and "ema_momentum" in known and known["ema_momentum"] is None:
        yield "ema_teacher is true, but ema_momentum is null: there is no moving average; set it, say to 0.01."
    if known.get("cache_on_device") and given("cache_dir"):
        yield "cache_on_device is true, but cache_dir keeps the prepared scans on a disk: set cache_dir to null."
    if known.get("cache_on_device") and known.get("num_workers"):
        yield "cache_on_device is true, but worker processes cannot read scans on a device: set num_workers to 0."
