"""The MONAI Label app of mnseg; it only puts the parts in ``lib`` together.

``mnseg serve``, or ``python -m monailabel.main start_server --app monailabel_app --studies FOLDER --conf labels "left
atrium"``. (The shell script ``monailabel`` loses quotes: with it, write ``left_atrium``.)
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Collection, Mapping
from typing import Any

from lib.activelearning.reservations import Reservations
from lib.activelearning.scores import newest_scores
from lib.activelearning.strategies import all_strategies
from lib.conf import AppConf
from lib.datastores.local import LocalScans
from lib.errors import RequestError
from lib.infers.published import MODEL_NAME, PublishedInfer
from lib.infers.traffic import Traffic
from lib.labels.provenance import Provenance
from lib.registry.versions import Registry
from lib.retraining.service import TrainingService
from lib.server.alone import only_server_of, only_server_on
from lib.server.inbox import Inbox
from lib.server.labels import Submissions
from lib.server.pacs_sync import PacsSync
from lib.server.session_cleanup import remove_expired
from lib.server.start import (
    dicom_scans,
    import_labels,
    leave_with_a_sentence,
    publish_first_model,
    require_labels_fit,
    require_same_labels,
    set_threads,
    tame_monailabel,
)
from lib.trainers.co_train_task import CoTrainTask
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask

from mnseg._version import __version__
from mnseg.data.itk_module import load_itk

logger = logging.getLogger(__name__)

MOST_UNUSABLE = 100  # series that are no volumes, one after the other


class MnsegApp(MONAILabelApp):
    """Serves the published model, trains new versions from labels as they come, publishes what is not worse."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        with leave_with_a_sentence():
            self.app_conf = AppConf.from_conf(conf, app_dir, studies)
            tame_monailabel(self.app_conf)
            set_threads(self.app_conf.threads)
            workspace = self.app_conf.workspace
            if not self.app_conf.is_dicomweb:
                only_server_on(studies)  # before the index is read, which its server may be about to write
            only_server_of(workspace)
            self.registry = Registry(workspace / "registry")
            require_same_labels(self.registry, self.app_conf)
            self.provenance = Provenance(workspace, self.app_conf.labels)
            self.traffic = Traffic()
            self.reservations = Reservations(self.app_conf.reserve_minutes, path=workspace / "reservations.json")
            super().__init__(
                app_dir=app_dir,
                studies=studies,
                conf=dict(conf or {}),
                name="mnseg",
                description="M&N co-training on few labels; not for diagnosis",
                version=__version__,
                labels=list(self.app_conf.labels),
            )
            require_labels_fit(self.datastore(), self.app_conf)

    # ---------------------------------------------------------------- what MONAI Label asks for

    def init_datastore(self) -> Any:
        return dicom_scans(self.app_conf) if self.app_conf.is_dicomweb else LocalScans(self.studies)

    def init_infers(self) -> dict[str, InferTask]:
        self.training = TrainingService(
            self.app_conf, self._datastore, self.registry, self.provenance, self.traffic
        )
        published = PublishedInfer(
            self.app_conf, self.registry, self.traffic, self.provenance,
            labeled=lambda: len(self.datastore().get_labeled_images()), training=self.training.status,
        )  # fmt: skip
        if not self.app_conf.promptable:
            return {MODEL_NAME: published}
        from lib.infers.prompted import PROMPT_NAME, PromptedInfer  # here: it imports much

        return {MODEL_NAME: published, PROMPT_NAME: PromptedInfer(self.app_conf, self.traffic)}

    def init_trainers(self) -> dict[str, CoTrainTask]:
        return {MODEL_NAME: CoTrainTask(self.training)}

    def init_strategies(self) -> dict[str, Any]:
        return all_strategies(self.reservations, lambda: newest_scores(self.registry), self.training.left_out)

    def on_init_complete(self) -> None:
        """The server is about to answer."""
        from lib.server.install import install
        from monailabel.app import app as api

        with leave_with_a_sentence():
            publish_first_model(self.registry, self.app_conf)
        load_itk()  # before there are threads
        self.submissions = Submissions(self, Inbox(self.app_conf.workspace / "inbox"))
        if not self.app_conf.is_dicomweb:
            store = self.datastore()
            store.on_removed = self.submissions.withdraw
            store.on_changed = self._labels_came_into_the_folder
            self.provenance.label_file = lambda image_id: store.get_label_uri(image_id, "final") or None
        self.pacs_sync = PacsSync(self, self.app_conf.seg_interval) if self.app_conf.is_dicomweb else None
        install(api, self)
        super().on_init_complete()
        atexit.register(self.training.close)
        threading.Thread(target=self._settle, name="settle", daemon=True).start()

    def _settle(self) -> None:
        """What may take a while and nobody must wait for."""
        try:
            self.submissions.replay()
            if self.app_conf.import_labels:
                import_labels(self)
            self.datastore().refresh()  # what was put there while no server ran is told to the training
            if not self.app_conf.is_dicomweb:
                self._note_own_masks(self.datastore().get_labeled_images())  # also after a kill in between
        except Exception:  # of a damaged folder, say; nobody should wait for a training because of it
            logger.exception("not all labels could be taken in")
        if self.pacs_sync is not None:
            self.pacs_sync.start()
        self.training.start()  # now, or it would begin with the first few of a folder of labels
        self._infers[MODEL_NAME].warm_up()

    def _labels_came_into_the_folder(self, images: Collection[str]) -> None:
        """Asked with the store's lock held, so that reading the labels is left to a thread."""
        self.provenance.will_compare(images)
        self.training.label_saved(*images)

        def compare() -> None:
            self._note_own_masks(images)
            self.training.label_saved()  # the count of labels that a person drew may be another now

        threading.Thread(target=compare, name="own masks", daemon=True).start()

    def _note_own_masks(self, images: Collection[str]) -> None:
        for image in images:
            self.provenance.found_in_folder(image, self.provenance.label_file(image))

    def cleanup_sessions(self) -> None:
        if self.sessions() is not None:
            remove_expired(self.sessions())

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        if self.pacs_sync is not None:
            self.pacs_sync.wake()
        return {}

    # ---------------------------------------------------------------- what routes ask for

    def trainers(self) -> list[str]:
        return list(self._trainers)

    def infer_task(self, model: str) -> InferTask:
        """Raises: RequestError, 404, for a name that no model has."""
        if model not in self._infers:
            raise RequestError(404, f"There is no model {model[:60]!r}; there is {', '.join(self._infers)}.")
        return self._infers[model]

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        strategy = request.get("strategy")
        if strategy not in self._strategies:
            raise RequestError(404, f"There is no strategy {str(strategy)[:60]!r}; there are "
                                    f"{', '.join(self._strategies)}.")
        for _ in range(MOST_UNUSABLE):
            sample = self._strategies[strategy](request, self.datastore())
            if not sample or not sample.get("id"):
                break
            try:
                return {**sample, "path": self.datastore().get_image_uri(sample["id"])}
            except RequestError as error:
                if error.status != 422:  # a DICOM series that is no volume; the store leaves it out from now on
                    raise
        return {}

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        raise RequestError(400, "Masks are made by POST /infer/mnseg only.")

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        raise RequestError(400, "Training is started by POST /train/mnseg only.")
