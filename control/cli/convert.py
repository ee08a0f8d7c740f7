"""`meshctl convert`: older documents in today's words."""

import sys
from pathlib import Path

import click

from control.cli.options import EXIT_PROBLEM
from meshapi import wire


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE...")
@click.option("--root-namespace", default=wire.DEFAULT_ROOT_NAMESPACE, show_default=True, help="Where policies hold for the whole mesh.")
@click.option("--waypoint", default="waypoint", show_default=True, help="Name of the waypoint that looks at requests.")
def convert(files: tuple[Path, ...], root_namespace: str, waypoint: str) -> None:
    """Print the documents of FILEs in today's forms; what changed is said on standard error.

    Give what belongs together at once: roles with their bindings, policies with the Services that they name. What has no new form
    is an error: then nothing is printed, and the exit code is 1.
    """
    import yaml

    from control.convert.documents import Into
    from control.convert.documents import convert as convert_documents

    documents = []
    for file in files:
        try:
            documents += [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{file}: {error}") from error
    objects = [item for document in documents for item in _items(document)]
    items = [item for item in objects if isinstance(item, dict)]
    if len(items) != len(objects):
        raise click.ClickException("a document is no object: a map with apiVersion, kind and metadata is expected")
    converted = convert_documents(items, Into(root_namespace=root_namespace, waypoint=waypoint))
    for note in converted.notes:
        click.echo(f"{'error' if note.error else 'note'}: {note.object}: {note.what}", err=True)
    if converted.failed:
        sys.exit(EXIT_PROBLEM)
    click.echo(yaml.safe_dump_all(converted.documents, sort_keys=False), nl=False)


def _items(document: object) -> list[object]:
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        return list(document["items"])
    return [document]
