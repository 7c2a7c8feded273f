"""A page in the browser, as three tests of pages open it, and what is asked of each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DESKTOP, PHONE, PAPER = (1280, 900), (390, 844), (720, 1000)
Open = Callable[..., Any]


def opener(browser: Any, folder: Path, render: Callable[[Any], str]) -> Iterator[Open]:
    """For a fixture: opens the page of a record on a screen of a given size; its earlier logs are dropped."""

    def opened(record: Any, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Any:
        file = folder / "page.html"
        file.write_text(render(record), encoding="utf-8")
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        media = "print" if size == PAPER else ""
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        browser.get("about:blank")
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(file.as_uri())
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def assert_quiet(browser: Any) -> None:
    """The page is shown, says nothing on the console and asks for nothing but itself."""
    assert browser.find_element("id", "verdict").is_displayed()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith("data:")] == [browser.current_url]
