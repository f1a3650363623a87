"""How this phipack was installed, and the command that adds an extra to it. Reads package metadata alone.

It may come from a checkout (`pip install .` or `-e .`), from a wheel's file or a repository's URL, or from an index;
`pip install 'phipack[registry]'` works for the last alone.
"""

from __future__ import annotations

import json
import re
import shlex
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "phipack"
_SOURCE = Path(__file__).resolve().parents[1]
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?P<versions>[^;]*)(?:;\s*(?P<marker>.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<name>[^'\"]+)['\"]")
# Modules that are not called as the package that brings them, or come with one that an extra names.
_PACKAGE_OF_MODULE = {
    "alembic": "mlflow",
    "botocore": "boto3",
    "google": "protobuf",
    "llama_cpp": "llama-cpp-python",
    "psycopg2": "psycopg2-binary",
    "safetensors": "transformers",
    "yaml": "transformers",
    "sqlalchemy": "mlflow",
    "starlette": "fastapi",
}


@dataclass(frozen=True)
class Requirement:
    """A package that an extra brings (the base install's extra is empty), with the versions that fit: `>=2.0,<2.4`."""

    extra: str
    package: str
    versions: str

    def allows(self, version: str) -> bool:
        """True where a version is within the bounds, as far as its numbers say."""
        for bound in filter(None, self.versions.split(",")):
            sign, than = bound.strip()[:2].rstrip("0123456789"), bound.strip().lstrip("<>=!~ ")
            one, other = _numbers(version), _numbers(than)
            fits = {"==": one == other, ">=": one >= other, "<=": one <= other, "<": one < other, ">": one > other}
            if not fits.get(sign, True):
                return False
        return True


def requirements() -> list[Requirement]:
    """Return what the base install and each extra bring; nothing where phipack is not installed as a package."""
    from importlib import metadata

    try:
        listed = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in listed:
        match = _REQUIREMENT.fullmatch(text)
        if match is not None:
            extra = _EXTRA.search(match["marker"] or "")
            found.append(Requirement("" if extra is None else extra["name"], match["name"], match["versions"].strip()))
    return found


def installed_version(package: str) -> str | None:
    """Return a package's version, None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def extras_with(module: str) -> list[str]:
    """Return the extras that bring a module, in the order of pyproject.toml."""
    top = module.partition(".")[0]
    wanted = _canonical(_PACKAGE_OF_MODULE.get(top, top))
    found = [one.extra for one in requirements() if one.extra and _canonical(one.package) == wanted]
    return list(dict.fromkeys(found))


def install_command(*extras: str) -> str:
    """Return the command that installs phipack with extras from where this phipack came from."""
    wanted = f"[{','.join(extras)}]" if extras else ""
    return " ".join(["pip", "install", *(shlex.quote(one) for one in _source(wanted))])


def _source(extras: str) -> Iterator[str]:
    origin = _origin()
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        yield f"{PACKAGE}{extras} @ {origin['vcs_info'].get('vcs', 'git')}+{url}"
    elif url.startswith("file:"):
        if origin.get("dir_info", {}).get("editable"):
            yield "-e"
        yield urllib.parse.unquote(urllib.parse.urlsplit(url).path) + extras
    elif url:
        yield f"{PACKAGE}{extras} @ {url}"
    elif (_SOURCE / "pyproject.toml").is_file():  # run from the checkout's folder
        yield f"{_SOURCE}{extras}"
    else:
        yield f"{PACKAGE}{extras}"


def _origin() -> dict[str, dict[str, object]]:
    """Read where the package came from (PEP 610); nothing for one from an index."""
    from importlib import metadata

    try:
        text = metadata.distribution(PACKAGE).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return {} if text is None else json.loads(text)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
