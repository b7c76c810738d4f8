"""Pictures of parts of reports, for docs/gallery.md.

    python docs/pictures.py run=runs/demo/report.html neurons=runs/demo/report.html#neurons

Each argument is a picture's name and the page, from the top or from one of its sections on. Needs
Playwright and Chromium, as the tests of the pages do.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "evidence" / "gallery"
SIZE = {"width": 980, "height": 860}


def main(arguments: Sequence[str]) -> None:
    """Take one picture an argument."""
    browser_there = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_there is None or not arguments:
        sys.exit("Install Chromium, and name pictures: NAME=REPORT.html or NAME=REPORT.html#PART.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_there, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        for argument in arguments:
            name, _, place = argument.partition("=")
            file, _, part = place.partition("#")
            page.goto(Path(file).resolve().as_uri())
            if part:
                page.evaluate(
                    "part => document.getElementById(part).scrollIntoView({block: 'start'})", part
                )
            page.screenshot(path=FOLDER / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
