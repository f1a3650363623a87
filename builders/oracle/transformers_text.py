"""What transformers makes of text with a checkpoint's files: ids, prompts, stop ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builders.oracle.excerpt import excerpt_of
from builders.oracle.library import transformers_reads
from builders.oracle.ranks import RankSplitter, ranks_file
from builders.oracle.texts import TEXTS, around
from builders.templates import ChatTemplateError, render_chat
from builders.templates.conversations import CONVERSATIONS, TOOLS, Chat, Conversation, chats
from targets.errors import MeasurementError
from targets.strict_json import parse_json


@dataclass(frozen=True)
class Spelled:
    """A text's ids, those with the special tokens that go around a text, and what is decoded again from the first."""

    text: str
    ids: list[int]
    wrapped: list[int]
    decoded: str


@dataclass(frozen=True)
class RenderedChat:
    """A conversation of `chats` by its name: its text and ids; both None where the template refuses it, or fails."""

    name: str
    text: str | None
    ids: list[int] | None


@dataclass(frozen=True)
class TextTruth:
    """All of it. JSON can hold it.

    `has_stated_stop_ids`: generation_config.json states them. Otherwise transformers' are the least that must stop.
    `named`: the tokens that a chat template can ask for by name. `end_ids`: ids of tokens that may end an answer.
    """

    spelled: list[Spelled]
    added: dict[str, int]
    template: str | None
    named: dict[str, str]
    stop_ids: list[int]
    has_stated_stop_ids: bool
    end_ids: list[int]
    bos_id: int | None = field(default=None)
    chats: list[RenderedChat] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TextTruth:
        """Return what `to_json` returned. Raises `TypeError` or `KeyError` for anything else."""
        spelled, rendered_chats = content["spelled"], content["chats"]
        parts = {
            "spelled": [Spelled(**one) for one in spelled],
            "chats": [RenderedChat(**one) for one in rendered_chats],
        }
        return cls(**content | parts)


def text_truth(folder: Path, tokens: Iterable[str] = (), *, tokenizer_folder: Path | None = None) -> TextTruth:
    """Ask transformers for ids of the grid, the template and the stop ids. No code of the checkpoint runs.

    The grid has a text for every token that transformers adds to the vocabulary, and for each of `tokens`.

    `tokenizer_folder`: where the tokenizer and its template are, if not in the checkpoint's folder.

    Phi-3-small's file of ranks is read by the checkpoint's own code in transformers; here it is split as tiktoken does.

    Raises:
        MeasurementError: transformers can't read the tokenizer.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        ranks = ranks_file(folder)
        if ranks is not None:
            return _of_ranks(folder, RankSplitter.read(ranks), tokens)
    with excerpt_of(folder, tokenizer=tokenizer_folder) as excerpt, transformers_reads(folder, "tokenizer"):
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(excerpt, trust_remote_code=False, local_files_only=True)
        added = dict(tokenizer.get_added_vocab())
        template = tokenizer.get_chat_template() if tokenizer.chat_template else None
        named = dict(tokenizer.special_tokens_map)

        def spelled(text: str) -> Spelled:
            ids = list(tokenizer(text, add_special_tokens=False).input_ids)
            # The model's own decoder never cleans up spaces: what is decoded must be what was encoded.
            decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return Spelled(text, ids, list(tokenizer(text).input_ids), decoded)

        found = [spelled(text) for text in _texts((*added, *tokens), template, named)]
        conversations = _chats(template, named, lambda text: list(tokenizer(text, add_special_tokens=False).input_ids))
        ends = {*added.values(), *({tokenizer.eos_token_id} - {None})}
        stop_ids, stated, bos_id = _generation(excerpt)
    return TextTruth(found, added, template, named, stop_ids, stated, sorted(ends), bos_id, conversations)


def rendered(template: str, named: dict[str, str], conversation: Conversation) -> str | None:
    """Return a conversation in a template, rendered by transformers; None where the template refuses it, or fails.

    Raises:
        MeasurementError: it exceeds a limit on time or memory.
    """
    return _rendered(template, named, Chat("", conversation))


def _rendered(template: str, named: dict[str, str], chat: Chat) -> str | None:
    messages = chat.to_messages()
    tools = TOOLS if chat.has_tools else None
    prompts = chat.add_generation_prompt
    try:
        return render_chat(template, messages, named, tools=tools, add_generation_prompt=prompts, engine="transformers")
    except ChatTemplateError as error:
        if error.exhausted:
            raise MeasurementError(
                f"the chat template can't be rendered for {chat.messages}: {error}",
                fix="correct the chat template, or download it again from the model's repository",
            ) from error
        return None


def _chats(template: str | None, named: dict[str, str], ids_of: Callable[[str], list[int]]) -> list[RenderedChat]:
    if template is None:
        return []
    texts = {chat.name: _rendered(template, named, chat) for chat in chats(template)}
    return [RenderedChat(name, text, None if text is None else ids_of(text)) for name, text in texts.items()]


def _texts(tokens: Iterable[str], template: str | None, named: dict[str, str]) -> list[str]:
    prompts = [] if template is None else [rendered(template, named, one) for one in CONVERSATIONS]
    return [*TEXTS, *map(around, dict.fromkeys(tokens)), *(prompt for prompt in prompts if prompt is not None)]


def _of_ranks(folder: Path, splitter: RankSplitter, tokens: Iterable[str]) -> TextTruth:
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = parse_json(path.read_bytes(), ours=False) if path.is_file() else {}
    file, template = folder / "chat_template.jinja", config.get("chat_template")
    template = file.read_text("utf-8") if file.is_file() else template if isinstance(template, str) else None
    # The class in Phi-3-small's repositories: one token for all three, and nothing around a text.
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")

    def spelled(text: str) -> Spelled:
        ids = splitter.ids(text)
        return Spelled(text, ids, ids, splitter.text(ids))

    with transformers_reads(folder, "chat template"):
        found = [spelled(text) for text in _texts((*splitter.special, *tokens), template, named)]
        conversations = _chats(template, named, splitter.ids)
        stop_ids, stated, bos_id = _generation(folder)
    ends = sorted(splitter.special.values())
    return TextTruth(found, splitter.special, template, named, stop_ids, stated, ends, bos_id, conversations)


def _generation(folder: Path) -> tuple[list[int], bool, int | None]:
    """Return the stop ids, whether generation_config.json states them, and the id that begins a sequence."""
    import transformers

    config = parse_json((folder / "config.json").read_bytes(), ours=False)
    stated = False
    if (folder / "generation_config.json").is_file():
        generation = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
        eos, bos, stated = generation.eos_token_id, generation.bos_token_id, generation.eos_token_id is not None
    elif config.get("model_type") in transformers.CONFIG_MAPPING:
        read = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        eos, bos = read.eos_token_id, read.bos_token_id
    else:
        eos, bos = config.get("eos_token_id"), config.get("bos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return sorted(set(ids)), stated, bos
