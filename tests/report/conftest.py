"""A real headless Chromium; where there is none the tests skip and say so, and in CI they fail."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

# So that the tests find samples.py under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).parent))

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A WebDriver that also records the console and the network."""
    driver = _start()
    yield driver
    driver.quit()


def _start() -> Any:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if program is None or chromedriver is None:
        _unavailable("the page's tests need chromium and chromedriver; install the packages of those names")
    try:
        from selenium import webdriver
    except ImportError:
        _unavailable("the page's tests need selenium; run: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))


def _unavailable(reason: str) -> NoReturn:
    # A skip in CI would let a broken page pass for ever.
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)
