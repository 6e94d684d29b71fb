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
  while ((await second.received.take()).type !== "ack");
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

const refused = `
  import { connect } from "${new URL("../mesherstream.js", import.meta.url)}";
  connect(process.argv[1], { minDelay: 1, maxDelay: 1, onstate: (...change) => console.log(JSON.stringify([change[0], change[1] ?? null])) });
`;

// In Node 22, no close follows a handshake that failed.
test("learns with the WebSocket of Node itself why a handshake failed", async (t) => {
  const server = await listen(t);
  server.refuse = 401;
  const flags = ["--experimental-websocket", "--no-warnings", "--input-type=module"];
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, "-e", refused, server.url], { timeout: 60_000 });
  assert.deepEqual(stdout.trim().split("\n").map(JSON.parse), [
    ["connecting", null],
    ["closed", { code: 1006, reason: "HTTP 401", status: 401 }],
  ]);
  assert.equal(server.attempts, 1);
});
