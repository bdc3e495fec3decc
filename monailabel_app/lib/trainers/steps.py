"""The steps of a training. Each can be repeated: what is done already is found and left."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lib.conf import AppConf
from lib.durable import durable_json, durable_write
from lib.trainers.datalist import Pool, gather, known_scans, write_fold_datalist, write_run_datalist
from lib.trainers.job import Job
from lib.trainers.process import ChildError, StoppedError
from lib.trainers.programs import Programs
from lib.trainers.reference import compare_candidate
from lib.trainers.settings import config_files, merged_settings, resolved, run_overlay, signature
from lib.trainers.split import Split
from lib.trainers.warm_start import Start, choose_start, trained_of
from mnseg.data.content_digests import ContentDigests
from mnseg.data.datalist import load_datalist
from mnseg.errors import UserError

__all__ = ["Provenance", "Steps", "enough_to_train"]

logger = logging.getLogger("task_train")

ATTEMPTS = 5
LARGEST_LIST = 20


class Provenance(Protocol):
    """What the steps ask of `lib.labels.provenance.Provenance`."""

    def unedited(self) -> set[str]: ...

    def began_as(self, version: str) -> set[str]: ...


def enough_to_train(split: Split) -> str:
    """Why nothing can be trained on these scans yet, or nothing."""
    if split.labeled:
        return ""
    if split.validation:
        return "All labeled scans are kept for validation, by which versions are compared: label another scan."
    return "There is no labeled scan to train on."


class Steps:
    """Carries out a job.

    Args:
        conf: the server's configuration.
        datastore: MONAI Label's.
        registry: where versions go.
        provenance: says which labels are masks of ours.
        job: what is to be done; its folder gets all files.
        execute: runs a command in a folder as a child process; raises `ChildError` or `StoppedError`.
        stopped: whether somebody wants the job to end.
        programs: the commands.
        clock: seconds, for durations.
    """

    def __init__(
        self,
        conf: AppConf,
        datastore: Any,
        registry: Any,
        provenance: Provenance,
        job: Job,
        execute: Callable[[Sequence[str], Path], object],
        stopped: Callable[[], bool] = lambda: False,
        programs: Programs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conf, self.datastore, self.registry, self.provenance = conf, datastore, registry, provenance
        self.job, self.execute, self.stopped, self.clock = job, execute, stopped, clock
        self.folder = job.folder
        self.programs = programs or Programs(conf.threads)

    def run(self) -> None:
        """All steps that are not done yet.

        Raises:
            ChildError: a step failed; the text is a sentence.
            StoppedError: somebody wanted it.
        """
        self._step("datalist", self.make_datalist)
        self._step("train", self.train)
        for index in self.job.facts["folds"]:
            self._step(f"fold {index}", lambda index=index: self.train_fold(index))
        self._step("compare", self.compare)
        self._step("version", self.make_version)
        self._step("judge", self.judge)
        self._step("score", self.score)

    def _step(self, name: str, carry_out: Callable[[], object]) -> None:
        if name in self.job.facts["done"]:
            return
        if self.stopped():
            raise StoppedError
        if self.job.begin(name) > ATTEMPTS:
            raise ChildError(f"The step {name!r} was broken off {ATTEMPTS} times; the training is given up.")
        logger.info("training %s: %s", self.job.id, name)
        begun = self.clock()
        try:
            carry_out()
        except UserError as error:
            raise ChildError(str(error)) from error
        except OSError as error:
            raise ChildError(f"{error.filename or self.folder}: {error.strerror or error}.") from error
        self.job.finish(name, self.clock() - begun)

    # ------------------------------------------------------------------------------------------------- datalist

    def make_datalist(self) -> None:
        """What is trained on, where the networks begin, and the overlays that say so."""
        conf = self.conf
        scans = known_scans(self.datastore, conf.group_by, self.provenance.unedited())
        digests = ContentDigests(conf.workspace)
        pool = gather(self.datastore, scans, self.folder / "labels", conf.validation_fraction, conf.folds,
                      conf.unedited == "train", self.job.facts["left_out"], digests, self.stopped)
        digests.save()
        if self.stopped():
            raise StoppedError
        if why := enough_to_train(pool.split):
            raise ChildError(self._with_left_out(why, pool))
        settings = self._settings()
        published = self.registry.published()
        starts = self._choose_starts(pool, settings, published)
        trained = trained_of(published.datalist) if published is not None else None
        facts = {"class_names": list(conf.class_names), "signature": signature(settings), "salt": pool.salt}
        folds = []
        for fold in pool.folds:
            start, folder = starts[f"fold {fold.index}"], self.folder / "folds" / str(fold.index)
            before = trained.folds.get(fold.index, frozenset()) if start.file and trained and trained.folds else ()
            train_on = {scan.case for scan in (*fold.labeled, *fold.unlabeled)}
            folds.append({"index": fold.index, "predicted": [scan.case for scan in fold.predicted],
                          "excluded": sorted(fold.excluded), "seen": sorted({*before, *train_on})})
            self._prepare(folder, start, settings)
            write_fold_datalist(pool, fold, folder / "datalist.json", facts)
        main = starts["main"]
        before = trained.seen if main.file and trained and trained.seen else ()
        self._prepare(self.folder, main, settings)
        self._write_scoring(pool)
        write_run_datalist(pool, self.folder / "datalist.json", before, {**facts, "folds": folds})
        for name, start in starts.items():
            self.job.note(f"{name if name == 'main' else 'model of ' + name}: {start.reason}.")
        if pool.left_out:
            self.job.note(self._with_left_out("", pool))
        self.job.update(
            folds=[fold["index"] for fold in folds],
            left_out=pool.left_out,
            starts={name: start.reason for name, start in starts.items()},
            parent=published.id if published is not None and main.file else None,
            epochs=self._epochs(self.folder, settings),
            counts={key: len(getattr(pool.split, key)) for key in ("labeled", "unlabeled", "validation", "held_out")},
        )

    def _choose_starts(self, pool: Pool, settings: Mapping[str, Any], published: Any) -> dict[str, Start]:
        wanted, anew = signature(settings), self.job.facts["from_scratch"]
        kept = {scan.case for scan in (*pool.split.validation, *pool.split.held_out)}
        starts = {"main": choose_start(published, wanted, kept, None, anew)}
        for fold in pool.folds:
            forbidden = kept | fold.excluded
            starts[f"fold {fold.index}"] = choose_start(published, wanted, forbidden, fold.index, anew)
        return starts

    def _prepare(self, folder: Path, start: Start, settings: Mapping[str, Any]) -> None:
        """A run's folder with its overlay; the checkpoint it begins with is linked, so that it cannot go away."""
        folder.mkdir(parents=True, exist_ok=True)
        link = None
        if start.file is not None:
            link = folder / "warm_start.pt"
            link.unlink(missing_ok=True)
            try:
                os.link(start.file, link)
            except OSError:
                shutil.copyfile(start.file, link)
        # A 2D network that begins anew needs all the epochs, at full rates.
        both = start.file is not None and start.file.name == "checkpoint.pt"
        share, rate = (self.conf.warm_epochs, self.conf.warm_rate) if both else (1.0, 1.0)
        overlay = run_overlay(folder, self.conf.class_names, settings, link, share, rate)
        durable_json(folder / "overlay.json", {**self.conf.settings, **overlay})

    def _write_scoring(self, pool: Pool) -> None:
        """Scans that may be labeled next, validation's among them: they are scored, and nothing is learned."""
        unlabeled = [scan for scan in (*pool.split.unlabeled, *pool.split.held_out) if not scan.labeled]
        plain = {key: [{"image": pool.items[scan.case]["image"], "case": scan.case} for scan in scans]
                 for key, scans in (("unlabeled", unlabeled), ("labeled", pool.split.labeled),
                                    ("validation", pool.split.validation))}
        durable_json(self.folder / "scoring_datalist.json", plain)
        durable_json(self.folder / "scoring.json",
                     {"data_list_file_path": str(self.folder / "scoring_datalist.json")})

    def _settings(self) -> dict[str, Any]:
        files = config_files(self.conf.bundle, self.conf.overlays)
        return merged_settings(files, {**self.conf.settings, "class_names": list(self.conf.class_names)})

    def _epochs(self, folder: Path, settings: Mapping[str, Any]) -> int:
        overlay = json.loads((folder / "overlay.json").read_bytes())
        final = {**settings, **overlay}
        return sum(resolved(final, key) or 0 for key in ("stage_1_epochs", "stage_2_epochs"))

    def _with_left_out(self, text: str, pool: Pool) -> str:
        some = [f"{case} ({why})" for case, why in sorted(pool.left_out.items())[:LARGEST_LIST]]
        return f"{text} Left out: {'; '.join(some)}.".strip() if some else text

    # ------------------------------------------------------------------------------------------------- training

    def train(self) -> None:
        """The main run. Scans that cannot be read are found when it refuses them, and left out the next time."""
        try:
            self._train(self.folder)
        except ChildError:
            if not self._leave_out_faulty():
                raise
            self.make_datalist()
            self._train(self.folder)

    def train_fold(self, index: int) -> None:
        """The run that never sees a fold."""
        self._train(self.folder / "folds" / str(index))

    def _train(self, folder: Path) -> None:
        configs = [*config_files(self.conf.bundle, self.conf.overlays), folder / "overlay.json"]
        self.execute(self.programs.train(configs, folder), folder)
        if not (folder / "models" / "model.pt").is_file():
            raise ChildError("The training ended without a model.")

    def _leave_out_faulty(self) -> bool:
        """Look for unusable scans, once; whether there are any that were not known."""
        if self.job.facts.get("checked") or (self.folder / "model.json").exists():
            return False
        faults = self.folder / "faults.json"
        self.execute(self.programs.check(self.folder / "datalist.json", len(self.conf.class_names), faults),
                     self.folder)
        found = json.loads(faults.read_bytes())
        self.job.update(checked=True, left_out={**self.job.facts["left_out"], **found})
        return bool(found)

    # ------------------------------------------------------------------------------------------------- comparison

    def compare(self) -> dict[str, Any]:
        """See `lib.trainers.reference.compare_candidate`."""
        results = compare_candidate(self.folder, self.registry, self.conf, self._execute_comparison)
        for case, why in sorted(results["faults"].items())[:LARGEST_LIST]:
            self.job.note(f"{case} is not compared: {why}")
        return results

    def _execute_comparison(self, plan: Path, results: Path) -> None:
        self.execute(self.programs.compare(plan, results), self.folder)

    def make_version(self) -> None:
        """Put the run into the registry, unpublished."""
        facts = self.job.facts
        version = self.registry.of_run(self.folder.name)
        if version is None:
            datalist = load_datalist(self.folder / "datalist.json")
            version = self.registry.create(self.folder, {
                "parent": facts["parent"],
                "start": facts["starts"].get("main"),
                "signature": datalist["signature"],
                "counts": facts["counts"],
                "left_out": facts["left_out"],
                "seconds": facts["seconds"],
                "by": facts["by"],
                "reason": facts["reason"],
                "labels": {item["case"]: item["sha256"] for item in datalist["labeled"]},
            })  # fmt: skip
        self.job.update(version=version.id)

    def judge(self) -> None:
        """Publish the version, or keep it back, and say why."""
        from lib.trainers.judging import judge_results  # here: scipy.stats takes a second or two to import

        version, published = self.registry.get(self.job.facts["version"]), self.registry.published()
        if published is not None and published.id == version.id:
            # Killed between publishing and the line that says so.
            self.job.update(outcome="published", verdict=version.facts.get("verdict"))
            return
        results = self._results(published)
        folds = load_datalist(self.folder / "datalist.json")["folds"]
        compared = next((each for each in self.registry.servable() if each.id == results["version"]), None)
        corrected = self.provenance.began_as(compared.id) if compared is not None else set()
        verdict = judge_results(results, folds, compared, self.conf.margin, corrected)
        self.registry.annotate(version.id, verdict=verdict.as_dict(), results=results["candidate"])
        if verdict.publish:
            is_published = self.registry.publish(version.id, "the server", verdict.reason, verdict.as_dict())
        else:
            is_published = False
            if not self._is_recorded(version.id):
                self.registry.record("refused", version=version.id, by="the server", reason=verdict.reason,
                                     verdict=verdict.as_dict())
        self.job.update(outcome="published" if is_published else "kept", verdict=verdict.as_dict())

    def _results(self, published: Any) -> dict[str, Any]:
        """The comparison's, unless another version was published meanwhile."""
        results = json.loads((self.folder / "comparison" / "results.json").read_bytes())
        # The key is missing in those of an older server, and of a comparison that was broken off.
        is_current = results.get("while_published", "") == (published.id if published is not None else None)
        return results if is_current else self.compare()

    def _is_recorded(self, version_id: str) -> bool:
        return any(event.get("kind") == "refused" and event.get("version") == version_id
                   for event in self.registry.history())

    # ------------------------------------------------------------------------------------------------- scoring

    def score(self) -> None:
        """Where both networks disagree, for a version that is kept back as well: a person may publish it later.

        It can fail without harm.
        """
        config = self.conf.bundle / "configs" / "disagreement.json"
        if self.job.facts["version"] is None or not config.is_file():
            return
        version = self.registry.get(self.job.facts["version"])
        configs = [*config_files(self.conf.bundle, self.conf.overlays), self.folder / "overlay.json", config,
                   self.folder / "scoring.json"]
        try:
            self.execute(self.programs.score(configs, self.folder), self.folder)
            durable_write(version.scores, lambda temporary: shutil.copyfile(self.folder / "scores.json", temporary))
        except (ChildError, OSError) as error:
            self.job.note(f"The scans were not scored, so the next one is chosen without: {error}")
            self.registry.record("not scored", version=version.id, by="the server", reason=str(error))
