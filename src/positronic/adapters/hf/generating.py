"""`generate` on a model of ours: the cache it goes on from, where it must end, and what it may hand on to `forward`."""

import inspect
from typing import Any, cast

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.call import SAID_BY_POSITIONS
from positronic.errors import GenerationError

__all__ = ["Generating"]

NEW_TOKENS = 20
"""What `generate` writes when nobody says how much, in Transformers too."""


class Generating(GenerationMixin):
    """Transformers' mixin, told of our states."""

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As everywhere in Transformers; a text that reaches the model's last position ends there, and with it all rows
        of its batch."""
        if self._said("assistant_early_exit", generation_config, kwargs) is not None:
            raise GenerationError(
                "assistant_early_exit drafts with the first layers of a model, and what these say is not read through "
                "the head here. Leave it out; prompt_lookup_num_tokens and assistant_model draft too."
            )
        kind = self._said("cache_implementation", generation_config, kwargs)
        if kind not in (None, "dynamic", "static"):
            raise GenerationError(
                f"cache_implementation is {kind!r}, which cannot hold this model's memory; leave it out, or use "
                f"'static' for a state whose room is fixed beforehand."
            )
        given = kwargs.get("input_ids") if inputs is None else inputs
        columns = 1 if given is None else given.shape[1]
        embedded, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        read = columns if embedded is None else embedded.shape[1]
        read = read if mask is None else int(mask.sum(1).max())
        left = max(1, self._model.config.max_position_embeddings - read)
        new = self._said("max_new_tokens", generation_config, kwargs)
        whole = self._said("max_length", generation_config, kwargs)
        wanted = new if new is not None else NEW_TOKENS if whole is None else whole - columns
        if wanted > left:
            kwargs = {name: value for name, value in kwargs.items() if name != "max_length"} | {"max_new_tokens": left}
        return cast(Any, super()).generate(inputs, generation_config, *args, **kwargs)

    def _said(self, name: str, config: GenerationConfig | None, kwargs: dict[str, Any]) -> Any:
        """A setting as `generate` will read it: from the call, else from its config, else from the model's."""
        places = (kwargs.get(name), getattr(config, name, None), getattr(self._model.generation_config, name, None))
        return next((value for value in places if value is not None), None)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What `forward` reads of all that `generate` carries along; what users mistype it has refused before."""
        theirs = cast(Any, super()).prepare_inputs_for_generation
        inputs = theirs(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        known = inspect.signature(self._model.forward).parameters.keys() | SAID_BY_POSITIONS
        return {name: value for name, value in inputs.items() if name in known}

    def _get_candidate_generator(self, generation_config: GenerationConfig, *args: Any, **kwargs: Any) -> Any:
        """Whoever drafts, as Transformers chooses it, held to the texts that may still be written."""
        drafting = cast(Any, super())._get_candidate_generator(generation_config, *args, **kwargs)
        propose, most = drafting.get_candidates, generation_config.max_length - 1  # behind a draft a token is written

        def within(ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            tokens, scores = propose(ids, *args, **kwargs)
            tokens = tokens[:, : max(most, ids.shape[1])]
            new = tokens.shape[1] - ids.shape[1]
            return tokens, scores[:, :new] if scores is not None and new else None

        drafting.get_candidates = within
        return drafting

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
        rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
        room = max_cache_length if kind == "static" else 0
        cache = model_kwargs["past_key_values"] = StateCache(self._model.lm.init_state(rows, room))
        if generation_config.is_assistant:
            cache.activate_past_recording()

    @property
    def _model(self) -> Any:
        return cast(Any, self)
