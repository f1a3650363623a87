"""`AdbProvider`: measures a bundle on a phone that adb reaches.

    look at the phone → remove what earlier measurements left → push what is missing → for each repeat: cool down, run
    → compare with the reference → remove what was pushed, or keep it

Whatever ends it, Ctrl-C too, nothing of it stays on the phone but what `keep` asks for.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from builders.devices.adb.client import RETURN_SECONDS, LostConnectionError, Phone
from builders.devices.adb.listing import Description, describe, list_phones, open_phone
from builders.devices.adb.program import PhoneProgram, end_run
from builders.devices.adb.sensors import Sensors, read_sensors
from builders.devices.adb.storage import HOME, Folder, Item, Storage, runtime_folder
from builders.devices.cooling import Heat, cool_down
from builders.devices.figures import KL, Figures, Repeat, figures_of, is_throttled, settings_entry
from builders.devices.kits import Kit, gguf_file, kit_for, programs_of
from builders.devices.kl_base import compared, write_base
from builders.devices.llama_bench import cache_arguments, parse_perplexity, perplexity_arguments
from builders.devices.provider import FoundDevice, MeasureRequest, ReferenceAnswers
from registry.bundle.folder import Bundle
from registry.files.digests import digest_of_file
from registry.files.lock import try_lock
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError
from targets.measurement import Measurement, RuntimeEntry
from targets.progress import Step, with_subject


@dataclass(frozen=True)
class AdbProvider:
    """Implements `DeviceProvider` for phones that adb reaches. Names are serial numbers; empty means the only one.

    `return_seconds`: how long a phone is waited for whose connection was lost.
    """

    return_seconds: float = RETURN_SECONDS

    @property
    def scheme(self) -> str:
        """What addresses start with."""
        return "adb"

    def devices(self) -> Sequence[FoundDevice]:
        """Return all phones that adb sees. Raises as the protocol says."""
        return list_phones()

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        """Measure a bundle on a phone. Raises as the protocol says."""
        kit = kit_for(request.bundle.manifest)
        _require_room(request)
        phone = open_phone(name, self.return_seconds)
        with _only_one(phone):
            known = describe(phone)
            programs = programs_of(request.runtime, kit, known.abis)
            on_progress = with_subject(request.on_progress, known.entry.model)
            return _Work(phone, known, kit, programs, replace(request, on_progress=on_progress)).measure()


@dataclass(frozen=True)
class _Work:
    """One measurement on one phone."""

    phone: Phone
    known: Description
    kit: Kit
    programs: Sequence[Path]
    request: MeasureRequest

    def measure(self) -> Measurement:
        request, storage = self.request, Storage(self.phone, self.request.on_progress)
        bundle, runtime = _bundle_folder(request.bundle, self.kit), runtime_folder(self.programs)
        taken = dt.datetime.now(dt.UTC).replace(microsecond=0)
        with _left_clean(storage, (bundle, runtime), keep=request.keep):
            storage.sweep((bundle, runtime))
            storage.put((bundle, runtime))
            program = PhoneProgram(self.phone, runtime.path, request.settings.run_seconds)
            repeats = [self._repeat(program, bundle, number) for number in range(request.settings.repeats)]
            figures = figures_of(repeats, request.settings, no_energy=self._no_energy())
            compared_tokens = self._compare(program, bundle, storage, figures)
        return self._measurement(repeats, figures, runtime, compared_tokens, taken)

    def _repeat(self, program: PhoneProgram, bundle: Folder, number: int) -> Repeat:
        settings, on_progress = self.request.settings, self.request.on_progress
        before = cool_down(lambda: _heat(read_sensors(self.phone)), settings, on_progress)
        on_progress(Step("run", number, settings.repeats))
        finished = program.run(self.kit.arguments(bundle.path, self.request.bundle.manifest, settings))
        run, after = self.kit.parse(finished.output), read_sensors(self.phone)
        on_progress(Step("run", number + 1, settings.repeats))
        joules = finished.joules(run.decode_seconds) if after.discharging else None
        return Repeat(run, before, _heat(after), finished.worst_status, finished.peak_bytes, joules)

    def _compare(self, program: PhoneProgram, bundle: Folder, storage: Storage, figures: Figures) -> int | None:
        """Add the KL divergence on the phone, and return the number of positions; None where it can't be measured."""
        reference = self.request.reference
        if reason := self._no_accuracy():
            figures.missing[KL] = reason
            return None
        assert reference is not None
        self.request.on_progress(Step("compare", 0, 1))
        with _base_file(reference) as base:
            storage.put((base,))
            model = f"{bundle.path}/{gguf_file(self.request.bundle.manifest)}"
            file = f"{base.path}/{base.items[0].path}"
            length = reference.tokens.shape[1]
            try:
                command = perplexity_arguments(model, file, length, self.request.settings.threads)
                done = program.run([*command, *cache_arguments(self.request.bundle.manifest.recipe.kv_cache)])
            finally:
                with suppress(DeviceError):
                    storage.remove((base,))
        figures.add(KL, [parse_perplexity(done.output + done.errors)], "")
        self.request.on_progress(Step("compare", 1, 1))
        return reference.tokens.shape[0] * compared(length)

    def _no_accuracy(self) -> str | None:
        if self.kit.accuracy_program is None:
            return f"{self.kit.runtime}'s {self.kit.program} prints no logits"
        if self.request.reference is None:
            return "no checkpoint was named to compare with"
        if self.kit.accuracy_program not in {path.name for path in self.programs}:
            return f"no {self.kit.accuracy_program} next to {self.kit.program}"
        return None

    def _no_energy(self) -> str:
        discharging = read_sensors(self.phone).discharging
        if discharging is False:
            return "the phone is charging: measure over Wi-Fi (adb tcpip 5555), unplugged"
        return "the phone does not show the current of its battery to adb, or the run was too short for it"

    def _measurement(
        self,
        repeats: Sequence[Repeat],
        figures: Figures,
        runtime: Folder,
        kl_tokens: int | None,
        taken: dt.datetime,
    ) -> Measurement:
        manifest, run = self.request.bundle.manifest, repeats[0].run
        program = next(item for item in runtime.items if item.path == self.kit.program)
        return Measurement(
            schema="phipack.measurement/1",
            match="digest",
            bundle=self.request.bundle.digest,
            model=self.request.model,
            recipe=manifest.recipe.name,
            weights_bytes=self.kit.weights_bytes(manifest),
            device=self.known.entry,
            runtime=RuntimeEntry(
                name=self.kit.runtime, version=run.version, backend=run.backend, binary=f"sha256:{program.sha256}"
            ),
            settings=settings_entry(repeats, kl_tokens),
            figures=figures.measured,
            not_measured=figures.missing,
            temperature_before_celsius=repeats[0].before.celsius,
            temperature_after_celsius=repeats[-1].after.celsius,
            throttled=is_throttled(repeats),
            source="adb",
            tool=self.kit.program,
            taken=taken,
        )


def _bundle_folder(bundle: Bundle, kit: Kit) -> Folder:
    files = kit.files(bundle.manifest)
    items = tuple(Item(bundle.file(file.path), file.path, file.bytes, file.sha256) for file in files)
    return Folder(f"bundles/{bundle.digest.removeprefix('sha256:')}", items)


def _heat(sensors: Sensors) -> Heat:
    return Heat(sensors.celsius, sensors.status)


@contextmanager
def _base_file(reference: ReferenceAnswers) -> Iterator[Folder]:
    """Yield a folder with the reference's answers, as llama-perplexity reads them."""
    with temporary_folder("phipack-reference", kind=DeviceError) as place:
        path = place / "reference.kld"
        with disk_errors(path, DeviceError):
            write_base(path, reference.tokens, reference.vocabulary, reference.logits())
        digest = digest_of_file(path).removeprefix("sha256:")
        yield Folder(f"bundles/reference-{digest}", (Item(path, path.name, path.stat().st_size, digest),))


@contextmanager
def _left_clean(storage: Storage, folders: Sequence[Folder], *, keep: bool) -> Iterator[None]:
    """Remove what was pushed when the block ends, however it ends; or mark it to be kept.

    Raises what the block raised; where the connection was lost, an error that says what became of the phone.
    """
    boot = storage.phone.boot_id()
    try:
        yield
    except LostConnectionError as error:
        raise _what_happened(error, storage, folders, boot, keep=keep) from error
    except BaseException:
        with suppress(DeviceError):
            _leave(storage, folders, keep=keep)
        raise
    _leave(storage, folders, keep=keep)


def _what_happened(
    error: LostConnectionError, storage: Storage, folders: Sequence[Folder], boot: str, *, keep: bool
) -> DeviceError:
    """Wait for the phone, remove what was pushed, and return the error for a lost connection."""
    phone = storage.phone
    stays = DeviceUnreachableError(
        f"{error.problem}; the phone did not come back within {phone.return_seconds:.0f} s, and files stay in {HOME}",
        fix="plug it in again, and run the same command: it removes what was left",
    )
    if not phone.comes_back():
        return stays
    try:
        restarted = phone.boot_id() != boot
        _leave(storage, folders, keep=keep)
    except DeviceError:
        return stays
    if restarted:
        return DeviceError(
            f"{error.problem}: the phone restarted",
            fix="most likely it ran out of memory or got too hot: let it cool, or measure a smaller recipe",
        )
    return DeviceUnreachableError(
        f"{error.problem}; it is back, and what ran there was ended",
        fix="use another cable or port, keep the phone awake, then run the same command again",
    )


def _leave(storage: Storage, folders: Sequence[Folder], *, keep: bool) -> None:
    """Leave the phone as it should be, and look whether it is."""
    end_run(storage.phone)
    if keep:
        storage.keep(folders)
    else:
        storage.remove(folders)
    storage.sweep()


@contextmanager
def _only_one(phone: Phone) -> Iterator[None]:
    """Refuse a second measurement on the same phone from this machine: each would spoil the other's figures."""
    name = hashlib.sha256(phone.serial.encode()).hexdigest()[:16]
    handle = try_lock(Path(tempfile.gettempdir(), f"phipack-phone-{os.getuid()}-{name}.lock"), mode=0o600)
    if handle is None:
        raise DeviceError(
            f"{phone.serial}: another phipack measures on this phone", fix="wait for it or stop it, then try again"
        )
    try:
        yield
    finally:
        os.close(handle)


def _require_room(request: MeasureRequest) -> None:
    """Refuse more tokens than the bundle's context has, and a number of threads for a program that takes none."""
    if request.settings.threads is not None and request.bundle.manifest.recipe.format != "gguf":
        raise MeasurementError(
            f"{request.bundle.manifest.recipe.name} is timed by a program that takes no number of threads",
            fix="leave --threads out, which is llama-bench's",
        )
    context, settings = request.bundle.manifest.model.context_length, request.settings
    longest = max(settings.prompt_tokens, settings.decode_tokens)
    if longest > context:
        raise MeasurementError(
            f"{longest} tokens can't be run: the bundle's context is {context} tokens long",
            fix=f"ask for at most {context} --prompt-tokens and --decode-tokens",
        )
