"""The bits of an element, read from the label that manifests and tables have for a storage."""

from __future__ import annotations

import re

from targets.errors import BundleError

_FLOATS = re.compile(r"f(?:loat)?(16|32)", re.IGNORECASE)
_GGML = re.compile(r"I?Q(\d)_\w+", re.IGNORECASE)  # such as IQ4_NL, Q6_K, and q8_0 of a KV cache
_INTEGERS = re.compile(r"u?int(\d)(?: block \d+)?")
_ROWS = re.compile(r"\d+ rows ")  # before each group of a matrix whose rows are stored differently
_TABLES = re.compile(r"table of (\d+) (?:for \d+ rows|block \d+)")


def bits_of(label: str) -> int:
    """Return the bits of an element of a storage, without scales: the fewest where rows differ.

    Raises:
        BundleError: no storage has this label.
    """
    return min(_bits(label, _ROWS.sub("", group, count=1)) for group in label.split(", "))


def _bits(label: str, group: str) -> int:
    if (tables := _TABLES.fullmatch(group)) is not None:
        return (int(tables[1]) - 1).bit_length()
    for pattern in (_FLOATS, _GGML, _INTEGERS):
        if (found := pattern.fullmatch(group)) is not None:
            return int(found[1])
    raise BundleError(
        f"the manifest names a storage that this phipack does not know: {label!r}",
        fix="validate the bundle with the phipack that built it, or build it again",
    )
