"""Runs plans with the websockets package: one JSON line in for each connection, one out when it has ended."""

import asyncio
import hashlib
import json
import ssl
import sys

import websockets


async def main():
    running = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


async def answer(plan):
    report = {"id": plan["id"], "answer": "", "pong": "", "counts": {}, "code": 0, "reason": "", "error": ""}
    try:
        await run(plan, report)
    except Exception as err:
        report["error"] = repr(err)
    print(json.dumps(report), flush=True)


async def run(plan, report):
    secure = ssl.create_default_context(cafile=plan["ca"]) if plan["ca"] else None
    ws = await websockets.connect(plan["url"], ssl=secure, max_size=None, max_queue=None)
    if plan["send"]:
        await ws.send(plan["send"])
        report["answer"] = await ws.recv()
    pong = await ws.ping(plan["ping"]) if plan["ping"] else None

    digest, messages = bytes(32), 0
    try:
        while messages < plan["after"] or not (plan["close"] or plan["vanish"]):
            data = await ws.recv()
            kind, data = ("text", data.encode()) if isinstance(data, str) else ("binary", data)
            key = f"{kind} {len(data)}"
            report["counts"][key] = report["counts"].get(key, 0) + 1
            digest = hashlib.sha256(digest + kind.encode() + data).digest()
            messages += 1
        if plan["vanish"]:
            ws.transport.abort()
        else:
            await ws.close(plan["close"]["code"], plan["close"]["reason"])
    except websockets.ConnectionClosed:
        pass
    if pong is not None and pong.done() and not pong.exception():
        report["pong"] = plan["ping"]  # the library has compared the payloads
    await ws.wait_closed()
    report["digest"] = digest.hex()
    report["code"], report["reason"] = ws.close_code, ws.close_reason


asyncio.run(main())
