"""`make services` as a process starts every server twice, a minute: `make test-all` (`DATABASES=all`)."""

from tests.support.databases import EVERY

collect_ignore = [] if EVERY else ["test_services.py"]
