"""A sample client of docs/delivery.md, sections 4 to 6: which bundle, its files, deltas. Trust is `plain_trust.py`.

Written from that page alone. References are limited to channels and exact versions: no ranges. Downloads go one after
the other, and one that broke off starts anew but for what the bundles on the device have.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

from tests.clients.plain_trust import Json, Refused, Trust, get, need, sha256

MIB = 1024 * 1024
PIECE = 8 * MIB  # 8,388,608 bytes: no chunk is longer
WINDOWS = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """What the phone knows of itself; `memory` in bytes, as the OS reports it."""

    identifier: str
    soc: str
    os: str
    os_version: str
    memory: int


@dataclass(frozen=True)
class Wish:
    """What the app asks for: an exact version, or what the channel has; `formats`: those that it runs."""

    model: str
    channel: str = "production"
    version: str | None = None
    formats: tuple[str, ...] = ("gguf", "onnx", "coreml")


# -- 4. Which bundle


def place_of(model: str, release: str, install_id: str) -> int:
    """Return the installation's place in a release's rollout, 0 to 9,999."""
    digest = hashlib.sha256(f"{model}\n{release}\n{install_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * 10_000 >> 64


@dataclass(frozen=True)
class Cell:
    """A cell of the release that it came to; `reached`: that is out for this installation."""

    name: str
    release: str
    entry: Json
    target: Json
    reached: bool


def cells_of(trust: Trust, targets: Json, wish: Wish, install_id: str) -> list[Cell]:
    """Return every cell, at the release that the installation is to have there."""
    releases: dict[str, Json] = {}

    def cell(name: str, version: str, reached: bool = True) -> Cell:
        if version not in releases:
            path = f"{wish.model}/releases/{version}.json"
            releases[version] = trust.document(targets, path, "phipack.release/1")
        entry = releases[version]["cells"][name]
        return Cell(name, version, entry, releases[version]["devices"][entry["target"]], reached)

    if wish.version:
        document = trust.document(targets, f"{wish.model}/releases/{wish.version}.json", "phipack.release/1")
        return [cell(name, wish.version) for name in document["cells"]]
    channel = trust.document(targets, f"{wish.model}/channels/{wish.channel}.json", "phipack.channel/1")
    found = []
    for name, stages in channel["cells"].items():
        open_stages = [s for s in stages if place_of(wish.model, s["release"], install_id) < s["basis_points"]]
        stage = (open_stages or stages[-1:])[0]
        found.append(cell(name, stage["release"], bool(open_stages)))
    return found


def numbers(version: str) -> list[int]:
    """Return an OS version's numbers; `18` and `18.0` are the same."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    while found and not found[-1]:
        found.pop()
    return found


def runs(device: Device, target: Json) -> bool:
    """Say whether the device's OS is the target's, and new enough."""
    same = device.os.casefold() == target["os"].casefold()
    return same and numbers(device.os_version) >= numbers(target["minimum_os"])


def choose(device: Device, wish: Wish, cells: list[Cell]) -> Cell:
    """Return the device's cell: by its identifier, else its SoC, else its memory."""
    able = [one for one in cells if one.entry["format"] in wish.formats and runs(device, one.target)]
    able.sort(key=lambda one: (one.entry["target"], one.name))
    fitting = [one for one in able if device.memory >= 0.85 * one.target["ram_bytes"]]
    fitting.sort(key=lambda one: -one.target["ram_bytes"])  # stable: ties stay in the names' order
    steps = (
        [one for one in able if device.identifier in one.target["identifiers"]],
        [one for one in fitting if one.target["soc"].casefold() == device.soc.casefold()],
        fitting,
    )
    first = next((step[0] for step in steps if step), None)
    if first is None:
        raise Refused(f"nothing is published for {device}")
    name = first.entry["target"]
    same = [one for one in able if one.entry["target"] == name]
    chosen = next((one for one in same if one.name == name), same[0])
    need(chosen.name == name or len(same) == 1, f"target {name} has several cells: name one")
    need(chosen.reached, f"{chosen.name}: {chosen.release} is not out for this installation yet")
    return chosen


# -- 5. The bundle


def check_path(path: str) -> None:
    """Refuse a path that may lead out of the bundle's folder, or that some file system can't have."""
    bad = bool(re.search(r"[\\:\x00-\x1f\x7f]", path)) or path.casefold() == "manifest.json"
    for part in path.split("/"):  # an absolute path begins with an empty part
        bad = bad or part in {"", ".."} or part[-1] in ". " or bool(WINDOWS.fullmatch(part))
    need(not bad, f"the manifest has the path {path!r}")


def check_manifest(manifest: Json) -> None:
    """Refuse a manifest with paths or chunks that section 5 forbids."""
    need(manifest["schema"] == "phipack.bundle/1", "the manifest has another schema: update the app")
    seen: set[str] = set()
    for entry in manifest["files"]:
        check_path(entry["path"])
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", entry["path"]).casefold())
        need(folded not in seen, f"the manifest has {entry['path']!r} twice")
        seen.add(folded)
        need(re.fullmatch("[0-9a-f]{64}", entry["sha256"]), f"{entry['path']}: no SHA-256")
        lengths = [length for length, _, _ in pieces_of(entry)]
        need(sum(lengths) == entry["bytes"], f"{entry['path']}: its chunks are not all of it")
        need(not entry.get("chunks") or max(lengths) <= PIECE, f"{entry['path']}: a chunk is too long")
    for path in seen:
        parts = path.split("/")
        folders = {"/".join(parts[:end]) for end in range(1, len(parts))}
        need(not folders & (seen | {"manifest.json"}), f"a file of the manifest is a folder of {path}")


def pieces_of(entry: Json) -> Iterator[tuple[int, str, int]]:
    """Give (length, chunk, offset) of a file's chunks; a file without chunks is one piece."""
    offset = 0
    for chunk in entry.get("chunks") or [f"{entry['bytes']} {entry['sha256']}"]:
        length = int(chunk.split(" ")[0])
        yield length, chunk, offset
        offset += length


def is_chunk(data: bytes, chunk: str) -> bool:
    """Say whether the data is the chunk `LENGTH HEX`."""
    return chunk == f"{len(data)} {sha256(data)}"


class Blob:
    """One blob on the server, read by ranges; a server that ignores `Range` gives it whole, into `spool`."""

    def __init__(self, base: str, digest: str, size: int, spool: Path) -> None:
        name = digest.removeprefix("sha256:")
        self.url, self.size, self.spool, self.tag = f"{base}/blobs/sha256/{name[:2]}/{name}", size, spool, ""
        self.whole = False

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the blob; hashing them is the caller's."""
        if length and not self.whole:
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            if self.tag and not self.tag.startswith("W/"):
                headers["If-Range"] = self.tag
            body, status, tag = get(self.url, self.size, headers)
            if status == 206:  # partial content
                need(len(body) == length, f"{self.url}: another range than was asked for")
                self.tag = self.tag or tag
                return body
            self.spool.write_bytes(body)
            self.whole = True
        return read_at(self.spool, offset, length) if length else b""

    def pieces(self) -> Iterator[bytes]:
        """Give all of the blob."""
        for offset in range(0, self.size, PIECE):
            yield self.read(offset, min(PIECE, self.size - offset))


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Return bytes of a file."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


@dataclass
class Held:
    """The bundles on the device, `home/HEX` each: where their chunks lie, and their manifests."""

    home: Path
    chunks: dict[str, tuple[Path, int]] = field(default_factory=dict)
    manifests: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.home.glob("*/manifest.json"):
            raw = path.read_bytes()
            if sha256(raw) != path.parent.name:
                continue
            self.manifests[f"sha256:{path.parent.name}"] = manifest = json.loads(raw)
            for entry in manifest["files"]:
                for _, chunk, offset in pieces_of(entry):
                    self.chunks[chunk] = path.parent / entry["path"], offset

    def chunk(self, length: int, chunk: str) -> bytes | None:
        """Return a chunk that some bundle has, hashed."""
        try:
            data = read_at(*self.chunks[chunk], length)
        except (KeyError, OSError):
            return None
        return data if is_chunk(data, chunk) else None


def fetch_bundle(base: str, entry: Json, home: Path) -> Path:
    """Put the cell's bundle at `home/HEX`, verified, in one rename; return that folder."""
    digest = entry["bundle"].removeprefix("sha256:")
    out = home / digest
    if out.exists():
        return out
    need(entry["manifest_bytes"] <= PIECE, "the manifest is longer than 8 MiB")
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix=".new-") as folder:
        scratch, staging = Path(folder), Path(folder) / "bundle"
        raw = Blob(base, digest, entry["manifest_bytes"], scratch / "whole").read(0, entry["manifest_bytes"])
        need(len(raw) == entry["manifest_bytes"] and sha256(raw) == digest, "the manifest was changed")
        manifest = json.loads(raw)
        check_manifest(manifest)
        held = Held(home)
        sources = Sources(base, scratch, held, delta_for(base, entry, manifest, held, scratch))
        for file in manifest["files"]:
            sources.write(file, staging / file["path"])
        (staging / "manifest.json").write_bytes(raw)
        staging.rename(out)
    return out


@dataclass
class Sources:
    """Where chunks come from: a bundle on the device, a delta, else the file's blob."""

    base: str
    scratch: Path
    held: Held
    delta: Delta | None

    def write(self, entry: Json, out: Path) -> None:
        """Write one file; refuse it unless it is what the manifest says."""
        out.parent.mkdir(parents=True, exist_ok=True)
        blob = Blob(self.base, entry["sha256"], entry["bytes"], self.scratch / "whole")
        whole = hashlib.sha256()
        with out.open("wb") as stream:
            for data in self.pieces(entry, blob):
                stream.write(data)
                whole.update(data)
        need(whole.hexdigest() == entry["sha256"], f"{entry['path']} was changed")

    def pieces(self, entry: Json, blob: Blob) -> Iterator[bytes]:
        """Give the file's bytes in order, each chunk hashed; a long file without chunks is hashed by `write` alone."""
        for length, chunk, offset in pieces_of(entry):
            if length > PIECE:
                yield from blob.pieces()
                continue
            data = self.held.chunk(length, chunk) or (self.delta and self.delta.chunk(length, chunk))
            if not data:
                data = blob.read(offset, length)
                need(is_chunk(data, chunk), f"{entry['path']} was changed at byte {offset}")
            yield data


# -- 6. Deltas


@dataclass
class Delta:
    """A delta, downloaded and verified. `frames`: (offset, index's entry) by chunk; `old`: its base's folder."""

    path: Path
    frames: dict[str, tuple[int, Json]]
    old: Path
    paths: set[str]

    def chunk(self, length: int, chunk: str) -> bytes | None:
        """Return the chunk, hashed; None where the delta has none, or it or its base is damaged."""
        try:
            offset, frame = self.frames[chunk]
            content = unpacked(read_at(self.path, offset, frame["frame"]), 2 * length)
            if "base" in frame:
                need(frame["base"] in self.paths, "the delta names a file that its base has not")
                content = stepped(read_at(self.old / frame["base"], frame["at"], length), content)
        except DAMAGE:
            return None
        return content if is_chunk(content, chunk) else None


DAMAGE = (Refused, KeyError, IndexError, TypeError, ValueError, OSError, zstandard.ZstdError)


def unpacked(frame: bytes, limit: int) -> bytes:
    """Return what one zstd frame holds, at most `limit` bytes."""
    said = zstandard.get_frame_parameters(frame)
    need(said.content_size <= limit and not said.dict_id, "the frame is longer than it may be, or needs a dictionary")
    return zstandard.ZstdDecompressor().decompress(frame)


def stepped(base: bytes, content: bytes) -> bytes:
    """Return the base with the differences added where the steps lead."""
    made, half, position = bytearray(base), len(content) // 2, -1
    for step, difference in zip(content[:half], content[half:], strict=True):
        position += step
        made[position] = (made[position] + difference) % 256
    return bytes(made)


def delta_for(base: str, entry: Json, manifest: Json, held: Held, scratch: Path) -> Delta | None:
    """Download the cell's delta from a bundle on the device, where there is one and it pays."""
    pieces = {chunk: length for file in manifest["files"] for length, chunk, _ in pieces_of(file)}
    missing = sum(length for chunk, length in pieces.items() if chunk not in held.chunks)
    fitting = [one for one in entry.get("deltas", ()) if one["from"] in held.manifests and one["bytes"] < missing]
    if not fitting:
        return None
    one = min(fitting, key=lambda each: each["bytes"])
    path, blob = scratch / "delta", Blob(base, one["blob"], one["bytes"], scratch / "whole")
    try:
        whole = hashlib.sha256()
        with path.open("wb") as stream:
            for data in blob.pieces():
                stream.write(data)
                whole.update(data)
        need(f"sha256:{whole.hexdigest()}" == one["blob"], "the delta was changed")
        return read_delta(path, one["from"], entry["bundle"], held)
    except DAMAGE:
        return None


def read_delta(path: Path, old: str, new: str, held: Held) -> Delta:
    """Read a delta's index."""
    head = read_at(path, 0, 24)
    need(head[:16] == b"phipack.delta/1\n", "this is no delta")
    length = int.from_bytes(head[16:], "little")
    need(length <= 16 * MIB, "the delta's index is too long")
    index = json.loads(read_at(path, 24, length))
    said = (index["schema"], index["from"], index["to"])
    need(said == ("phipack.delta/1", old, new), "this is another delta")
    frames, offset = {}, 24 + length
    for frame in index["frames"]:
        frames[frame["chunk"]] = offset, frame
        offset += frame["frame"]
    paths = {file["path"] for file in held.manifests[old]["files"]}
    return Delta(path, frames, held.home / old.removeprefix("sha256:"), paths)


def install(trust: Trust, wish: Wish, device: Device, install_id: str, home: Path) -> tuple[Path, str]:
    """Bring the device what it is to have; return the bundle's folder and its release."""
    targets = trust.refresh()
    cell = choose(device, wish, cells_of(trust, targets, wish, install_id))
    return fetch_bundle(trust.base, cell.entry, home), cell.release
