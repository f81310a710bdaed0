"""Harm to files as such, and to the training state."""

import os
import pickle
import shutil

import torch
from checkpoint_example import parts, put_parts
from mutations import CONFIG, TOKENIZER, WEIGHTS, harms, spares, tensors


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
