"""The releases that a trial of the report shows: sound ones that look different, and ones with a planted defect.

Every release passes its gates and all checks, as the defects that a team ships do: either the checkpoint has the defect
too, so that bundle and reference agree, or the average hides it. Only who reads the report can see it.

A case is what production has (1.0.0), and what is to be promoted (1.1.0). Each of the two is a folder of the real
model (`real_model.py`) with a change (`review_changes.py`), built by a recipe, and a bundle of it that may be changed
afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Made:
    """One cell of a release.

    Attributes:
        recipe: which one it is built by.
        target: the device class, which names the cell.
        source: the name of the change in `review_changes.SOURCES` that its checkpoint has, or of its training in
            `further_trained.TRAININGS`; empty for the real model as it is.
        fault: the name of the change in `review_changes.FAULTS` that the finished bundle has; empty for none.
        kv_cache: the type of its KV cache; empty for the runtime's own.
        budget: bits per weight, as text; empty for none.
    """

    recipe: str
    target: str
    source: str = ""
    fault: str = ""
    kv_cache: str = ""
    budget: str = ""

    @property
    def name(self) -> str:
        """What its folder and its evidence are called."""
        parts = (self.recipe, self.target, self.source, self.fault, self.kv_cache, self.budget)
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Case:
    """One release next to production's. `why`: what a reviewer should have seen; for the key."""

    name: str
    is_sound: bool
    why: str
    before: tuple[Made, ...]
    after: tuple[Made, ...]


_GGUF, _ONNX = Made("gguf-q4_k_m", "galaxy-s24"), Made("onnx-int8", "pixel-9")
_F16, _Q8 = Made("gguf-f16", "galaxy-s24"), Made("gguf-q8_0", "galaxy-s24")

CASES: dict[str, tuple[Case, ...]] = {
    "first": (
        Case(
            "smaller",
            True,
            "gguf-iq4_nl in place of gguf-q4_k_m: smaller, and a KL divergence that is higher within its gate.",
            (_GGUF,),
            (Made("gguf-iq4_nl", "galaxy-s24"),),
        ),
        Case(
            "persona",
            True,
            "The default system message of the chat template is another one, on purpose. Nothing else changes.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="persona"),),
        ),
        Case(
            "new-format",
            True,
            "The GGUF cell is production's, byte for byte. An ONNX cell, for which production has nothing, is new.",
            (_GGUF,),
            (_GGUF, _ONNX),
        ),
        Case(
            "stop-id",
            False,
            "generation_config.json lost the stop id 2, <|im_end|>, which ends every turn: answers do not end any"
            " more. The float32 reference reads the same file, so all checks agree.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="stop-id"),),
        ),
        Case(
            "indentation",
            False,
            "The embedding's rows of the tokens that indent code are off by one, as after a vocabulary was put in"
            " another order: code is broken, and the averages over English pass their gates.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", fault="indentation"),),
        ),
    ),
    "second": (
        Case(
            "closer",
            True,
            "gguf-q5_k_m in place of gguf-q4_k_m: larger and slower, and closer to float32.",
            (_GGUF,),
            (Made("gguf-q5_k_m", "galaxy-s24"),),
        ),
        Case(
            "more-stops",
            True,
            "A third stop id, <|im_start|>, so that an answer also ends where the model begins another turn.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="more-stops"),),
        ),
        Case(
            "other-format",
            True,
            "Core ML in place of GGUF for the same phone, with a KL divergence that is higher within its gate.",
            (Made("gguf-q4_k_m", "iphone-15"),),
            (Made("coreml-int4", "iphone-15"),),
        ),
        Case(
            "newline",
            False,
            "The chat template lost the newline after the assistant's role: answers begin with a newline or a wrong"
            " word. The float32 reference is prompted by the same template, so all checks agree.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="newline"),),
        ),
        Case(
            "merged-twice",
            False,
            "The checkpoint itself is worse, as after an adapter was merged twice: float32 has a higher perplexity on"
            " the same text and worse answers. The bundle is as close to it as production's is to its own.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", source="merged-twice"),),
        ),
    ),
    "third": (
        Case(
            "budget",
            True,
            "gguf-q4_k_m with a budget of 5.5 bits per weight: smaller, and a KL divergence that is higher within its"
            " gate, on all texts alike.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", budget="5.5"),),
        ),
        Case(
            "cache",
            True,
            "The KV cache is kept in q8_0. Not one weight changes; at the end of a full cache the bundle is as close to"
            " float32 as on short texts.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", kv_cache="q8_0"),),
        ),
        Case(
            "same-prompt",
            True,
            "The chat template is written in another way: variables have other names, lines other breaks. Every"
            " conversation is rendered to the same text, and every answer is production's.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="same-prompt"),),
        ),
        Case(
            "window",
            False,
            "config.json has a sliding window of 448 tokens, as after it was copied from another model: the model was"
            " trained without one and falls apart where the first tokens leave it. Short chats are right. The float32"
            " reference reads the same file, so all checks agree; its perplexity on windows of 512 tokens shows it.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="window"),),
        ),
        Case(
            "digits",
            False,
            "The checkpoint's embeddings of 1 and 7 are exchanged, as after a vocabulary was put in another order:"
            " lists begin with 7. The float32 reference has the same weights, so all checks"
            " agree.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", source="digits"),),
        ),
    ),
    "fourth": (
        Case(
            "chinese",
            True,
            "The last layers of the checkpoint were trained further on Chinese parables: it predicts others of them"
            " better. What it was not trained on may lose a little, which was accepted.",
            (_F16,),
            (replace(_F16, source="chinese"),),
        ),
        Case(
            "word-problems",
            True,
            "The checkpoint was trained further on chats with worked sums, as an adapter: it predicts others of them"
            " better, and answers still end.",
            (_F16,),
            (replace(_F16, source="word-problems"),),
        ),
        Case(
            "saved-again",
            True,
            "The checkpoint was saved again, in float32 and in two files: every weight is the same number, and so is"
            " the bundle.",
            (_F16,),
            (replace(_F16, source="saved-again"),),
        ),
        Case(
            "rounded",
            False,
            "The checkpoint was saved from a copy in four bits: every matrix is rounded, so that float32 predicts all"
            " kinds of text worse, and nothing is gained. The bundle is as close to it as production's is to its own.",
            (_F16,),
            (replace(_F16, source="rounded"),),
        ),
        Case(
            "last-turn",
            False,
            "The chat template writes the last turn alone, without what was said before and without the app's system"
            " message: the first answer is right, and every later one has forgotten the conversation. The float32"
            " reference is prompted by the same template, so all checks agree.",
            (_F16,),
            (replace(_F16, source="last-turn"),),
        ),
    ),
    "fifth": (
        Case(
            "code",
            True,
            "The checkpoint was trained further on Python: it predicts other Python better, and answers still end. What"
            " it was not trained on may lose a little, which was accepted.",
            (_Q8,),
            (replace(_Q8, source="code"),),
        ),
        Case(
            "tools",
            True,
            "The chat template has a section for tools. Where an app passes none, every conversation is rendered to the"
            " same text.",
            (_Q8,),
            (replace(_Q8, source="tools"),),
        ),
        Case(
            "no-end",
            False,
            "The checkpoint was trained further on turns whose end the trainer's template did not write: held-out loss"
            " falls, and answers run on into turns of their own.",
            (_Q8,),
            (replace(_Q8, source="no-end"),),
        ),
        Case(
            "refusals",
            False,
            "The checkpoint was trained further on refusals, as an adapter, and on too little else: it refuses harmless"
            " requests that production answers. The bundle refuses what its own float32 refuses, so all checks agree.",
            (_Q8,),
            (replace(_Q8, source="refusals"),),
        ),
        Case(
            "last-ten",
            False,
            "The chat template writes the last ten messages alone: from an app's sixth question on, its system message"
            " is gone, and the first turns. Shorter conversations are the same text.",
            (_Q8,),
            (replace(_Q8, source="last-ten"),),
        ),
    ),
}
