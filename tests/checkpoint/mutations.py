"""Ways to harm a checkpoint folder. Each takes the folder and a seeded `random.Random` and changes the files in place.

`MUTATIONS[name] = (change, harmless)`: harmless changes touch nothing that matters, so after the file hashes have been
made to fit again the folder must load with equal logits; all others must be refused, hashed again or not.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from checkpoint_example import parts, put_parts

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
MUTATIONS: dict[str, tuple[Callable[[Path, random.Random], None], bool]] = {}
MANIFEST_MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {}
SHARD_MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {}


def harms(change):
    MUTATIONS[change.__name__] = (change, False)
    return change


def spares(change):
    MUTATIONS[change.__name__] = (change, True)
    return change


def in_manifest(change):
    MANIFEST_MUTATIONS[change.__name__] = change
    return change


def in_shards(change):
    SHARD_MUTATIONS[change.__name__] = change
    return change


def rehash(folder: Path) -> None:
    """Make sizes and file hashes in the manifest fit what lies in the folder; its `content` stays as it was."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def edit(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def two(names, random: random.Random) -> list[str]:
    return random.sample(sorted(names), 2)


def tensors(folder: Path) -> tuple[dict, dict, bytes]:
    """Header with and without its metadata, and the data."""
    header, data = parts(folder / WEIGHTS)
    return header, {name: entry for name, entry in header.items() if name != "__metadata__"}, data


def leaves(data, path=()):
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, data


def at(data, path):
    for key in path:
        data = data[key]
    return data


# -- weights: what is in the file ------------------------------------------------------------------------------------


@harms
def a_tensor_renamed(folder, random):
    header, entries, data = tensors(folder)
    name = random.choice(sorted(entries))
    new = name.replace("trunk.", "trunk.9") if random.random() < 0.5 else name + "x"
    header[new if new != name else "stray"] = header.pop(name)
    put_parts(folder / WEIGHTS, header, data)


@harms
def two_tensors_of_one_shape_swapped(folder, random):
    header, entries, data = tensors(folder)
    alike = [(a, b) for a in entries for b in entries if a < b and entries[a]["shape"] == entries[b]["shape"]]
    a, b = random.choice(alike)
    header[a], header[b] = header[b], header[a]
    put_parts(folder / WEIGHTS, header, data)


@harms
def two_tensors_of_any_shape_swapped(folder, random):
    header, entries, data = tensors(folder)
    a, b = two(entries, random)
    header[a], header[b] = header[b], header[a]
    put_parts(folder / WEIGHTS, header, data)


@harms
def a_tensor_deleted(folder, random):
    header, entries, data = tensors(folder)
    name = random.choice(sorted(entries))
    start, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    put_parts(folder / WEIGHTS, header, data[:start] + data[end:])


@harms
def a_tensor_duplicated(folder, random):
    header, entries, data = tensors(folder)
    entry = entries[random.choice(sorted(entries))]
    start, end = entry["data_offsets"]
    header["copy"] = {**entry, "data_offsets": [len(data), len(data) + end - start]}
    put_parts(folder / WEIGHTS, header, data + data[start:end])


@harms
def a_name_that_stands_twice(folder, random):
    header, entries, data = tensors(folder)
    a, b = two(entries, random)
    text = json.dumps(header).replace(json.dumps(a) + ":", json.dumps(b) + ":")
    put_parts(folder / WEIGHTS, text.encode(), data)


@harms
def a_dtype_of_equal_size(folder, random):
    header, entries, data = tensors(folder)
    entries[random.choice(sorted(entries))]["dtype"] = random.choice(["I32", "U32"])
    put_parts(folder / WEIGHTS, header, data)


@harms
def a_dtype_of_other_size(folder, random):
    header, entries, data = tensors(folder)
    entries[random.choice(sorted(entries))]["dtype"] = random.choice(["F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3"])
    put_parts(folder / WEIGHTS, header, data)


@harms
def a_tensor_rounded_to_bfloat16(folder, random):
    header, entries, data = tensors(folder)
    name = max(entries, key=lambda n: entries[n]["data_offsets"][1])  # the last one, so that no other moves
    start, end = entries[name]["data_offsets"]
    values = torch.frombuffer(bytearray(data[start:end]), dtype=torch.float32).bfloat16()
    entries[name] |= {"dtype": "BF16", "data_offsets": [start, start + (end - start) // 2]}
    put_parts(folder / WEIGHTS, header, data[:start] + values.view(torch.uint8).numpy().tobytes())


@harms
def a_dtype_that_is_none(folder, random):
    header, entries, data = tensors(folder)
    entries[random.choice(sorted(entries))]["dtype"] = random.choice(["F99", "", 3, None, "C64", "F4"])
    put_parts(folder / WEIGHTS, header, data)


@harms
def a_shape_of_equal_size(folder, random):
    header, entries, data = tensors(folder)
    wide = [name for name, entry in entries.items() if len(entry["shape"]) == 2]
    entry = entries[random.choice(wide)]
    rows, columns = entry["shape"]
    entry["shape"] = random.choice([[rows * columns], [1, rows, columns], [rows * columns // 4, 4], [rows, columns, 1]])
    put_parts(folder / WEIGHTS, header, data)


@harms
def a_shape_of_other_size(folder, random):
    header, entries, data = tensors(folder)
    entry = entries[random.choice(sorted(entries))]
    entry["shape"] = random.choice([[], [0], [3, 3], [2**40, 2**40], [-1], ["x"], "16", [2**63]])
    put_parts(folder / WEIGHTS, header, data)


@harms
def offsets_moved(folder, random):
    header, entries, data = tensors(folder)
    entry = entries[random.choice(sorted(entries))]
    start, end = entry["data_offsets"]
    moved = [[start + 4, end + 4], [end, start], [start, end + 4], [0, 0], [-4, end], [start, 2**62], [start], "0:4"]
    entry["data_offsets"] = random.choice(moved)
    put_parts(folder / WEIGHTS, header, data + b"\0" * 4)


@harms
def a_value_flipped(folder, random):
    header, _, data = tensors(folder)
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    put_parts(folder / WEIGHTS, header, bytes(changed))


@harms
def a_letter_of_a_tensor_name_flipped(folder, random):
    raw = bytearray((folder / WEIGHTS).read_bytes())
    name = random.choice(sorted(tensors(folder)[1])).encode()
    raw[raw.index(b'"' + name + b'"') + 1 + random.randrange(len(name))] ^= 1 << random.randrange(8)
    (folder / WEIGHTS).write_bytes(raw)


# -- weights: the file itself ----------------------------------------------------------------------------------------


@harms
def weights_truncated(folder, random):
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: random.randrange(len(raw))])


@harms
def weights_prolonged(folder, random):
    with (folder / WEIGHTS).open("ab") as file:
        file.write(random.randbytes(random.randint(1, 99)))


@harms
def a_header_length_changed(folder, random):
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    lengths = [0, 1, length - 1, length + 1, length + 8, length - 8, len(raw), 2**31, 2**63, 2**64 - 1]
    (folder / WEIGHTS).write_bytes(random.choice(lengths).to_bytes(8, "little") + raw[8:])


@harms
def a_header_of_garbage(folder, random):
    data = parts(folder / WEIGHTS)[1]
    garbage = [b"", b"[]", b"null", b"{", b'{"a":1}', b"\xff\xfe", b"[" * 9999, b'{"a":' * 9999, random.randbytes(64)]
    put_parts(folder / WEIGHTS, random.choice(garbage), data)


@harms
def a_file_emptied(folder, random):
    (folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])).write_bytes(b"")


@harms
def a_file_missing(folder, random):
    (folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])).unlink()


@harms
def a_folder_in_place_of_a_file(folder, random):
    path = folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])
    path.unlink()
    path.mkdir()


@harms
def a_file_of_noise(folder, random):
    (folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])).write_bytes(random.randbytes(random.randint(1, 5000)))


@harms
def a_pickle(folder, random):
    path = folder / WEIGHTS
    weights = {"embed.weight": torch.zeros(3, 4)}
    path.unlink()
    where = path if random.random() < 0.5 else folder / random.choice(["pytorch_model.bin", "model.pt", "w.ckpt"])
    form = random.randrange(3)
    if form == 0:
        torch.save(weights, where)
    elif form == 1:
        torch.save(weights, where, _use_new_zipfile_serialization=False)
    else:
        where.write_bytes(pickle.dumps({"embed.weight": [0.0]}, protocol=random.randint(2, 5)))


@harms
def a_link_elsewhere(folder, random):
    path = folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])
    path.unlink()
    path.symlink_to(random.choice(["/dev/zero", "/dev/null", "nowhere", "/", path.name, "generation_config.json"]))


@harms
def a_pipe_in_place_of_a_file(folder, random):
    path = folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])
    path.unlink()
    os.mkfifo(path)


@spares
def a_link_to_the_same_bytes(folder, random):
    path = folder / random.choice([WEIGHTS, CONFIG, TOKENIZER])
    shutil.move(path, folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


@spares
def another_order_in_the_file(folder, random):
    _, entries, data = tensors(folder)
    names = sorted(entries)
    random.shuffle(names)
    moved, order = b"", {"__metadata__": {"format": "pt", "note": "reordered"}}
    for name in names:
        start, end = entries[name]["data_offsets"]
        order[name] = entries[name] | {"data_offsets": [len(moved), len(moved) + end - start]}
        moved += data[start:end]
    put_parts(folder / WEIGHTS, order, moved)


# -- config ----------------------------------------------------------------------------------------------------------


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


# -- tokenizer -------------------------------------------------------------------------------------------------------


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


# -- training state, which loading does not read ---------------------------------------------------------------------


@spares
def training_state_harmed(folder, random):
    path = folder / "train" / random.choice(["state.safetensors", "state.json"])
    raw = path.read_bytes()
    change = random.randrange(4)
    if change == 0:
        path.unlink()
    elif change == 1:
        path.write_bytes(raw[: random.randrange(len(raw))])
    elif change == 2:
        changed = bytearray(raw)
        changed[random.randrange(len(raw) - 2)] ^= 2
        path.write_bytes(changed)
    else:
        path.write_bytes(pickle.dumps({"step": 3}))


# -- the manifest itself ---------------------------------------------------------------------------------------------


@in_manifest
def manifest_cut(folder, random):
    raw = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(raw[: random.randrange(len(raw) - 2)])


@in_manifest
def manifest_missing(folder, random):
    (folder / "manifest.json").unlink()


@in_manifest
def manifest_of_another_value(folder, random):
    values = [
        "",
        "{}",
        "[]",
        "null",
        "1",
        '{"format": 1}',
        '{"format": true}',
        "[" * 99999,
        '{"format": 1, "format": 1}',
    ]
    (folder / "manifest.json").write_text(random.choice(values))


@in_manifest
def a_manifest_format_of_another_build(folder, random):
    edit(folder / "manifest.json", lambda m: m.update(format=random.choice([2, 99, 0, -1, "1", None, 1.0, True, [1]])))


@in_manifest
def a_manifest_key_removed(folder, random):
    def change(manifest):
        inside = random.choice([manifest, manifest["content"], manifest["files"][WEIGHTS]])
        del inside[random.choice(sorted(inside))]

    edit(folder / "manifest.json", change)


@in_manifest
def a_manifest_digest_changed(folder, random):
    def change(manifest):
        content = manifest["content"]
        inside, key = random.choice(
            [
                (content, "config"),
                (content, "tokenizer"),
                (content["tensors"], random.choice(sorted(content["tensors"]))),
            ]
        )
        inside[key] = random.choice([inside[key][::-1], "", None, 3, "0" * 64, inside[key].upper()])

    edit(folder / "manifest.json", change)


@in_manifest
def a_manifest_file_record_changed(folder, random):
    def change(manifest):
        files = manifest["files"]
        name = random.choice([WEIGHTS, CONFIG, TOKENIZER])
        record = random.choice([None, [], {"bytes": -1, "sha256": "0" * 64}, {"bytes": 3, "sha256": "0" * 64}, 7])
        files[random.choice([name, "../" + name, "/etc/passwd"])] = record
        if random.random() < 0.3:
            files.pop(name)
            files.setdefault("odd\\name", None)

    edit(folder / "manifest.json", change)


@in_manifest
def a_manifest_tensor_more_or_less(folder, random):
    def change(manifest):
        digests = manifest["content"]["tensors"]
        digest = digests.pop(random.choice(sorted(digests)))
        if random.random() < 0.5:
            digests["stray"] = digest

    edit(folder / "manifest.json", change)


# -- shards ----------------------------------------------------------------------------------------------------------

INDEX = WEIGHTS + ".index.json"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


@in_shards
def two_shards_swapped(folder, random):
    a, b = random.sample(shards(folder), 2)
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


@in_shards
def a_shard_missing(folder, random):
    random.choice(shards(folder)).unlink()


@in_shards
def a_shard_copied_over_another(folder, random):
    a, b = random.sample(shards(folder), 2)
    shutil.copy(a, b)


@in_shards
def an_index_that_lies(folder, random):
    def change(index):
        places = index["weight_map"]
        name = random.choice(sorted(places))
        outside = ["../model.safetensors", "/dev/zero", "model-00099-of-00099.safetensors", 3, None, "", "config.json"]
        if random.random() < 0.3:
            del places[name]
        elif random.random() < 0.3:
            places[random.choice(["stray", name])] = places[random.choice(sorted(places))] + "x"
        else:
            places[name] = random.choice(outside)

    edit(folder / INDEX, change)


@in_shards
def an_index_of_another_value(folder, random):
    values = ["", "{}", "[]", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": null}', "{" * 9999]
    (folder / INDEX).write_text(random.choice(values))


@in_shards
def a_whole_file_beside_the_shards(folder, random):
    shutil.copy(random.choice(shards(folder)), folder / WEIGHTS)


@in_shards
def a_value_in_a_shard_flipped(folder, random):
    path = random.choice(shards(folder))
    header, data = parts(path)
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    put_parts(path, header, bytes(changed))
