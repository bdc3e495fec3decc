"""Trains by itself: a thread of the server that waits for labels, starts a training, and goes on after a restart."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lib.conf import AppConf
from lib.errors import RequestError
from lib.retraining.described import described, details, ending
from lib.retraining.lock import WorkspaceLock, end_leftover
from lib.retraining.policy import Decision, PolicySettings, PolicyState, decide, quiet_hours
from lib.retraining.resume import config_of, why_not_go_on
from lib.retraining.runner import Runner
from lib.retraining.state import StateStore
from lib.trainers.datalist import known_scans
from lib.trainers.job import Job, Runs
from lib.trainers.process import ChildError, StoppedError
from lib.trainers.programs import Programs
from lib.trainers.progress import Progress, read_progress
from lib.trainers.split import split_scans
from lib.trainers.steps import Steps, enough_to_train

__all__ = ["TrainingService"]

logger = logging.getLogger(__name__)

# Even with a pause of 0 minutes a training that fails must not fail again at once.
SHORTEST_RETRY = timedelta(minutes=1)
# A clock that is set, and a computer that slept, are noticed so soon: waits do not follow the time of day.
LONGEST_WAIT = 60.0


class TrainingService:
    """Runs trainings, one at a time.

    Args:
        conf: the server's configuration.
        datastore: MONAI Label's.
        registry: `lib.registry.versions.Registry`.
        provenance: `lib.labels.provenance.Provenance`.
        traffic: `lib.infers.traffic.Traffic`; trainings stand still while it is busy. None: never.
        clock: seconds since 1970.
        programs: the commands of a training; for tests.
    """

    def __init__(
        self,
        conf: AppConf,
        datastore: Any,
        registry: Any,
        provenance: Any,
        traffic: Any = None,
        clock: Callable[[], float] = time.time,
        programs: Programs | None = None,
    ) -> None:
        self.conf, self.datastore, self.registry, self.provenance = conf, datastore, registry, provenance
        self.clock, self.programs = clock, programs or Programs(conf.threads)
        self.policy = PolicySettings(conf.retrain_after, conf.retrain_pause, quiet_hours(conf.quiet_hours),
                                     conf.min_labels)
        self.store = StateStore(Path(conf.workspace) / "state.json",
                                lambda text: registry.record("failed", by="the server", reason=text))
        self.runs = Runs(Path(conf.workspace) / "runs")
        self.lock = WorkspaceLock(Path(conf.workspace) / "training.lock")
        self._guard = threading.RLock()  # of the job; held while the datastore is asked
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._job: Job | None = None
        self._runner = Runner()
        self._decision = Decision(False, "The server is starting.")
        self._patients: dict[str, str] = {}
        if traffic is not None:
            traffic.listen(self._runner.pause, self._runner.resume)

    # ------------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Begin to work: go on with a training that was broken off, then wait for labels."""
        if self.conf.retrain is not None or not self.store.path.exists():
            self.store.change(lambda state: state.switched(self.conf.retrain is not False))
        self._thread = threading.Thread(target=self._work, name="retraining", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End with the server; a training under way goes on at the next start."""
        self._runner.close()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        self.lock.free()

    # ------------------------------------------------------------------------------------------------- requests

    def label_saved(self, *image_ids: str) -> None:
        """Final labels were saved or changed; when this returns, a killed server will remember it."""
        self.store.change(lambda state: state.label_saved(*image_ids))
        self._wake.set()

    def now(self, by: str, from_scratch: bool = False, enqueue: bool = False) -> dict[str, Any]:
        """Start a training at once, without waiting for labels or hours.

        Args:
            by: who asks.
            from_scratch: begin anew instead of with the published version's networks.
            enqueue: while a training runs, start the next one when it has ended.

        Returns:
            The task, as `task`.

        Raises:
            RequestError: 409, there are too few labels, or another server trains in the workspace; 429, a training
                runs already.
        """
        if self.lock.take() is False:
            raise RequestError(409, self._elsewhere())
        with self._guard:
            if self.running and not enqueue:
                raise RequestError(429, f"Training {self._job.id} is running; stop it, or wait until it has ended.")
            labeled, obstacle = self._labeled()
            if labeled < self.policy.min_labels or obstacle:
                raise RequestError(409, obstacle or f"Label at least {self.policy.min_labels} scans before a training; "
                                                    f"{labeled} {'is' if labeled == 1 else 'are'} labeled.")
            self.store.change(lambda state: state.asked(by, from_scratch))
            if not self.running:
                # The answer names the job, so it is made here and not by the thread that carries it out.
                self._job = self._new_job(Decision(True, f"{by} asked for it."))
        self._wake.set()
        return self.task() or {}

    def stop(self, by: str) -> dict[str, Any] | None:
        """Stop the training under way and forget what was asked for; the model stays. Returns its task.

        Raises:
            RequestError: 404, nothing runs.
        """
        job = self._job
        if job is None or job.ended:
            raise RequestError(404, "No training is running.")
        job.update(stopped_by=by)
        self.store.change(PolicyState.withdrawn)
        self._wake.set()
        self._runner.stop()
        for _ in range(500):  # until the thread has written it down
            if job.ended:
                break
            time.sleep(0.01)
        return job.task(details(job, self._lines(job)))

    def enable(self, on: bool, by: str) -> None:
        """Switch retraining by itself on or off; a training under way goes on."""
        if self.store.load().on != on:
            self.store.change(lambda state: state.switched(on))
            self.registry.record("retraining on" if on else "retraining off", by=by,
                                 reason=f"{by} switched retraining by itself {'on' if on else 'off'}.")
        self._wake.set()

    # ------------------------------------------------------------------------------------------------- answers

    @property
    def running(self) -> bool:
        """Whether a training is under way or about to begin."""
        return self._job is not None and not self._job.ended

    def status(self) -> dict[str, Any]:
        """All that a page shows; nothing is computed that takes long.

        Keys: on, running, paused (an inference has priority), reason (why nothing runs, or why it does), not_before
        (seconds since 1970, or None), waiting (scans labeled since the last training began), failures, job (None
        before the first: the facts of `Job`, id, progress, seconds_left of the whole job, and last lines).
        """
        state, job = self.store.load().with_labels(self.datastore.get_labeled_images()), self._job
        decision = self._decision
        return {
            "on": state.on,
            "running": self.running,
            "paused": self._runner.paused and self.running,
            "reason": job.facts["reason"] if self.running else decision.reason,
            "not_before": decision.not_before.timestamp() if decision.not_before and not self.running else None,
            "waiting": list(state.waiting),
            "failures": state.failures,
            "last_end": state.last_end,
            "job": None if job is None else described(job, self._lines(job)),
        }

    def task(self) -> dict[str, Any] | None:
        """The newest training as MONAI Label's ``GET /train/`` answers it; None before the first."""
        job = self._job
        return None if job is None else job.task(details(job, self._lines(job)))

    def tasks(self) -> list[dict[str, Any]]:
        """The trainings whose folders are still there, oldest first."""
        current = self._job
        return [self.task() if current is not None and job.id == current.id else job.task() for job in self.runs.all()]

    def progress(self) -> Progress | None:
        """Of the newest training's main run."""
        return None if self._job is None else read_progress(self._job.folder, self._job.facts.get("epochs") or 0)

    def counts(self) -> dict[str, int]:
        """Scans, and how many of them train, validate, or have a mask of ours as their label."""
        scans = known_scans(self.datastore, self.conf.group_by, self.provenance.unedited(), None, self._patients)
        split = split_scans(scans, self.conf.validation_fraction, self.conf.unedited == "train")
        return {
            "total": len(scans),
            "labeled": sum(scan.labeled for scan in scans),
            "training": len(split.labeled),
            "validation": len(split.validation),
            "unedited": sum(scan.labeled and scan.unedited for scan in scans),
        }

    def left_out(self) -> dict[str, str]:
        """Scans that this training or the newest version could not use, and why."""
        newest = next(iter(reversed(self.registry.versions())), None)
        known = {} if newest is None else dict(newest.facts.get("left_out") or {})
        return known if self._job is None else known | self._job.facts["left_out"]

    def _lines(self, job: Job) -> list[str]:
        """What the commands of a training under way printed last."""
        return list(self._runner.lines)[-18:] if job is self._job else []

    # ------------------------------------------------------------------------------------------------- work

    def _work(self) -> None:
        """The thread. Children are started from it, since the kernel kills them when their starter ends."""
        while not self._runner.closing:
            try:
                wait = self._turn()
            except Exception:
                logger.exception("the retraining thread goes on after an error")
                wait = 60.0
            if not self._runner.closing:
                self._wake.wait(wait)

    def _turn(self) -> float | None:
        """Do what is due; returns how long to wait for news, None: until some come."""
        self._wake.clear()
        if not self.lock.take():
            self._decision = Decision(False, self._elsewhere())
            return 60.0
        self._pick_up()
        job = self._due()
        if job is not None:
            self._carry_out(job)
            self._wake.set()
            return 0.0
        if self._decision.not_before is None:
            return None
        return min(max(self._decision.not_before.timestamp() - self.clock(), 0.05), LONGEST_WAIT)

    def _pick_up(self) -> None:
        """After a restart: the job that was under way, or the last one to show."""
        with self._guard:
            if self._job is not None:
                return
            jobs = self.runs.all()
            left = [job for job in jobs if not job.ended]
            for job in left:
                end_leftover(job.facts["pid"], job.folder)
            for job in left[:-1]:
                job.update(status="ERROR", error="Another training took its place.", ended=self.clock())
            self._job = (left or jobs or [None])[-1]
            if left and (why := why_not_go_on(self._job, self.conf)):
                self._end(self._job, "killed", "STOPPED", f"{why}; the labels are trained on anew.")

    def _due(self) -> Job | None:
        """The job to carry out now: one that waits, or a new one by the policy."""
        with self._guard:
            if self.running:
                return self._job
            self._decision = self._decide()
            if not self._decision.start or self._runner.closing:
                return None
            self._job = self._new_job(self._decision)
            return self._job

    def _decide(self) -> Decision:
        seconds = self.clock()
        state, now = self.store.change(lambda state: state.at(seconds)), datetime.fromtimestamp(seconds).astimezone()
        labeled, obstacle = self._labeled()
        state = state.with_labels(self.datastore.get_labeled_images())
        decision = decide(self.policy, state, now, running=False, labeled=labeled)
        if decision.start and obstacle:
            return Decision(False, obstacle)
        if decision.start and state.asked_by is None and state.failures and state.last_end is not None:
            pause = SHORTEST_RETRY * 2 ** min(state.failures - 1, 6)
            retry = datetime.fromtimestamp(state.last_end).astimezone() + pause
            if retry > now:
                return Decision(False, f"The last training failed; the next starts at {retry:%H:%M}.", retry)
        return decision

    def _labeled(self) -> tuple[int, str]:
        """Scans with a label that counts, and why these labels are not enough to train, if they are not."""
        labeled = set(self.datastore.get_labeled_images())
        scans = known_scans(self.datastore, self.conf.group_by, self.provenance.unedited(), labeled, self._patients)
        split = split_scans(scans, self.conf.validation_fraction, self.conf.unedited == "train")
        labeled = len(split.labeled) + len(split.validation)
        return labeled, enough_to_train(split) if labeled >= self.policy.min_labels else ""

    def _new_job(self, decision: Decision) -> Job:
        """Written down before the policy's state says that it began: a kill in between trains once more, not less."""
        state = self.store.load()
        known = [version.facts.get("run") for version in self.registry.versions()]
        job = self.runs.create(
            max((int(run) for run in known if isinstance(run, str) and run.isdecimal()), default=0),
            by=state.asked_by or "the server", reason=decision.reason, from_scratch=state.from_scratch,
            created=self.clock(), config=config_of(self.conf),
        )  # fmt: skip
        if state.last_end is None:
            # Labels that lay in the folder from the start wait again, too, if the first training fails.
            labeled = self.datastore.get_labeled_images()
            self.store.change(lambda state: state.label_saved(*labeled))
        self.store.change(PolicyState.started)
        self._runner.begin()
        return job

    def _carry_out(self, job: Job) -> None:
        goes_on = job.facts["status"] == "RUNNING"
        if not goes_on:
            job.update(status="RUNNING", started=self.clock())
            self.registry.record("started", run=job.id, by=job.facts["by"], reason=job.facts["reason"])
        else:
            self.registry.record("continued", run=job.id, by="the server",
                                 reason=f"Training {job.id} was broken off in the step {job.facts['step']!r}.")
        steps = Steps(self.conf, self.datastore, self.registry, self.provenance, job,
                      lambda command, folder: self._execute(job, command, folder),
                      lambda: self._runner.ended, self.programs)
        try:
            steps.run()
        except StoppedError:
            if self._runner.closing and not self._runner.stopping:
                job.forget_begin()
            else:
                self._end(job, "stopped", "STOPPED", f"{job.facts.get('stopped_by', 'Somebody')} stopped it.")
        except ChildError as error:
            self._end(job, "failed", "ERROR", str(error))
        except RequestError as error:
            self._end(job, "failed", "ERROR", error.sentence)
        except Exception as error:
            logger.exception("training %s broke off", job.id)
            self._end(job, "failed", "ERROR", f"An error of the server ({type(error).__name__}: {error}); its log says "
                                              "more.")
        else:
            self._end(job, "done", "DONE", None)

    def _end(self, job: Job, outcome: str, status: str, error: str | None) -> None:
        now = self.clock()
        self.store.change(lambda state: state.ended(now, outcome))
        if status != "DONE":
            self.registry.record("failed" if status == "ERROR" else "stopped", run=job.id, by="the server",
                                 reason=error)
        job.update(status=status, error=error, ended=now, pid=None)  # last: who sees it finds the rest written
        logging.getLogger("task_train").info("training %s: %s", job.id, error or ending(job))
        with contextlib.suppress(OSError):
            self.runs.thin()

    def _execute(self, job: Job, command: Sequence[str], folder: Path) -> None:
        self._runner.run(command, folder, self.programs.env(), lambda pid: job.update(pid=pid))

    def _elsewhere(self) -> str:
        return (f"Another server (process {self.lock.holder()}) trains in {self.conf.workspace}: end it, or this one; "
                "two servers need folders of their own.")
