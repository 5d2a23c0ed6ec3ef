"""The test suite's own promise: nothing leaves the machine."""

from __future__ import annotations

import os
import socket

import pytest


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_connections_to_other_machines_are_refused(method: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        pytest.raises(
            RuntimeError, match=r"tests run without network: a connection to \('192.0.2.1', 80\) was refused"
        ),
    ):
        getattr(sock, method)(("192.0.2.1", 80))


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
