"""What a node's agent could ask for if it were taken over: with the certificate in its state directory, certificates for others.

Usage: ask_certificate CONTROLLER:PORT ROOTS STATE IDENTITY...; prints a JSON object: for each identity "granted" or the refusal.
"""

import asyncio
import json
import sys
from pathlib import Path

from control.rpc import aio, grpc
from nodeagent.state.files import StateDirectory
from nodeagent.state.identities import IdentityFiles
from tests.control.agent import NO_SHARING, create
from tests.control.fakes import csr_pem, new_key


def as_node(roots: bytes, state: str) -> grpc.ChannelCredentials:
    """What the node's own certificate, kept in its state directory, opens."""
    own = next(one for one in IdentityFiles(StateDirectory(Path(state))).load() if "/nodemesh/node/" in one.identity)
    return grpc.ssl_channel_credentials(roots, own.key_pem.encode(), own.chain_pem.encode())


async def main(target: str, roots: bytes, state: str, identities: list[str]) -> dict[str, str]:
    answers = {}
    async with aio.secure_channel(target, as_node(roots, state), options=NO_SHARING) as channel:
        for identity in identities:
            try:
                await create(channel, csr_pem(identity, new_key()), impersonated=identity)
                answers[identity] = "granted"
            except grpc.RpcError as error:
                answers[identity] = f"{error.code().name}: {error.details()}"
    return answers


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3], sys.argv[4:]))))
