"""Our models in lm-eval: its tasks and its metrics over our likelihoods, and our local files as tasks of its own kind.

    lm = Harness(model, tokenizer)                          an lm_eval.api.model.LM, to hand to lm_eval.simple_evaluate too
    evaluate(lm, ["blimp", "hellaswag"], data_dir)          blimp from data_dir where it lies there, hellaswag from lm-eval's

loglikelihood            as `eval.continuations` cuts and batches; a context beyond the window loses its beginning
loglikelihood_rolling    windows of the whole context with one token overlapping, lm-eval's rule: `bits_per_byte` with a
                         stride of the context
generate_until           our batched decoder, greedy unless `do_sample`; a prompt beyond the window loses its beginning
"""

try:
    from datasets import Dataset
    from lm_eval.api.group import AggMetricConfig, Group
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM as HarnessModel  # noqa: N811  the name is ours
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate as run_harness
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
except ModuleNotFoundError as error:
    raise ImportError("positronic.adapters.lm_eval needs lm-eval: pip install 'positronic[eval]'.") from error
