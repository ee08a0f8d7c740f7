import socket

import pytest

from nodeagent.linux import devices
from nodeagent.linux.errors import KernelError
from tests.nodeagent.pods import pair


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_two_namespaces_are_joined_and_talk_at_once(address: str) -> None:
    with pair() as network:
        pod, client = network.pod, network.client
        pod.namespace.run(devices.join, "trial0", client.namespace.fileno())
        pod.namespace.run(devices.configure, "trial0", "192.0.2.1/24", "2001:db8::1/64")
        client.namespace.run(devices.configure, "trial0", "192.0.2.2/24", "2001:db8::2/64")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with pod.namespace.run(socket.create_server, (address, 80), family=family) as listening, client.dial(address, 80) as made:
            accepted, _ = listening.accept()
            with accepted:
                accepted.sendall(b"x")
                assert made.recv(1) == b"x"
        with pytest.raises(KernelError, match="pair of devices trial0: File exists"):
            pod.namespace.run(devices.join, "trial0", client.namespace.fileno())
