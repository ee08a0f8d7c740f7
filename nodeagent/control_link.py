"""The agent's way to its controller: what it proves itself by, and the stream of what this node needs to know."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from meshapi.discovery import Node
from meshapi.spiffe import AgentIdentity
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, TRUST_TYPE
from nodeagent.config import Config, ConfigError, JoinedMachine
from nodeagent.feed import Feed
from nodeagent.identity.agent import AgentCredential
from nodeagent.identity.authority import AGENT_VALIDITY_S, CertificateService, SpentToken
from nodeagent.identity.controller import Controller
from nodeagent.identity.trust import Trust
from nodeagent.state.files import StateDirectory
from nodeagent.state.identities import IdentityFiles
from nodeagent.xds.channel import Dial
from nodeagent.xds.client import XDSClient
from nodeagent.xds.core import Core


class ControlLink:
    """`credential` is None where only a token that others made is shown; `client` receives what the controller tells."""

    def __init__(self, config: Config, state: StateDirectory, trust: Trust, feed: Feed, *, on_rotated: Callable[[], None]) -> None:
        """`on_rotated`: there are new credentials, and whoever waits because the old ones were refused may try at once."""
        self._config = config
        self._on_rotated = on_rotated
        self._alone_until_s = 0.0
        address = config.controller
        self._controller = Controller(address.token_target, address.certificate_target, config.cluster, trust, address.server_name)
        self.credential = self._own_credential(state, trust)
        # A controller of another make has no bundles of ours: with its token the file's roots hold.
        ours = {TRUST_TYPE} if self.credential is not None else set()
        self.client = XDSClient(Core(_node(config), required={ADDRESS_TYPE, AUTHORIZATION_TYPE} | ours), self.dial, feed)

    @property
    def connected(self) -> bool:
        return self.client.status.connected_since_s is not None

    def dial(self) -> Dial:
        """How to reach the controller now; raises OSError or ValueError while there is nothing to prove ourselves by."""
        if time.monotonic() < self._alone_until_s:
            raise ValueError("the machine is leaving the mesh")
        if self.credential is not None:
            return self._controller.by_certificate(self.credential.current())
        if self._config.token is None:
            raise ValueError("neither a certificate nor a token")
        return self._controller.by_token(self._config.token)

    def stay_away(self, for_s: float) -> None:
        """Does without the controller for so long."""
        self._alone_until_s = time.monotonic() + for_s
        self.client.redial()

    async def run(self) -> None:
        """Follows the controller, as soon as there is a certificate where one is needed."""
        if self.credential is not None:
            await self.credential.wait()
        await self.client.run()

    def _own_credential(self, state: StateDirectory, trust: Trust) -> AgentCredential | None:
        token = self._config.join_token
        if token is None and not isinstance(self._config.runtime, JoinedMachine):
            return None
        return AgentCredential(
            AgentIdentity(self._config.trust_domain, self._config.node),
            IdentityFiles(state),
            trust,
            joining=SpentToken() if token is None else self._joining(token),
            renewing=CertificateService(self.dial, validity_s=AGENT_VALIDITY_S),
            on_rotated=self._rotated,
        )

    def _joining(self, token: Path) -> CertificateService:
        return CertificateService(lambda: self._controller.by_token(token), validity_s=AGENT_VALIDITY_S)

    def _rotated(self) -> None:
        self.client.redial()
        self._on_rotated()


def read_roots(path: Path) -> list[x509.Certificate]:
    """The roots that the controller is known by at first; raises ConfigError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--root-ca {path}: {error}") from error


def _node(config: Config) -> Node:
    """Who asks, as Istio's node agents introduce themselves."""
    return Node(
        id=f"ztunnel~127.0.0.1~{config.node}.istio-system~istio-system.svc.cluster.local",
        metadata={
            "NAME": config.node,
            "NAMESPACE": "istio-system",
            "INSTANCE_IPS": "127.0.0.1",
            "NODE_NAME": config.node,
            "CLUSTER_ID": config.cluster,
        },
    )
