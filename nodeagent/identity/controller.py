"""Where the controller is and how the agent proves itself there: by a token, or by its certificate."""

from dataclasses import dataclass
from pathlib import Path

from nodeagent.identity.certificate import Issued
from nodeagent.identity.trust import Trust
from nodeagent.xds.channel import ClientCertificate, Dial


@dataclass(frozen=True, slots=True)
class Controller:
    """`token_target` and `certificate_target` are `host:port` of its two ports. The calls read files: from a thread, please."""

    token_target: str
    certificate_target: str
    cluster: str
    trust: Trust
    server_name: str | None = None

    def by_token(self, token_file: Path) -> Dial:
        """Reads the token anew; raises OSError if there is none, ValueError if it is none."""
        token = token_file.read_text(encoding="ascii").strip()
        if not token or not token.isprintable():
            raise ValueError(f"{token_file} holds no token")
        return Dial(self.token_target, self.trust.controller_roots_pem, self.cluster, token=token, server_name=self.server_name)

    def by_certificate(self, certificate: Issued) -> Dial:
        return Dial(
            self.certificate_target,
            self.trust.controller_roots_pem,
            self.cluster,
            certificate=ClientCertificate(certificate.chain_pem.encode(), certificate.key_pem.encode()),
            server_name=self.server_name,
        )
