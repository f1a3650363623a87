"""Models that phipack does not build, by the name in `architectures`: what each one is, and what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

from targets.errors import UnsupportedModelError

_EXPORT = "phipack export writes a plain ONNX folder of any model that optimum knows"
_TEXT_ONLY = "for text alone use Phi-3.5-mini, Phi-4-mini or another Phi3ForCausalLM"
_ADAPTER = "merge it first: load it with peft, call merge_and_unload(), and save the result with save_pretrained"

# What is not a language model of the same kind as Phi-3 and Llama, though its name is similar or it is often tried.
_OTHERS = {
    "PhiForCausalLM": ("Phi-1, Phi-1.5 or Phi-2, whose layers are not Phi-3's", _EXPORT),
    "Phi3VForCausalLM": ("Phi-3-vision or Phi-3.5-vision, a model of images and text", _TEXT_ONLY),
    "PhiMoEForCausalLM": ("Phi-3.5-MoE, a mixture of experts", _EXPORT),
    "PhimoeForCausalLM": ("Phi-3.5-MoE, a mixture of experts", _EXPORT),
    "Phi4MMForCausalLM": ("Phi-4-multimodal, a model of images, speech and text", _TEXT_ONLY),
    "Phi4MultimodalForCausalLM": ("Phi-4-multimodal, a model of images, speech and text", _TEXT_ONLY),
    "Phi4FlashForCausalLM": ("Phi-4-mini-flash, a hybrid of attention and state space layers", _EXPORT),
    "Phi3SmallForSequenceClassification": ("a classifier", "use the checkpoint of the language model"),
    "MistralForCausalLM": ("a Mistral model", _EXPORT),
    "Mistral3ForConditionalGeneration": ("a Mistral model of images and text", _EXPORT),
    "MixtralForCausalLM": ("Mixtral, a mixture of experts", _EXPORT),
    "Llama4ForConditionalGeneration": ("Llama 4, a mixture of experts for images and text", _EXPORT),
    "Llama4ForCausalLM": ("Llama 4, a mixture of experts", _EXPORT),
    "MllamaForConditionalGeneration": ("Llama 3.2 Vision, a model of images and text", "for text alone use a Phi-3"),
    "GPT2LMHeadModel": ("GPT-2", _EXPORT),
}
_PREFIXES = {
    "Qwen": "a Qwen model",
    "Gemma": "a Gemma model",
    "Mistral": "a Mistral model",
    "Granite": "a Granite model",
    "SmolLM3": "SmolLM3, which has layers without a rope",
    "Olmo": "an OLMo model",
    "Falcon": "a Falcon model",
    "Deepseek": "a DeepSeek model",
}
_HEADS = {
    "Model": "the decoder without its head, so that it can't predict tokens",
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model that marks answers in a text",
}


def refuse_architecture(name: str, supported: Iterable[str]) -> NoReturn:
    """Refuse a model of another kind. A name that is only misspelled gets a hint at the right one.

    Raises:
        UnsupportedModelError: always.
    """
    problem = f"config.json: architecture {name!r} is not supported"
    known = list(supported)
    what, advice = _kind(name)
    if what:
        raise UnsupportedModelError(f"{problem}: this is {what}", fix=f"{advice}; phipack build takes {_listed(known)}")
    is_well_formed = name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel"))
    same = [each for each in known if each.lower() == name.lower()]
    near = same or ([] if is_well_formed else difflib.get_close_matches(name, known, n=1, cutoff=0.8))
    hint = f"did you mean {near[0]!r}?" if near else f"phipack build takes {_listed(known)}"
    raise UnsupportedModelError(problem, fix=f"{hint}; {_EXPORT}")


def _kind(name: str) -> tuple[str, str]:
    """Return what a model is and what to do with it; both empty if the name is not known."""
    if name in _OTHERS:
        return _OTHERS[name]
    if name.startswith("Peft") or "LoRA" in name:
        return "an adapter (LoRA), not a whole model", _ADAPTER
    for stem in ("Phi3Small", "Phi3", "Llama"):
        if (head := name.removeprefix(stem)) in _HEADS and head != name:
            return _HEADS[head], f"use the checkpoint that was saved from {stem}ForCausalLM"
    for prefix, what in _PREFIXES.items():
        if name.startswith(prefix):
            return what, _EXPORT
    return "", ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
