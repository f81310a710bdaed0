"""What the published cards name: every call, flag and file that they show. Facts, kept by hand."""

__all__ = ["CONTROL", "NAMES"]


def _names(text: str) -> list[str]:
    return [name for line in text.strip().splitlines() for name in line.strip().split("; ")]


CONTROL = _names("""
    <|im_start|>; <|im_end|>; <|system|>; <|user|>; <|assistant|>; <think>; </think>; <begin_solution>; <end_solution>
    <tool_call>; <tool_response>; <|fim_prefix|>; <|fim_middle|>; <|fim_suffix|>; <|endoftext|>
""")
BOTH = _names("""
    --ckpt; --prompt; --max_new_tokens; --chat; --speculative; --spec_stats
    torch.load; load_state_dict; QuazimotoLM; QuazimotoConfig; family_config; SpikeTokenizer; strict=False
    tok.decode; skip_special_tokens
    model.py; family.py; fractal.py; generate.py; special_tokens.py; spike_tokenizer.py; tokenizer.json
    chkpt/quazimoto.pt; chkpt/quazimoto_sft.pt
""")
OSCILLATORS = _names("""
    --keep_ring_memory; --freeze_ring_memory; --model-path; --host; --port
    weights_only=False; map_location; model.eval; load_tokenizer; build_prompt; system; resolve_stop_ids; stop_ids
    generate; model.reset_ring_memory(); model.set_ring_memory_writing(False); run_once; use_cache
    pipeline("text-generation", model=...); AutoModel.from_pretrained; dtype="auto"; AutoModelForCausalLM
    pip install vllm; vllm serve; curl; /v1/completions; max_tokens; temperature; docker model run; docker run
    pip install sglang; sglang.launch_server; lmsysorg/sglang
    use_rings; use_ring_controllers; use_ring_specialists; use_hrm; use_moe; use_mtp; use_jepa; use_fractal_phase_seed
    block_size; max_position_embeddings; d_model; osc_steps; osc_dt; logit_scale; soft_clamp; tanh(gate); z0
    center_phase; center_omega; center_gain; store_in; store_out
    QuazimotoBlock; PhaseAttentionRing; EngramRing; RingController
    Quazim0t0/PretrainNew; mlabonne/ultrachat_200k_sft; mlabonne/ultrafeedback-sft; openbmb/UltraData-SFT-2605
    volcanos/OpenThoughts2-1M-ShortThink
""")
COLONY = _names("""
    --interactive; --no_cache; --temperature; --top_k; --top_p; --repetition_penalty; --seed; --tokens
    --device; --steps; --batch; --block; --amp; --use-hrm; --use-moe; --use-mtp; --use-jepa; --use-ring-specialists
    --use-fractal-phase-seed; --stream; --math-frac; --out; --ckpt-every; --resume; --help; --init
    vocab_file; tok.encode; add_special_tokens=False; model.generate; n_new; temperature; top_k; forward_drafts()
    MycelBlock; MycelStations; FractalSeed
    mycel.py; instrument.py; fractal_phase.pt; healthcheck.py; visualize.py; viz.html; train.py; train_sft.py
    chat_sft.py; train_opd.py; distill_uld.py; opd_teacher.py; build_fractal_table.py; train.bat; train_sft.bat
    modal_train.py; modal_sft.py; requirements.txt; pip install -r; huggingface-cli login
""")
METRIC = _names("""
    pip install transformers accelerate sentencepiece
    AutoTokenizer.from_pretrained; AutoModelForCausalLM.from_pretrained; torch_dtype; device_map; .eval()
    model.generate; max_length; do_sample; top_p; temperature; pad_token_id; eos_token_id; tok.decode
    skip_special_tokens; pipeline("text-generation"); ds.map; remove_columns; column_names
    load_dataset("yzhuang/Agentic-Long-Context-Understanding-QA", split="train[:2%]")
    TrainingArguments; output_dir; per_device_train_batch_size; gradient_accumulation_steps; num_train_epochs
    learning_rate; weight_decay; warmup_steps; logging_steps; save_steps; fp16; bf16
    Trainer; trainer.train(); ./moa400m-finetune; config.json
    BlackHoleRoPE; rope_global; rope_mqa; energy_min; energy_max; LocalConv; MetricMHAttention; ChannelMix; MetricMQA
    TokenRouter; HyperFFN; SepConv1d
    WeMake/Intelligent-Content-Understanding; QingyiSi/Alpaca-CoT; HuggingFaceH4/MATH-500; zai-org/LongWriter-6k
    prithivMLmods/Deepthink-Reasoning
""")
PIPELINE = _names("""
    bootstrap_tiny_llm.sh; sft_quickstart.sh; train_incremental.sh; train_incremental.sh 1000; ask_model.sh
    tiny_instruct_sample.jsonl; positron-mini/README.md; LICENSE; temperature; top_p; max_tokens
    examples/train_simple.py; --long-training; examples/generate_text.py; git clone; cd; pip install numpy matplotlib
""")

NAMES = {
    "The oscillators": [*BOTH, *CONTROL, *OSCILLATORS],
    "The colony": [*BOTH, *COLONY],
    "Metric attention": METRIC,
    "The small pipeline": PIPELINE,
}
"""By the section of the page: the code that stands on the left of its tables."""
