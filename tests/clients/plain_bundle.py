"""A sample client of docs/delivery.md, sections 5 and 6: a bundle's files, and deltas.

    HOME/HEX/                 a bundle that is whole, by its manifest's digest
    HOME/HEX.part/files/…     one that is being downloaded: the next try hashes what is there, and goes on
    HOME/HEX.part/…           its manifest, a delta to it, and the server's last answer

Written from that page alone, to be ported to Swift or Kotlin. Chunks are downloaded one after the other.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import zstandard

from tests.clients.plain_trust import MIB, Json, Refused, get, need, sha256

PIECE = 8 * MIB  # 8,388,608 bytes: no chunk, and no manifest, is longer
WINDOWS = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *", re.IGNORECASE)
DAMAGE = (Refused, KeyError, IndexError, TypeError, ValueError, OSError, zstandard.ZstdError)


# -- 5. The bundle


def check_path(path: str) -> None:
    """Refuse a path that may lead out of the bundle's folder, or that some file system can't have."""
    bad = any(letter in "\\:" or unicodedata.category(letter).startswith("C") for letter in path)
    for part in path.split("/"):  # an absolute path begins with an empty part
        bad = bad or not part or part[-1] in ". " or bool(WINDOWS.fullmatch(part.split(".")[0]))
    need(not bad, f"the manifest has the path {path!r}")


def check_manifest(manifest: Json) -> None:
    """Refuse a manifest with paths or chunks that section 5 forbids."""
    need(manifest["schema"] == "phipack.bundle/1", "the manifest has another schema: update the app")
    seen = {"manifest.json"}
    for entry in manifest["files"]:
        name = entry["path"]
        check_path(name)
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).upper().casefold())
        need(folded not in seen, f"the manifest has {name!r} twice")
        seen.add(folded)
        need(re.fullmatch("[0-9a-f]{64}", entry["sha256"]), f"the manifest has no SHA-256 of {name!r}")
        lengths = [length for _, length, _ in pieces_of(entry)]
        need(all(0 < length <= PIECE for length in lengths), f"the manifest has a chunk of another length in {name!r}")
        need(sum(lengths) == entry["bytes"], f"the manifest has chunks that are not all of {name!r}")
    folders = {path[:at] for path in seen for at, letter in enumerate(path) if letter == "/"}
    need(not folders & seen, "the manifest has a file that is another one's folder")


def pieces_of(entry: Json) -> Iterator[tuple[int, int, str | None]]:
    """Yield (offset, length, chunk) of each piece of a file, in order.

    A short file without chunks is one. A long one's pieces have no digest of their own: None in the chunk's place.
    """
    size, offset = entry["bytes"], 0
    chunks = entry.get("chunks") or ([f"{size} {entry['sha256']}"] if 0 < size <= PIECE else [])
    for chunk in chunks:
        length = int(chunk.split(" ")[0])
        yield offset, length, chunk
        offset += length
    while not chunks and offset < size:
        length = min(PIECE, size - offset)
        yield offset, length, None
        offset += length


def is_piece(data: bytes, length: int, chunk: str | None) -> bool:
    """Say whether these are the piece's bytes, as far as the manifest says."""
    return len(data) == length and chunk in (None, f"{length} {sha256(data)}")


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Return bytes of a file."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


class Blob:
    """One blob on the server, read by ranges through the file `spool`; where it ignores `Range`, that has all of it."""

    def __init__(self, base: str, digest: str, size: int, spool: Path) -> None:
        self.url, self.size, self.spool = f"{base}/blobs/sha256/{digest[:2]}/{digest}", size, spool
        self.tag, self.whole = "", False

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the blob; hashing them is the caller's."""
        if self.whole:
            return read_at(self.spool, offset, length)
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        if self.tag.startswith('"'):  # weak ones do not vouch for bytes
            headers["If-Range"] = self.tag
        status, tag = get(self.url, self.spool, self.size, headers)
        self.tag, self.whole = self.tag or tag, status != 206  # partial content
        return read_at(self.spool, offset if self.whole else 0, length)


class Held:
    """What the device has: chunks of the bundles in `home`, and those that a delta makes of them."""

    def __init__(self, home: Path) -> None:
        self.home, self.bundles = home, set[str]()
        self.chunks: dict[str, tuple[Path, int]] = {}
        self.frames: dict[str, tuple[Path, int, Json, Path]] = {}  # delta, offset, the index's entry, the old bundle
        for path in home.glob("*/manifest.json"):
            raw = path.read_bytes()
            if sha256(raw) == path.parent.name:
                self.bundles.add(f"sha256:{path.parent.name}")
                for entry in json.loads(raw)["files"]:
                    pieces = pieces_of(entry)
                    self.chunks |= {chunk: (path.parent / entry["path"], at) for at, _, chunk in pieces if chunk}

    def piece(self, length: int, chunk: str | None) -> bytes | None:
        """Return a chunk that a bundle has or the delta makes, hashed; None where nothing does, or it is damaged."""
        for source in (self.copied, self.made):
            try:
                data = source(length, chunk or "")
            except DAMAGE:
                continue
            if is_piece(data, length, chunk):
                return data
        return None

    def copied(self, length: int, chunk: str) -> bytes:
        """Read a chunk out of a bundle."""
        return read_at(*self.chunks[chunk], length)

    def made(self, length: int, chunk: str) -> bytes:
        """Make a chunk by its frame."""
        delta, offset, frame, old = self.frames[chunk]
        content = unpacked(read_at(delta, offset, frame["frame"]), 2 * length)
        if "base" not in frame:
            return content
        check_path(frame["base"])
        return stepped(read_at(old / frame["base"], frame["at"], length), content)


def fetch_file(base: str, entry: Json, out: Path, held: Held, spool: Path) -> None:
    """Bring one file, going on from what `out` has of it; refuse it unless it is what the manifest says."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()
    blob, whole = Blob(base, entry["sha256"], entry["bytes"], spool), hashlib.sha256()
    with out.open("r+b") as stream:
        for offset, length, chunk in pieces_of(entry):
            data = stream.read(length)
            if not is_piece(data, length, chunk):
                data = held.piece(length, chunk) or blob.read(offset, length)
                need(is_piece(data, length, chunk), f"{blob.url} was changed at byte {offset}")
                stream.seek(offset)
                stream.write(data)
            whole.update(data)
    if whole.hexdigest() != entry["sha256"]:
        out.unlink()  # the next try is not to go on from it
        raise Refused(f"{blob.url} was changed")


def fetch_bundle(base: str, cell: Json, home: Path) -> Path:
    """Put the cell's bundle at `home/HEX`, verified, in one rename; return that folder."""
    digest = cell["bundle"].removeprefix("sha256:")
    out, part = home / digest, home / f"{digest}.part"
    if out.exists():
        return out
    for other in home.glob("*.part"):
        if other != part:
            shutil.rmtree(other)
    need(cell["manifest_bytes"] <= PIECE, "the manifest is longer than 8 MiB")
    held, files, spool = Held(home), part / "files", part / "spool"
    fetch_file(base, {"bytes": cell["manifest_bytes"], "sha256": digest}, part / "manifest.json", held, spool)
    manifest = json.loads((part / "manifest.json").read_bytes())
    check_manifest(manifest)
    take_delta(base, cell, manifest, held, part)
    for entry in manifest["files"]:
        fetch_file(base, entry, files / entry["path"], held, spool)
    (part / "manifest.json").rename(files / "manifest.json")
    files.rename(out)
    shutil.rmtree(part)
    return out


# -- 6. Deltas


def take_delta(base: str, cell: Json, manifest: Json, held: Held, part: Path) -> None:
    """Let `held` make chunks by the cell's smallest delta, where that pays; a damaged one is done without."""
    pieces = [(length, chunk) for entry in manifest["files"] for _, length, chunk in pieces_of(entry)]
    missing = sum(length for length, chunk in pieces if chunk not in held.chunks)
    fitting = [one for one in cell.get("deltas", ()) if one["from"] in held.bundles and one["bytes"] < missing]
    if not fitting:
        return
    one = min(fitting, key=lambda each: each["bytes"])
    digest = one["blob"].removeprefix("sha256:")
    try:
        fetch_file(base, {"bytes": one["bytes"], "sha256": digest}, part / digest, held, part / "spool")
        held.frames = frames_of(part / digest, held.home, one["from"], cell["bundle"])
    except DAMAGE:
        return


def frames_of(delta: Path, home: Path, old: str, new: str) -> dict[str, tuple[Path, int, Json, Path]]:
    """Read a delta's index; return where each chunk's frame begins, and what `Held.made` needs as well."""
    head = read_at(delta, 0, 24)
    need(head[:16] == b"phipack.delta/1\n", "this is no delta")
    length = int.from_bytes(head[16:], "little")
    need(length <= 16 * MIB, "the delta's index is too long")
    index = json.loads(read_at(delta, 24, length))
    said = (index["schema"], index["from"], index["to"])
    need(said == ("phipack.delta/1", old, new), "this is another delta")
    found, offset = {}, 24 + length
    for frame in index["frames"]:
        found[frame["chunk"]] = delta, offset, frame, home / old.removeprefix("sha256:")
        offset += frame["frame"]
    return found


def unpacked(frame: bytes, limit: int) -> bytes:
    """Return what one zstd frame holds, at most `limit` bytes; one that does not state its size has too many."""
    need(zstandard.get_frame_parameters(frame).content_size <= limit, "the frame is longer than it may be")
    return zstandard.ZstdDecompressor().decompress(frame)


def stepped(base: bytes, content: bytes) -> bytes:
    """Return the base with the differences added where the steps lead."""
    made, half, position = bytearray(base), len(content) // 2, -1
    for step, difference in zip(content[:half], content[half:], strict=True):
        position += step
        made[position] = (made[position] + difference) % 256
    return bytes(made)
