"""What is different from the bundle that production has: what it was made from, and what an app depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from builders.report.change import Change
from builders.report.content import CellContent, Recorded, Subject, side_name
from builders.report.layers import layers_in_words
from builders.report.merge_base import merge_change
from builders.report.reach import context_window, reach_changes
from builders.report.recipes import recipe_of
from builders.report.same_files import files_that_differ
from builders.report.template_difference import in_words
from registry.bundle.manifest import Manifest
from targets.formatting import count, size
from targets.runtimes.requirement import covers

STOP_IDS = "stop ids"
_SENTENCE = 100  # letters of a template's difference that stand in a sentence: more of its code is unreadable there
_SHOWN_DIGITS = 12  # of a digest


def origin_changes(cell: CellContent) -> list[Change]:
    """Return what a bundle is made from and by, next to the baseline's; nothing without one."""
    if cell.baseline is None:
        return []
    old, new = cell.baseline.manifest, cell.candidate.manifest
    merge = merge_change(cell)
    return [
        Change("recipe", recipe_of(old), recipe_of(new)),
        Change(
            "checkpoint",
            _digest(old.checkpoint),
            _digest(new.checkpoint),
            meaning="the two are compared with different float32 models"
            if files_that_differ(old, new)
            else "every file that is made from the two is the same, byte for byte",
        ),
        *(() if merge is None else (merge,)),
        *_calibrations(old, new),
        Change("largest file", _weights(old), _weights(new), meaning=layers_in_words(cell)),
        Change("tools", *_tools(old, new)),
    ]


def _calibrations(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Yield what both were calibrated on: the recipe says at which level alone."""
    before, after = old.recipe.calibration, new.recipe.calibration
    if before is not None and after is not None:
        old_text, new_text = (f"{_digest(one.text)}, {count(one.tokens, 'token')}" for one in (before, after))
        yield Change("calibration text", old_text, new_text, meaning="weights are rounded in another way")


def app_changes(cell: CellContent) -> list[Change]:
    """Return what an app depends on, changed or not. Without a baseline both columns have the candidate's."""
    old = cell.candidate if cell.baseline is None else cell.baseline
    return list(_app_changes(old.manifest, cell.candidate.manifest, cell))


def own_checkpoint(cell: CellContent) -> str:
    """Return that the checks don't compare with the other template, stop ids or tokenizer; empty if all are same."""
    if cell.baseline is None:
        return ""
    old, new = cell.baseline.manifest, cell.candidate.manifest
    differs = {
        "chat template": _template_digest(old) != _template_digest(new) and not cell.writes_same_prompts,
        "stop ids": set(old.generation.stop_token_ids) != set(new.generation.stop_token_ids),
        "tokenizer": _tokenizer_digest(old) != _tokenizer_digest(new) and not cell.same_tokenizer,
    }
    names = [name for name, is_other in differs.items() if is_other]
    if not names:
        return ""
    name = side_name(cell.baseline)
    subject = " and ".join(names) if len(names) < 3 else f"{names[0]}, {names[1]} and {names[2]}"
    verb = "differs" if names in (["chat template"], ["tokenizer"]) else "differ"
    return (
        f"The {subject} {verb} from {name}'s. Checks of template and ids compare with the candidate's own"
        f" checkpoint: where {'that is' if verb == 'differs' else 'those are'} wrong, they pass all the same."
    )


def _tokenizer_digest(manifest: Manifest) -> str | None:
    return next((entry.sha256 for entry in manifest.files if entry.path == "tokenizer.json"), None)


def _digest(text: str) -> str:
    return text.removeprefix("sha256:")[:_SHOWN_DIGITS]


def _weights(manifest: Manifest) -> str:
    """Return the name and the digest of the largest file. A GGUF's has the template and the stop ids in it, too."""
    largest = max(manifest.files, key=lambda entry: entry.bytes)
    return f"{largest.path}, {_digest(largest.sha256)}"


def _tools(old: Manifest, new: Manifest) -> tuple[str, str]:
    names = [name for name in {**old.tools, **new.tools} if old.tools.get(name) != new.tools.get(name)]
    if not names:
        return "the same versions", "the same versions"
    before, after = (", ".join(f"{n} {side.tools.get(n, 'not used')}" for n in names) for side in (old, new))
    return before, after


def _app_changes(old: Manifest, new: Manifest, cell: CellContent) -> Iterator[Change]:
    if cell.baseline is not None and (phones := phones_change(cell)) is not None:
        yield phones
    yield Change("format", old.recipe.format, new.recipe.format, breaks=True)
    gone = not set(old.generation.stop_token_ids) <= set(new.generation.stop_token_ids)
    before = cell.candidate if cell.baseline is None else cell.baseline
    before, after = _with_all_texts(before, cell.candidate)
    yield Change(STOP_IDS, *_stop_ids(before, after), breaks=True, meaning=_stops(before, after), loses=gone)
    bos, new_bos = (_shown(side, side.manifest.generation.bos_token_id) for side in (before, after))
    yield Change("BOS id", bos, new_bos, breaks=True, meaning="prompts that begin with it begin with another token")
    yield _template(old, new, cell)
    yield context_window(cell)
    yield Change("exact up to, tokens", f"{old.model.exact_context_length:,}", f"{new.model.exact_context_length:,}")
    yield from reach_changes(cell)
    yield Change(
        "KV cache",
        old.recipe.kv_cache or "the runtime's own",
        new.recipe.kv_cache or "the runtime's own",
        breaks=new.recipe.format == "gguf",
        meaning="the app sets this type where it opens the model"
        if new.recipe.format == "gguf"
        else "the graph has it",
    )
    yield Change("vocabulary", f"{old.model.vocabulary_size:,}", f"{new.model.vocabulary_size:,}")
    yield _minimum_runtime(old, new)
    yield Change("download", size(old.total_bytes), size(new.total_bytes))
    yield Change("files", str(len(old.files)), str(len(new.files)))


def phones_change(cell: CellContent) -> Change | None:
    """Return the device class of both sides; None where evidence of one names none."""
    old, new = (_phone(side) for side in (cell.before, cell.candidate))
    if not old or not new:
        return None
    return Change("phones", old, new, breaks=True, meaning="gates and predictions are of another device")


def _phone(side: Subject | Recorded | None) -> str:
    name = None if side is None or side.evidence is None else side.evidence.target
    return name or ""


def _stops(old: Subject, new: Subject) -> str:
    before, after = (set(side.manifest.generation.stop_token_ids) for side in (old, new))
    parts = []
    if gone := sorted(before - after):
        parts.append(f"answers that ended with {' or '.join(_stop(old, one) for one in gone)} run on")
    if added := sorted(after - before):
        parts.append(f"answers end with {' or '.join(_stop(new, one) for one in added)}, too")
    return "; ".join(parts)


def _template(old: Manifest, new: Manifest, cell: CellContent) -> Change:
    """Compare the chat templates by what is in them."""
    before, after = _template_digest(old), _template_digest(new)
    if before == after:
        same = new.generation.chat_template or "none"
        same = f"{same}, the same" if cell.baseline is not None and after is not None else same
        return Change("chat template", same, same)
    shown = old.generation.chat_template or "none"
    if after is None or before is None:
        return Change("chat template", shown, new.generation.chat_template or "none", breaks=True)
    found, lines_before = (
        ((), ()) if cell.difference is None else (cell.difference.template, cell.difference.template_before)
    )
    gone, new_lines = (sum(line[:1] == sign for line in found[2:]) for sign in "-+")
    lines = f"another text, {count(gone, 'line')} removed and {new_lines} added"
    other = lines if gone or new_lines else "other bytes, the same lines"
    if cell.writes_same_prompts:
        return Change("chat template", shown, other, meaning=_same_prompts(cell))
    said, detail, effect = _same_prompts(cell), in_words(found, lines_before), _lost_text(cell)
    if len(detail) <= _SENTENCE:
        said, detail = "; ".join(part for part in (said, detail) if part), ""
    return Change(
        "chat template", shown, other, breaks=True, meaning=said, loses=bool(effect), effect=effect, detail=detail
    )


def _lost_text(cell: CellContent) -> str:
    """Return in how many conversations what was said no longer reaches the model; empty for none."""
    found = cell.prompts
    if found is None or not found.lost:
        return ""
    several = len(found.lost_parts) > 1
    parts = " or ".join(f"of {part}{f' ({number})' if several else ''}" for part, number in found.lost_parts.items())
    return f"in {len(found.lost)} of {found.rendered} conversations, text {parts} no longer reaches the model"


def _same_prompts(cell: CellContent) -> str:
    """Return what rendering conversations with both templates has found; empty where nobody has done it."""
    if cell.prompts is None:
        return ""
    if cell.prompts.problem:
        return f"whether the prompts are the same is not known: {cell.prompts.problem}"
    if not cell.prompts.different:
        longest = f", of at most {count(cell.prompts.longest, 'message')}," if cell.prompts.longest else ""
        rendered = f"{cell.prompts.rendered} conversations{longest} were rendered with both templates"
        return f"the prompts are the same: {rendered}"
    refused = len(cell.prompts.refused)
    number = len(cell.prompts.different) - refused
    parts = [f"{number} {'becomes' if number == 1 else 'become'} another text"] if number else []
    parts += [f"{refused} {'is' if refused == 1 else 'are'} refused"] if refused else []
    tools = ", all of them with tools: without tools nothing changes" if cell.prompts.only_with_tools else ""
    return f"of {cell.prompts.rendered} conversations, {' and '.join(parts)}{tools}"


def _template_digest(manifest: Manifest) -> str | None:
    name = manifest.generation.chat_template
    return next((entry.sha256 for entry in manifest.files if entry.path == name), None)


def _with_all_texts(old: Subject, new: Subject) -> tuple[Subject, Subject]:
    """Return both sides with each token's text, also where the files of one side can't be read."""
    return replace(old, tokens={**new.tokens, **old.tokens}), replace(new, tokens={**old.tokens, **new.tokens})


def _stop_ids(old: Subject, new: Subject) -> tuple[str, str]:
    """Return the stop ids of both sides. Which of them is BOS, too, makes no other ones of them."""
    before, after = ([_shown(side, one) for one in side.manifest.generation.stop_token_ids] for side in (old, new))
    return (_ids(new) if before == after else _ids(old)), _ids(new)


def _ids(subject: Subject) -> str:
    return ", ".join(_stop(subject, one) for one in subject.manifest.generation.stop_token_ids) or "none"


def _stop(subject: Subject, number: int) -> str:
    also = " (also BOS)" if number == subject.manifest.generation.bos_token_id else ""
    return f"{_shown(subject, number)}{also}"


def _shown(subject: Subject, number: int | None) -> str:
    """Return an id with its text, where that is known."""
    return "none" if number is None else f"{number} {subject.tokens.get(number, '')}".rstrip()


def _minimum_runtime(old: Manifest, new: Manifest) -> Change:
    """Compare what the two need of a runtime. An app must follow where one that was enough no longer is."""
    is_enough = old.requires and new.requires and covers(old.requires.runtimes, new.requires.runtimes)
    meaning = "whatever was enough still is" if is_enough else ""
    return Change("minimum runtime", _runtimes(old), _runtimes(new), breaks=not is_enough, meaning=meaning)


def _runtimes(manifest: Manifest) -> str:
    if manifest.requires is None:
        return "not stated"
    return ", ".join(map(str, manifest.requires.runtimes)) or "none"
