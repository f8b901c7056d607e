"""A real browser without a window, to look at pages with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest
from selenium import webdriver

SETTLED = """
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => setTimeout(done, 300));
"""
"""Waits until what a page does by itself or after an event has been done; longer than its own delays."""


class Browser:
    """One window of a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def size(self, width: int, *, dark: bool = False) -> None:
        """Be a screen of that width, a phone's if it is narrow."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, page: Path) -> None:
        """Load a file and let it settle."""
        self.driver.get(page.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait for what is under way."""
        self.driver.execute_async_script(SETTLED)

    def ask(self, expression: str) -> object:
        """Return the value of an expression in the page."""
        answer: object = self.driver.execute_script(f"return ({expression})")
        return answer

    def complaints(self) -> list[str]:
        """Return what the browser complained about since it was asked last."""
        said: list[dict[str, object]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(entry["message"]) for entry in said]


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start a browser; a machine without one skips the test, and says so."""
    found = {name: which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"no {' and no '.join(missing)} here: tools/scripts/system_packages.sh installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = str(found["chromium"])
    # As root, and in a container with a small /dev/shm, it starts only so; it opens files of the test alone.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(found["chromedriver"])))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
