"""``PUT /datastore/label``: a label is looked at, kept, stored, and the training hears of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, UploadFile

from lib.errors import RequestError, in_words, is_full
from lib.labels.replaced import Replaced
from lib.registry.parts import sha256_of
from lib.server.inbox import Inbox, Submission
from lib.server.info import OWN
from lib.server.known import require_image, require_tag
from lib.server.plain_json import json_object
from lib.server.roles import caller
from lib.server.threads import Pool
from lib.server.uploads import Params, stored
from mnseg.data.content_digests import ContentDigests
from mnseg.errors import UserError

__all__ = ["Submissions", "label_routes"]

FINAL = "final"

logger = logging.getLogger(__name__)


def label_routes(app: Any) -> APIRouter:
    """The route in the place of MONAI Label's; parameters and answers are the same."""
    router, pool = APIRouter(tags=["Datastore"]), Pool(4)

    @router.put("/datastore/label", summary="Save a finished label")
    async def save(
        image: str,
        label: UploadFile,
        user: Annotated[Any, caller("annotator")],
        params: Params = "{}",
        tag: str = FINAL,
    ) -> Any:
        return await pool.run(_save, app, image, params, tag, label, user.username)

    return router


def _save(app: Any, image: str, params: str, tag: str, label: UploadFile, user: str) -> dict[str, Any]:
    tag = require_tag(tag)
    sent = json_object(params, "params")
    require_image(app.datastore(), image)
    with stored(label) as path:
        return app.submissions.take(image, path, tag, sent, str(sent.get("client_id") or user)[:80])


class Submissions:
    """The way of a label from a client's file to the datastore.

    Args:
        app: has ``datastore()``, ``app_conf``, ``provenance``, ``training``, ``on_save_label``.
        inbox: where accepted labels wait.
    """

    def __init__(self, app: Any, inbox: Inbox) -> None:
        self.app, self.inbox = app, inbox
        self.replaced = Replaced(inbox.root.parent / "replaced")
        self._lock = threading.Lock()
        self._failed: set[str] = set()  # names of submissions that wait because they could not be stored

    def take(
        self,
        image_id: str,
        file: Path,
        tag: str,
        params: Mapping[str, Any],
        author: str,
        origin: Mapping[str, Any] | None = None,
        replace: bool = True,
    ) -> dict[str, Any]:
        """Accept a label and store it.

        Args:
            image_id: of the scan.
            file: the label.
            tag: see `lib.server.known.require_tag`.
            params: what the client sent with it.
            author: who made it.
            origin: where it comes from, if not from a client of this server; kept beside it.
            replace: whether it may take the place of another label of this tag.

        Returns:
            MONAI Label's answer, and what is known about the edit.

        Raises:
            RequestError: it is not a label of this image; 409, it may not replace the one that is there.
        """
        from lib.labels.accept import accept_label  # here: it imports much, and the server should start quickly

        scan = self.app.datastore().get_image_uri(image_id)
        accepted = accept_label(file, scan, self.app.app_conf.labels, params.get("label_info"),
                                int(self.app.app_conf.max_upload_mb * 1e6))
        facts = {"image": image_id, "tag": tag, "author": author, "time": time.time(), "params": dict(params),
                 "replace": replace, **({"origin": dict(origin)} if origin else {}),
                 "scan": ContentDigests(self.inbox.root).of(scan)}
        submission = self.inbox.put(accepted.write, facts)
        try:
            return self._store(submission)
        except BaseException as error:
            self._failed.add(submission.folder.name)
            if not isinstance(error, OSError):
                raise
            logger.exception("the label of %s cannot be stored", image_id)
            raise RequestError(507 if is_full(error) else 500,
                               f"The label of {image_id} was received and is kept, but it cannot be stored now "
                               f"({in_words(error)}): it will be when the server starts again, unless a newer one is "
                               "saved.") from error

    def wait(self) -> None:
        """Return when what is being stored at this moment is stored, and noted."""
        with self._lock:
            pass

    def replay(self) -> int:
        """Store what a killed server had accepted; returns how many."""
        waiting = self.inbox.waiting()
        self._failed |= {submission.folder.name for submission in waiting}
        for submission in waiting:
            try:
                if self._is_of_another_scan(submission):
                    logger.warning("another scan has the name %s now: the label that waited for it is kept in %s",
                                   submission.facts["image"], self.inbox.set_aside(submission))
                    continue
                if self._is_older_than_one_by_hand(submission):
                    logger.warning("a newer label of %s was put into the folder: the one that waited is kept in %s",
                                   submission.facts["image"], self.inbox.set_aside(submission))
                    continue
                self._store(submission)
                logger.info("the label of %s, accepted before the server stopped, is stored", submission.facts["image"])
            except Exception:  # the others must not wait; it stays where it is
                logger.exception("the label in %s cannot be stored", submission.folder)
        return len(waiting)

    def withdraw(self, image_id: str, tag: str | None) -> None:
        """A label was deleted, or with ``tag`` None all of a scan: what waits to be stored must not bring it back."""
        for waiting in self.inbox.waiting_folders() if self._failed else ():
            named = waiting.facts["image"] == image_id and tag in (None, waiting.facts["tag"])
            if named and waiting.folder.name in self._failed:  # others are being stored at this moment
                self.inbox.done(waiting)

    def _is_of_another_scan(self, submission: Submission) -> bool:
        image_id, saved_for = submission.facts["image"], submission.facts.get("scan")
        if saved_for is None or image_id not in self.app.datastore().list_images():
            return False
        return ContentDigests(self.inbox.root).of(self.app.datastore().get_image_uri(image_id)) != saved_for

    def _is_older_than_one_by_hand(self, submission: Submission) -> bool:
        """What this server saves has an author. Without one may also be this very label, if the server was killed
        before the index knew of it."""
        there = self.app.datastore().get_label_info(submission.facts["image"], submission.facts["tag"])
        if not there or "author" in there or there.get("ts", 0) <= submission.facts["time"]:
            return False
        return there.get("sha256") != sha256_of(submission.mask)

    def _store(self, submission: Submission) -> dict[str, Any]:
        image_id, tag = submission.facts["image"], submission.facts["tag"]
        with self._lock:  # of two labels of one image the later one counts, whole
            if not submission.facts.get("replace", True):
                self._require_place(submission)
            if tag == FINAL:
                self._require_a_persons_work(submission)
                self._keep_the_other(image_id)
            label_id = self.app.datastore().save_label(image_id, str(submission.mask), tag, self._info(submission))
            edit = self._record(submission) if tag == FINAL else {}
            self.inbox.supersede(submission, self._failed)
            self.inbox.done(submission)
        answer = dict(self.app.on_save_label(image_id, label_id) or {})
        return {**answer, **edit, "image": image_id, "label": label_id}

    def _keep_the_other(self, image_id: str) -> None:
        """Whatever is about to be replaced, also a file in its place that no look at the folder has found yet.

        That it cannot be read must not keep the new one out. That the copy cannot be written must: the new one waits in
        the inbox meanwhile, and nothing is lost.

        Raises:
            OSError: the copy cannot be written.
        """
        try:
            found = [(label.name, label.read_bytes()) for label in self.app.datastore().label_files(image_id, FINAL)]
        except Exception as error:  # a disk, a PACS
            logger.warning("the label of %s that is replaced is not kept: %s", image_id, error)
            return
        for name, content in found:
            self.replaced.keep(image_id, name, content)

    def _require_place(self, submission: Submission) -> None:
        """A label that may not replace another one is dropped, unless it is there already itself."""
        image_id, tag = submission.facts["image"], submission.facts["tag"]
        store = self.app.datastore()
        if tag not in store.get_labels_by_image_id(image_id):
            return
        if store.get_label_info(image_id, tag).get("origin") != submission.facts.get("origin"):
            self.inbox.done(submission)
            raise RequestError(409, f"The scan {image_id} has a label already.")

    def _require_a_persons_work(self, submission: Submission) -> None:
        """A mask of ours that comes back unchanged does not take the place of what a person drew."""
        image_id, store, provenance = submission.facts["image"], self.app.datastore(), self.app.provenance
        if FINAL not in store.get_labels_by_image_id(image_id) or not provenance.was_served(image_id, submission.mask):
            return
        try:
            is_ours = provenance.was_served(image_id, store.get_label_uri(image_id, FINAL)) is not None
        except (UserError, OSError):  # there is nothing that could be read, or lost
            return
        if not is_ours:
            self.inbox.done(submission)
            raise RequestError(409, f"The mask of {image_id} is the model's own, unchanged: it does not replace the "
                                    "label that a person drew. Change it, or delete that label first.")

    def _record(self, submission: Submission) -> dict[str, Any]:
        image_id = submission.facts["image"]
        edit = submission.noted()  # by the server that was stopped, if it came that far
        if edit is None:
            edit = self.app.provenance.submitted(image_id, submission.mask, submission.facts["author"],
                                                 submission.facts.get("origin"), submission.facts.get("scan"))
            submission.note(edit)
        self.app.training.label_saved(image_id)
        self.app.reservations.release(image_id)
        return {"edit": edit}

    def _info(self, submission: Submission) -> dict[str, Any]:
        """What the datastore keeps beside the label; the values follow the server's labels, not the client's order."""
        indices = self.app.app_conf.label_indices
        named = [{"name": name, "idx": value} for name, value in indices.items()]
        params = {key: value for key, value in submission.facts["params"].items() if key not in OWN}
        origin = {"origin": submission.facts["origin"]} if "origin" in submission.facts else {}
        # A file may be replaced under its name; a DICOM series keeps its UID.
        scan = {"scan": submission.facts["scan"]} if submission.facts.get("scan") else {}
        own = {"label_info": named, "classes": list(indices), "author": submission.facts["author"]}
        return {**params, **own, **scan, **origin}
