import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { test } from "node:test";
import { listen, TOKEN } from "./server.js";

const program = `
  import { connect } from "${new URL("../mesherstream.js", import.meta.url)}";
  const seen = [];
  const stream = connect(process.argv[1], {
    filters: { level: "error" },
    minDelay: 1,
    onstate: (state, info) => seen.push([state, info?.code ?? 0]),
  });
  seen.push(await stream.setFilters({ environment: "production" }));
  for await (const { data, gap } of stream) {
    seen.push(gap ? ["gap", gap.dropped] : typeof data === "string" ? data : [...new Uint8Array(data)]);
    if (seen.at(-1) === "last") stream.close(4000, "enough");
  }
  console.log(JSON.stringify(seen));
`;

// Node has a WebSocket of its own since 22, and since 20.10 behind a flag that later ones accept too.
test("works with the WebSocket of Node itself", async (t) => {
  const server = await listen(t);
  const flags = ["--experimental-websocket", "--no-warnings", "--input-type=module"];
  const child = promisify(execFile)(process.execPath, [...flags, "-e", program, server.url], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
  });
  const first = await server.accept({ window: 2 });
  assert.equal(first.query, "?level=error");
  assert.equal((await first.received.take()).type, "subscribe");
  first.ws.close(1012, "retry_after_ms=1");

  const second = await server.accept({ window: 2 });
  assert.equal(second.query, "?level=error");
  await second.answer(4);
  // The loop begins when the answer has arrived, which is acknowledged.
  for (let acks = 0; acks < 2; ) if ((await second.received.take()).type === "ack") acks++;
  second.send({ type: "gap", stream: TOKEN, dropped: 9, by_level: {}, since: 0, until: 0 });
  second.ws.send(Buffer.from([1, 2]));
  second.ws.send("last");
  assert.deepEqual(await second.closed, { code: 4000, reason: "enough" });
  assert.deepEqual(JSON.parse((await child).stdout), [
    ["connecting", 0],
    ["open", 0],
    ["waiting", 1012],
    ["connecting", 0],
    ["open", 0],
    { filters: { level: [], environment: ["production"] }, filtered: 4 },
    ["gap", 9],
    [1, 2],
    "last",
    ["closed", 4000],
  ]);
});
