"""The `completion` command of both command lines: what a shell is to source so that it completes their words."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


def completion_command(program: str) -> click.Command:
    """The command for the program of this name."""

    @click.command("completion")
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        """Print what SHELL is to source to complete commands and options."""
        made = get_completion_class(shell)
        if made is None:
            raise click.ClickException(f"{shell} is not known here")
        click.echo(made(context.find_root().command, {}, program, f"_{program.upper()}_COMPLETE").source())

    completion.epilog = f"For this session: source <({program} completion bash). For all: put the output where the shell looks."
    return completion
