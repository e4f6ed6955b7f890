"""The hub is given up soon, whatever it is that does not answer."""

import socket
import threading
import time

import pytest

from dictlearn.text import hub


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    released = threading.Event()

    def find(*arguments: object, **named: object) -> list:
        released.wait(60)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", 0.1)
    began = time.monotonic()
    try:
        reason = hub.why_no_hub()
    finally:
        released.set()
    assert reason == "https://hub.invalid does not answer: no answer within 0.1 seconds"
    assert time.monotonic() - began < 30
