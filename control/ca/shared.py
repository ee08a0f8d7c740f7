"""What controllers that stand beside each other share, instead of each having its own on disk."""

from dataclasses import dataclass

from control.ca.root_files import RootStore
from control.ca.token_records import TokenStore


@dataclass(frozen=True)
class Shared:
    """`root` None: an operator's authority, of which there is nothing to change here."""

    tokens: TokenStore
    root: RootStore | None
