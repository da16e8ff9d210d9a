import asyncio, json, os, uuid, nats  # a whole worker without an SDK: docs/protocol.md; nats-py is all it needs

AGENT, ID, SLOTS, held = "shout", uuid.uuid4().hex, 4, {}  # held: lease token -> task that ends in its report

async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    say = lambda kind, **body: nc.publish(f"sv.{kind}.{AGENT}.{ID}", json.dumps(body).encode())

    async def run(token, offer):
        try: outcome = {"completed": {"result": offer["input"].upper()}}  # your code here
        except Exception as error: outcome = {"failed": {"message": repr(error)}}
        end = dict(token=token, attempt=offer["attempt"], agent=AGENT, instance=ID, n=1, op={"end": {"outcome": outcome}})
        report = f"sv.report.{offer['tenant']}.{offer['task']}", json.dumps(end).encode()
        return await nc.publish(*report) or report

    async def on_offer(msg):
        for offer in json.loads(msg.data)["offers"]:
            busy = (token := offer["token"]) not in held and sum(not task.done() for task in held.values()) >= SLOTS
            await say("accept", **{"busy" if busy else "taken": [token]}), await nc.flush()
            if not busy and token not in held: held[token] = asyncio.create_task(run(token, offer))

    async def on_ctl(msg):  # {"verdict": {"token": …}} or {"stop": {"token": …}}: the lease is over
        for op in json.loads(msg.data)["ops"]: held.pop(next(iter(op.values()))["token"], asyncio.Future()).cancel()

    async def beat(_=None):  # at start, every third of the lease, and when a new owner asks
        await say("beat", slots=SLOTS, tokens=[*held], lease_ms=15_000)
        for report in [task.result() for task in held.values() if task.done()]: await nc.publish(*report)

    for kind, hear in (f"offer.{AGENT}.{ID}", on_offer), (f"ctl.{AGENT}.{ID}", on_ctl), ("owner.*", beat):
        await nc.subscribe(f"sv.{kind}", cb=hear)
    while not await beat(): await asyncio.sleep(5)

asyncio.run(main())
