"""The kernel's refusals, with the object that they are about and what an operator can do."""

import os


class KernelError(OSError):
    """A system call, or a message to the kernel, that failed."""

    def __init__(self, number: int, subject: str, hint: str = "", *, detail: str = "") -> None:
        """`number` is the errno, `subject` what was acted on, `detail` the kernel's own words where it has more than the errno's."""
        super().__init__(number, detail or os.strerror(number))
        self.subject = subject
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.subject}: {self.strerror}"
        return f"{text} ({self.hint})" if self.hint else text
