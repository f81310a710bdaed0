"""Harm to the config and the tokenizer."""

import json

from mutations import CONFIG, TOKENIZER, at, edit, harms, leaves, spares, two


def other(value, random):
    """A value unlike `value`, often of the same type."""
    if type(value) is bool:
        return not value
    if type(value) in (int, float) and random.random() < 0.6:
        return random.choice([value + 1, value * 2, value - 1, 0.5, -value - 1])
    return random.choice(["other", None, True, [], [1], {}, {"kind": "swiglu"}, "", 10**30, 3.25])


@harms
def a_core_value_changed(folder, random):
    def change(config):
        path, value = random.choice(list(leaves(config["core"])))
        new = other(value, random)
        at(config["core"], path[:-1])[path[-1]] = new if new != value or type(new) is not type(value) else "other"

    edit(folder / CONFIG, change)


@harms
def a_core_field_removed(folder, random):
    def change(config):
        path, _ = random.choice(list(leaves(config["core"])))
        del at(config["core"], path[:-1])[path[-1]]

    edit(folder / CONFIG, change)


@harms
def an_unknown_core_field(folder, random):
    def change(config):
        inside = random.choice([config["core"], config["core"]["attention"], config["core"]["channel"]])
        inside[random.choice(["n_layer", "dropout", "", "kind ", "_class"])] = random.choice([1, None, "x"])

    edit(folder / CONFIG, change)


@harms
def a_core_of_another_kind(folder, random):
    def change(config):
        config["core"] = random.choice([{}, [], None, 3, "transformer", {"kind": "attention"}, {"kind": ["x"]}])

    edit(folder / CONFIG, change)


@harms
def an_outer_value_that_matters(folder, random):
    key = random.choice(["model_type", "vocab_size", "core"])

    def change(config):
        del config[key]
        if random.random() < 0.7:
            config[key] = random.choice([None, "llama", 7, [], {}])

    edit(folder / CONFIG, change)


@harms
def config_text_that_is_no_json(folder, random):
    text = (folder / CONFIG).read_text("utf-8")
    broken = [
        text[: random.randrange(1, len(text) - 2)],
        text.replace("10000.0", "NaN"),
        text.replace("10000.0", "1e999"),
        text.replace("10000.0", "Infinity"),
        text.replace("10000.0", "9" * 5000),
        text.replace('"context": 16', '"context": 16, "context": 16'),
        text.replace("{", "[", 1),
        "[" * 100_000,
        text + text,
        '{"model_type": "\\ud800"}',
    ]
    (folder / CONFIG).write_text(random.choice(broken), "utf-8")


@harms
def config_bytes_that_are_no_text(folder, random):
    raw = (folder / CONFIG).read_bytes()
    broken = [
        raw.replace(b"transformer", b"\xff\xfe"),
        b"\xef\xbb\xbf" + raw,
        raw.decode().encode("utf-16"),
        b"\0" * 99,
    ]
    (folder / CONFIG).write_bytes(random.choice(broken))


@spares
def config_spaced_otherwise(folder, random):
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    keys = random.sample(sorted(config), len(config))
    text = json.dumps({key: config[key] for key in keys}, indent=random.randint(0, 7), sort_keys=random.random() < 0.5)
    (folder / CONFIG).write_text(text + "\n\n", "utf-8")


@spares
def an_outer_value_that_does_not_matter(folder, random):
    def change(config):
        config[random.choice(["transformers_version", "dtype", "architectures", "auto_map"])] = "x"

    edit(folder / CONFIG, change)


@spares
def generation_settings_changed(folder, random):
    edit(folder / "generation_config.json", lambda data: data.update({random.choice(["top_p", "note"]): 0.5}))


@harms
def tokenizer_text_cut(folder, random):
    raw = (folder / TOKENIZER).read_bytes()
    (folder / TOKENIZER).write_bytes(raw[: random.randrange(len(raw) - 2)])


@harms
def two_tokens_swapped(folder, random):
    def change(data):
        vocab = data["model"]["vocab"]
        a, b = two(vocab, random)
        vocab[a], vocab[b] = vocab[b], vocab[a]

    edit(folder / TOKENIZER, change)


@harms
def a_token_removed_or_added(folder, random):
    def change(data):
        vocab = data["model"]["vocab"]
        if random.random() < 0.5:
            del vocab[random.choice(sorted(vocab))]
        else:
            vocab["a new piece"] = len(vocab)

    edit(folder / TOKENIZER, change)


@harms
def tokenizer_replaced_by_another_value(folder, random):
    (folder / TOKENIZER).write_text(
        random.choice(["{}", "[]", "null", "3", '{"model": {}}', '{"model": null}', "{" * 9999])
    )
