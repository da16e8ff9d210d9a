"""Hosts an agent with the Synadia Agent Protocol's own host: it says its prompt in capitals, word by word. host.py OWNER SESSION"""

import asyncio
import os
import sys

import nats
from synadia_ai.agent_service import AgentService, RequestRejectedError


async def shout(envelope, stream) -> None:
    if envelope.prompt == "fail":
        raise RuntimeError("it can't be done")
    for word in envelope.prompt.split():
        await stream.send(word.upper() + " ")
    await stream.send(str(envelope.extras["selvedge"]["depth"]))


class LaterOnce:
    refused = False

    async def around_request(self, _context, call_next) -> None:
        if not self.refused:
            self.refused = True
            raise RequestRejectedError(429, "later")
        await call_next()


async def main(owner: str, session: str) -> None:
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    service = AgentService(agent="shouter", owner=owner, session_name=session, nc=nc, interceptors=[LaterOnce()])
    service.on_prompt(shout)
    await service.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:3]))
