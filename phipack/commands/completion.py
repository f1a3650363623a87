"""`completion`: scripts for the shells."""

from __future__ import annotations

import click

from phipack.options import State, pass_state


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@pass_state
def completion(state: State, shell: str) -> None:
    """Print the script that completes commands, recipes, targets, models, versions and channels on Tab.

    \b
    bash: echo 'eval "$(phipack completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(phipack completion zsh)"' >> ~/.zshrc
    fish: phipack completion fish > ~/.config/fish/completions/phipack.fish

    Then open a new shell. Models, versions and channels are offered from a registry in SQLite; no server is asked.
    """  # noqa: D301 - click takes the backspace for a block that it must not wrap
    from phipack.shell_scripts import script

    root = click.get_current_context().find_root().command
    text = script(root, shell)
    state.output.result({"shell": shell, "script": text}, text.rstrip())
