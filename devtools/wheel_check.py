"""The wheel as its users install it, base, `[registry]` and `[serve]`, each in a fresh environment, and what it does.

    python -m devtools.wheel_check [--only base] [--scratch DIR]

It builds the wheel, looks at what is in it, installs it (constraints.txt pins the rest), and runs the commands that the
README documents for each install, outside of this repository. Bundles and evidence to work on are made here, by the
development environment. Prints a line a check, then how many passed and failed; ends with 1 where one failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from devtools.bundles import make_bundle, make_evidence
from devtools.catalogs import Publisher
from devtools.servers import RangeHandler, serving
from devtools.services.ports import stop

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("phipack", "builders", "registry", "targets")
CELLS = ("iphone-15", "pixel-9")
RELEASES = ("1.0.0", "1.1.0")
_PROJECT = """\
model = "phi"
version = "1.1.0"
checkpoint = "absent"

[[cells]]
target = "iphone-15"
recipe = "gguf-q4_0"

[[cells]]
target = "pixel-9"
recipe = "gguf-q4_0"
"""
# What has no command but `release`, which builds: a bundle that was built elsewhere is registered by the API.
_REGISTER = """\
import sys
from pathlib import Path
import phipack

registry = phipack.Registry.from_project("phipack.toml")
for release in sys.argv[1:]:
    for evidence in sorted(Path("made").glob(f"{release}.*.json")):
        cell = evidence.stem.removeprefix(f"{release}.")
        print(registry.register(Path("made", release), evidence, f"phi:{release}@{cell}").reference)
"""
_PLAIN_MLFLOW = """\
import sys
from pathlib import Path
import mlflow

mlflow.set_tracking_uri("sqlite:///.phipack/mlflow.db")
mlflow.set_registry_uri("sqlite:///.phipack/mlflow.db")
print(sorted(path.name for path in Path(mlflow.artifacts.download_artifacts(sys.argv[1])).iterdir()))
"""


class CheckError(Exception):
    """A check that failed, and what was seen."""


@dataclass(frozen=True)
class Environment:
    """A fresh environment, an empty folder to work in, and one for what is made to work on."""

    folder: Path
    work: Path
    made: Path

    def run(self, *command: str, expect: int = 0) -> str:
        """Run a program of the environment; return all that it printed.

        Raises:
            CheckError: it ended with another code, or with a traceback.
        """
        words = [str(self.folder / "bin" / command[0]), *command[1:]]
        done = subprocess.run(
            words, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        said = done.stdout + done.stderr
        if done.returncode != expect or "Traceback" in said:
            raise CheckError(f"{' '.join(command)[:200]} ended with {done.returncode}, not {expect}:\n{said}")
        return said

    def phipack(self, *arguments: str, expect: int = 0, shows: str = "") -> str:
        """Run phipack and look for words in what it printed, whatever its lines are."""
        said = self.run("phipack", *arguments, expect=expect)
        if shows not in " ".join(said.split()):
            raise CheckError(f"phipack {' '.join(arguments)} does not show {shows!r}:\n{said}")
        return said

    @property
    def environment(self) -> dict[str, str]:
        """The variables of this process, without what would lead into the repository or to a developer's registry."""
        own = re.compile("PYTHON|PHIPACK_|MLFLOW_|COLUMNS|NO_COLOR")
        kept = {name: value for name, value in os.environ.items() if not own.match(name)}
        return kept | {"HOME": str(self.work), "PATH": f"{self.folder / 'bin'}:{kept['PATH']}"}


Check = Callable[[Environment], object]


def base(environment: Environment) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the base install: what an app team has."""
    bundle = make_bundle(environment.made / "bundle")
    publisher = published(environment.made / "publisher")
    fit = ("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15")
    fetch = ("fetch", "--device", "iPhone15,4", "--root", str(publisher.root))
    with (
        serving(bundle.path, kind=RangeHandler) as url,
        serving(publisher.place.root, kind=RangeHandler) as catalog,
    ):
        yield "phipack --help", lambda one: one.phipack("--help", shows="Usage: phipack")
        yield "phipack targets ls", lambda one: one.phipack("targets", "ls", shows="iphone-15")
        yield "phipack recipes", lambda one: one.phipack("recipes", shows="gguf-q4_k_m")
        yield "phipack fit", lambda one: one.phipack(*fit, shows="gguf-q4_k_m")
        yield "fetch of a folder", lambda one: one.phipack("fetch", str(bundle.path), "-o", "copy")
        yield "fetch of a URL", lambda one: one.phipack("fetch", url, "-o", "fetched")
        yield "fetch from a catalog", lambda one: one.phipack(*fetch, catalog, "-o", "chosen")
        for name in ("copy", "fetched", "chosen"):
            yield (
                f"inspect --verify {name}",
                lambda one, it=name: one.phipack("inspect", "--verify", it, shows="verified"),
            )
        yield "split", lambda one: one.phipack("split", "fetched", "--max-part-bytes", "5kB", "-o", "parts")
        yield "join", lambda one: one.phipack("join", "parts", "-o", "joined", "--digest", bundle.digest)
        yield (
            "import phipack",
            lambda one: one.run(
                "python", "-c", f"import phipack, pathlib; phipack.fetch({url!r}, pathlib.Path('by-api'))"
            ),
        )
        missing = "[registry]'"
        server = ("--tracking-uri", "http://127.0.0.1:9")  # which takes MLflow's client; nothing is asked of it
        yield "what is not installed is named", lambda one: one.phipack("ls", *server, expect=1, shows=missing)


def registry(environment: Environment) -> Iterator[tuple[str, Check]]:
    """Yield the checks of `[registry]`: a release engineer's machine, which builds nothing."""
    for number, release in enumerate(RELEASES):
        bundle = make_bundle(environment.work / "made" / release, {"model.gguf": release.encode() * 1000})
        for cell in CELLS:
            evidence = make_evidence(bundle, target=cell, kl_mean=0.01 + 0.01 * number)
            (environment.work / "made" / f"{release}.{cell}.json").write_text(evidence.to_json(), "utf-8")
    (environment.work / "phipack.toml").write_text(_PROJECT, "utf-8")
    production = ("--to", "production", "--reason", "passed review")
    yield "register, by API", lambda one: one.run("python", "-c", _REGISTER, *RELEASES)
    yield "ls", lambda one: one.phipack("ls", "phi", shows="1.1.0")
    for release in RELEASES:
        yield f"promote {release}", lambda one, it=release: one.phipack("promote", f"phi:{it}", *production)
    yield "show", lambda one: one.phipack("show", "phi:production@iphone-15", shows="kl_mean")
    yield "diff", lambda one: one.phipack("diff", "phi:1.0.0", "phi:1.1.0", shows="model.gguf")
    yield "rollback", lambda one: one.phipack("rollback", "phi", "--reason", "second thoughts")
    yield "history", lambda one: one.phipack("history", "phi", shows="passed review")
    yield "fetch by reference", lambda one: one.phipack("fetch", "phi:production@iphone-15", "-o", "fetched")
    yield (
        "it is the earlier release",
        lambda one: one.phipack("diff", "./fetched", "phi:1.0.0@iphone-15", "--exit-code"),
    )
    yield "fetch by range", lambda one: one.phipack("fetch", "phi:^1.0@pixel-9", "-o", "newest")
    yield "plain MLflow", lambda one: one.run("python", "-c", _PLAIN_MLFLOW, "models:/phi.iphone-15@production")
    yield "keys init", lambda one: one.phipack("keys", "init", "--threshold", "root=1/1")
    yield "publish", lambda one: one.phipack("publish", "phi", "--to", "catalog", "--new-catalog")
    yield "publish --refresh", lambda one: one.phipack("publish", "--refresh", "--to", "catalog")
    yield "gc", lambda one: one.phipack("gc")
    with serving(environment.work / "catalog", kind=RangeHandler) as url:
        fetch = ("fetch", url, "--device", "iPhone15,4", "--root", ".phipack/keys/1.root.json", "-o", "on-a-phone")
        yield "a phone fetches it", lambda one: one.phipack(*fetch)


def serve(environment: Environment) -> Iterator[tuple[str, Check]]:
    """Yield the checks of `[serve]`: a service in place of a CDN."""
    publisher = published(environment.made / "served")
    with ExitStack() as stack:
        url = ""

        def start(one: Environment) -> None:
            nonlocal url
            url = stack.enter_context(served(one, publisher.store.root))

        yield "phipack serve", start
        fetch = ("--device", "iPhone15,4", "--root", str(publisher.root), "-o", "bundle")
        yield "a phone fetches from it", lambda one: one.phipack("fetch", url, *fetch)
        yield "inspect --verify", verifies("bundle")


def verifies(bundle: str) -> Check:
    """Return the check that a bundle's every byte is as its manifest says."""
    return lambda one: one.phipack("inspect", "--verify", bundle, shows="(verified)")


INSTALLS: dict[str, Callable[[Environment], Iterator[tuple[str, Check]]]] = {
    "base": base,
    "registry": registry,
    "serve": serve,
}


def published(folder: Path) -> Publisher:
    """Return a publisher with one release in production and in its catalog."""
    publisher = Publisher(folder)
    publisher.place = publisher.store
    publisher.release("1.0.0")
    publisher.publish()
    return publisher


@contextmanager
def served(environment: Environment, store: Path) -> Iterator[str]:
    """Run `phipack serve` on a store; yield its URL."""
    command = [str(environment.folder / "bin" / "phipack"), "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(
        command, cwd=environment.work, env=environment.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://[\w.:]+", line)
            if found is None:
                raise CheckError(f"phipack serve does not print its URL but {line!r}")
            yield found[0]
        finally:
            stop(process)


def build_wheel(folder: Path) -> Path:
    """Build the wheel as a release does, from this repository."""
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("phipack-*.whl")
    return wheel


def contents_of(wheel: Path) -> None:
    """Look into the wheel: the product's packages, all of their files, and nothing else.

    Raises:
        CheckError: a file is missing, or should not be there.
    """
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    wanted = set(tracked.stdout.split("\n")) - {""}
    if held != wanted:
        raise CheckError(f"missing: {sorted(wanted - held)}; not of the product: {sorted(held - wanted)}")


def install(wheel: Path, name: str, folder: Path) -> Environment:
    """Install the wheel with an extra in a fresh environment."""
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    environment = Environment(folder / "environment", folder / "work", folder / "made")
    environment.work.mkdir()
    environment.made.mkdir()
    wanted = str(wheel) if name == "base" else f"{wheel}[{name}]"
    python = str(environment.folder / "bin" / "python")
    pip("--python", python, "install", "--constraint", str(ROOT / "constraints.txt"), wanted)
    return environment


def pip(*arguments: str) -> None:
    """Run pip.

    Raises:
        CheckError: it failed.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckError(f"pip {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


@dataclass
class Tally:
    """How many checks passed and failed."""

    passed: int = 0
    failed: int = 0

    def run(self, name: str, check: Callable[[], object]) -> bool:
        """Run a check and print its line."""
        try:
            check()
        except (CheckError, subprocess.TimeoutExpired) as error:
            self.failed += 1
            print(f"FAILED {name}\n{error}", flush=True)
            return False
        self.passed += 1
        print(f"passed {name}", flush=True)
        return True


def main(arguments: list[str]) -> int:
    """Run all checks; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=INSTALLS, help="Of one install alone; may be repeated.")
    parser.add_argument("--scratch", type=Path, help="Work here, and keep it.")
    asked = parser.parse_args(arguments)
    tally = Tally()
    if asked.scratch is not None:
        shutil.rmtree(asked.scratch, ignore_errors=True)
    kept = asked.scratch and asked.scratch.absolute()
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="phipack-wheel-") as place:
        scratch = Path(place)
        scratch.mkdir(parents=True, exist_ok=True)
        if tally.run("the wheel is built", lambda: build_wheel(scratch)):
            (wheel,) = scratch.glob("phipack-*.whl")
            tally.run("the wheel holds the product and nothing else", lambda: contents_of(wheel))
            for name in asked.only or INSTALLS:
                check_install(tally, wheel, name, scratch / name)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


def check_install(tally: Tally, wheel: Path, name: str, folder: Path) -> None:
    """Install and run the checks of one install."""
    folder.mkdir()
    made: list[Environment] = []
    title = "base" if name == "base" else f"[{name}]"
    if tally.run(f"{title}: pip install", lambda: made.append(install(wheel, name, folder))):
        (environment,) = made
        for what, check in INSTALLS[name](environment):
            tally.run(f"{title}: {what}", lambda it=check: it(environment))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
