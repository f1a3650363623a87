"""The scripts that connect phipack to a shell's completion: click's own for zsh and fish, and one for bash.

Bash cuts words at `:`, `@` and `=`: click's script would see `phi:1.0.0@iphone-15` as five words. This one passes the
line on as it was typed, and offers only what is new after bash's last cut.
"""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

PROGRAM = "phipack"
COMPLETE_VARIABLE = "_PHIPACK_COMPLETE"  # set by the scripts: what click looks for
_LINE, _BREAKS = "_PHIPACK_LINE", "_PHIPACK_BREAKS"

_BASH = (
    """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response completion type value
    response=$(env """
    + _LINE
    + """="${COMP_LINE:0:$COMP_POINT}" """
    + _BREAKS
    + """="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
)


@add_completion_class
class Bash(BashComplete):
    """Bash, with whole references as words."""

    source_template = _BASH

    def source(self) -> str:
        """Return the script. It needs bash 4.4 (of 2016), which is the reader's to check: this shell may be another."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is being typed, and that one."""
        line = os.environ.get(_LINE, "")
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """Leave out what stands before bash's last cut in the word."""
        word = self.get_completion_args()[1]
        breaks = re.escape("".join(one for one in ":@=" if one in os.environ.get(_BREAKS, "")))
        cut = re.match(f".*[{breaks}]", word) if breaks else None
        value = item.value if cut is None else item.value.removeprefix(cut[0])
        return f"{item.type},{value}"


def script(cli: click.Command, shell: str) -> str:
    """Return the script for a shell: `bash`, `zsh` or `fish`."""
    found = get_completion_class(shell)
    assert found is not None
    return found(cli, {}, PROGRAM, COMPLETE_VARIABLE).source().strip() + "\n"
