"""Writes the man pages of both command lines, made from their help: one page a program, every command in it.

    tools/man.py DIRECTORY

The pages are in section 1, as mandoc and groff read man(7).
"""

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

PROGRAMS = {"nodeagent": "nodeagent.cli.main", "meshctl": "control.cli.main"}


def page(program: str, group: click.Group) -> str:
    """The whole page."""
    context = click.Context(group, info_name=program)
    lines = [
        f'.TH {program.upper()} 1 "" "nodemesh {version("nodemesh")}" "nodemesh"',
        ".SH NAME",
        f"{program} \\- {plain(first_sentence(group.help or '')).rstrip('.')}",
        ".SH SYNOPSIS",
        f".B {program}",
        plain(" ".join(group.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *paragraphs(group.help or ""),
        *options(group, context),
        ".SH COMMANDS",
        *(line for name in sorted(group.commands) for line in command(f"{program} {name}", group.commands[name], context)),
        ".SH SEE ALSO",
        ", ".join(f".BR {other} (1)" for other in PROGRAMS if other != program),
    ]
    return "\n".join(lines) + "\n"


def command(name: str, one: click.Command, parent: click.Context) -> Iterator[str]:
    """A command, and those below it."""
    if one.hidden:
        return
    context = click.Context(one, info_name=name.rpartition(" ")[2], parent=parent)
    yield ".SS"
    yield plain(f"{name} {' '.join(one.collect_usage_pieces(context))}")
    yield from paragraphs(one.help or "")
    yield from options(one, context, heading=False)
    if one.epilog:
        yield from paragraphs(one.epilog)
    if isinstance(one, click.Group):
        for below in sorted(one.commands):
            yield from command(f"{name} {below}", one.commands[below], context)


def options(one: click.Command, context: click.Context, *, heading: bool = True) -> Iterator[str]:
    """Each option with its help."""
    given = [parameter for parameter in one.params if isinstance(parameter, click.Option)]
    records = [record for parameter in given if (record := parameter.get_help_record(context)) is not None]
    if records and heading:
        yield ".SH OPTIONS"
    for names, text in records:
        yield ".TP"
        yield f".B {plain(names)}"
        yield plain(" ".join(text.split()))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text."""
    for block in text.replace("\b\n", "").split("\n\n"):
        if block.strip():
            yield ".PP"
            yield plain(" ".join(block.split()))


def first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).partition(". ")[0]


def plain(text: str) -> str:
    """Text that roff takes for nothing else."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for program, module in PROGRAMS.items():
        group = __import__(module, fromlist=["main"]).main
        target = directory / f"{program}.1"
        target.write_text(page(program, group))
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
