#!/usr/bin/env python3
"""Folds the journal and compares the outcome with the index in Redis, field by field and set by set.

Shares no code with the Rust: it speaks MessagePack and RESP itself, and knows the records from the journal alone. Where the
journal has lost its beginning it starts from the newest snapshot, and knows what ended before from the archive.
Needs nats-py (examples/requirements.txt).

    python3 tests/index_check.py NATS_URL REDIS_URL     one line of JSON; exits 1 if anything differs
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys
from urllib.parse import urlparse

import nats

TERMINAL = {"completed", "failed", "cancelled", "expired", "rejected"}
KEEP_FAILURES = 10


def unpack(data, at=0):
    """One MessagePack value and where it ends."""
    tag = data[at]
    at += 1

    def number(fmt):
        nonlocal at
        (value,) = struct.unpack_from(">" + fmt, data, at)
        at += struct.calcsize(fmt)
        return value

    def text(n, raw=False):
        nonlocal at
        piece = data[at:at + n]
        at += n
        return bytes(piece) if raw else piece.decode()

    def several(n):
        nonlocal at
        items = []
        for _ in range(n):
            item, at = unpack(data, at)
            items.append(item)
        return items

    def pairs(n):
        flat = several(2 * n)
        return dict(zip(flat[::2], flat[1::2]))

    if tag <= 0x7F:
        return tag, at
    if tag >= 0xE0:
        return tag - 256, at
    if tag >> 4 == 0x8:
        return pairs(tag & 15), at
    if tag >> 4 == 0x9:
        return several(tag & 15), at
    if tag >> 5 == 0b101:
        return text(tag & 31), at
    simple = {0xC0: None, 0xC2: False, 0xC3: True}
    if tag in simple:
        return simple[tag], at
    numbers = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
    if tag in numbers:
        value = number(numbers[tag])
        return value, at
    lengths = {0xC4: "B", 0xC5: "H", 0xC6: "I", 0xD9: "B", 0xDA: "H", 0xDB: "I", 0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}
    n = number(lengths[tag])
    if tag in (0xC4, 0xC5, 0xC6):
        value = text(n, raw=True)
    elif tag in (0xD9, 0xDA, 0xDB):
        value = text(n)
    elif tag in (0xDC, 0xDD):
        value = several(n)
    else:
        value = pairs(n)
    return value, at


class Redis:
    """Just enough RESP."""

    def __init__(self, url):
        url = urlparse(url)
        self.file = socket.create_connection((url.hostname, url.port or 6379), 10).makefile("rwb")

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
        self.file.flush()
        return self.answer()

    def answer(self):
        line = self.file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]


class Fold:
    """Tasks as the records make them."""

    def __init__(self):
        self.tasks = {}
        self.tombstones = {}

    def message(self, message):
        self.wall = message["wall"]
        for record in message["records"]:
            kind, body = (record, {}) if isinstance(record, str) else next(iter(record.items()))
            act = getattr(self, kind, None)
            if act:
                act(**body)

    def archived(self, view, result):
        """A task that ended, as the archive has it."""
        refusal = view.get("refusal")
        self.tasks[view["tenant"], view["task"]] = {
            "agent": view["agent"], "state": view["state"], "priority": view.get("priority", "normal"),
            "parent": view.get("parent"), "root": view["root"], "depth": view.get("depth", 0),
            "attempt": view.get("attempt", 0), "tries": view.get("tries", 0), "instance": None,
            "created": view["created_at"], "started": view.get("started_at"), "ended": view["ended_at"],
            "refusal": refusal and refusal["code"], "failures": view.get("failures", []),
            "retry_of": view.get("retry_of"), "last_event": view.get("last_event", 0),
            "body_hash": view.get("body_hash"), "labels": view.get("labels", {}), "result": result,
            "awaits": None, "news": False,
        }

    def restored(self, tenant, agent, task):
        """A task as a snapshot has it: fields without names, what most tasks lack in two lists that may be absent."""
        (_, id, _, body_hash, _, priority, _, state, _, _, _, created, ended, _, _, news, tombstone, _, ran, more) = task[:20]
        if tombstone:
            return
        attempt, tries, _, last_event, started, lease, _ = ran or [0, 0, 0, 0, None, None, None]
        child, retry_of, _, _, awaits, _, failures, refusal, *rest = more or [None, None, [], 0, [], [], [], None]
        labels = rest[5] if len(rest) > 5 else None
        parent, _, _, root, depth = child or [None, None, None, id, 0]
        before = self.tasks.get((tenant, id), {})
        self.tasks[tenant, id] = {
            "agent": agent, "state": state, "priority": priority, "parent": parent, "root": root, "depth": depth,
            "attempt": attempt, "tries": tries, "instance": lease and lease[1], "created": created,
            "started": started if attempt else None, "ended": ended or None, "refusal": refusal and refusal[0],
            "failures": [dict(zip(("attempt", "at", "code", "message"), failure)) for failure in failures],
            "retry_of": retry_of, "last_event": last_event, "body_hash": body_hash, "labels": labels or {},
            "result": before.get("result"), "awaits": set(awaits) if state == "waiting" and awaits else None, "news": news,
        }

    def at(self, key):
        return self.tasks[key["tenant"], key["id"]]

    def submitted(self, tenant, admission):
        self.admit(tenant, admission)

    def spawned(self, key, token, n, children):
        for child in children:
            self.admit(key["tenant"], child)

    def admit(self, tenant, admission):
        spec, origin, refusal = admission["spec"], admission["origin"], admission.get("refusal")
        kind, about = next(iter(origin.items()))
        state = "queued"
        if refusal:
            state = {"CANCELLED": "cancelled", "DEADLINE_EXCEEDED": "expired", "TTL_EXPIRED": "expired"}.get(
                refusal["code"], "rejected")
        task = {
            "agent": spec["agent"], "state": state, "priority": spec.get("priority", "normal"),
            "parent": about.get("parent"), "root": about.get("root", admission["task"]), "depth": about.get("depth", 0),
            "attempt": 0, "tries": 0, "instance": None, "created": self.wall, "started": None,
            "ended": self.wall if state in TERMINAL else None, "refusal": refusal and refusal["code"],
            "failures": [], "retry_of": about.get("retry_of"), "last_event": 0, "body_hash": admission["body_hash"],
            "labels": spec.get("labels") or {}, "result": None, "awaits": None, "news": False,
        }
        self.tasks[tenant, admission["task"]] = task
        if state in TERMINAL and task["parent"]:
            parent = self.tasks.get((tenant, task["parent"]))
            if parent:
                parent["news"] = True

    def dispatched(self, key, attempt, instance, **_):
        task = self.at(key)
        task.update(state="running", attempt=attempt, instance=instance)
        if task["started"] is None:
            task["started"] = self.wall

    def end(self, key, task, state):
        task.update(state=state, ended=self.wall, instance=None, awaits=None)
        parent = self.tasks.get((key["tenant"], task["parent"]))
        if parent and parent["awaits"] is not None:
            parent["awaits"].discard(key["id"])
            if not parent["awaits"] and parent["state"] == "waiting":
                parent.update(state="queued", awaits=None)

    def fail(self, key, task, failure):
        task["instance"] = None
        task["tries"] = failure["tries"]
        task["failures"] = (task["failures"] + [failure["what"]])[-KEEP_FAILURES:]
        if failure["next"] == "dead":
            task["refusal"] = failure["what"]["code"]
            self.end(key, task, "failed")
        else:
            task["state"] = "retrying"

    def withdrawn(self, key, failure=None, **_):
        task = self.at(key)
        task["instance"] = None
        if failure:
            self.fail(key, task, failure)
        else:
            task["state"] = "queued"

    def lease_lost(self, key, failure, **_):
        self.fail(key, self.at(key), failure)

    timed_out = lease_lost

    def ended(self, key, last_event, outcome, failure=None, **_):
        task = self.at(key)
        task.update(instance=None, last_event=last_event)
        kind, about = next(iter(outcome.items()))
        if failure:
            self.fail(key, task, failure)
        elif kind == "completed":
            task["result"] = about.get("result")
            self.end(key, task, "completed")
        elif kind in ("snooze", "failed"):
            task["state"] = "waiting"
        else:
            mine = [id for (tenant, id), child in self.tasks.items()
                    if tenant == key["tenant"] and child["parent"] == key["id"] and child["state"] not in TERMINAL]
            wanted = mine if about == "all_children" else [id for id in about["children"] if id in mine]
            task["awaits"] = set(wanted)
            task["state"] = "waiting" if wanted else "queued"
            if not wanted:
                task["awaits"] = None

    def woken(self, key):
        self.at(key)["state"] = "queued"

    def below(self, key):
        """The task and its tree, deepest last."""
        found = [key["id"]]
        for id in found:
            found += [child for (tenant, child), task in self.tasks.items()
                      if tenant == key["tenant"] and task["parent"] == id]
        return [{"tenant": key["tenant"], "id": id} for id in found]

    def cancelled(self, key, reason):
        if (key["tenant"], key["id"]) not in self.tasks:
            return
        self.cut(key, "cancelled", "CANCELLED")

    def expired(self, key, refusal):
        self.cut(key, "expired", refusal["code"])

    def cut(self, key, state, code):
        for one in self.below(key):
            task = self.at(one)
            if task["state"] not in TERMINAL:
                task["refusal"] = code
                self.end(one, task, state)


async def messages(js, stream, after=0):
    """Every message of a stream behind a sequence, in order."""
    state = (await js.stream_info(stream)).state
    for seq in range(max(1, state.first_seq, after + 1), state.last_seq + 1):
        try:
            yield await js.get_msg(stream, seq)
        except nats.js.errors.NotFoundError:
            continue


async def journal(url):
    """Every task as the journal makes it, and the results that are kept beside the index."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    fold, after = Fold(), 0
    if (await js.stream_info("JOURNAL")).state.first_seq > 1:
        async for message in messages(js, "ARCHIVE"):
            for ended in unpack(message.data)[0]["tasks"]:
                fold.archived(ended["view"], ended.get("result"))
        after = await snapshot(js, fold)
    async for found in messages(js, "JOURNAL", after):
        message, end = unpack(found.data)
        assert end == len(found.data), "bytes behind a message"
        fold.message(message)
    results = {}
    async for found in messages(js, "RESULTS"):
        tenant, task = found.subject.split(".")[2:]
        results[tenant, task], _ = unpack(found.data)
    await nc.close()
    return fold.tasks, results


async def snapshot(js, fold):
    """Begins with the newest snapshot; gives the sequence of the last message in it."""
    newest, stored = None, {}
    async for message in messages(js, "SNAPSHOTS"):
        stored[message.seq] = message.data
        if message.subject.endswith(".manifest"):
            assert hashlib.sha256(message.data[32:]).digest() == message.data[:32], "a broken manifest"
            manifest, _ = unpack(message.data, 32)
            if newest is None or manifest["about"]["rev"] > newest["about"]["rev"]:
                newest = manifest
    assert newest, "the journal has no beginning, and there is no snapshot"
    run = b"".join(stored[chunk["seq"]] for chunk in newest["chunks"])
    tenants, agents, tasks, at = {}, {}, [], 0
    while at < len(run):
        (length,) = struct.unpack_from(">I", run, at)
        part, at = run[at + 4:at + 4 + length], at + 4 + length
        inside = 0
        while inside < len(part):
            entry, inside = unpack(part, inside)
            kind, about = next(iter(entry.items()))
            if kind == "t":
                tasks.append(about)
            elif kind in ("n", "a"):
                # A map where something may be left out, an array otherwise.
                number, name = (about["number"], about["name"]) if isinstance(about, dict) else about[:2]
                (tenants if kind == "n" else agents)[number] = name
    for task in tasks:
        fold.restored(tenants[task[0]], agents[task[2]], task)
    return newest["about"]["seq"]


def index(redis, results):
    """Every task in the index, and every set."""
    tasks, sets, cursor = {}, {}, b"0"
    while True:
        cursor, keys = redis("SCAN", cursor, "MATCH", "sv:{*}:i:*", "COUNT", 1000)
        for key in keys:
            tenant, _, kind = key.decode()[len("sv:{"):].partition("}:i:")
            if redis("TYPE", key) == b"zset":
                sets[tenant, kind] = {member.decode() for member in redis("ZRANGE", key, 0, -1)}
            elif kind == "t":
                flat = redis("HGETALL", key)
                for id, record in zip(flat[::2], flat[1::2]):
                    tasks[tenant, id.decode()] = read(redis, results, tenant, id.decode(), record)
        if cursor == b"0":
            return tasks, sets


def read(redis, results, tenant, id, record):
    """A record: its header, its result, the rest."""
    line, _, body = record.partition(b"\n")
    rev, state, agent, root, parent, created, ended, at = line.decode().split(" ")
    root = id if root == "-" else root
    result = None
    if at == "o":
        # Compared where it is kept.
        result = results.get((tenant, id))
    elif at == "x":
        result, _ = unpack(redis("HGET", "sv:{%s}:i:x" % tenant, id))
    elif at != "-":
        result, _ = unpack(body[:int(at)])
        body = body[int(at):]
    rest, end = unpack(body)
    assert end == len(body), "bytes behind a record"
    refusal = rest.get("r")
    return {
        "agent": agent, "state": state, "priority": rest.get("p", "normal"),
        "parent": {"-": None, "=": root}.get(parent, parent), "root": root, "depth": rest.get("d", 0),
        "attempt": rest.get("a", 0), "tries": rest.get("t", 0), "instance": rest.get("i"), "created": int(created, 16),
        "started": rest.get("s"), "ended": int(ended) or None, "refusal": refusal and refusal["code"],
        "failures": rest.get("f", []), "retry_of": rest.get("o"), "last_event": rest.get("e", 0),
        "body_hash": rest.get("h"), "labels": rest.get("b", {}), "result": result,
    }


def sets_of(tasks):
    """The sets that these tasks should be in."""
    sets = {}
    trees = {}
    for (tenant, id), task in tasks.items():
        trees.setdefault((tenant, task["root"]), set()).add(id)
    for (tenant, id), task in tasks.items():
        member = "%011x%s" % (task["created"], id)
        put = lambda kind, what=member: sets.setdefault((tenant, kind), set()).add(what)
        put("s:" + task["state"])
        if task["state"] in TERMINAL:
            put("done", id)
        if task["state"] != "cancelled":
            put("shown")
            put("a:" + task["agent"])
            if task["parent"]:
                put("p:" + task["parent"])
            others = trees[tenant, task["root"]] - {id}
            if task["root"] != id or any(tasks[tenant, other]["state"] != "cancelled" for other in others):
                put("r:" + task["root"])
    return sets


def main():
    folded, results = asyncio.run(journal(sys.argv[1]))
    indexed, sets = index(Redis(sys.argv[2]), results)
    wrong = []
    for key in sorted(folded.keys() | indexed.keys()):
        mine, theirs = folded.get(key), indexed.get(key)
        if mine is None or theirs is None:
            wrong.append("%s/%s is in the %s only" % (*key, "index" if mine is None else "journal"))
            continue
        wrong += ["%s/%s: %s is %r, the index says %r" % (*key, name, mine[name], theirs[name])
                  for name in theirs if mine[name] != theirs[name]]
    expected = sets_of(folded)
    for key in sorted(expected.keys() | sets.keys()):
        more, less = sets.get(key, set()) - expected.get(key, set()), expected.get(key, set()) - sets.get(key, set())
        # A tree keeps its set when all but its root have been cancelled.
        if key[1].startswith("r:") and not less and len(more) == 1 and next(iter(more))[11:] == key[1][2:]:
            continue
        if more or less:
            wrong.append("set %s of %s: too many %s, missing %s" % (key[1], key[0], sorted(more)[:3], sorted(less)[:3]))
    print(json.dumps({"tasks": len(folded), "sets": len(expected), "wrong": wrong[:20]}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
