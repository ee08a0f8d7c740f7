"""`meshctl validate`: what is wrong in manifests, before the controller reads them."""

import sys
from pathlib import Path

import click

from control.cli.options import EXIT_PROBLEM, output_option
from control.cli.output import emit
from meshapi import wire


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR...")
@click.option("--root-namespace", default=wire.DEFAULT_ROOT_NAMESPACE, show_default=True, help="Where policies hold for the whole mesh.")
@click.option("--trust-domain", default=wire.DEFAULT_TRUST_DOMAIN, show_default=True)
@output_option
def validate(paths: tuple[Path, ...], root_namespace: str, trust_domain: str, output: str) -> None:
    """List every error and warning in manifests; exit code 1 if there are errors."""
    from control.model.settings import MeshSettings
    from control.validation.files import validate as validate_files
    from control.validation.finding import Severity

    findings = validate_files(paths, MeshSettings(trust_domain=trust_domain, root_namespace=root_namespace))
    rows = [(str(one.origin), str(one.severity), one.object, one.what, one.hint) for one in findings]
    data = [
        {
            "file": one.origin.file,
            "line": one.origin.line,
            "column": one.origin.column,
            "severity": str(one.severity),
            "object": one.object,
            "what": one.what,
            "hint": one.hint,
        }
        for one in findings
    ]
    if output != "table" or findings:
        emit(data, output, ("PLACE", "SEVERITY", "OBJECT", "WHAT", "WHAT TO DO"), rows)
    else:
        click.echo("nothing is wrong")
    if any(one.severity is Severity.ERROR for one in findings):
        sys.exit(EXIT_PROBLEM)
