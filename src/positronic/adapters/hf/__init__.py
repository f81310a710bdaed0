"""Hugging Face: every family under Transformers' own names, once this module is imported.

    import positronic.adapters.hf
    model = AutoModelForCausalLM.from_pretrained("RUN/last")
    tokenizer = AutoTokenizer.from_pretrained("RUN/last")

A checkpoint folder of ours is read as it stands, and what `save_pretrained` writes is one. The folder needs no code of
its own and no `trust_remote_code`; where positronic is not installed, give an exported folder and that flag.
"""

try:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
except ModuleNotFoundError as error:
    raise ImportError("positronic.adapters.hf needs Transformers: pip install 'positronic[hf]'.") from error

from positronic.adapters.hf.cache import StateCache
from positronic.adapters.hf.classifying import PositronicForSequenceClassification
from positronic.adapters.hf.configuration import PositronicConfig
from positronic.adapters.hf.model import PositronicForCausalLM, PositronicModel
from positronic.adapters.hf.speculation import speculative

__all__ = [
    "PositronicConfig",
    "PositronicForCausalLM",
    "PositronicForSequenceClassification",
    "PositronicModel",
    "StateCache",
    "speculative",
]

AutoConfig.register(PositronicConfig.model_type, PositronicConfig, exist_ok=True)
AutoModel.register(PositronicConfig, PositronicModel, exist_ok=True)
AutoModelForCausalLM.register(PositronicConfig, PositronicForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(PositronicConfig, PositronicForSequenceClassification, exist_ok=True)
