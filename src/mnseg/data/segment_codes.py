"""Coded terms (SNOMED CT) that DICOM SEG wants for every segment, for structures that are often segmented."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Code", "SegmentCode", "code_of"]


class Code(NamedTuple):
    """A concept of SNOMED CT."""

    value: str
    meaning: str

    def as_dcmqi(self) -> dict[str, str]:
        return {"CodeValue": self.value, "CodingSchemeDesignator": "SCT", "CodeMeaning": self.meaning}


class SegmentCode(NamedTuple):
    """Category (DICOM CID 7150) and type of a segment, with its side where the name tells one (CID 244)."""

    category: Code
    kind: Code
    side: Code | None


ANATOMY = Code("91723000", "Anatomical Structure")
ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "Tissue")
SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}

STRUCTURES = {
    "adrenal gland": Code("23451007", "Adrenal gland"),
    "amygdala": Code("4958002", "Amygdala"),
    "aorta": Code("15825003", "Aorta"),
    "bladder": Code("89837001", "Bladder"),
    "brain": Code("12738006", "Brain"),
    "cerebellum": Code("113305005", "Cerebellum"),
    "colon": Code("71854001", "Colon"),
    "duodenum": Code("38848004", "Duodenum"),
    "esophagus": Code("32849002", "Esophagus"),
    "gallbladder": Code("28231008", "Gallbladder"),
    "heart": Code("80891009", "Heart"),
    "hippocampus": Code("5366008", "Hippocampus"),
    "inferior vena cava": Code("64131007", "Inferior vena cava"),
    "kidney": Code("64033007", "Kidney"),
    "left atrium": Code("82471001", "Left atrium"),
    "left ventricle": Code("87878005", "Left ventricle"),
    "liver": Code("10200004", "Liver"),
    "lung": Code("39607008", "Lung"),
    "pancreas": Code("15776009", "Pancreas"),
    "portal vein": Code("32764006", "Portal vein"),
    "prostate": Code("41216001", "Prostate"),
    "right atrium": Code("73829009", "Right atrium"),
    "right ventricle": Code("53085002", "Right ventricle"),
    "spinal cord": Code("2748008", "Spinal cord"),
    "spleen": Code("78961009", "Spleen"),
    "stomach": Code("69695003", "Stomach"),
    "thyroid": Code("69748006", "Thyroid"),
    "trachea": Code("44567001", "Trachea"),
    "uterus": Code("35039007", "Uterus"),
    "vertebra": Code("51282000", "Vertebra"),
}
ABNORMALITIES = {
    "edema": Code("79654002", "Edema"),
    "lesion": Code("52988006", "Lesion"),
    "necrosis": Code("6574001", "Necrosis"),
    "neoplasm": Code("108369006", "Neoplasm"),
    "tumor": Code("108369006", "Neoplasm"),
}


def code_of(name: str) -> SegmentCode:
    """Terms of a class by its name ("Left_Kidney", "kidneys"); "Tissue" for a name that the table does not have."""
    words = re.sub(r"[\W_]+", " ", name).strip().lower()
    for text, side in _readings(words):
        if text in STRUCTURES:
            return SegmentCode(ANATOMY, STRUCTURES[text], side)
        if text in ABNORMALITIES:
            return SegmentCode(ABNORMAL, ABNORMALITIES[text], side)
    return SegmentCode(TISSUE, TISSUE, None)


def _readings(words: str) -> list[tuple[str, Code | None]]:
    """The name, then the name without its side (the left atrium is a term of its own); each also in the singular."""
    readings: list[tuple[str, Code | None]] = [(words, None)]
    for side, code in SIDES.items():
        if side in words.split():
            readings.append((" ".join(word for word in words.split() if word != side), code))
    return readings + [(text[:-1], side) for text, side in readings if text.endswith("s")]
