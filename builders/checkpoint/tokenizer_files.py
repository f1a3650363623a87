"""Which files of a checkpoint define its tokenizer and chat template, and which of several templates is the one.

Every file that transformers may read for a tokenizer is listed here, so that all of them are in the digest. What they
say together is decided by transformers itself (`builders/tokenizer/loading.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.checkpoint.folder_check import refuse_lfs_pointer
from targets.errors import CheckpointError
from targets.strict_json import parse_json

CHAT_TEMPLATE_NAME = "chat_template.jinja"
TOKENIZER_MODELS = ("tokenizer.json", "tokenizer.model")  # one of them must be there, or a *.tiktoken
_PATTERNS = (
    "tokenizer*.json",  # tokenizer_config.json too, and files for single versions of transformers
    "tokenizer.model*",
    "tiktoken.model",
    "*.tiktoken",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    CHAT_TEMPLATE_NAME,
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return the tokenizer's files that are there, by their paths in the folder."""
    found = (path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def tiktoken_files(folder: Path) -> list[Path]:
    """List the files of tiktoken's ranks in a folder, sorted."""
    return sorted(folder.glob("*.tiktoken"))


def has_tokenizer_model(folder: Path) -> bool:
    """Return whether a folder has one of the files that can define a whole tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_MODELS) or bool(tiktoken_files(folder))


def check_tokenizer_files(folder: Path) -> None:
    """Check that there is a tokenizer, and that its files are what their names say.

    Raises:
        CheckpointError: none is there, or one is a pointer of git-lfs to a file that was not downloaded.
    """
    if not has_tokenizer_model(folder):
        raise CheckpointError(
            f"{folder}: no tokenizer: neither {' nor '.join(TOKENIZER_MODELS)} nor *.tiktoken",
            fix="copy the tokenizer's files into the folder of the weights",
        )
    for path in tokenizer_files(folder).values():
        refuse_lfs_pointer(path)


def read_chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the chat templates by name, as transformers reads them; an only one is "default".

    `config`: of tokenizer_config.json. Template files replace all that are in it.

    Raises:
        CheckpointError: a template can't be read, or is not a text.
    """
    files = {path.name.removesuffix(".jinja"): path for path in folder.glob("additional_chat_templates/*.jinja")}
    if (folder / CHAT_TEMPLATE_NAME).is_file():
        files = {"default": folder / CHAT_TEMPLATE_NAME} | files
    if files:
        return {name: _read_template(path) for name, path in sorted(files.items())}
    template = config.get("chat_template")
    match template:
        case None:
            _refuse_processors_template(folder)
            return {}
        case str():
            return {"default": template}
        case list() if all(isinstance(entry, dict) for entry in template):
            pairs = [(entry.get("name"), entry.get("template")) for entry in template]
            template = dict(pairs) if all(isinstance(name, str) for name, _ in pairs) else None
    if not isinstance(template, dict) or not all(isinstance(text, str) for text in template.values()):
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: chat_template is neither a text nor a list of named texts",
            fix=f"save the template as {CHAT_TEMPLATE_NAME} in the same folder, or download the file again",
        )
    return template


def default_chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the chat template that a conversation gets without naming one; None where there is none.

    Raises:
        CheckpointError: a template can't be read, or there are several and none of them is named "default".
    """
    templates = read_chat_templates(folder, config)
    if templates and "default" not in templates:
        raise CheckpointError(
            f"{folder}: none of its chat templates ({', '.join(sorted(templates))}) is named default",
            fix=f"save the one that apps use as {CHAT_TEMPLATE_NAME} in the same folder",
        )
    return templates.get("default")


def chat_template_file(folder: Path) -> Path:
    """Return the file that has the default chat template, where there is one: for messages."""
    for path in (folder / CHAT_TEMPLATE_NAME, folder / "additional_chat_templates" / "default.jinja"):
        if path.is_file():
            return path
    return folder / "tokenizer_config.json"


def _read_template(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: the chat template can't be read: {error}",
            fix="save it as UTF-8, or download it again from the model's repository",
        ) from error


def _refuse_processors_template(folder: Path) -> None:
    """Refuse a chat_template.json that is the only template: transformers' processors read it, its tokenizers don't."""
    path = folder / "chat_template.json"
    try:
        content = parse_json(path.read_bytes(), ours=False)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not valid JSON: {error}", fix="download it again from the model's repository"
        ) from error
    if isinstance(content, dict) and content.get("chat_template"):
        raise CheckpointError(
            f"{path} has the only chat template, and transformers' tokenizers don't read this file",
            fix=f"save the template as {CHAT_TEMPLATE_NAME} in the same folder, or remove the file",
        )
