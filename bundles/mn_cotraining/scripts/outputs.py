"""Results: masks whole or not at all, stamped with the model's name; a record beside them.

Run by path from inference.json and evaluate.json. Needs monai and nibabel.
"""

import json
import logging
import os
from pathlib import Path

import monai
import torch
from monai.data import NibabelWriter


def nifti_writer(notice):
    """NIfTI writer that writes ``notice`` into the header, keeps a last axis of one slice, and renames at the end."""

    class StampedNibabelWriter(NibabelWriter):
        def set_data_array(self, data_array, channel_dim=0, **kwargs):
            data = self.convert_to_channel_last(data_array, channel_dim=channel_dim, squeeze_end_dims=False)
            self.data_obj = data[..., 0] if data.shape[-1] == 1 else data

        @classmethod
        def create_backend_obj(cls, *args, **kwargs):
            image = super().create_backend_obj(*args, **kwargs)
            image.header["descrip"] = notice[:79]  # the field's length
            return image

        def write(self, filename, **kwargs):
            _write_whole(Path(filename), f".partial_{Path(filename).name}", super().write)
            logging.getLogger("SaveImage").info("wrote %s", filename)

    return StampedNibabelWriter


def write_record(path, meta, model_file, class_names, **more):
    """Name, version and notice of the model that made the results, as JSON."""
    record = {
        "model": meta.get("name"),
        "version": meta.get("version"),
        "notice": "Not a medical device. Not for diagnosis.",
        "model_file": str(model_file or "none: random weights"),
        "class_names": class_names,
        "monai": monai.__version__,
        "torch": torch.__version__,
        **more,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, f".{path.name}.part", lambda temporary: temporary.write_text(json.dumps(record, indent=2)))


def _write_whole(path, temporary_name, write):
    """Nothing half-written stays, least of all on a full disk."""
    temporary = path.with_name(temporary_name)
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:  # MONAI would try other writers and bury it in a traceback
        why = error.strerror or error
        raise SystemExit(f"{path} cannot be written ({why}): free space, or set --output_dir") from None
    finally:
        temporary.unlink(missing_ok=True)
