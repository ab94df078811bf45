"""A picture of the live page while an answer is being written.

    python benchmarks/live_page.py docs/figures/view.png

Starts a server of the tiny model; needs playwright and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from sglang_multiverse.server import Server
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.view.live import PATH

#: The moment: every path has written some forty tokens.
HALF_WAY = """() => {
  const lanes = [...document.querySelectorAll("#parallel [data-path]")].slice(1);
  return lanes.length && lanes.every((lane) => Number(lane.dataset.tokens) >= 40);
}"""


def main(out: Path) -> None:
    chromium = shutil.which("chromium")
    with Server(MODEL_DIR, flags=["--max-total-tokens=8000"]) as server, sync_playwright() as made:
        browser = made.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 670})
        page.goto(server.url + PATH)
        page.click("#go")
        page.wait_for_function(HALF_WAY, polling=10)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
