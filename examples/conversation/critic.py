"""An agent that is called and calls, without an SDK: docs/protocol.md, section 12. Python 3.11 and nats-py are all it needs.

It remarks on a draft, and asks the writer for another one until there is nothing left to remark on.
"""

import asyncio
import json
import os
import uuid

import nats

AGENT, INSTANCE, SLOTS = "critic", uuid.uuid4().hex, 8
FILLERS = {"very", "really", "quite", "rather", "just"}


async def criticise(call, draft):
    """What this agent does: the rest is the protocol."""
    filler = next((word for word in draft.split() if word in FILLERS), None)
    if filler is None:
        return draft
    await call.emit("remark", f"without {filler}")
    try:
        async for kind, data in call.ask("writer", {"text": draft, "without": filler}):
            if kind == "result":
                return data
            await call.emit(kind, data)
    except Refused as refused:
        if refused.code != "DEPTH_EXCEEDED":
            raise
        await call.emit("remark", "that is deep enough")
        return draft


class Refused(Exception):
    def __init__(self, code, message=""):
        super().__init__(f"{code}: {message}")
        self.code = code


class Call:
    """One call of this agent: its answer, and what its handler asks others."""

    def __init__(self, nc, call, inbox):
        self.nc, self.call, self.inbox = nc, call, inbox
        self.token, self.n, self.unheard = call["token"], 0, nc.new_inbox()

    async def say(self, op, count=1):
        self.n += count
        body = json.dumps({"n": self.n, "op": op}).encode()
        await self.nc.publish(self.inbox, body, reply=self.unheard)

    async def emit(self, kind, data):
        await self.say({"chunk": {"kind": kind, "data": data}})

    async def ask(self, agent, input):
        """Yields (kind, data) of each part of the answer, and ("result", …) last."""
        inbox, last = self.nc.new_inbox(), 0
        parts = await self.nc.subscribe(inbox)
        try:
            request = json.dumps({"input": input, "asker": self.token}).encode()
            await self.nc.publish(f"sv.subcall.{self.call['tenant']}.{agent}", request, reply=inbox)
            while True:
                try:
                    message = await parts.next_msg(timeout=10)
                except nats.errors.TimeoutError:
                    raise Refused("CALL_LOST", "no sign of life") from None
                if not message.data:  # status 503: nobody owns the shard
                    raise Refused("UNAVAILABLE", "try again in a second")
                part = json.loads(message.data)
                [(op, body)] = part["op"].items()
                if op == "failed":
                    raise Refused(body["code"], body.get("message", ""))
                if op == "alive" or part["n"] <= last:
                    continue
                last += 1
                if part["n"] != last:
                    raise Refused("CALL_LOST", f"part {last} is missing")
                if op == "end":
                    yield "result", body.get("result")
                    return
                yield body["kind"], body["data"]
        finally:  # gives the call up, if it is not over
            await parts.unsubscribe()

    async def alive(self):
        while True:
            await asyncio.sleep(2)
            await self.say({"alive": {}}, count=0)

    async def run(self):
        """The handler, to the end of its answer. Returns why there is none."""
        me = asyncio.current_task()

        async def gone(_):  # status 503: nobody listens at the caller's inbox any more
            me.cancel()

        unheard = await self.nc.subscribe(self.unheard, cb=gone)
        alive = asyncio.create_task(self.alive())
        try:
            async with asyncio.timeout(self.call["time_left_ms"] / 1000):
                await self.say({"end": {"result": await criticise(self, self.call["input"])}})
            return None
        except TimeoutError:
            code, message = "CALL_TIMEOUT", "it took too long"
        except Refused as refused:
            code, message = refused.code, str(refused)
        except Exception as error:
            code, message = "HANDLER_FAILED", repr(error)
        finally:
            alive.cancel()
            await unheard.unsubscribe()
        await self.say({"failed": {"code": code, "message": message}})
        return code


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    held = {}  # token -> (call, its task)

    async def say(kind, **body):
        await nc.publish(f"sv.{kind}.{AGENT}.{INSTANCE}", json.dumps(body).encode())

    async def run(call):
        try:
            code = await call.run()
        except asyncio.CancelledError:  # stopped, or nobody listens: nothing is said to the caller
            code = "CANCELLED"
        del held[call.token]
        await say("accept", over=[{"token": call.token} | ({"code": code} if code else {})])

    async def on_ctl(message):
        for op in json.loads(message.data)["ops"]:
            [(kind, body)] = op.items()
            token = body["token"]
            if kind == "stop" and token in held:
                held[token][1].cancel()
            elif kind == "call" and len(held) >= SLOTS:
                await say("accept", busy=[token])
            elif kind == "call":
                call = Call(nc, body, message.reply)
                held[token] = call, asyncio.create_task(run(call))
                await say("accept", taken=[token])

    async def on_offer(message):  # tasks: this agent takes calls only
        await say("accept", busy=[offer["token"] for offer in json.loads(message.data)["offers"]])

    async def beat(_=None):  # at start, every third of the lease, and when a new owner asks
        keys = "tenant", "token", "depth", "hops", "borrows"
        calls = [{key: call.call[key] for key in keys if key in call.call} for call, _ in held.values()]
        await say("beat", slots=SLOTS, tokens=[], lease_ms=15_000, calls=calls)

    for kind, hear in (f"offer.{AGENT}.{INSTANCE}", on_offer), (f"ctl.{AGENT}.{INSTANCE}", on_ctl), ("owner.*", beat):
        await nc.subscribe(f"sv.{kind}", cb=hear)
    while True:
        await beat()
        await asyncio.sleep(5)


asyncio.run(main())
