"""Measurements at real size and on a real model, beside the peers. Not in the wheel."""
