"""Takes the certificate of a workload of a node for a program that is no agent, asked for with the node's own.

Usage: take_certificate CONTROLLER:PORT ROOTS STATE IDENTITY DIRECTORY; leaves `svid.pem`, `svid.key` (0600) and `root.pem` there.
"""

import asyncio
import sys
from pathlib import Path

from control.rpc import aio
from tests.control.agent import NO_SHARING, create
from tests.control.fakes import csr_pem, key_pem, new_key
from tests.e2e.ask_certificate import as_node


async def main(target: str, roots: bytes, state: str, identity: str, directory: Path) -> None:
    key = new_key()
    async with aio.secure_channel(target, as_node(roots, state), options=NO_SHARING) as channel:
        chain = await create(channel, csr_pem(identity, key), impersonated=identity)
    (directory / "svid.key").touch(mode=0o600)
    (directory / "svid.key").write_bytes(key_pem(key))
    (directory / "svid.pem").write_text("".join(chain[:-1]))
    (directory / "root.pem").write_text(chain[-1])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3], sys.argv[4], Path(sys.argv[5])))
