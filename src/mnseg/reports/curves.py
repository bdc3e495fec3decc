"""Curves of one training: losses, Dice of both networks, and how much unlabeled data each batch held."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnseg.reports.history import series

__all__ = ["MINING_STAGE_NAMES", "STAGE_NAMES", "curves_figure", "describe_curves"]

# Blue is the 3D network, orange the 2D one; dashes are pseudo-labels: readable without color, too.
COLORS = {"3d": "#0b5cad", "2d": "#b8480b"}
NETWORKS = {"3d": "3D network", "2d": "2D network"}
STAGE_COLORS = {1: "#e8edf3", 2: "#fff3d6"}
STAGE_NAMES = {1: "stage 1: labels only", 2: "stage 2: co-training"}
MINING_STAGE_NAMES = {1: "labels only", 2: "labels and mined labels"}


def curves_figure(history: list[dict], stage_names: Mapping[int, str] = STAGE_NAMES) -> Figure:
    """Three panels over a common axis of epochs: losses, Dice, and b_u with the stages shaded behind them."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    losses, dice, sampling = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.3))
    for network, color in COLORS.items():
        name = NETWORKS[network]
        _line(losses, history, f"loss_labeled_{network}", f"{name}, labeled", color, "-")
        _line(losses, history, f"loss_unlabeled_{network}", f"{name}, pseudo-labels", color, "--")
        _line(dice, history, f"val_dice_{network}", f"{name}, validation", color, "-", marker="o")
        _line(dice, history, f"pseudo_dice_{network}", f"{name}, its pseudo-labels", color, "--", marker="s")
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    dice.set_ylabel("Dice")
    dice.set_ylim(0, 1)
    epochs, b_u = series(history, "num_unlabeled")
    if epochs:
        sampling.fill_between(epochs, b_u, step="mid", color="#5b8c5a", alpha=0.55, linewidth=0)
        sampling.step(epochs, b_u, where="mid", color="#2f5f2e", linewidth=1.2)
        sampling.set_ylim(0, max(1, *b_u) * 1.15)
    else:
        _say_empty(sampling)
    sampling.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    sampling.set_ylabel("unlabeled\nper batch, $b_u$")
    sampling.set_xlabel("epoch")
    sampling.xaxis.set_major_locator(MaxNLocator(integer=True))
    _shade_stages((losses, dice, sampling), history, stage_names)
    for axis in (losses, dice):
        if axis.lines:
            axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
        else:
            _say_empty(axis)
    return figure


def describe_curves(name: str, history: list[dict]) -> str:
    """What the figure shows, in words and numbers, for its alt text."""
    parts = [f"Training curves of {name} over {len(history)} epochs."]
    for network, long_name in NETWORKS.items():
        _, values = series(history, f"val_dice_{network}")
        if values:
            parts.append(f"Validation Dice of the {long_name}: first {values[0]:.2f}, best {max(values):.2f}, "
                         f"last {values[-1]:.2f}.")
    _, b_u = series(history, "num_unlabeled")
    if b_u:
        parts.append(f"Unlabeled scans per batch go from {min(b_u):g} to {max(b_u):g}.")
    return " ".join(parts)


def _line(axis: Axes, history: list[dict], key: str, label: str, color: str, style: str, marker: str = "") -> None:
    epochs, values = series(history, key)
    if not epochs:
        return
    marker = marker if len(epochs) <= 40 else ""
    if len(epochs) == 1:
        marker = "o"
    axis.plot(epochs, values, style, color=color, label=label, marker=marker, markersize=4, linewidth=1.6)


def _shade_stages(axes: tuple[Axes, ...], history: list[dict], stage_names: Mapping[int, str]) -> None:
    """Fill each run of epochs of one stage from half an epoch before it to half an epoch behind it."""
    first, last = history[0]["epoch"], history[-1]["epoch"]
    stages = [record.get("stage") for record in history]
    starts = [record for i, record in enumerate(history) if i == 0 or stages[i] != stages[i - 1]]
    for i, record in enumerate(starts):
        left = record["epoch"] - 0.5
        right = starts[i + 1]["epoch"] - 0.5 if i + 1 < len(starts) else last + 0.5
        stage = record.get("stage")
        for axis in axes:
            axis.axvspan(left, right, color=STAGE_COLORS.get(stage, "#ffffff"), zorder=0, linewidth=0)
        if stage in stage_names:
            axes[0].text((left + right) / 2, 1.02, stage_names[stage], transform=axes[0].get_xaxis_transform(),
                         ha="center", va="bottom", fontsize=9, color="#333333")
    for axis in axes:
        axis.set_xlim(first - 0.5, last + 0.5)
        axis.grid(axis="y", color="#c9d0d9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)


def _say_empty(axis: Axes) -> None:
    axis.text(0.5, 0.5, "not measured in this run", transform=axis.transAxes, ha="center", va="center", color="#4d5a6b")
