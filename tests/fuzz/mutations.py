"""Random damage to files: to their bytes, and to the structure of their format."""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutated = tuple[str, bytes | None]
"""A mutation in words, and the new content; None if the file is absent."""


def mutated(name: str, data: bytes, rng: Random) -> Mutated:
    """The content of the file `name`, damaged in one place."""
    if rng.random() < 0.02:
        return "file removed", None
    found = [change for suffix, change in _STRUCTURES.items() if name.endswith(suffix)]
    if found and data and rng.random() < 0.5:
        return rng.choice(found)(data, rng)
    return _bytes(data, rng)


# Bytes


def _bytes(data: bytes, rng: Random) -> Mutated:
    words, change = rng.choice(_BYTES)
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + rng.choice((1, 8, 64, 10**9)))
    return f"{words} {a}:{b}", change(data, a, b, rng)


def _flipped(data: bytes, a: int, b: int, rng: Random) -> bytes:
    changed = bytearray(data)
    for i in (a, *(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 0, 7))))):
        if i < len(data):
            changed[i] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swapped(data: bytes, a: int, b: int, rng: Random) -> bytes:
    c, d = sorted(rng.randrange(b, len(data) + 1) for _ in range(2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


_BYTES: list[tuple[str, Callable[[bytes, int, int, Random], bytes]]] = [
    ("bits flipped", _flipped),
    ("truncated", lambda data, a, b, rng: data[:a]),
    ("span deleted", lambda data, a, b, rng: data[:a] + data[b:]),
    ("span repeated", lambda data, a, b, rng: data[:b] + data[a:b] + data[b:]),
    ("bytes inserted", lambda data, a, b, rng: data[:a] + rng.randbytes(b - a) + data[a:]),
    ("bytes replaced", lambda data, a, b, rng: data[:a] + rng.randbytes(b - a) + data[b:]),
    ("span zeroed", lambda data, a, b, rng: data[:a] + bytes(b - a) + data[b:]),
    ("spans swapped", _swapped),
]


# JSON: values are put in as raw text, so that they may be what no writer writes

_DEPTHS = (150, 400, 700, 900, 940, 970, 985, 995, 100_000)
_VALUES = [
    "null", "[]", "{}", '""', '"text"', '"../x"', '"/x"', '"\\ud800"', '"\\u0000"', "true", "false",
    "0", "-1", "-1.5", "2", "3", "1e9", "1e400", "-1e400", "18446744073709551616",
    "1" * 40, "9" * 400, "9" * 6000, "[[1], [2]]", '{"a": null}', "[null]", '["a", 1]',
]  # fmt: skip
_JSON_VALUES = [*_VALUES, "NaN", "-Infinity", *("[" * n + "]" * n for n in _DEPTHS),
                '{"a":' * 100_000 + "1" + "}" * 100_000]  # fmt: skip
_HERE = "\u2402put in here\u2403"


def _json(data: bytes, rng: Random) -> Mutated:
    try:
        tree = [json.loads(data)]
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    words, text = _json_text(tree, rng)
    return words, text.encode("utf-8", "surrogatepass")


def _json_text(tree: list[Any], rng: Random) -> tuple[str, str]:
    places = list(_places(tree))
    container, key = rng.choice(places)
    value = rng.choice(_JSON_VALUES)
    what = rng.randrange(6)
    if what == 0 and container is not tree:
        words = "deleted"
        del container[key]
    elif what == 1 and isinstance(container, dict):
        words = "renamed"
        container[rng.choice(("", "x", f"{key}s", "../x", key.upper()))] = container.pop(key)
    elif what == 2:
        words = "swapped"
        other, place = rng.choice(places)
        if container is not tree and other is not tree:
            container[key], other[place] = json.loads(json.dumps([other[place], container[key]]))
    elif what == 3 and isinstance(container, dict):
        words = f"given the neighbour {value:.20}"
        container[rng.choice(("x", "", "mlp", "k", "hooks", "format"))] = _HERE
    else:
        words = f"replaced by {value:.20}"
        container[key] = _HERE
    text = json.dumps(tree[0], indent=rng.choice((None, 1)))
    return f"entry {key!r} {words}", text.replace(json.dumps(_HERE), value)


def _places(container: Any) -> Any:
    """Every place in plain data: its container, and its key or index there."""
    for key in container if isinstance(container, dict) else range(len(container)):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


def _jsonl(data: bytes, rng: Random) -> Mutated:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    words, line = _json(lines[i], rng)
    lines[i] = line or b""
    return f"line {i + 1}: {words}", b"\n".join(lines)


# YAML and TOML: lines with a key and a value

_ALIASES = ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(30))
_YAML_VALUES = [
    *_VALUES, "0x" + "f" * 6000, "&a [*a]", f"[{_ALIASES}]", "!!python/name:os.system", ".nan",
    ".inf", "1e3", "2001-99-99", "2001-01-01", "1:60", "!!binary x", "!!set {a}", "{[a]: b}",
    "{{a: b}: c}", "!!float text", "!!int text", "!!timestamp text", "<<: 1", "? ",
    "[" * 900 + "]" * 900, "[" * 100_000, "yes", "~", "- ", "|", "'", '"', "@", "\t", "!!omap [a]",
    "!!pairs [a]", "!!bool text", "!!null text", "=", "!!int ''", "!!float ''", "_", "0b", "0x_",
]  # fmt: skip
_TOML_VALUES = [
    *_VALUES, "0x" + "f" * 6000, "inf", "nan", "2001-01-01", "2001-99-99", "12:00:00", "'''",
    "[" * 900 + "]" * 900, "[" * 100_000, "{a.b = 1}", "{a = {b = [1]}}", "1e400", '"cuda"',
    '"\\U00110000"', "[0.5, 0.25]", "1.0",
]  # fmt: skip
_LINE = re.compile(r"^([ \t]*)([\w.]+)([ \t]*[:=][ \t]*)(.*)$", re.MULTILINE)


def _lines(values: list[str]) -> Callable[[bytes, Random], Mutated]:
    def change(data: bytes, rng: Random) -> Mutated:
        text = data.decode()
        found = list(_LINE.finditer(text))
        if not found:
            return _bytes(data, rng)
        line = rng.choice(found)
        indent, key, sign, _ = line.groups()
        value, other = rng.choice(values), rng.choice(found)[0]
        words, new = rng.choice([
            ("deleted", ""),
            ("renamed", line[0].replace(key, rng.choice((f"{key}s", "x", "../x", "a.b")), 1)),
            ("repeated", f"{line[0]}\n{line[0]}"),
            (f"replaced by {other}", other),
            *[(f"replaced by {value:.20}", f"{indent}{key}{sign}{value}")] * 6,
        ])  # fmt: skip
        text = text[: line.start()] + new + text[line.end() :]
        return f"entry {key!r} {words}", text.encode("utf-8", "surrogatepass")

    return change


# safetensors: a header of JSON, then the tensors' bytes

Entries = dict[str, dict[str, Any]]
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
         "U8": 8, "U16": 16, "U32": 32, "U64": 64, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "C64": 64,
         "F4": 4, "F6_E2M3": 6, "F8_E8M0": 8, "X": 32}  # fmt: skip
_SHAPES = ([], [0], [1], [-1], [2**40], [2**40, 2**40], [2**63], [2**64], [0, 2**60], [2**60, 0],
           [0, 0], [1, 1, 1, 1], [1.5], ["1"], [None])  # fmt: skip


def _header(data: bytes, rng: Random) -> Mutated:
    """The header changed, and the tensors as they were."""
    header, tensors = _split(data)
    if rng.random() < 0.3:
        words, text = _json_text([header], rng)
    else:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry, (a, b) = header[name], header[name]["data_offsets"]
        key, value = rng.choice([
            ("dtype", rng.choice(list(_BITS))),
            ("shape", rng.choice([*_SHAPES, entry["shape"][::-1], [math.prod(entry["shape"])]])),
            ("data_offsets", rng.choice(([b, a], [a, a], [0, b], [a, b + 8], [a, 2**63], [-1, b],
                                         [a, 2**64 - 1], [a + 8, b + 8], [a], []))),
        ])  # fmt: skip
        entry[key] = value
        words, text = f"{name} {key} {value}", json.dumps(header)
    raw = text.encode("utf-8", "surrogatepass")
    length = rng.choice((len(raw),) * 8 + (len(raw) - 1, len(raw) + 1, 2**40, 2**63, 0))
    return f"header: {words}", length.to_bytes(8, "little") + raw + tensors


def _tensor(data: bytes, rng: Random) -> Mutated:
    """One tensor changed, in a file that is whole again."""
    header, tensors = _split(data)
    metadata = {key: header.pop(key) for key in ("__metadata__",) if key in header}
    content = {n: tensors[slice(*entry["data_offsets"])] for n, entry in header.items()}
    name = rng.choice(list(header))
    entry, raw = header[name], content[name]
    shape, size = entry["shape"], _BITS[entry["dtype"]] // 8
    what = rng.randrange(10)
    if what == 0:
        words = "left out"
        del header[name]
    elif what == 1:
        words = "renamed"
        header[f"{name}x"], content[f"{name}x"] = header.pop(name), raw
    elif what == 2:
        words = "twice"
        header[f"{name}x"], content[f"{name}x"] = entry, raw
    elif what == 3:
        words, entry["shape"] = "transposed", shape[::-1]
    elif what == 4:
        words, entry["shape"] = "flattened", rng.choice(([len(raw) // size], [1, *shape]))
    elif what == 5:
        words = "emptied"
        entry["shape"] = rng.choice(
            ([0] * len(shape), [0, *shape[1:]], [2**60, 0], [0, 2**60], [0])
        )
        content[name] = b""
    elif what == 6 and shape and shape[0]:
        words, entry["shape"] = "longer", [shape[0] + 1, *shape[1:]]
        content[name] = raw + raw[: len(raw) // shape[0]]
    elif what == 7:
        words = "of another dtype"
        entry["dtype"] = rng.choice([d for d, bits in _BITS.items() if bits == 8 * size])
    elif what == 8:
        entry["dtype"], entry["shape"] = rng.choice(("U8", "BOOL", "I8")), [*shape, size]
        words = "of bytes"
    else:
        words, i = "given a value", rng.randrange(max(1, len(raw) // size)) * size
        value = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80", b"\xbf", b"\x40")) * (size - 1)
        content[name] = (
            raw[:i] + value + rng.choice((b"\x7f", b"\xff", b"\xbf", b"\0")) + raw[i + size :]
        )
    return f"tensor {name} {words}", _joined(metadata, header, content)


def _split(data: bytes) -> tuple[Entries, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _joined(metadata: Entries, header: Entries, content: dict[str, bytes]) -> bytes:
    at = 0
    for name, entry in header.items():
        entry["data_offsets"] = [at, at := at + len(content[name])]
    text = json.dumps(metadata | header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(content[n] for n in header)


# torch's files: a zip archive, whose check sums are those of the damaged content


def _member(data: bytes, rng: Random) -> Mutated:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice([*members, *[n for n in members if n.endswith("data.pkl")] * len(members)])
    words, content = _bytes(members[name], rng)
    members[name] = content or b""
    if rng.random() < 0.05:
        del members[name]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, raw in members.items():
            archive.writestr(zipfile.ZipInfo(member), raw)
    return f"{name}: {words}", out.getvalue()


_STRUCTURES: dict[str, Callable[[bytes, Random], Mutated]] = {
    ".json": _json,
    "dictlearn.files": _json,
    ".jsonl": _jsonl,
    ".yaml": _lines(_YAML_VALUES),
    ".toml": _lines(_TOML_VALUES),
    "safetensors": _header,
    ".safetensors": _tensor,
    ".pt": _member,
}
"""Changes by the ending of a file's name; of several, one is drawn."""
