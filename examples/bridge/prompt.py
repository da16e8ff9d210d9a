"""Prompts an agent of a Selvedge fabric with the Synadia Agent Protocol's own client: prompt.py OWNER SESSION TEXT."""

import asyncio
import json
import os
import sys

import nats
from synadia_ai.agents import Agents, ProtocolError


async def main(owner: str, session: str, text: str) -> None:
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    agents = Agents(nc=nc)
    found = [a for a in await agents.discover() if (a.owner, a.session_name) == (owner, session)]
    if not found:
        sys.exit(f"{owner}/{session} is not there")
    [agent] = found
    status = await agent.status()
    print(json.dumps({"found": agent.prompt_subject, "status": status.session}), flush=True)
    try:
        async for message in agent.prompt(text):
            print(json.dumps({type(message).__name__: getattr(message, "text", getattr(message, "status", None))}))
    except ProtocolError as error:
        print(json.dumps({"error": str(error)}))
    await agents.close()
    await nc.close()


asyncio.run(main(*sys.argv[1:4]))
