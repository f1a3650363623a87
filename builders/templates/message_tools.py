"""Templates that write the tools of a message: a key `tools` of the system message, next to its content.

So do Phi-4-mini's, where others read a variable `tools` of the whole conversation.
"""

from __future__ import annotations

import re

_IN_A_MESSAGE = re.compile(r"""\w(\.|\[['"])tools\b|['"]tools['"] in \w""")


def reads_tools_of_messages(template: str) -> bool:
    """Return whether a template reads the tools that a message has."""
    return _IN_A_MESSAGE.search(template) is not None
