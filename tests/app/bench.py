"""A workspace on which training services are tried."""

from __future__ import annotations

import json
from dataclasses import replace

from fakes import FakePrograms, FolderStore, NoProvenance, behave, make_conf, until
from lib.infers.traffic import Traffic
from lib.registry.versions import Registry
from lib.retraining.service import TrainingService
from lib.trainers.split import in_validation

FRACTION = 0.4
NAMES = [f"scan{i}" for i in range(60)]
HELD = [name for name in NAMES if in_validation(name, FRACTION)]
FREE = [name for name in NAMES if not in_validation(name, FRACTION)]


class Bench:
    """A workspace with a datastore, and services on it, all of which are closed."""

    def __init__(self, tmp_path, **conf):
        self.conf = make_conf(tmp_path, validation_fraction=FRACTION, **conf)
        self.workspace = self.conf.workspace
        self.store = FolderStore(tmp_path / "studies")
        self.registry = Registry(self.workspace / "registry")
        self.provenance, self.traffic = NoProvenance(), Traffic()
        self.now = 1.7e9
        self.services: list[TrainingService] = []
        behave(self.workspace)

    def service(self, **conf) -> TrainingService:
        made = TrainingService(replace(self.conf, **conf), self.store, self.registry, self.provenance, self.traffic,
                               lambda: self.now, FakePrograms())
        self.services.append(made)
        return made

    def started(self, **conf) -> TrainingService:
        service = self.service(**conf)
        service.start()
        return service

    def fill(self, free: int = 3, held: int = 3, unlabeled: int = 3) -> None:
        """So many labeled scans that train, that are in validation, and without a label."""
        for name in (*FREE[:free], *HELD[:held]):
            self.store.add(name, b"label 1 of " + name.encode())
        for name in FREE[free : free + unlabeled]:
            self.store.add(name)

    def label(self, service, name, content=b"label"):
        if name not in self.store.list_images():
            self.store.add(name)
        self.store.label(name, content)
        service.label_saved(name)

    def ended(self, service, count: int = 1, seconds: float = 30):
        """Wait until so many trainings have ended and none runs; the last job's facts."""
        until(lambda: len([job for job in service.runs.all() if job.ended]) >= count and not service.running, seconds)
        return service.status()["job"]

    def datalist(self, run: str, fold: int | None = None) -> dict:
        folder = self.workspace / "runs" / run / ("" if fold is None else f"folds/{fold}")
        return json.loads((folder / "datalist.json").read_text())

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.registry.history()]


def case_names(items) -> set[str]:
    return {item["image"].rsplit("/", 1)[1].removesuffix(".nii.gz") for item in items}
