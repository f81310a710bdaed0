"""Harm to the weights: what is in the file."""

import json

import torch
from checkpoint_example import put_parts
from mutations import WEIGHTS, harms, tensors, two


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
