"""Any family of ours as a `PreTrainedModel`: what Transformers, TRL, PEFT and lm-eval call.

    input_ids, attention_mask, position_ids -> Step        padding is where the mask is 0; a document begins where
                                                           positions start again at 0
    past_key_values -> DecodeState                         none given: a request of its own, which remembers nothing

The core is one module under the name `model`, so a checkpoint folder of ours loads as it stands: Transformers adds the
prefix, and every weight of the folder has a place.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.errors import ConfigError, GenerationError
from positronic.generation.prefill import check_room
from positronic.lm import LM, LMOutput
from positronic.nn import init
from positronic.state import Step

__all__ = ["PositronicForCausalLM", "PositronicModel", "PositronicPreTrainedModel"]


class PositronicPreTrainedModel(PreTrainedModel):
    """What the base model and the language model share: the core, and how a call becomes one of its."""

    config_class = PositronicConfig
    config: PositronicConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: PositronicConfig):
        super().__init__(config)
        self.model = config.lm().build()
        self.gradient_checkpointing = False
        self._no_split_modules = [type(self.model).__name__]
        self.post_init()

    @property
    def lm(self) -> LM:
        """The core, by its protocol."""
        return cast(LM, self.model)

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: StateCache | None,
        inputs_embeds: Tensor | None,
        use_cache: bool,
    ) -> tuple[LMOutput, Step, StateCache | None]:
        """One call of the core: its output, the step it took, and the cache moved on, or None where none is kept."""
        if input_ids is None or inputs_embeds is not None:
            raise GenerationError(
                "inputs_embeds cannot be read here: organs look at the tokens themselves. Give input_ids."
            )
        cache = past_key_values
        if cache is None and use_cache:
            cache = StateCache(self.lm.init_state(len(input_ids)))
        if cache is not None and not isinstance(cache, StateCache):
            raise GenerationError(
                f"past_key_values is a {type(cache).__name__}, which has no room for this model's memory. Leave it "
                f"out, or give StateCache(model.lm.init_state(rows))."
            )
        before = 0 if cache is None else cache.length
        if before + input_ids.shape[1] > self.config.max_position_embeddings:
            longest = 0 if cache is None else int(cache.state.position.max())
            check_room(longest + input_ids.shape[1], self.config.max_position_embeddings)
        step = _step(input_ids, attention_mask, position_ids)
        out = self.lm(input_ids, None if cache is None else cache.state, step)
        if cache is not None:
            assert out.state is not None, "a call with a state returns one"
            cache.advance(out.state, input_ids.shape[1])
        return out, step, cache

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def get_output_embeddings(self) -> None:
        """The head multiplies by the embedding itself."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """Refused: hash tables, phases and control tokens follow from the vocabulary's size."""
        size, multiple = self.config.core["vocab_size"], pad_to_multiple_of or 1
        asked = -(-(new_num_tokens or size) // multiple) * multiple
        if asked != size:
            raise ConfigError(
                f"The vocabulary of {size} cannot become one of {asked}, since organs are built for "
                f"its size; use its free control tokens, <|reserved_0|> and on, or train with another tokenizer."
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
    """Tokens to the trunk's output, before the final norm of the head."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        keep = self.config.use_cache and not self.training if use_cache is None else use_cache
        out, _, cache = self.read(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, keep)
        return BaseModelOutputWithPast(last_hidden_state=out.hidden, past_key_values=cache)


class PositronicForCausalLM(PositronicPreTrainedModel, GenerationMixin):
    """Tokens to logits and, with labels, to a loss."""

    accepts_loss_kwargs = True

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
    ) -> CausalLMOutputWithPast:
        """logits_to_keep: of the last so many tokens, or of these places; 0: of all."""
        keep = self.config.use_cache and not self.training and labels is None if use_cache is None else use_cache
        out, _, cache = self.read(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, keep)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm.logits(out.hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
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


def _step(tokens: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Step:
    """What a call of Transformers says about its tokens (B, T): padding, and where documents begin."""
    valid = None
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise GenerationError(
                f"attention_mask has {attention_mask.dim()} dimensions; give (rows, tokens), 0 at padding. Documents "
                f"of one row are told apart by position_ids that start again at 0."
            )
        valid = attention_mask[:, -tokens.shape[1] :].bool()
        valid = None if bool(valid.all()) else valid
    segments = None
    if position_ids is not None and tokens.shape[1] > 1:
        begins = position_ids.expand_as(tokens) == 0
        begins = begins if valid is None else begins & valid
        segments = begins.cumsum(1)
        segments = segments if bool((segments[:, -1] > 1).any()) else None
    return Step(tokens, tokens, valid, segments)
