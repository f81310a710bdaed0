"""vLLM: the families whose whole memory is keys and values, under its engine.

    python -m vllm.entrypoints.openai.api_server --model RUN/last --dtype float32        positronic installed beside it

vLLM finds `register` by the entry point `vllm.general_plugins`. It mixes tokens of many requests in one call, moves
them and drops them, so a layer may keep keys and values in the engine's pages and nothing else. Here every token is a
row of its own for all blocks but attention, which reads the pages. Test-time stores can be served frozen, as if they
were always empty: `--hf-overrides '{"freeze_memory": true}'`. A request is one document: an end-of-document token
inside a prompt does not hide what stands before it, as it does elsewhere.
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

import positronic.models  # noqa: F401  the engine's own process has to know the families' configs
from positronic import tree
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.config import ModelConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.mixers.attention import Attention
from positronic.nn.init import initialize
from positronic.nn.kv import KVState
from positronic.nn.memory_slots import SlotsState
from positronic.state import DecodeState, ForwardOptions, State, Step

__all__ = ["Served", "ServedConfig", "register", "unservable"]


def register() -> None:
    """Tell vLLM and Transformers of our models; called by vLLM in each of its processes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    AutoConfig.register(ServedConfig.model_type, ServedConfig, exist_ok=True)
    ModelRegistry.register_model("PositronicForCausalLM", "positronic.adapters.vllm:Served")


HEADS = ("drafts", "latents")
"""Parts of a model that only draft or train."""


class ServedConfig(PositronicConfig):
    """What the engine asks of a model beside its config."""

    freeze_memory: bool = False
    """Serve test-time stores as if they were always empty."""

    @property
    def num_attention_heads(self) -> int:
        return self.core["attention"]["n_heads"]

    @property
    def num_key_value_heads(self) -> int:
        return self.core["attention"]["n_kv_heads"]

    @property
    def head_dim(self) -> int:
        return self.core["attention"]["head_dim"]

    @property
    def n_positions(self) -> int:
        """The engine takes the least of all lengths that a config names."""
        return self.max_position_embeddings


class Paged(nn.Module):
    """Attention of ours over the engine's pages; x (N, 1, D), every token a row."""

    def __init__(self, attention: Attention, cache_config: Any, name: str):
        from vllm.model_executor.layers.attention import Attention as Pages

        super().__init__()
        self.attention, c = attention, attention.config
        self.pages = Pages(
            c.n_heads, c.head_dim, c.head_dim**-0.5, num_kv_heads=c.n_kv_heads, cache_config=cache_config, prefix=name
        )

    def prepare(self, step: Step) -> dict[str, Any]:
        return self.attention.prepare(step)

    def forward(self, x: Tensor, step: Step, state: None = None) -> MixerOutput:
        q, k, v = self.attention.heads(x, step)
        o = self.pages(*(part.flatten(1) for part in (q, k, v)))  # (N, H K)
        return MixerOutput(self.attention.close(o.view_as(q), v, step))


class Served(nn.Module):
    """Any family whose attention can be paged, as vLLM calls its models."""

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        if vllm_config.parallel_config.world_size > 1:
            raise ConfigError("These models are small: serve them with tensor and pipeline parallel sizes of 1.")
        core = ModelConfig.from_json(config.core)
        self.lm: Any = core.replace(**{f.name: None for f in fields(core) if f.name in HEADS}).build()
        if reason := unservable(self.lm, config.freeze_memory):
            raise ConfigError(reason)
        self.nothing = (None,) * len(self.lm.init_state(1).layers)
        """What the engine leaves the blocks to remember."""
        initialize(self.lm, 0, loaded=[name for name, _ in self.lm.named_parameters()])  # the tables alone
        for i, block in enumerate(self.lm.trunk):
            if isinstance(block.mixer, Attention):
                block.mixer = Paged(block.mixer, vllm_config.cache_config, f"{prefix}trunk.{i}.pages")

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.lm.embed(input_ids)

    def forward(
        self, input_ids: Tensor, positions: Tensor, intermediate_tensors: None = None, inputs_embeds: None = None
    ) -> Tensor:
        """Hidden vectors (N, D) of N tokens of any requests."""
        state = replace(DecodeState.new(self.nothing, len(input_ids), input_ids.device), position=positions)
        return self.lm(input_ids[:, None], state, ForwardOptions(write_memory=False)).hidden[:, 0]

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return self.lm.logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill every parameter; heads that only draft or train are passed over."""
        own, loaded = dict(self.lm.named_parameters()), set()
        for name, weight in weights:
            if name.startswith(HEADS):
                continue
            _, block, *_ = [*name.split("."), ""]
            paged = name.startswith("trunk.") and isinstance(self.lm.trunk[int(block)].mixer, Paged)
            place = name.replace(".mixer.", ".mixer.attention.", 1) if paged else name
            with torch.no_grad():
                own[place].copy_(weight)
            loaded.add(f"lm.{place}")
        missing = {f"lm.{name}" for name in own} - loaded
        if missing:
            raise ConfigError(f"The checkpoint lacks {sorted(missing)[0]}; give a folder that a run or `save` wrote.")
        return loaded


def unservable(lm: Any, frozen: bool) -> str | None:
    """Why an engine that pages the keys and values of attention layers cannot run this model; None: it can."""
    attention = [isinstance(block.mixer, Attention) for block in lm.trunk]
    caps = [block.mixer.config.score_cap for block, paged in zip(lm.trunk, attention, strict=True) if paged]
    if any(cap is not None for cap in caps):
        return (
            "The engine's kernels have no bound on scores like this model's (attention.score_cap), without which it "
            "would say something else. Talk to it with `positronic chat`."
        )
    layers = zip_longest(lm.init_state(1).layers, attention, fillvalue=False)  # behind the trunk's, shared parts'
    beyond = [kept for layer, paged in layers if not paged for kept in tree.nodes(layer) if _keeps(kept)]
    others = {type(kept): kept for kept in beyond if not isinstance(kept, SlotsState)}
    if not others and (frozen or not beyond):
        return None
    named = "; ".join(_named(kind) for kind in others)
    way = (
        "Talk to it with `positronic chat`."
        if others
        else "Serve it with its stores frozen: --hf-overrides '{\"freeze_memory\": true}'."
    )
    return (
        f"vLLM mixes the tokens of many requests and keeps keys and values alone, and this model writes more as it "
        f"reads ({named or 'stores of what it has seen'}). {way}"
    )


def _named(kind: type) -> str:
    if kind is KVState:
        return "keys and values of organs inside its layers"
    return (kind.__doc__ or kind.__name__).splitlines()[0].rstrip(".")


def _keeps(node: State) -> bool:
    """Whether a state remembers something itself, and not only by the states inside it."""
    return any("." not in path for path, _, _ in tree.tensors(node))
