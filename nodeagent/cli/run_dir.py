"""Which agent a command is about: several may run on one machine, each with a run directory."""

from pathlib import Path
from typing import Final

import click

DEFAULT: Final = Path("/run/nodemesh")

pass_run_dir = click.make_pass_decorator(Path)
"""Gives a command the run directory as its first argument."""
