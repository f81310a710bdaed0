"""Any family with a score in place of its head: `AutoModelForSequenceClassification`, reward models among them.

    scores = W h_t        t the last real token of each row, h_t what the embedding would be multiplied by

A checkpoint of ours opens as one, with W as a new model begins; what is saved has W beside our weights.
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.adapters.hf.model import PositronicPreTrainedModel
from positronic.nn.linear import linear

__all__ = ["PositronicForSequenceClassification"]


class PositronicForSequenceClassification(PositronicPreTrainedModel):
    """Tokens to scores (B, C) and, with labels, to a loss: of one score the squared error, of several cross entropy."""

    begun_anew: ClassVar[frozenset[str]] = frozenset({"score.weight"})

    def __init__(self, config: PositronicConfig):
        super().__init__(config)
        self.num_labels = config.num_labels or 1
        self.score = linear(config.hidden_size, self.num_labels)
        self.post_init()

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
        **others: Any,
    ) -> SequenceClassifierOutputWithPast:
        """labels (B,). Without a mask a row ends where its padding token begins, and nowhere else."""
        given = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        read = self.backbone(*given, return_dict=True, **others)
        hidden = read.last_hidden_state
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if attention_mask is not None:
            real = attention_mask[:, -hidden.shape[1] :].bool()
        elif input_ids is not None and self.config.pad_token_id is not None:
            real = input_ids != self.config.pad_token_id
        last = (real * torch.arange(hidden.shape[1], device=hidden.device)).argmax(1)
        scores = self.score(hidden[torch.arange(len(hidden), device=hidden.device), last])
        loss = None
        if labels is not None:
            loss = cast(Any, self).loss_function(logits=scores, labels=labels, pooled_logits=scores, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=scores,
            past_key_values=read.past_key_values,
            hidden_states=read.hidden_states,
            attentions=read.attentions,
        )
