"""Harm to the manifest, to shards and to their index."""

import shutil
from pathlib import Path

from checkpoint_example import parts, put_parts
from mutations import CONFIG, TOKENIZER, WEIGHTS, edit, in_manifest, in_shards


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
