"""What the proxy does when there is too much of something: it turns away, counts, holds what it has, and comes back."""

import os
import resource
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from nodeagent.ztunnel.protocol import Pass, SetIdentity, Settings
from tests.nodeagent.ztunnel.proxy.attacks.victim import victim
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, Node, echo, identity_of, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import attributes, until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_cut, is_turned_away, talk


def cpu_s(node: Node) -> float:
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(node: Node) -> int:
    return int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_connections_over_the_limit_are_turned_away_and_counted(tmp_path: Path) -> None:
    # Of which a workload may have as much as is left: a fourth of its own would be more than the one after it.
    with mesh(tmp_path, Settings(max_connections=5)) as both, server(both.server.side, echo), ExitStack() as stack:
        connections = [stack.enter_context(both.client.side.dial(both.server.address, BACKEND_PORT)) for _ in range(3)]
        assert all(talk(connection) for connection in connections)
        assert is_turned_away(both.client, both.server.address)
        assert both.client.agent.report().shed == {"connections": 1}
        connections[0].close()
        until(lambda: both.client.agent.report().connections == 2)
        until(lambda: both.server.agent.report().connections == 2)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as again:
            assert talk(again)


def test_one_source_has_so_many_tunnels_and_no_more(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(max_tunnels_per_source=2)) as both, ExitStack() as stack:
        both.client.script.route = lambda _: Pass(attributes=attributes())
        for _ in range(2):
            stack.enter_context(both.client.side.dial(both.server.address, 15008))
        until(lambda: both.server.agent.report().tunnels_in == 2)
        assert is_turned_away(both.client, both.server.address, 15008)
        assert both.server.agent.report().shed == {"tunnels_of_source": 1}


def test_a_64_of_ipv6_is_one_source(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(max_tunnels_per_source=1)) as both, ExitStack() as stack:
        both.client.script.route = lambda _: Pass(attributes=attributes())
        stack.enter_context(both.client.side.dial(both.server.address6, 15008))
        until(lambda: both.server.agent.report().tunnels_in == 1)
        neighbour = both.client.address6 + "77"
        both.client.side.shell("ip", "address", "add", f"{neighbour}/64", "dev", "eth0", "nodad")
        both.client.side.shell("ip", "route", "replace", f"{both.server.address6}/128", "dev", "eth0", "src", neighbour)
        assert is_turned_away(both.client, both.server.address6, 15008)
        assert both.server.agent.report().shed == {"tunnels_of_source": 1}


def test_handshakes_that_never_end_leave_room_for_the_tunnels_that_stand(tmp_path: Path) -> None:
    settings = Settings(max_tunnels=8, handshake_deadline_s=60)
    with victim(tmp_path, settings) as target, server(target.served.side, echo), ExitStack() as stack:
        standing = [stack.enter_context(target.peer()) for _ in range(3)]
        half_open = [stack.enter_context(target.dial()) for _ in range(2)]
        until(lambda: target.served.agent.report().tunnels_in == 5)
        with suppress(ConnectionResetError), target.dial() as over:
            assert is_cut(over)
        assert target.served.agent.report().shed == {"handshakes": 1}
        assert [peer.ask(target.backend) for peer in standing] == [200] * 3
        for connection in half_open:
            connection.close()
        until(lambda: target.served.agent.report().tunnels_in == 3)
        assert stack.enter_context(target.peer()).ask(target.backend) == 200


def test_answers_over_the_limit_are_refused(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(max_held_answers=1), workers=1) as both, server(both.server.side, echo):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
            assert talk(connection)
        assert is_turned_away(both.client, both.server.address, BACKEND_PORT + 1)
        until(lambda: "UO" in {entry.flag for entry in both.client.agent.closed})
        # What nobody uses was let go to make room.
        until(lambda: both.client.agent.report().held_routes == 0)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
            assert talk(connection)


def test_without_descriptors_it_sheds_and_comes_back_and_never_spins(tmp_path: Path) -> None:
    with mesh(tmp_path) as both, server(both.server.side, echo):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as before:
            assert talk(before)
        used = len(list(Path(f"/proc/{both.client.process.pid}/fd").iterdir()))
        resource.prlimit(both.client.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        with ExitStack() as stack:
            for _ in range(80):
                connection = stack.enter_context(both.client.side.open_socket(socket.AF_INET))
                connection.settimeout(0)
                connection.connect_ex((both.server.address, BACKEND_PORT))
            until(lambda: both.client.agent.report().shed.get("descriptors", 0) >= 10, deadline_s=10)
            assert both.client.process.poll() is None
            start_cpu_s, shed = cpu_s(both.client), both.client.agent.report().shed["descriptors"]
            until(lambda: both.client.agent.report().shed["descriptors"] != shed or both.client.agent.report().connections < 20)
            assert cpu_s(both.client) - start_cpu_s < 0.5
        until(lambda: both.client.agent.report().connections == 0, deadline_s=10)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)


def test_an_idle_connection_costs_little_memory(both: Mesh) -> None:
    count = 600
    with server(both.server.side, echo), ExitStack() as stack:
        with both.client.side.dial(both.server.address, BACKEND_PORT) as warm:
            assert talk(warm, os.urandom(50))
        before = {node.name: resident_bytes(node) for node in (both.client, both.server)}
        for _ in range(count):
            connection = stack.enter_context(both.client.side.dial(both.server.address, BACKEND_PORT))
            assert talk(connection)
        assert both.server.agent.report().connections == count
        for node in (both.client, both.server):
            per_connection = (resident_bytes(node) - before[node.name]) / count
            assert per_connection < 8192, f"{node.name}: {per_connection:.0f} bytes"


def test_a_refused_key_is_not_logged_and_no_core_is_written(both: Mesh) -> None:
    good, other = both.server.script.identities[0], both.authority.issue(identity_of("other"))
    log = both.server.directory / "proxy.log"
    both.server.agent.send(SetIdentity(identity=good.identity, chain=good.chain, key=other.key))
    both.server.agent.send(SetIdentity(identity=good.identity, chain=other.chain, key=other.key))
    until(lambda: log.read_text().count("are refused") == 2)
    assert not any(line in log.read_text() for line in other.key.splitlines())
    limits = Path(f"/proc/{both.server.process.pid}/limits").read_text().splitlines()
    (core,) = [line for line in limits if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    # The credentials before them stay in force.
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
        assert talk(connection)
