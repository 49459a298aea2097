"""The addresses that the command prints."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from sdic_runtime.studio import addresses as module
from sdic_runtime.studio.addresses import addresses, outward


def test_one_address_is_shown_as_it_was_given() -> None:
    assert addresses("127.0.0.1", 8000) == ["http://127.0.0.1:8000/"]
    assert addresses("::1", 8000, "a-token") == ["http://[::1]:8000/?token=a-token"]
    assert addresses("mybox.local", 80) == ["http://mybox.local:80/"]


def test_of_all_addresses_those_are_shown_that_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "outward", lambda family: {socket.AF_INET: ["192.168.1.20"], socket.AF_INET6: []}[family])
    assert addresses("0.0.0.0", 8000, "a-token") == ["http://127.0.0.1:8000/?token=a-token", "http://192.168.1.20:8000/?token=a-token"]
    assert addresses("", 8000) == ["http://127.0.0.1:8000/", "http://192.168.1.20:8000/"]
    assert addresses("::", 8000) == ["http://[::1]:8000/"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_address_for_others_is_one_of_this_machine(family: socket.AddressFamily) -> None:
    for found in outward(family):
        assert not ipaddress.ip_address(found).is_unspecified
        with socket.socket(family, socket.SOCK_DGRAM) as own:
            own.bind((found, 0))
