"""Why a caller is refused: the check that failed is for the audit log, the caller learns only that it was refused."""


class RefusedError(Exception):
    """A caller or a request that is not served. `check` is a short fixed name, `detail` says what was wrong with it."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
        self.detail = detail


class UnauthenticatedError(RefusedError):
    """The caller did not prove who it is."""


class ForbiddenError(RefusedError):
    """The caller is known, and may not have what it asks for."""


class MalformedError(RefusedError):
    """The request itself is wrong: its sender can mend it, so `detail` is told to a caller that is known."""


class UnavailableError(RefusedError):
    """Whether the caller may can't be told now."""


class BusyError(RefusedError):
    """The caller asks for more than its share."""
