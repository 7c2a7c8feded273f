"""Whether the model hub can be reached; its client waits half a minute and more before it says no."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from huggingface_hub import constants

PATIENCE_SECONDS = 5.0


def go_offline_if_unreachable() -> None:
    """Tell the hub's client to use its cache alone where the hub doesn't answer; behind a proxy nothing is known."""
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in proxies):
        return
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=PATIENCE_SECONDS).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
