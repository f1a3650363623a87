"""All defects that the behaviour suite is tried on."""

from __future__ import annotations

from tests.support.planted_numbers import NUMBERS
from tests.support.planted_text import IDS, TEMPLATES

MUTANTS = (*NUMBERS, *IDS, *TEMPLATES)
