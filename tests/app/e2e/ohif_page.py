"""What a person does in OHIF, by playwright."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Ohif"]

PATIENCE = 120_000  # milliseconds; it draws in software
PLACE = "text=/\\(\\d+\\/\\d+\\)/"  # of the slice in view, in a corner of the viewport


class Ohif:
    """A page of OHIF that the label server brings.

    Args:
        browser: playwright's.
        server: the label server.
        mode: ``monai-label`` or ``segmentation``.
        study: StudyInstanceUID.
    """

    def __init__(self, browser: Any, server: Any, mode: str, study: str) -> None:
        self.page = browser.new_page(viewport={"width": 1500, "height": 950})
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{server.url}/ohif/{mode}?StudyInstanceUIDs={study}")
        ready = "#monailabelServerURL" if mode == "monai-label" else "text=Add Segmentation"
        self.page.wait_for_selector(ready)
        self.page.click("text=Confirm and Hide")
        self.page.wait_for_selector(PLACE)  # the first slice is drawn
        self.page.wait_for_timeout(3000)

    def close(self) -> None:
        self.page.close()

    def picture(self, path: Path) -> None:
        self.page.screenshot(path=str(path))

    def colored(self) -> tuple[int, float]:
        """Pixels of the viewports that are reddish, as only masks are, and how many of them lie on something bright."""
        from PIL import Image

        area = {"x": 290, "y": 110, "width": 920, "height": 800}
        pixels = np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=area))).convert("RGB")).astype(int)
        masks = pixels[(pixels[..., 0] - pixels[..., 1] > 40) & (pixels[..., 0] - pixels[..., 2] > 30)]
        return len(masks), float((masks[:, 0] > 180).mean()) if len(masks) else 0.0

    # ---------------------------------------------------------------- the mode of MONAI Label

    def run_model(self) -> None:
        """Connect to the server that the panel proposes, and run its model."""
        page = self.page
        page.locator("button.actionButton").first.click()
        page.click('label:has-text("Auto-Segmentation")')
        with page.expect_response(lambda answer: "/infer/" in answer.url) as answer:
            page.locator('button[title="Run Segmentation"]').click()
        assert answer.value.status == 200, answer.value.text()
        page.wait_for_timeout(6000)

    def point_at(self, label: str, x: int, y: int) -> str:
        """Click on one point of a structure in the first view, which is active, and have it segmented.

        Returns:
            what OHIF sent.
        """
        page = self.page
        page.locator("button.actionButton").first.click()
        page.click('label:has-text("Point Prompts")')
        page.locator("tr.clickable-row", has_text=label).last.click()
        page.wait_for_timeout(1000)
        page.mouse.move(x, y)
        page.wait_for_timeout(500)
        page.mouse.down()
        page.wait_for_timeout(200)
        page.mouse.up()
        page.wait_for_timeout(1000)
        with page.expect_response(lambda answer: "/infer/prompt" in answer.url) as answer:
            page.locator('button[title="Run PointPrompts"]').click()
        assert answer.value.status == 200, answer.value.text()
        page.wait_for_timeout(6000)
        return answer.value.request.post_data

    # ---------------------------------------------------------------- the mode with brushes

    def new_segmentation(self, segment: str) -> None:
        """Add a segmentation and give its one segment a name."""
        page = self.page
        page.click("text=Add Segmentation")
        page.wait_for_selector("text=Segment 1")
        page.wait_for_timeout(2000)
        row = page.locator("text=Segment 1").last
        row.hover()
        row.locator("xpath=following::button[@aria-haspopup='menu'][1]").click()
        page.locator("[role=menuitem]", has_text="Rename").click()
        field = page.locator("input[type=text]").last
        field.fill(segment)
        page.locator("button", has_text="Save").last.click()
        page.wait_for_selector(f"text={segment}")

    def open_segmentation(self, title: str) -> None:
        """Open a SEG of the study for editing."""
        self.page.locator(f"text={title}").first.dblclick()
        self.page.locator("[data-cy=yes-hydrate-btn]").click()
        self.page.wait_for_selector("text=Add Segment")
        self.page.wait_for_timeout(6000)

    def scroll(self, slices: int) -> None:
        self.page.mouse.move(700, 500)
        for _ in range(slices):
            self.page.mouse.wheel(0, 100)
            self.page.wait_for_timeout(200)
        self.page.wait_for_timeout(2000)

    def slice_number(self) -> int:
        """Place of the slice in view, from 1."""
        text = self.page.locator(PLACE).first.inner_text()
        return int(text.split("(")[1].split("/")[0])

    def paint(self, segment: str) -> None:
        """A stroke with the brush."""
        page = self.page
        page.locator(f"text={segment}").last.click()
        page.wait_for_timeout(1000)
        page.locator("[data-cy=Brush]").click()
        page.wait_for_timeout(1500)
        page.mouse.move(700, 450)
        page.mouse.down()
        page.mouse.move(740, 470, steps=8)
        page.mouse.move(760, 510, steps=8)
        page.mouse.up()
        page.wait_for_timeout(3000)

    def export(self) -> None:
        """Export DICOM SEG, which stores it in the DICOM server."""
        page = self.page
        page.locator("[role=combobox]").last.locator("xpath=preceding::button[1]").click()
        page.hover("text=Export & Download")
        page.wait_for_timeout(1000)
        page.locator("[role=menuitem]", has_text="Export DICOM SEG").last.click()
        with page.expect_response(lambda answer: answer.request.method == "POST" and "/proxy/dicom" in answer.url
                                  ) as answer:  # fmt: skip
            page.locator("button", has_text="Save").last.click()
        assert answer.value.status == 200, answer.value.text()
        page.wait_for_timeout(3000)
