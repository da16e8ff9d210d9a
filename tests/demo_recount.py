#!/usr/bin/env python3
"""Counts what the demo counts, a second time and in another way.

The definitions are in src/cli/demo/mod.rs. This page shares no code with the Rust: lines are found by
regular expressions, Python by its own `ast`, TOML and JSON by the standard parsers. Standard library
only.

    python3 tests/demo_recount.py DIRECTORY           totals as one line of JSON
    python3 tests/demo_recount.py --files DIRECTORY   one line per file, for finding a difference
"""

import ast
import json
import os
import re
import stat
import sys
import warnings

try:
    import tomllib
except ImportError:  # before Python 3.11
    tomllib = None

EXCLUDED = {b"target", b"node_modules", b"__pycache__", b"venv"}
KINDS = {
    "markdown": "md markdown", "rust": "rs", "python": "py pyi", "javascript": "js jsx mjs cjs",
    "typescript": "ts tsx mts cts", "go": "go", "shell": "sh bash zsh", "toml": "toml",
    "json": "json", "yaml": "yaml yml",
}
BY_EXTENSION = {ext: kind for kind, exts in KINDS.items() for ext in exts.split()}
MAX_FILES, MAX_BYTES, MAX_PATH, SNIFF = 20_000, 1 << 20, 1024, 8192


def walk(root, rel=b""):
    """Relative paths and contents of the files that count, in walk order."""
    for name in sorted(os.listdir(os.path.join(root, rel))):
        path = os.path.join(rel, name)
        try:
            path.decode("utf-8")
        except UnicodeDecodeError:
            continue
        full = os.path.join(root, path)
        mode = os.lstat(full).st_mode
        if name.startswith(b".") or len(path) > MAX_PATH:
            continue
        if stat.S_ISDIR(mode) and name not in EXCLUDED:
            yield from walk(root, path)
        elif stat.S_ISREG(mode) and os.lstat(full).st_size <= MAX_BYTES:
            with open(full, "rb") as file:
                data = file.read()
            if b"\0" not in data[:SNIFF]:
                yield path, data


def kind_of(path):
    name = os.path.basename(path)
    extension = name.rpartition(b".")[2].decode() if b"." in name else ""
    lowered = "".join(c.lower() if c.isascii() else c for c in extension)
    return BY_EXTENSION.get(lowered, "text")


# --- headings ---------------------------------------------------------------------------------

FENCE = re.compile(rb" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
ATX = re.compile(rb" {0,3}#{1,6}(?:[ \t]|$)")
UNDERLINE = re.compile(rb" {0,3}(?:=+|-+)[ \t]*$")
NOT_PLAIN = re.compile(
    rb"[ \t]*$| {0,3}\t| {4}| {0,3}[>|<]| {0,3}(?:[-*+]|[0-9]+[.)])(?:[ \t]|$)|[*_=\- \t]*$")


def headings(data):
    lines = [line[:-1] if line.endswith(b"\r") else line for line in data.split(b"\n")]
    if lines[-1] == b"":
        lines.pop()
    bare = [line.rstrip(b" \t") for line in lines]
    if bare and bare[0] == b"---":
        ends = [i for i, line in enumerate(bare) if i and line in (b"---", b"...")]
        if ends:
            lines = lines[ends[0] + 1:]
    count, fence, plain = 0, None, False
    for line in lines:
        if fence:
            closing = re.match(rb" {0,3}(%s+)[ \t]*$" % re.escape(fence[:1]), line)
            if closing and len(closing.group(1)) >= len(fence):
                fence = None
            continue
        was_plain, plain = plain, False
        opening = FENCE.match(line)
        if opening:
            fence = opening.group(1)
        elif ATX.match(line) or (was_plain and UNDERLINE.match(line)):
            count += 1
        else:
            plain = not NOT_PLAIN.match(line)
    return count


# --- code -------------------------------------------------------------------------------------

NAME = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*"
JSNAME = rb"[A-Za-z_$\x80-\xff][A-Za-z0-9_$\x80-\xff]*"
EDGE = rb"(?<![A-Za-z0-9_\x80-\xff])"
JSEDGE = rb"(?<![A-Za-z0-9_$.\x80-\xff])"
END = rb"(?![A-Za-z0-9_\x80-\xff])"
SP = rb"[ \t\n\v\f\r]"

LINE_STRING = rb"""%(q)s(?:\\[\s\S]|[^%(q)s\\\n])*(?:%(q)s|(?=\n)|\\?\Z)"""
DOUBLE = LINE_STRING % {b"q": b'"'}
SINGLE = LINE_STRING % {b"q": b"'"}
LONG_DOUBLE = rb'"(?:\\[\s\S]|[^"\\])*(?:"|\\?\Z)'
CHAR = (rb"'(?:(?=\\)(?:\\[\s\S]|[^'\\\n])*(?:'|(?=\n)|\\?\Z)"
        rb"|(?:[\xc0-\xdf][\s\S]|[\xe0-\xef][\s\S]{2}|[\xf0-\xff][\s\S]{3}|[^'\n\\\xc0-\xff])')")
RAW = (rb'(?:(?<![A-Za-z0-9_\x80-\xff])|(?<=(?<![A-Za-z0-9_\x80-\xff])[bc]))'
       rb'r(?P<hash>#*)"[\s\S]*?(?:"(?P=hash)|\Z)')
TRIPLE = rb'(?P<tq>"""|\'\'\')(?:\\[\s\S]|(?!(?P=tq))[^\\])*(?:(?P=tq)|\\?\Z)'
BLOCK = rb"/\*[\s\S]*?(?:\*/|\Z)"
REGEX = rb"/(?![/*])(?:\\[^\n]|\[(?:\\[^\n]|[^\]\n\\])*\]|[^/\n\\\[])*/"

MASKS = {
    "rust": rb"(?P<c>//[^\n]*)|(?P<nest>/\*)|(?P<raw>%s)|%s|%s" % (RAW, LONG_DOUBLE, CHAR),
    "python": rb"(?P<c>#[^\n]*)|%s|%s|%s" % (TRIPLE, DOUBLE, SINGLE),
    "go": rb"(?P<c>//[^\n]*|%s)|`[^`]*(?:`|\Z)|%s|%s" % (BLOCK, DOUBLE, SINGLE),
    "script": rb"(?P<c>//[^\n]*|%s)|(?P<re>/)|`(?:\\[\s\S]|[^`\\])*(?:`|\\?\Z)|%s|%s"
              % (BLOCK, DOUBLE, SINGLE),
}
MASKS = {language: re.compile(pattern) for language, pattern in MASKS.items()}
REGEX = re.compile(REGEX)
NOT_NEWLINE = re.compile(rb"[^\n]")


def nested_end(data, at):
    depth = 0
    for mark in re.compile(rb"/\*|\*/").finditer(data, at):
        depth += 1 if mark.group() == b"/*" else -1
        if depth == 0:
            return mark.end()
    return len(data)


def mask(data, language):
    """`data` with comments, strings and characters blanked out."""
    out, at, done, last = [], 0, 0, b""
    while True:
        hit = MASKS[language].search(data, at)
        if not hit:
            break
        start, end = hit.span()
        last = data[done:start].strip(b" \t\n\v\f\r")[-1:] or last
        groups = hit.groupdict()
        if groups.get("nest"):
            end = nested_end(data, start)
        if groups.get("re"):
            regex = REGEX.match(data, start)
            if not regex or regex.end() - start > 1000 or (last and last not in b"(,=:[!&|?{;"):
                out.append(data[done:end])
                last, at, done = b"/", end, end
                continue
            end = regex.end()
        out.append(data[done:start])
        out.append(NOT_NEWLINE.sub(b" ", data[start:end]))
        if not groups.get("c") and not groups.get("nest"):
            last = b'"'
        at = done = end
    out.append(data[done:])
    return b"".join(out)


RUST = [
    ("function", rb"fn"), ("struct", rb"struct"), ("enum", rb"enum"), ("trait", rb"trait"),
    ("module", rb"mod"),
]
RULES = {
    "rust": [(kind, EDGE + word + SP + rb"+(?:r#)?" + NAME) for kind, word in RUST] + [
        ("macro", EDGE + rb"macro_rules!" + SP + rb"*(?:r#)?" + NAME),
        ("impl", rb"^[ \t]*(?:unsafe[ \t]+)?impl" + END),
    ],
    "python": [
        ("function", rb"^[ \t\f]*(?:async[ \t]+)?def[ \t]+" + NAME),
        ("class", rb"^[ \t\f]*class[ \t]+" + NAME),
    ],
    "go": [
        ("function", rb"^func(?:[ \t]+|[ \t]*\([^)\n]*\)[ \t]*)" + NAME),
        ("type", rb"^type[ \t]+" + NAME),
    ],
    "javascript": [
        ("function", JSEDGE + rb"function(?:" + SP + rb"*\*" + SP + rb"*|" + SP + rb"+)" + JSNAME),
        ("class", JSEDGE + rb"class" + SP + rb"+(?!(?:extends|implements)(?![A-Za-z0-9_$\x80-\xff]))"
         + JSNAME),
        ("constant", rb"^[ \t]*export[ \t]+(?:const|let|var)[ \t]+"
                     rb"(?!enum(?![A-Za-z0-9_$\x80-\xff]))" + JSNAME),
    ],
    "shell": [("function", rb"^[ \t]*(?:function[ \t]+[A-Za-z_]"
                           rb"|[A-Za-z_][A-Za-z0-9_.:-]*[ \t]*\([ \t]*\))")],
}
LEAD = rb"^[ \t]*(?:(?:export|declare|const)[ \t]+)*"
RULES["typescript"] = RULES["javascript"] + [
    ("interface", LEAD + rb"interface[ \t]+" + JSNAME),
    ("enum", LEAD + rb"enum[ \t]+" + JSNAME),
    ("type", LEAD + rb"type[ \t]+" + JSNAME + rb"[ \t]*[=<]"),
]
# Looking ahead consumes nothing, so that a name may itself be a keyword that defines the next.
RULES = {kind: [(name, re.compile(rb"(?=%s)" % rule, re.MULTILINE)) for name, rule in rules]
         for kind, rules in RULES.items()}


def python_symbols(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(ast.walk(ast.parse(data)))
    return {
        "function": sum(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in nodes),
        "class": sum(isinstance(n, ast.ClassDef) for n in nodes),
    }


def keys(data, kind):
    data = data[3:] if data.startswith(b"\xef\xbb\xbf") else data
    if kind == "yaml":
        key = rb"(?:\"([^\"\n]+)\"|'([^'\n]+)'|([A-Za-z0-9_][A-Za-z0-9_./-]*))"
        found = re.findall(rb"(?m)^" + key + rb"[ \t]*:(?=[ \t\r\n]|\Z)", data)
        return len({b"".join(groups) for groups in found})
    text = data.decode("utf-8")
    if kind == "toml":
        return len(tomllib.loads(text))

    def refuse(constant):
        raise ValueError(constant)

    document = json.loads(text, parse_constant=refuse, parse_int=str)
    return len(document) if isinstance(document, dict) else 0


def symbols(data, kind):
    if kind == "toml" and tomllib is None:
        return {"key": None}
    if kind in ("toml", "json", "yaml"):
        try:
            return {"key": keys(data, kind)}
        except (ValueError, RecursionError):
            return {}
    if kind == "python":
        try:
            return python_symbols(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    if kind not in RULES:
        return {}
    language = "script" if kind in ("javascript", "typescript") else kind
    code = data if kind == "shell" else mask(data, language)
    return {name: sum(1 for _ in rule.finditer(code)) for name, rule in RULES[kind]}


# --- totals -----------------------------------------------------------------------------------

def count(path, data):
    kind = kind_of(path)
    return kind, {
        "bytes": len(data),
        "lines": data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0),
        "words": len(re.findall(rb"[^ \t\n\v\f\r]+", data)),
        "headings": headings(data) if kind == "markdown" else 0,
        "symbols": {name: n for name, n in symbols(data, kind).items() if n != 0},
    }


def add(total, counts):
    for name in ("bytes", "lines", "words", "headings"):
        total[name] += counts[name]
    for name, n in counts["symbols"].items():
        before = total["symbols"].get(name, 0)
        total["symbols"][name] = None if n is None or before is None else before + n


def empty():
    return {"bytes": 0, "lines": 0, "words": 0, "headings": 0, "symbols": {}}


def main(arguments):
    per_file = "--files" in arguments
    roots = [argument for argument in arguments if argument != "--files"]
    if len(roots) != 1:
        sys.exit(__doc__)
    sys.setrecursionlimit(10_000)
    files, totals, kinds = 0, empty(), {}
    for path, data in walk(os.fsencode(roots[0])):
        if files == MAX_FILES:
            break
        files += 1
        kind, counts = count(path, data)
        add(totals, counts)
        of_kind = kinds.setdefault(kind, {"files": 0, "counts": empty()})
        of_kind["files"] += 1
        add(of_kind["counts"], counts)
        if per_file:
            print(json.dumps({"path": path.decode(), "kind": kind, "counts": counts}))
    if not per_file:
        print(json.dumps({"files": files, "totals": totals, "kinds": kinds}, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1:])
