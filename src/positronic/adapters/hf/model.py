"""Any family of ours as a `PreTrainedModel`: what Transformers, TRL, PEFT and lm-eval call.

    input_ids, attention_mask, position_ids -> Step        (`call`)
    past_key_values -> DecodeState                         (`cache`) none given: a request of its own

The core is one module under the name `model`, so a checkpoint folder of ours loads as it stands: Transformers adds the
prefix, and every weight of the folder has a place. Some trainers never ask for logits: they multiply what `base_model`
gives by the weight of `get_output_embeddings()`, a window on the embedding itself, or a matrix of the head's
own. PEFT looks for it among the modules.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import FloatTensor, Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.call import longest_document, next_place, options_of, refuse_unknown
from positronic.adapters.hf.checking import check_adapter, check_source, safe_wishes
from positronic.adapters.hf.completing import complete
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.adapters.hf.generating import Generating
from positronic.adapters.hf.loss import auxiliary_loss
from positronic.adapters.hf.resizing import resize
from positronic.adapters.hf.watching import Watched, watching
from positronic.checkpoint.manifest import MANIFEST
from positronic.config import ModelConfig
from positronic.errors import CheckpointError, ConfigError, GenerationError
from positronic.generation.decoding.context import check_context
from positronic.lm import LM, LMOutput
from positronic.nn import init
from positronic.nn.linear import Matrices
from positronic.nn.load_bias import LoadBias
from positronic.nn.stack import SharedParts
from positronic.state import ForwardOptions, Loops

__all__ = ["PositronicForCausalLM", "PositronicModel", "PositronicPreTrainedModel"]


class Window(nn.Module):
    """The embedding seen as the head that it is: a matrix under a name of its own, and no parameter more.

    It looks at what the core holds now, which PEFT may have put in the embedding's place.
    """

    bias = None

    def __init__(self, core: nn.Module):
        super().__init__()
        self._seen = (core,)  # in a tuple, so that it is not registered a second time

    @property
    def weight(self) -> Tensor:
        """(W, D)"""
        return cast(Tensor, cast(nn.Module, self._seen[0].embed).weight)

    @property
    def in_features(self) -> int:
        """D"""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """W"""
        return self.weight.shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Window":
        core = memo.get(id(self._seen[0]))
        if core is None:
            raise ConfigError(
                "The head has no matrix of its own that could be copied or trained alone: it is the embedding. Name "
                "the embedding in its place, as PEFT's modules_to_save=['embed'] does, which trains both."
            )
        return Window(core)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


class PositronicPreTrainedModel(PreTrainedModel):
    """What the base model and the language model share: the core, and how a call becomes one of its."""

    config_class = PositronicConfig
    config: PositronicConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  typed by the parent

    def __init__(self, config: PositronicConfig):
        super().__init__(config)
        self.model = ModelConfig.from_json(config.core).build()
        for part in self.model.modules():
            if isinstance(part, LoadBias):  # whose gradient is a load, which only our own optimizers know how to use
                part.requires_grad_(False)
        named = [(part, name, child) for part in self.model.modules() for name, child in part.named_children()]
        self._stacked = [(part, name) for part, name, child in named if isinstance(child, Matrices)]
        if config.tie_word_embeddings:
            self.lm_head = Window(self.model)
        self.gradient_checkpointing = False
        self._no_split_modules = [type(self.model).__name__]
        self.post_init()

    begun_anew: ClassVar[frozenset[str]] = frozenset()
    """Weights that a checkpoint of ours need not hold."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As everywhere in Transformers, but strict: a pickle, weights that the folder's manifest does not know, and
        such as do not fit the config raise `CheckpointError`."""
        kwargs = safe_wishes(kwargs)
        if kwargs.get("state_dict") is None:
            check_source(pretrained_model_name_or_path, kwargs)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, found = loaded
        wrong = {kind: sorted(map(str, set(names) - cls.begun_anew)) for kind, names in found.items()}
        wrong = {kind: names for kind, names in wrong.items() if names}
        if wrong:
            shown = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in wrong.items())
            raise CheckpointError(
                f"The weights in {pretrained_model_name_or_path} do not fit its config ({shown}). Restore the "
                f"config.json and the weights that were saved together."
            )
        if kwargs.get("device_map") not in (None, "meta") and any(p.is_meta for p in model.parameters()):
            raise ConfigError(
                f"device_map={kwargs['device_map']!r} leaves weights outside the device that computes, and layers here "
                f"read each other's tables; give the whole model one device, as device_map='cuda' does."
            )
        return (model, found) if output_loading_info else model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As everywhere in Transformers; with the tokenizer of the folder, or of the one this model came from, what is
        written is a checkpoint of ours too."""
        if is_main_process:
            (Path(save_directory) / MANIFEST).unlink(missing_ok=True)  # it answers for what stood there
        if self._auto_class is None:
            vars(self.config).pop("auto_map", None)  # it names files that only a copy of this one takes along
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process and not self.begun_anew:
            source = Path(self.name_or_path or save_directory)
            complete(Path(save_directory), source, self.config.max_position_embeddings)

    @property
    def lm(self) -> LM:
        """The core, by its protocol."""
        return cast(LM, self.model)

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As everywhere in Transformers, but no pickle is read."""
        check_adapter(peft_model_id)
        return super().load_adapter(peft_model_id, *args, **kwargs)

    @can_return_tuple
    def backbone(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        loops: Loops = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """Tokens (B, T) to the vectors (B, T, D) that the embedding is multiplied by. loops: how often a loop in the
        trunk is passed, "auto" as often as each token needs; None: as the config says."""
        refuse_unknown(others, position_ids)
        keep = self.config.use_cache and not self.training if use_cache is None else use_cache
        with self._watching(output_hidden_states, output_attentions) as seen:
            given = input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, loops
            out, _, _, cache = self._read(*given, keep)
        last = self.model.head.scaled(out.hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=last,
            past_key_values=cache,
            hidden_states=seen.hidden_states(last),
            attentions=seen.attentions(),
        )

    def _watching(self, hidden: bool | None, attentions: bool | None) -> AbstractContextManager[Watched]:
        """What a call asks to be shown, or the config for all calls."""
        hidden = self.config.output_hidden_states if hidden is None else hidden
        attentions = self.config.output_attentions if attentions is None else attentions
        return watching(self.lm, bool(hidden), bool(attentions))

    def _read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: StateCache | None,
        inputs_embeds: Tensor | None,
        loops: Loops,
        keep: bool,
    ) -> tuple[LMOutput, Tensor, ForwardOptions, StateCache | None]:
        """One call of the core: its output, tokens and options, and the cache moved on, or None where none is kept."""
        self._check_adapters()
        loops = cast(Loops, self.config.loops) if loops is None else loops
        self.lm.config.check_loops(loops)
        tokens = self._tokens(input_ids, inputs_embeds)
        cache = past_key_values
        if cache is None and keep:
            cache = StateCache(self.lm.init_state(len(tokens)))
        if cache is not None and not isinstance(cache, StateCache):
            raise GenerationError(
                f"past_key_values is a {type(cache).__name__}, which has no room for this model's memory. Leave it "
                f"out, or give StateCache(model.lm.init_state(rows))."
            )
        columns, most = tokens.shape[1], self.config.max_position_embeddings
        begun, place = (None, None) if cache is None else (cache.state.position, cache.place)
        options = replace(options_of(tokens, attention_mask, position_ids, begun, place), loops=loops)
        if columns + (0 if cache is None else cache.length) > most:  # padding counts as columns, not as positions
            check_context(longest_document(tokens, options) + (0 if begun is None else int(begun.max())), most)
        if cache is not None and cache.recording:
            options = replace(options, keep_rollback=True)
        with self._embedded(inputs_embeds):
            out = self.lm(tokens, None if cache is None else cache.state, options)
        if cache is not None:
            assert out.state is not None, "a call with a state returns one"
            cache.advance(out.state, columns, next_place(position_ids, attention_mask, cache.place, columns))
        return out, tokens, options, cache

    def _check_adapters(self) -> None:
        """Raise where PEFT stands beside a matrix that is read past it."""
        one = self.config.tie_word_embeddings
        if one and ("base_layer" in self.model.embed._modules or not isinstance(self.lm_head, Window)):
            raise ConfigError(
                "An adapter stands beside one side of the embedding, where tokens are read or where they are said, and "
                "it is one matrix for both. Leave it out of the targets; modules_to_save=['embed'] trains it whole, "
                "trainable_token_indices some of its rows."
            )
        if any("base_layer" in part._modules[name]._modules for part, name in self._stacked):
            raise ConfigError(
                "An adapter stands beside matrices of experts, which are read together and without it. Leave them out "
                "of target_parameters; modules_to_save trains them whole."
            )

    def _tokens(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """(B, T): those given; in place of vectors such as end no document."""
        if (input_ids is None) == (inputs_embeds is None):
            raise GenerationError("A call reads input_ids or inputs_embeds; give one of the two.")
        if input_ids is not None:
            return input_ids
        if any(isinstance(part, SharedParts) and len(part) for part in self.model.modules()):
            raise GenerationError(
                "inputs_embeds cannot be read here: organs of this model look at the tokens themselves. Give input_ids."
            )
        filler = int(self.lm.config.boundary_id == 0)
        shape, device = cast(Tensor, inputs_embeds).shape[:2], cast(Tensor, inputs_embeds).device
        return torch.full(shape, filler, dtype=torch.long, device=device)

    @contextmanager
    def _embedded(self, vectors: Tensor | None) -> Iterator[None]:
        """With these vectors (B, T, D) in place of what tokens are embedded as."""
        handle = None if vectors is None else self.model.embed.register_forward_hook(lambda *_: vectors)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head if self.config.tie_word_embeddings else self.model.unembed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Another embedding of the same extent; a head without a matrix of its own multiplies by it too."""
        _check_extent("An embedding", value, self.model.embed)
        self.model.embed = value

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Another matrix of the same extent for a head that has its own; else only the embedding itself."""
        if self.config.tie_word_embeddings:
            if new_embeddings.weight is not self.model.embed.weight:
                raise ConfigError("The head of this model multiplies by its embedding; call set_input_embeddings.")
            return
        _check_extent("A head", new_embeddings, self.model.unembed)
        self.model.unembed = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """Another number of tokens: their vectors, and what organs know of each. positronic.load wants a tokenizer of
        that many entries, so that a model resized for another program's stays with Transformers."""
        size, multiple = self.config.core["vocab_size"], pad_to_multiple_of or 1
        asked = -(-(new_num_tokens or size) // multiple) * multiple
        if asked != size:
            self.config.core = resize(self.lm, asked, mean_resizing).to_json()
            self.config.vocab_size = asked
        return self.get_input_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what was not loaded, as the module itself begins: its tables above all, which no file holds."""
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        loaded = [tensor for tensor in own if getattr(tensor, "_is_hf_initialized", False)]
        if len(loaded) < len(own):  # what a quantiser has put in a map's place is no tensor of ours to fill
            with init.keeping(loaded):
                init.begin(module)

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, is_init_check: bool = False, allow_all_kernels: bool = False
    ) -> str:
        """Transformers' own kernels are refused: a family's scores run in the kernel that can hold them."""
        if attn_implementation not in (None, "sdpa", "eager"):
            raise ConfigError(
                f"attn_implementation={attn_implementation!r} is a kernel for plain dot products; the scores of this "
                f"model choose their kernel themselves, fused where they allow it. Leave it out."
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, is_init_check, allow_all_kernels)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        if every_n_layers != 1:
            raise ConfigError(
                f"every_n_layers is {every_n_layers}, and this trunk runs all of its blocks again on the way back, or "
                f"none; leave it out."
            )
        self.gradient_checkpointing = self.model.trunk.recompute = enable


def _check_extent(what: str, given: nn.Module, held: nn.Module) -> None:
    """Raise unless the matrix of `given` may stand in the place of that of `held`."""
    asked, shape = (tuple(cast(Tensor, module.weight).shape) for module in (given, held))
    if asked != shape:
        raise ConfigError(
            f"{what} of {asked[0]} x {asked[1]} does not fit this model of {shape[0]} x {shape[1]}; "
            f"resize_token_embeddings changes the number of tokens."
        )


class PositronicModel(PositronicPreTrainedModel):
    """Tokens to vectors: `AutoModel`."""

    forward = PositronicPreTrainedModel.backbone


class PositronicForCausalLM(Generating, PositronicPreTrainedModel, GenerationMixin):
    """Tokens to logits and, with labels, to a loss. Transformers asks the bases by name for its mixin."""

    accepts_loss_kwargs = True

    @property
    def base_model(self) -> Any:
        return self.backbone

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        loops: Loops = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """logits_to_keep: of the last so many tokens, or of these places; 0: of all. In training with labels the loss
        is that of our objective, with z-loss and the parts of organs and heads, some of which are of whole rows alone,
        so that no cache is kept; otherwise it is the cross entropy alone. loops: as `backbone` says."""
        refuse_unknown(others, position_ids)
        wanted = self.config.use_cache and not self.training and labels is None if use_cache is None else use_cache
        keep = wanted and not (self.training and labels is not None)
        with self._watching(output_hidden_states, output_attentions) as seen:
            given = input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, loops
            out, tokens, options, cache = self._read(*given, keep)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm.logits(out.hidden[:, kept]), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch
            )
            if self.training:
                loss = loss + auxiliary_loss(self.lm, out, logits, tokens, options, labels, num_items_in_batch)
        last = self.model.head.scaled(out.hidden) if seen.stream else out.hidden
        return CausalLMOutputWithPast(
            loss=loss,
            logits=cast(FloatTensor, logits),
            past_key_values=cache,
            hidden_states=seen.hidden_states(last),
            attentions=seen.attentions(),
        )
