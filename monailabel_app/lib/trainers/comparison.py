"""Which model predicts which case before two versions are compared: none a case that it was trained on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.durable import durable_json, durable_write
from lib.trainers.warm_start import trained_of
from mnseg.data.content_digests import ContentDigests

__all__ = ["Plan", "Task", "keep_predictions", "plan_comparison"]

UNREADABLE = "unreadable"
OWN_SCANS = 3


@dataclass(frozen=True)
class Task:
    """Masks that one model shall make.

    model_file: weights of the 3D network, or a checkpoint.pt that holds them.
    overlay: the model's model.json.
    cases: to predict.
    folder: where ``<case>.nii.gz`` go; what lies there already is not made again.
    needed: whether a model that cannot be loaded ends the comparison. One that is served must not keep better ones
        from being trained; its cases are not compared then.
    """

    model_file: Path
    overlay: Path
    cases: tuple[str, ...]
    folder: Path
    needed: bool = True


@dataclass(frozen=True)
class Plan:
    """What the child process does: first the tasks, then the measures.

    candidate, published: case -> mask; ``published`` is None without a published version.
    served: the published version's model, without cases: can it be loaded at all?
    own: case -> mask by the candidate's main model of scans that it was trained on; empty without folds.
    images, labels, patients: by case.
    digests: of the images' bytes, by case: a mask counts for the image that it was made of.
    """

    tasks: tuple[Task, ...]
    candidate: Mapping[str, Path]
    published: Mapping[str, Path] | None
    images: Mapping[str, str]
    labels: Mapping[str, str]
    patients: Mapping[str, str]
    digests: Mapping[str, str]
    class_names: tuple[str, ...]
    bundle: Path
    notice: str = ""
    device: str | None = None
    version: str | None = None
    served: Task | None = None
    own: Mapping[str, Path] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_comparison(
    run_dir: Path,
    datalist: Mapping[str, Any],
    folds: Sequence[Mapping[str, Any]],
    published: Any,
    class_names: Collection[str],
    bundle: Path,
    device: str | None = None,
) -> Plan:
    """Plan for a finished run.

    The candidate predicts validation, each fold's model its fold. A case that the published version has no mask of is
    predicted by its model if that never saw it, else by that of its fold models that never did, else left out. So is
    one whose scan was replaced under its name since the mask was made.

    Folds measure other weights than those that would be served. So the candidate's main model predicts a few of the
    folds' cases as well, which it was trained on.

    Args:
        run_dir: of the candidate, with model.json, models/ and folds/.
        datalist: content of its datalist.json, paths absolute.
        folds: of each its "index" and the cases that it is measured on, "predicted".
        published: a version, or None.
        class_names: the background first.
        bundle: for inference.
        device: of the server's settings.
    """
    items = {item["case"]: item for key in ("labeled", "validation") for item in datalist[key]}
    model, overlay = run_dir / "models" / "model.pt", run_dir / "model.json"
    validation = sorted(item["case"] for item in datalist["validation"])
    tasks = [Task(model, overlay, tuple(validation), run_dir / "predictions")]
    for fold in folds:
        folder = run_dir / "folds" / str(fold["index"])
        tasks.append(Task(folder / "models" / "model.pt", overlay, tuple(fold["predicted"]), run_dir / "predictions"))
    cases = sorted(case for task in tasks for case in task.cases)
    digests = _digests({case: items[case]["image"] for case in cases}, run_dir)
    seen = sorted(case for fold in folds for case in fold["predicted"])[:OWN_SCANS]
    tasks.append(Task(model, overlay, tuple(seen), run_dir / "own"))
    old = None
    if published is not None:
        more, old = _of_published(published, digests, run_dir / "predicted" / published.id)
        tasks += more
    return Plan(
        tasks=tuple(task for task in tasks if task.cases),
        candidate={case: run_dir / "predictions" / f"{case}.nii.gz" for case in cases},
        published=old,
        images={case: items[case]["image"] for case in cases},
        labels={case: items[case]["label"] for case in cases},
        patients={case: str(items[case].get("patient", case)) for case in cases},
        digests=digests,
        class_names=tuple(class_names),
        bundle=bundle,
        notice=f"mnseg {run_dir.name}; not for diagnosis",
        device=device,
        version=None if published is None else published.id,
        served=None if published is None else Task(published.model_file, published.overlay, (), run_dir, needed=False),
        own={case: run_dir / "own" / f"{case}.nii.gz" for case in seen},
    )


def keep_predictions(published: Any, folder: Path, digests: Mapping[str, str]) -> None:
    """Give a version the masks ``folder/<case>.nii.gz`` that it lacked, so that they need not be made again.

    Args:
        published: the version.
        folder: of the masks.
        digests: see `Plan`.
    """
    made = sorted(folder.glob("*.nii.gz"))
    if not made or not published.path.is_dir():
        return
    cases = {mask.name.removesuffix(".nii.gz"): mask for mask in made}
    index, known = published.path / "predictions.json", published.predicted_images()
    with contextlib.suppress(OSError):  # the version may have been removed meanwhile
        # A kill in between leaves masks of which it is not known what they were made of: they do not count.
        durable_json(index, {case: digest for case, digest in known.items() if case not in cases})
        for mask in made:
            durable_write(published.predictions / mask.name,
                          lambda temporary, mask=mask: shutil.copyfile(mask, temporary))
        durable_json(index, known | {case: digests[case] for case in cases if case in digests})


def _digests(images: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Of the images' bytes. What cannot be read has one that no mask was made of; predicting it says why."""
    digests, found = ContentDigests(folder), {}
    for case, image in images.items():
        try:
            found[case] = digests.of(image)
        except OSError:
            found[case] = UNREADABLE
    return found


def _of_published(published: Any, digests: Mapping[str, str], folder: Path) -> tuple[list[Task], dict[str, Path]]:
    trained, made_of = trained_of(published.datalist), published.predicted_images()
    masks: dict[str, Path] = {}
    missing: dict[Path, list[str]] = {}
    for case, digest in digests.items():
        stored = published.predictions / f"{case}.nii.gz"
        if stored.is_file() and made_of.get(case) == digest != UNREADABLE:
            masks[case] = stored
            continue
        if trained.seen is not None and case not in trained.seen:
            model = published.model_file
        else:
            fold = next((index for index, seen in sorted((trained.folds or {}).items())
                         if case not in seen and published.fold_checkpoint(index).is_file()), None)
            if fold is None:
                continue
            model = published.fold_checkpoint(fold)
        missing.setdefault(model, []).append(case)
        masks[case] = folder / f"{case}.nii.gz"
    tasks = [Task(model, published.overlay, tuple(some), folder, needed=False) for model, some in missing.items()]
    return tasks, masks
