"""Any family of ours as a `PreTrainedModel`: what Transformers, TRL, PEFT and lm-eval call.

    input_ids, attention_mask, position_ids -> Step        (`call`)
    past_key_values -> DecodeState                         (`cache`) none given: a request of its own

The core is one module under the name `model`, so a checkpoint folder of ours loads as it stands: Transformers adds the
prefix, and every weight of the folder has a place. Some trainers never ask for logits: they multiply what `base_model`
gives by the weight of `get_output_embeddings()`, a window on the embedding itself. PEFT looks for it among the modules.
"""

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.call import longest_document, refuse_unknown, step_of
from positronic.adapters.hf.completing import complete
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.adapters.hf.loss import auxiliary_loss
from positronic.config import ModelConfig
from positronic.errors import CheckpointError, ConfigError, GenerationError
from positronic.generation.room import check_room
from positronic.lm import LM, LMOutput
from positronic.nn import init
from positronic.state import Step

__all__ = ["PositronicForCausalLM", "PositronicModel", "PositronicPreTrainedModel"]


class Window(nn.Module):
    """The embedding seen as the head that it is: a matrix under a name of its own, and no parameter more."""

    bias = None

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self._seen = (embedding,)  # in a tuple, so that it is not registered a second time

    @property
    def weight(self) -> Tensor:
        """(W, D)"""
        return cast(Tensor, self._seen[0].weight)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


class PositronicPreTrainedModel(PreTrainedModel):
    """What the base model and the language model share: the core, and how a call becomes one of its."""

    config_class = PositronicConfig
    config: PositronicConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  typed by the parent

    def __init__(self, config: PositronicConfig):
        super().__init__(config)
        self.model = ModelConfig.from_json(config.core).build()
        self.lm_head = Window(self.model.embed)
        self.gradient_checkpointing = False
        self._no_split_modules = [type(self.model).__name__]
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As everywhere in Transformers, but strict: weights that do not fit the config raise `CheckpointError`."""
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, found = loaded
        wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
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
        if self._auto_class is None:
            vars(self.config).pop("auto_map", None)  # it names files that only a copy of this one takes along
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            complete(Path(save_directory), Path(self.name_or_path or save_directory))

    @property
    def lm(self) -> LM:
        """The core, by its protocol."""
        return cast(LM, self.model)

    @can_return_tuple
    def backbone(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """Tokens (B, T) to the vectors (B, T, D) that the embedding is multiplied by."""
        refuse_unknown(others, position_ids)
        keep = self.config.use_cache and not self.training if use_cache is None else use_cache
        out, _, cache = self._read(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, keep)
        return BaseModelOutputWithPast(last_hidden_state=self.model.head.scaled(out.hidden), past_key_values=cache)

    def _read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: StateCache | None,
        inputs_embeds: Tensor | None,
        keep: bool,
    ) -> tuple[LMOutput, Step, StateCache | None]:
        """One call of the core: its output, the step it took, and the cache moved on, or None where none is kept."""
        if input_ids is None or inputs_embeds is not None:
            raise GenerationError(
                "inputs_embeds cannot be read here: organs look at the tokens themselves. Give input_ids."
            )
        cache = past_key_values
        if cache is None and keep:
            cache = StateCache(self.lm.init_state(len(input_ids)))
        if cache is not None and not isinstance(cache, StateCache):
            raise GenerationError(
                f"past_key_values is a {type(cache).__name__}, which has no room for this model's memory. Leave it "
                f"out, or give StateCache(model.lm.init_state(rows))."
            )
        columns, most = input_ids.shape[1], self.config.max_position_embeddings
        step = step_of(input_ids, attention_mask, position_ids, None if cache is None else cache.state.position)
        if columns + (0 if cache is None else cache.length) > most:  # padding counts as columns, not as positions
            check_room(longest_document(step) + (0 if cache is None else int(cache.state.position.max())), most)
        out = self.lm(input_ids, None if cache is None else cache.state, step)
        if cache is not None:
            assert out.state is not None, "a call with a state returns one"
            cache.advance(out.state, columns)
        return out, step, cache

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """Refused: hash tables, phases and control tokens follow from the vocabulary's size."""
        size, multiple = self.config.core["vocab_size"], pad_to_multiple_of or 1
        asked = -(-(new_num_tokens or size) // multiple) * multiple
        if asked != size:
            raise ConfigError(
                f"The vocabulary of {size} cannot become one of {asked}, since organs are built for its size; use its "
                f"free control tokens, <|reserved_0|> and on, or train with another tokenizer."
            )
        return self.get_input_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what was not loaded, as the module itself begins: its tables above all, which no file holds."""
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            with init.keeping(tensor for tensor in own if getattr(tensor, "_is_hf_initialized", False)):
                reset()

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


class PositronicModel(PositronicPreTrainedModel):
    """Tokens to vectors: `AutoModel`."""

    forward = PositronicPreTrainedModel.backbone


class PositronicForCausalLM(PositronicPreTrainedModel, GenerationMixin):
    """Tokens to logits and, with labels, to a loss."""

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
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """logits_to_keep: of the last so many tokens, or of these places; 0: of all. In training with labels the loss
        has the parts of organs and heads too, some of which are of whole rows alone, so that no cache is kept;
        otherwise it is the cross entropy alone."""
        refuse_unknown(others, position_ids)
        wanted = self.config.use_cache and not self.training and labels is None if use_cache is None else use_cache
        keep = wanted and not (self.training and labels is not None)
        out, step, cache = self._read(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, keep)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm.logits(out.hidden[:, kept]), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch
            )
            if self.training:
                loss = loss + auxiliary_loss(self.lm, out, step, labels, num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Put a cache of ours where `generate` looks for one; "static" fixes its extent beforehand."""
        kind = generation_config.cache_implementation
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return
        if kind not in (None, "dynamic", "static"):
            raise GenerationError(
                f"cache_implementation is {kind!r}, which cannot hold this model's memory; leave it out, or use "
                f"'static' for a state whose room is fixed beforehand."
            )
        rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
        room = max_cache_length if kind == "static" else 0
        model_kwargs["past_key_values"] = StateCache(self.lm.init_state(rows, room))
