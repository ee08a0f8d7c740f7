"""`meshctl analyze`: what is likely not meant, in files, in a cluster, or in both taken together."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control.cli.options import EXIT_PROBLEM, output_option
from control.cli.output import emit
from meshapi import wire

if TYPE_CHECKING:
    from control.model.mesh import Mesh

PATH = click.Path(exists=True, path_type=Path)
KUBECONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)
READ_S = 60.0


@click.command()
@click.argument("paths", nargs=-1, type=PATH, metavar="[FILE|DIR]...")
@click.option("--kubeconfig", type=KUBECONFIG, help="Analyze what is in this cluster, with FILEs as if they were applied.")
@click.option("--root-namespace", default=wire.DEFAULT_ROOT_NAMESPACE, show_default=True, help="Where policies hold for the whole mesh.")
@click.option("--suppress", multiple=True, metavar="CODE[=KIND NS/NAME]", help="Leave out a sort, of one object or all.")
@click.option("--failure-threshold", type=click.Choice(["error", "warning", "info"]), default="error", show_default=True)
@output_option
def analyze(
    paths: tuple[Path, ...], kubeconfig: Path | None, root_namespace: str, suppress: tuple[str, ...], failure_threshold: str, output: str
) -> None:
    """Say what is likely not meant: names that lead nowhere, rules that exclude each other, policies that match nothing.

    Exit code 1 if something is as bad as --failure-threshold.
    """
    from control.analysis.message import LEVELS, Level
    from control.analysis.run import Suppressed
    from control.analysis.run import analyze as analyze_mesh

    if not paths and kubeconfig is None:
        raise click.UsageError("give files, or --kubeconfig, or both")
    mesh = _mesh(paths, kubeconfig, root_namespace)
    hidden = [Suppressed(code, name or "*") for code, _, name in (text.partition("=") for text in suppress)]
    messages = analyze_mesh(mesh, hidden)
    rows = [(str(one.level), one.code, str(one.object or ""), str(one.origin), one.what, one.hint) for one in messages]
    names = ("level", "code", "object", "origin", "what", "hint")
    data = [dict(zip(names, row, strict=True)) for row in rows]
    if output != "table" or messages:
        emit(data, output, ("LEVEL", "CODE", "OBJECT", "PLACE", "WHAT", "WHAT TO DO"), rows)
    else:
        click.echo("nothing to say")
    worst = LEVELS[: LEVELS.index(Level(failure_threshold)) + 1]
    if any(one.level in worst for one in messages):
        sys.exit(EXIT_PROBLEM)


def _mesh(paths: tuple[Path, ...], kubeconfig: Path | None, root_namespace: str) -> "Mesh":
    from control.model.mesh import Mesh
    from control.model.settings import MeshSettings
    from control.source.directory import DirectoryScanner, read_file
    from control.source.tree import FileState, FileTree

    mesh = Mesh(MeshSettings(root_namespace=root_namespace))
    if kubeconfig is not None:
        _read_cluster(mesh, kubeconfig, root_namespace)
    files: dict[str, FileState] = {}
    for path in paths:
        files |= DirectoryScanner(path).scan() if path.is_dir() else {str(path): read_file(str(path))}
    mesh.apply(FileTree(root_namespace).update(files))
    return mesh


def _read_cluster(mesh: "Mesh", kubeconfig: Path, root_namespace: str) -> None:
    """All that the controller would read, once."""
    import asyncio

    from control.metrics import Metrics
    from control.source.kubernetes.source import KubernetesSource
    from kubeapi.access import AccessError, from_kubeconfig
    from kubeapi.client import KubeClient

    async def read() -> None:
        async with asyncio.timeout(READ_S), KubeClient(from_kubeconfig(kubeconfig)) as client:
            async for batch in KubernetesSource(client, root_namespace, Metrics()).changes():
                mesh.apply(batch)
                return

    try:
        asyncio.run(read())
    except (AccessError, TimeoutError, OSError) as error:
        raise click.ClickException(f"the cluster could not be read: {error or 'no answer in time'}") from error
