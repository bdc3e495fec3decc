"""Rows of ablations.py, and the scales at which they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mnseg.errors import UserError

__all__ = ["ALL_ROWS", "INGREDIENTS", "NEEDED", "ROWS", "SCALES", "Scale", "for_patches", "jobs_of", "rows_of"]

# Row: what it is, and its Dice on LA with 8 labels in the paper, where it is one of Table 4's.
ROWS = {
    "mn": ("M&N", 91.56),
    "supervised": ("supervised only", 88.26),
    "random_f": ("f from random weights", None),
    "supervised_random_f": ("supervised only, f from random weights", None),
    "resunet50": ("ResUNet-50 as f", 91.11),
    "swin_unetr": ("SwinUNETR as g", 90.67),
    "fixed_pseudo_labels": ("pseudo-masks made once", 89.40),
    "uniform": ("uniform sampling", 87.14),
    "linear": ("linear sampling", None),
    "decoder": ("f: decoder only", 89.49),
    "whole": ("f: whole network", 91.39),
    "mean_teacher": ("Mean Teacher", None),
    "two_3d_networks": ("two 3D networks", None),
}
# What the recipe may be made of, each on top of M&N (configs/ingredients/).
INGREDIENTS = {
    "moving_average": ("moving average of g is the product", None),
    "averaged_teacher": ("the moving average teaches, too", None),
    "joint_teacher": ("both networks' mean teaches", None),
    "certain_voxels": ("pseudo-masks where the teacher is certain", None),
    "mixed_patches": ("boxes exchanged with labeled patches", None),
    "joint_teacher_mixed_patches": ("both networks' mean teaches, boxes exchanged", None),
    "strong_augmentation": ("stronger augmentation", None),
    "joint_teacher_strong_augmentation": ("both networks' mean teaches, stronger augmentation", None),
    "joint_teacher_flips": ("both networks' mean teaches, stronger augmentation, mirror images", None),
    "joint_teacher_rotation": ("both networks' mean teaches, stronger augmentation, rotation", None),
    "joint_teacher_rotation_noise": ("both networks' mean teaches, stronger augmentation, rotation, noise, blur", None),
    "supervised_strong_augmentation": ("supervised only, stronger augmentation", None),
    "more_foreground": ("more crops at the foreground", None),
    "neighboring_slices": ("neighboring slices as channels", None),
    "several_axes": ("slices along all three axes", None),
    "larger_batch": ("batch of 8", None),
    "higher_rates": ("both rates doubled", None),
    "lower_rates": ("both rates halved", None),
    "frequent_refresh": ("pseudo-foreground anew every twentieth of stage 2", None),
    "wide_g": ("g with 16 base features instead of 8", None),
}
ALL_ROWS = ROWS | INGREDIENTS


@dataclass(frozen=True)
class Scale:
    """Data, settings and rows of a scale.

    Attributes:
        dataset: protocol.
        labels: labeled scans.
        recipe: overlay.
        extra: settings of every row.
        left_out: rows that need what is not at hand, and what that is.
        seeded: rows that get all seeds when no rows are named; the others get the first.
    """

    dataset: str
    labels: int
    recipe: str
    extra: str
    left_out: Mapping[str, str]
    seeded: tuple[str, ...]


NEEDED = ("supervised", "mn", "uniform", "random_f")
NO_HUB = {"resunet50": "needs microsoft/resnet-50 from the model hub"}
SCALES = {
    "tiny": Scale("phantom", 4, "configs/recipes/demo.json", "", {
        **NO_HUB,
        "random_f": "has no pretrained network to compare with", "supervised_random_f": "likewise",
        "whole": "is M&N itself here", "decoder": "freezes random weights",
        "swin_unetr": "takes patches of multiples of 32, one axis of at least 64 (--extra patch_size=[64,64,32])",
    }, NEEDED),
    "lite": Scale("la", 8, "configs/recipes/cpu.json",
                  "finetuning=whole learning_rate_2d=0.0005 slice_scale=1.5 slice_context=3 stage_1_epochs=12 "
                  "stage_2_epochs=40 val_cases=4 val_interval=13 hidden_cases=2",
                  {**NO_HUB, "whole": "is M&N itself here", "neighboring_slices": "is M&N itself here",
                   "swin_unetr": "takes patches of multiples of 32, not 80x64x32 (--extra patch_size=[96,64,32])"},
                  NEEDED),
    # All slices of a batch pass the 2D network at once: in parts of 64 a GPU would wait for the next kernel's launch.
    "full": Scale("la", 8, "configs/recipes/paper.json",
                  "amp_dtype=bfloat16 cache_on_device=True slice_chunk=320 checkpoint_interval=50",
                  {"wide_g": "is narrower than M&N's own g here"}, NEEDED),
}  # fmt: skip


def for_patches(scale: Scale, extra: str) -> Scale:
    """The scale itself; with a ``patch_size`` in ``--extra`` it has SwinUNETR's row too."""
    if "patch_size=" not in extra:
        return scale
    return replace(scale, left_out={row: why for row, why in scale.left_out.items() if row != "swin_unetr"})


def rows_of(scale: Scale, wanted: Sequence[str] | None) -> list[str]:
    """Rows of a scale; ``wanted`` None: all of the table that it has; ingredients are asked for by name.

    Raises:
        UserError: for a row that does not exist or that this scale leaves out.
    """
    for row in wanted or ():
        if row not in ALL_ROWS:
            raise UserError(f"There is no row '{row}': give some of {', '.join(ALL_ROWS)}.")
        if row in scale.left_out:
            raise UserError(f"The row '{row}' {scale.left_out[row]}: this scale leaves it out.")
    return list(dict.fromkeys(wanted or [row for row in ROWS if row not in scale.left_out]))


def jobs_of(rows: Sequence[str], seeds: Sequence[int], seeded: Sequence[str]) -> list[tuple[str, int]]:
    """Rows with their seeds, the first seed of all rows ahead; ``seeded`` rows get the other seeds too."""
    return [(row, seed) for seed in seeds for row in rows if seed == seeds[0] or row in seeded]
