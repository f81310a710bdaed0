"""Transformers' Llama of the control's sizes, random weights, and the loops around it.

Of equal width, depth, heads, groups and SwiGLU; where the control's queries and outputs have rank D / 2, a full matrix
has as many parameters.
"""

import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.decoding.subject import Setting
from positronic.config import ModelConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig

__all__ = ["Llama", "reason_of"]


class Llama:
    """The model, and what its loops take; Transformers is imported here alone."""

    def __init__(self, config: TransformerConfig, setting: Setting):
        from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

        attention, channel = config.attention, config.channel
        assert isinstance(channel, SwiGLUConfig), "asked before"
        sizes = LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=channel.hidden,
            num_hidden_layers=config.n_layers,
            num_attention_heads=attention.n_heads,
            num_key_value_heads=attention.n_kv_heads,
            head_dim=attention.head_dim,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        torch.manual_seed(0)
        self.setting, self._new_cache = setting, DynamicCache
        self.model = cast(Any, LlamaForCausalLM(sizes)).to(setting.device, setting.dtype).eval()

    @staticmethod
    def stands_beside(config: ModelConfig) -> bool:
        """Whether a model of these sizes exists."""
        return isinstance(config, TransformerConfig) and isinstance(config.channel, SwiGLUConfig)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @torch.no_grad()
    def read(self, prompt: Sequence[int]) -> Any:
        """The cache after all but the last token."""
        cache = self._new_cache(config=self.model.config)
        self.model(self._tokens(prompt[:-1]), past_key_values=cache, use_cache=True)
        return cache

    @torch.no_grad()
    def step(self, token: Tensor, cache: Any) -> Tensor:
        """(1, 1) the best token after (1, 1); the cache grows."""
        out = self.model(token, past_key_values=cache, use_cache=True)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def bare(self, prompt: Sequence[int], tokens: int) -> float:
        """Seconds of a bare loop, the prompt read before."""
        cache, first = self.read(prompt), self._tokens(prompt[-1:])
        said: list[int] = []

        def loop() -> None:
            token = first
            for _ in range(tokens):
                token = self.step(token, cache)
                said.append(int(token))

        return self.setting.seconds(loop)

    def generate(self, prompt: Sequence[int], tokens: int, static: bool = False) -> float:
        """Seconds from the first token that `generate` says to `tokens` more."""
        from transformers import StoppingCriteriaList

        given, clock = self._tokens(prompt), Clock(self.setting)
        found = self.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=tokens + 1,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
            cache_implementation="static" if static else None,
        )
        self.setting.settle()
        seconds = time.perf_counter() - clock.first
        assert found.shape[1] == len(prompt) + tokens + 1, f"generate said {found.shape[1] - len(prompt)} tokens"
        return seconds

    def static_fails(self, prompt: Sequence[int], tokens: int) -> str | None:
        """Why the static form does not run here; None: it does, and is compiled now."""
        try:
            self.generate(prompt, tokens, static=True)
        except Exception as error:  # compilers fail in many ways
            return reason_of(error)
        return None

    def _tokens(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.setting.device)


def reason_of(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n", 1)[0]


class Clock:
    """A stopping criterion that never stops and knows when it was first asked."""

    def __init__(self, setting: Setting):
        self.setting, self.first = setting, 0.0
        self._never: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if self._never is None:
            self._never = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
            self.setting.settle()
            self.first = time.perf_counter()
        return self._never
