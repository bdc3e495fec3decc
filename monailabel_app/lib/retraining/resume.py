"""Whether a training that was broken off with its server can go on."""

from __future__ import annotations

import hashlib
import json

from lib.conf import AppConf
from lib.trainers.datalist import replaced_scans
from lib.trainers.job import Job
from lib.trainers.settings import config_files, merged_settings

__all__ = ["config_of", "why_not_go_on"]


def config_of(conf: AppConf) -> str:
    """What a job must share to be gone on with after a restart."""
    settings = merged_settings(config_files(conf.bundle, conf.overlays), conf.settings)
    text = json.dumps([settings, conf.class_names, conf.validation_fraction, conf.folds, conf.group_by,
                       conf.unedited, conf.warm_epochs, conf.warm_rate], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def why_not_go_on(job: Job, conf: AppConf) -> str:
    """What has changed while the server was away so that a training cannot go on, or nothing."""
    if job.facts["config"] != config_of(conf):
        return "The server was started again with other settings"
    replaced = replaced_scans(job.folder)
    return f"Scans were replaced after their labels were saved ({', '.join(replaced[:5])})" if replaced else ""
