"""The README's pictures, from the page that `make atlas` ends in (`python tools/make_pictures.py [atlas/index.html]`)."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
VIEWS = {  # file -> address, light or dark, and what is done on the page before
    "atlas.png": ("#concept=bongos&site=transformer.transformer_blocks.6.cross_attn", "light", ""),
    "steering.png": ("#view=steering&concept=fast", "dark", "document.querySelector('.slider').slider.range.value = 4.5; document.querySelector('.slider').slider.show()"),
}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("page", nargs="?", type=Path, default=Path("atlas/index.html"))
    page_file = arguments.parse_args().page.resolve()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, (address, scheme, action) in VIEWS.items():
            page = window.new_page(viewport={"width": 1280, "height": 1190 if scheme == "light" else 840}, color_scheme=scheme)
            page.goto(page_file.as_uri() + address)
            page.wait_for_selector("body[data-ready]")
            page.wait_for_timeout(500)
            if action:
                page.evaluate(action)
                page.wait_for_timeout(300)
            page.screenshot(path=PICTURES / name)
            print(PICTURES / name)


if __name__ == "__main__":
    main()
