"""Measurements at real size and on a real model, compared with other tools. Not in the wheel."""
