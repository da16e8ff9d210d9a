"""A whole worker without an SDK: leases, heartbeats, reports until their verdict. See docs/protocol.md."""
import asyncio, json, os, uuid, nats  # python3 -m pip install -r examples/requirements.txt

AGENT, ID, SLOTS, held = "shout", uuid.uuid4().hex, 4, {}  # held: lease token -> its task, then its report

async def work(text):  # your code here
    return text.upper()

async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    say = lambda kind, **body: nc.publish(f"sv.{kind}.{AGENT}.{ID}", json.dumps(body).encode())
    async def run(token, o):
        try: outcome = {"completed": {"result": await work(o["input"])}}
        except Exception as error: outcome = {"failed": {"message": repr(error)}}
        end = dict(token=token, attempt=o["attempt"], agent=AGENT, instance=ID, n=1, op={"end": {"outcome": outcome}})
        held[token] = f"sv.report.{o['tenant']}.{o['task']}", json.dumps(end).encode()
        await nc.publish(*held[token])
    async def on_offer(msg):
        token = (offer := json.loads(msg.data))["token"]
        busy = token not in held and sum(type(h) is not tuple for h in held.values()) >= SLOTS
        await say("accept", **{"busy" if busy else "taken": [token]}), await nc.flush()
        if not busy and token not in held: held[token] = asyncio.create_task(run(token, offer))
    async def on_ctl(msg):  # {"verdict": {"token": …}} or {"stop": {"token": …}}: the lease is over
        for over in json.loads(msg.data)["op"].values():
            if type(gone := held.pop(over["token"], None)) is asyncio.Task: gone.cancel()
    async def beat(_=None):  # at start, every third of the lease, and when a new owner asks
        await say("beat", slots=SLOTS, tokens=[*held], lease_ms=15_000)
        for report in [h for h in held.values() if type(h) is tuple]: await nc.publish(*report)
    for subject, hear in (f"sv.offer.{AGENT}.{ID}", on_offer), (f"sv.ctl.{AGENT}.{ID}", on_ctl), ("sv.owner.*", beat):
        await nc.subscribe(subject, cb=hear)
    while not await beat(): await asyncio.sleep(5)

asyncio.run(main())
