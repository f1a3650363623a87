"""A phone of the tests' own."""

from tests.support.phone.fixtures import adb_server, phone

__all__ = ["adb_server", "phone"]
