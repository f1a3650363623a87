"""An adapter's tensors matched with a base: each one is used, or refused by name; none may be missing.

Names in the file (peft's `save_pretrained`, with MODULE such as `model.layers.0.mlp.down_proj`):

    base_model.model.MODULE.lora_A.weight, .lora_B.weight              a linear layer's product
    base_model.model.MODULE.lora_magnitude_vector                      with DoRA
    base_model.model.MODULE.lora_embedding_A, .lora_embedding_B        the embedding's product
    base_model.model.MODULE.token_adapter.trainable_tokens_delta       rows of single tokens
    base_model.model.MODULE.weight, .bias                              of modules_to_save, bias, resized embeddings
    base_model.model.MODULE.base_layer.weight, .base_layer.bias        the same where the module has a product too
    base_model.model.MODULE.token_adapter.base_layer.weight            the same where it has rows of single tokens

Head and embedding of a tied base: with `modules_to_save` peft trains copies of their own, so the merged model is not
tied, unless `ensure_weight_tying` is set. All else keeps them tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from builders.checkpoint import shards
from builders.checkpoint.adapter.changes import LowRank, TensorChange, TokenRows
from builders.checkpoint.adapter.folder import Adapter
from builders.checkpoint.adapter.targets import (
    EMBEDDING,
    HEAD,
    is_targeted,
    rank_of,
    saved_modules,
    scaling_of,
    token_layers,
)
from builders.checkpoint.checkpoint import Checkpoint
from targets.architecture import Architecture
from targets.errors import CheckpointError, UnsupportedModelError
from targets.layouts import stored_shapes

PREFIX = "base_model.model."
_ANOTHER_BASE = "name the checkpoint that the adapter was trained on: names and shapes of its tensors decide"
_FOREIGN_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "module", "default")
_MERGE_WITH_PEFT = "merge it with peft (model.merge_and_unload(), then save_pretrained) and build what it saves"
_SEPARATE, _FUSED = ("q_proj", "k_proj", "v_proj", "gate_proj"), ("qkv_proj", "gate_up_proj")


@dataclass(frozen=True)
class Plan:
    """The merged model: its architecture, where each tensor's values lie, and what happens to them."""

    architecture: Architecture
    stored: Mapping[str, shards.StoredTensor]
    changes: Mapping[str, TensorChange]


def plan(base: Checkpoint, adapter: Adapter) -> Plan:
    """Match an adapter with a base. No tensor's values are read, but those of a tied head that is saved twice.

    Raises:
        CheckpointError: a tensor is missing, extra or of another shape: the adapter is damaged, or of another base.
        UnsupportedModelError: the merged model can't be expressed, or is not what the adapter was trained as.
    """
    return _Matching(base, adapter).plan()


@dataclass
class _Matching:
    """The state of one matching. `used`: names in the adapter's file that are accounted for."""

    base: Checkpoint
    adapter: Adapter
    used: set[str] = field(default_factory=set)
    replaced: dict[str, shards.StoredTensor] = field(default_factory=dict)  # by the base's own names
    products: dict[str, LowRank] = field(default_factory=dict)  # by module
    tokens: dict[str, TokenRows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._folder, self._file = self.adapter.path, self.adapter.weights_file

    def plan(self) -> Plan:
        self._refuse_foreign_names()
        self._tied = self.base.architecture.tied_embeddings
        self._shapes = stored_shapes(self.base.architecture)
        self._matrices = {
            name.removesuffix(".weight"): shape for name, shape in self._shapes.items() if name.endswith(".weight")
        }
        if self._tied:
            self._matrices[HEAD] = self._matrices[EMBEDDING]
        saved = self._saved()
        self._embeddings(saved)
        targets = self._targets()
        self._biases(targets)
        for module in targets:
            self.products[module] = self._product(module)
        self._token_rows(saved)
        self._refuse_extra()
        return self._result(saved)

    def _result(self, saved: set[str]) -> Plan:
        """Put together what was matched: ties and the vocabulary's size are decided here."""
        architecture, stored = self.base.architecture, dict(self.base.stored_tensors)
        head, embedding = f"{HEAD}.weight", f"{EMBEDDING}.weight"
        if self._tied:
            stored.pop(head, None)
            copies = {HEAD, EMBEDDING} & saved
            if copies and not self.adapter.config.ensure_weight_tying:
                architecture = replace(architecture, tied_embeddings=False)
                self.replaced.setdefault(head, replace(stored[embedding], name=head))
            else:
                self._merge_tied()
        stored |= self.replaced
        rows = stored[embedding].shape[0]
        self._check_heights(rows, stored[architecture.head_tensor].shape[0])
        architecture = replace(architecture, vocabulary_size=rows)
        self._check_family(architecture)
        changed = {f"{module}.weight" for module in (*self.products, *self.tokens)} | set(self.replaced)
        if not changed:
            raise CheckpointError(f"{self._folder}: the adapter changes no tensor of the base", fix=self._hint())
        changes = {name: self._change(name) for name in sorted(changed)}
        return Plan(architecture, stored, changes)

    def _change(self, name: str) -> TensorChange:
        module = name.removesuffix(".weight")
        known = self.base.stored_tensors.get(name) or self.base.stored_tensors[f"{EMBEDDING}.weight"]
        return TensorChange(known.dtype, self.products.get(module), self.tokens.get(module))

    # -- which tensors there are

    def _saved(self) -> set[str]:
        """Account for `modules_to_save`. Returns the modules, of those that have weights."""
        parts = {part for module in self._matrices for part in _with_parents(module)}
        found: set[str] = set()
        for entry, modules in saved_modules(self.adapter.config, sorted(parts)).items():
            if not modules:
                raise CheckpointError(
                    f"{self._folder}: modules_to_save names {entry!r}, which the base {self.base.path} does not have",
                    fix=_ANOTHER_BASE,
                )
            found.update(module for module in self._matrices if any(_is_in(module, one) for one in modules))
        for name in [*self._shapes, *([f"{HEAD}.weight"] if self._tied else [])]:
            if name.rpartition(".")[0] in found:
                self._replace(name, name)
        for module in (EMBEDDING, HEAD):
            if module in found:  # written too where the vocabulary was resized; the module's own name decides
                for copy in ("modules_to_save", "original_module"):
                    self.used.add(f"{PREFIX}{module}.{copy}.weight")
        return found

    def _embeddings(self, saved: set[str]) -> None:
        """Account for whole embeddings that peft saves: they were resized, or have a product or token rows."""
        for module in (EMBEDDING, HEAD):
            for place in ("", ".base_layer", ".token_adapter.base_layer"):
                key = f"{module}{place}.weight"
                if module not in saved and PREFIX + key in self.adapter.tensors:
                    self._replace(f"{module}.weight", key)

    def _targets(self) -> list[str]:
        """Return the modules with a product. Raises where there is none, or where peft has no product for one."""
        is_matrix = {module: len(shape) == 2 for module, shape in self._matrices.items()}
        config = self.adapter.config
        targets = [module for module in self._matrices if is_targeted(config, module, is_matrix=is_matrix[module])]
        for module in targets:
            if not is_matrix[module]:
                raise UnsupportedModelError(
                    f"{self._folder}: target_modules selects {module}, which is a norm: peft adapts matrices only",
                    fix=_ANOTHER_BASE,
                )
            if self._tied and module in (HEAD, EMBEDDING):
                raise UnsupportedModelError(
                    f"{self._folder}: target_modules selects {module}, but the base's head is its embedding: merged "
                    "into both, the product would change the other one too, which training did not",
                    fix="untie the base (save it with tie_word_embeddings=False and a head of its own), and train that",
                )
        if not targets and any(".lora_" in name for name in self.adapter.tensors):
            raise CheckpointError(
                f"{self._folder}: target_modules selects no module of the base {self.base.path}", fix=self._hint()
            )
        return targets

    def _product(self, module: str) -> LowRank:
        config, (height, width) = self.adapter.config, self._matrices[module]
        rank, scaling = rank_of(config, module), scaling_of(config, module)
        if module != EMBEDDING:
            first = self._use(f"{module}.lora_A.weight", (rank, width))
            second = self._use(f"{module}.lora_B.weight", (height, rank))
            magnitude = self._use(f"{module}.lora_magnitude_vector", (height,)) if config.use_dora else None
            return LowRank(first, second, scaling, magnitude, rounds_delta=config.rounds_delta)
        if config.use_dora:
            raise UnsupportedModelError(
                f"{self._folder}: use_dora with a product on {module}: DoRA is merged for linear layers only",
                fix=_MERGE_WITH_PEFT,
            )
        first = self._use(f"{module}.lora_embedding_A", (rank, height))
        second = self._use(f"{module}.lora_embedding_B", (width, rank))
        return LowRank(first, second, scaling, of_embedding=True)

    def _biases(self, targets: list[str]) -> None:
        """Account for trained biases: of modules with a product (`lora_only`), or of all."""
        if self.adapter.config.bias == "none":
            return
        for name in self._shapes:
            module, _, kind = name.rpartition(".")
            if kind == "bias" and name not in self.replaced:
                if module in targets:
                    self._replace(name, f"{module}.base_layer.bias")
                elif self.adapter.config.bias == "all":
                    self._replace(name, name)

    def _token_rows(self, saved: set[str]) -> None:
        for layer, ids in token_layers(self.adapter.config).items():
            module = next((one for one in (EMBEDDING, HEAD) if one.endswith(layer)), None)
            if module is None or module in self.products or module in saved:
                raise UnsupportedModelError(
                    f"{self._folder}: trainable_token_indices of {layer!r}: only rows of {EMBEDDING} and {HEAD} can "
                    "be replaced, and only where the adapter does not change the whole of it",
                    fix=_MERGE_WITH_PEFT,
                )
            height, width = self._matrices[module]
            if len(set(ids)) < len(ids) or any(not 0 <= number < height for number in ids):
                raise CheckpointError(
                    f"{self._folder}: trainable_token_indices of {layer!r}: each id once, from 0 to {height - 1}",
                    fix=_ANOTHER_BASE,
                )
            key = f"{module}.token_adapter.trainable_tokens_delta"
            if self._tied and module == HEAD and PREFIX + key not in self.adapter.tensors and EMBEDDING in self.tokens:
                if ids != list(self.tokens[EMBEDDING].ids):
                    raise self._tied_tokens()
                continue  # peft saves the embedding's alone
            self.tokens[module] = TokenRows(tuple(ids), self._use(key, (len(ids), width)))
        self._accept_tied_copy()

    # -- a tied head

    def _accept_tied_copy(self) -> None:
        """Account for the head's rows of single tokens that peft saves again where the vocabulary was resized."""
        key = f"{HEAD}.token_adapter.trainable_tokens_delta"
        if not self._tied or PREFIX + key not in self.adapter.tensors:
            return
        of_embedding = self.tokens.get(EMBEDDING)
        own = self.tokens.pop(HEAD, None)
        if of_embedding is None or (own is not None and own.ids != of_embedding.ids):
            raise self._tied_tokens()
        self._use(key, self.adapter.tensors[of_embedding.values].shape)
        self._check_same(of_embedding.values, PREFIX + key)

    def _tied_tokens(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._folder}: trainable_token_indices differ for {EMBEDDING} and {HEAD}, but the base's head is its "
            "embedding: merged, the rows of one would replace those of the other",
            fix="train the same ids for both, or untie the base (tie_word_embeddings=False)",
        )

    def _merge_tied(self) -> None:
        """Leave one tensor for a tied embedding and head that were both saved: they must be the same."""
        head = self.replaced.pop(f"{HEAD}.weight", None)
        embedding = self.replaced.get(f"{EMBEDDING}.weight")
        if HEAD in self.tokens:
            raise self._tied_tokens()
        if head is None:
            return
        if embedding is None:
            self.replaced[f"{EMBEDDING}.weight"] = replace(head, name=f"{EMBEDDING}.weight")
        else:
            self._check_same(embedding.name, head.name)

    def _check_same(self, one: str, other: str) -> None:
        mapped = shards.MappedTensors(self.adapter.tensors)
        left, right = mapped.stored(one), mapped.stored(other)
        if left.dtype != right.dtype or left.shape != right.shape or not np.array_equal(left, right):
            raise UnsupportedModelError(
                f"{self._file}: tensors {one!r} and {other!r} differ, but the base's head is its embedding",
                fix="train a base whose head is not tied (tie_word_embeddings=False), or merge the adapter with peft",
            )
        mapped.release(one)
        mapped.release(other)

    # -- tensors of the adapter's file

    def _use(self, key: str, shape: tuple[int, ...]) -> str:
        """Account for a tensor of a shape. Returns its name in the file."""
        name = PREFIX + key
        entry = self.adapter.tensors.get(name)
        if entry is None:
            raise CheckpointError(f"{self._file}: tensor {name!r} is missing", fix=self._hint())
        if entry.shape != shape:
            raise CheckpointError(
                f"{self._file}: tensor {name!r} has shape {list(entry.shape)}; with this base and the rank "
                f"of adapter_config.json it would be {list(shape)}",
                fix=_ANOTHER_BASE,
            )
        self.used.add(name)
        return name

    def _replace(self, name: str, key: str) -> None:
        """Take a whole tensor from the adapter. Only the number of rows of embedding and head may differ."""
        module = name.rpartition(".")[0]
        shape = self._shapes[name] if name in self._shapes else self._matrices[module]
        found = self.adapter.tensors.get(PREFIX + key)
        if module in (EMBEDDING, HEAD) and found is not None and len(found.shape) == len(shape):
            shape = (found.shape[0], *shape[1:])
            self._matrices[module] = shape
        self.replaced[name] = self.adapter.tensors[self._use(key, shape)]

    def _refuse_foreign_names(self) -> None:
        """Refuse names that peft would not load: of a compiled or wrapped model, or with the adapter's own name."""
        for name in self.adapter.tensors:
            if not name.startswith(PREFIX) or any(f".{part}." in name for part in _FOREIGN_PARTS):
                raise CheckpointError(
                    f"{self._file}: tensor {name!r} is not a name that peft's save_pretrained writes",
                    fix=f"save the adapter with it: its names are {PREFIX}MODULE.lora_A.weight, without other prefixes",
                )

    def _refuse_extra(self) -> None:
        extra = [name for name in self.adapter.tensors if name not in self.used]
        if not extra:
            return
        name = extra[0]
        count = f"{len(extra)} such" if len(extra) > 1 else "the only one"
        raise CheckpointError(
            f"{self._file}: tensor {name!r} belongs to no module that adapter_config.json selects in the "
            f"base {self.base.path} ({count})",
            fix=self._hint(),
        )

    def _hint(self) -> str:
        """Return the fix for names that don't go together: another layout, or another base."""
        names = " ".join(self.adapter.tensors)
        family = self.base.architecture.family
        if family == "phi3" and any(f".{part}." in names for part in _SEPARATE):
            return self._convert("Llama's", "llama")
        if family == "llama" and any(f".{part}." in names for part in _FUSED):
            return self._convert("Phi-3's", "phi3")
        return _ANOTHER_BASE

    def _convert(self, whose: str, layout: str) -> str:
        command = f"phipack convert {self.base.path} --layout {layout} -o DIR"
        return f"the adapter was trained on {whose} layout: {command}, and name DIR as the base"

    # -- the merged model

    def _check_heights(self, embedding: int, head: int) -> None:
        if embedding != head:
            raise CheckpointError(
                f"{self._folder}: the merged embedding has {embedding} rows, the head {head}",
                fix="save the adapter again with peft: save_embedding_layers=True, or both in modules_to_save",
            )

    def _check_family(self, architecture: Architecture) -> None:
        known = self.base.architecture
        if known.family == "phi3small" and architecture != known:
            raise UnsupportedModelError(
                f"{self._folder}: the adapter replaces embedding or head of a Phi-3-small by another size or by "
                "separate copies; its head is its embedding, and its list of unused ids fixes the size",
                fix="train Phi-3-small's layers only, or single tokens (trainable_token_indices)",
            )


def _with_parents(module: str) -> list[str]:
    """Return a module's name and those of the modules that it lies in."""
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_in(module: str, parent: str) -> bool:
    return module == parent or module.startswith(parent + ".")
