"""The published configuration: read as it stands, its sizes held against what its own fields make."""

import json
from typing import Any

import pytest

from positronic.adapters.chimera_json import declared, is_published, read
from positronic.cli import main
from positronic.errors import ConfigError
from positronic.observe import describe


def published(**changes: Any) -> dict[str, Any]:
    """A file of its form with eight layers; changes by dotted path."""
    data: dict[str, Any] = {
        "model_type": "chimera51",
        "hidden_size": 512,
        "intermediate_size": 384,
        "num_hidden_layers": 8,
        "num_heads": 8,
        "head_dim": 64,
        "hidden_act": "swiglu",
        "initializer_range": 0.006,
        "rms_norm_eps": 1e-6,
        "rms_norm_before_every_linear": True,
        "vocab_size": 512,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "quantization": {"group_size": 128},
        "backbone": {
            "layer_pattern": "GD XM GD TM GD XM GD SK",
            "layer_pattern_repeat": 1.0,
            "layer_aliases": {"GD": "gated_deltanet", "XM": "xlstm_m", "TM": "titans_mac", "SK": "tsp_span_knot"},
            "layer_counts": {"GD": 4, "XM": 2, "TM": 1, "SK": 1},
            "kv_cache": "none",
            "moe": {
                "enabled": True,
                "layers": [3, 7],
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 192,
                "routing": "noaux_bias",
                "total_params": "1M",
            },
        },
        "gated_deltanet": {"state_size": 64, "key_norm": "l2"},
        "efla": {"enabled": False},
        "xlstm": {"memory_size_per_head": [64, 64]},
        "titans": {
            "memory_type": "MAC",
            "memory_depth": 2,
            "persistent_memory_slots": 16,
            "local_window_size": 128,
        },
        "looping": {
            "enabled": True,
            "prelude": [0, 1],
            "loop": [2, 5],
            "coda": [6, 7],
            "loop_range": [1, 6],
            "loop_default": 2,
            "adaptive_exit_threshold": 0.01,
        },
        "params": {"physical": "3.4M", "moe_total": "750k"},
        "memory_budget_mb": {"_vals": [3, 4], "total": 7},
        "safety": {"anything": True},
    }
    data["params"]["moe_total"] = "0.75M"
    for path, value in changes.items():
        *inside, name = path.split("__")
        place = data
        for step in inside:
            place = place[step]
        place[name] = value
    return data


def test_a_file_is_the_model_that_its_fields_describe():
    found = read(published(strange=1, titans__strange=2))
    config = found.config
    assert (config.d_model, config.n_layers, config.prelude, config.coda) == (512, 8, 2, 2)
    assert [config.layer(i)[0].kind for i in range(8)][3:] == [
        "titans",
        "gated_delta",
        "mlstm",
        "gated_delta",
        "span_knot",
    ]
    assert [i for i in range(8) if config.layer(i)[1].kind == "experts"] == [3, 7]
    assert (config.titans.window, config.titans.slots, config.init_std) == (128, 16, 0.006)
    assert found.waiting == ("quantization", "params", "memory_budget_mb", "safety")
    assert found.unknown == ("titans.strange", "strange")
    assert not is_published({"model_type": "llama"})


def test_sizes_are_judged_by_what_is_computed():
    found = read(published())
    described = describe(found.config)
    verdicts = {size.field: size.verdict for size in declared(found, described)}
    agreed = ("hidden_size", "backbone.layer_counts", "memory_budget_mb.total")
    assert {verdicts[name] for name in agreed} == {"agrees"}
    assert {verdicts[name] for name in ("backbone.kv_cache", "quantization.group_size")} == {"contradicts"}
    assert verdicts["params.weight_mb"] == verdicts["params.base"] == "not computed"
    for share, verdict in ((1.0, "agrees"), (1.05, "contradicts")):
        millions = share * described.total / 1e6
        for said in (f"{millions:.3f}M", f"{millions / 1e3:.6f}B", f"{millions / 1e6:.9f}T"):
            other = read(published(params__physical=said))
            found = {size.field: size.verdict for size in declared(other, described)}
            assert found["params.physical"] == verdict, said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": "two"}, 'num_heads is "two"; it must be a whole number'),
        ({"backbone__layer_pattern": "GD QQ"}, "names QQ, which backbone.layer_aliases lacks"),
        ({"backbone__layer_aliases": {"GD": "another"}}, "'GD' for 'another'; this build knows GD for gated_deltanet"),
        ({"backbone__layer_counts": {"GD": 8}}, "the pattern makes"),
        ({"backbone__layer_pattern_repeat": 2.0}, "layer_pattern_repeat is 2.0"),
        ({"looping__loop": [2, 6]}, "not the 8 layers in order"),
        ({"looping__loop_range": [2, 6]}, "must begin with 1"),
        ({"titans__memory_type": "MAG"}, "no other is built here"),
        ({"titans": {}}, "lacks titans.memory_type"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_a_sentence(changes, said):
    with pytest.raises(ConfigError, match=said):
        read(published(**changes))


def test_describe_lists_what_is_stated_and_strict_ends_with_1(tmp_path, capsys):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(published(safety__growth=1)), "utf-8")
    assert main(["describe", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"field", "declared", "computed", "verdict"} == found["declared"][0].keys()
    assert found["parameters"]["total"] == describe(read(published()).config).total
    with pytest.raises(SystemExit, match="1"):
        main(["describe", str(path), "--strict"])
    assert "contradicts" in capsys.readouterr().out
    assert main(["describe", "tinygpt-tiny", "--strict"]) == 2
