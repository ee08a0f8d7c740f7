"""`meshctl ratelimit`: the server that counts requests for all Envoys."""

import sys
from pathlib import Path

import click

from control.cli.options import EXIT_PROBLEM, address_and_port, leaves

DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
LISTEN_HELP = "Where Envoys ask, as ADDRESS:PORT or unix:/PATH. There is no TLS: beside Envoy, or as a workload of the mesh."


@click.group()
def ratelimit() -> None:
    """Limits of requests that hold for all Envoys together."""


@ratelimit.command(context_settings={"auto_envvar_prefix": "NODEMESH_RATELIMIT", "show_default": True})
@click.option("--listen", default="127.0.0.1:8081", metavar="ADDRESS", help=LISTEN_HELP)
@click.option("--metrics-listen", default="127.0.0.1:8082", metavar="ADDRESS:PORT", help="For /metrics and /ready.")
@click.option("--config", type=DIRECTORY, help="Files in the form of Envoy's reference rate limit server; RateLimits need none.")
@click.option("--redis-url", default="", help="Where counts are kept, redis:// or rediss://; in memory, without it.")
@click.option("--redis-url-file", type=FILE, help="The same in a file, which others can't read in the list of processes.")
@click.option("--redis-timeout-ms", type=click.IntRange(1, 60_000), default=250, help="How long is waited for Redis.")
@click.option(
    "--max-keys", type=click.IntRange(16), default=200_000, help="How many keys are counted apart in memory, of each unit of time."
)
def serve(
    listen: str, metrics_listen: str, config: Path | None, redis_url: str, redis_url_file: Path | None, redis_timeout_ms: int, max_keys: int
) -> None:
    """Answer Envoys by their RateLimitService protocol until SIGTERM.

    Files are followed: all of a change is taken over, or nothing. Each option can be given in the environment too, as
    NODEMESH_RATELIMIT_<OPTION>.
    """
    import asyncio

    from control.ratelimit.config import ConfigurationError
    from control.ratelimit.run import Settings, run_until_signal
    from systemdapi.journal import log_to

    log_to(sys.stderr, program="meshctl", level="INFO")
    if redis_url and redis_url_file:
        raise click.UsageError("--redis-url and --redis-url-file say the same")
    failures: list[str] = []
    try:
        where = address_and_port("--metrics-listen", metrics_listen)
        url = redis_url_file.read_text().strip() if redis_url_file is not None else redis_url
        settings = Settings(
            listen=listen, metrics_listen=where, config=config, redis_url=url, redis_timeout_s=redis_timeout_ms / 1000, max_keys=max_keys
        )
        asyncio.run(run_until_signal(settings))
    except* (ConfigurationError, OSError, ValueError) as group:
        failures = [str(error) for error in leaves(group)]
    for failure in failures:
        click.echo(f"meshctl ratelimit serve: {failure}", err=True)
    if failures:
        sys.exit(EXIT_PROBLEM)


@ratelimit.command()
@click.argument("directory", type=DIRECTORY)
def check(directory: Path) -> None:
    """Say what the files of DIRECTORY limit, or what is wrong with them."""
    from control.ratelimit.config import ConfigurationError
    from control.ratelimit.files import Files

    try:
        found = Files(directory).read() or {}
    except (ConfigurationError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_PROBLEM)
    for domain in sorted(found):
        click.echo(domain)
