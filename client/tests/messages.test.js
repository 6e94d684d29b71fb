import assert from "node:assert/strict";
import { test } from "node:test";
import { catching } from "./page.js";
import { follow, listen, reach, settled, TOKEN } from "./server.js";

test("delivers what the application sends untouched and in order", async (t) => {
  const server = await listen(t);
  const { items } = follow(t, server.url);
  const connection = await server.accept({});
  const texts = ["plain", "", '{"n":1}', " {}", '{"type":"event","n":2}', '{"type":"', "{", "ünï\u0000"];
  for (const text of texts) connection.ws.send(text);
  connection.ws.send(Buffer.from([0, 1, 255]));
  for (const text of texts) assert.equal(await items.take(), text);
  const binary = await items.take();
  assert.ok(binary instanceof ArrayBuffer);
  assert.deepEqual([...new Uint8Array(binary)], [0, 1, 255]);
});

test("passes the event along", async (t) => {
  const server = await listen(t);
  const got = new Promise((resolve) => follow(t, server.url, { onmessage: (data, event) => resolve([data, event.data]) }));
  (await server.accept({})).ws.send("x");
  assert.deepEqual(await got, ["x", "x"]);
});

test("takes nothing of the application for the protocol's", async (t) => {
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const filters = settled(stream.setFilters({ level: "error" }));
  await connection.received.take();
  const spoofs = [
    '{"type":"gap","stream":"aaaaaaaa","dropped":5}',
    '{"type":"gap","dropped":5}',
    '{"type":"filters_updated","filters":{},"filtered":0}',
    '{"type":"error","stream":null,"code":"not_granted"}',
    '{"type":"hello","stream":"aaaaaaaa","id":1}',
    // Even those that know the token, as a test can.
    `{"type":"gap","data":{"stream":"${TOKEN}"},"dropped":5}`,
    `{"type":"gap","stream":["${TOKEN}"],"dropped":5}`,
    `{"type":"gap","stream":"${TOKEN} ","dropped":5}`,
    `{"type":"gap","stream":"${TOKEN}"`,
    `["gap","${TOKEN}"]`,
    TOKEN,
  ];
  for (const spoof of spoofs) connection.ws.send(spoof);
  connection.ws.send(Buffer.from(`{"type":"gap","stream":"${TOKEN}","dropped":5}`));
  for (const spoof of spoofs) assert.equal(await items.take(), spoof);
  assert.ok((await items.take()) instanceof ArrayBuffer);

  connection.send({ type: "filters_updated", stream: TOKEN, filters: {}, filtered: 7 });
  assert.deepEqual(await filters, { filters: {}, filtered: 7 });
});

test("knows only the token of this connection", async (t) => {
  const server = await listen(t);
  const { states, items } = follow(t, server.url, { minDelay: 1 });
  const first = await server.accept({ stream: "first" });
  await reach(states, "open");
  first.lose();
  const second = await server.accept({ stream: "second" });
  second.send({ type: "gap", stream: "first", dropped: 1 });
  second.send({ type: "gap", stream: "second", dropped: 2 });
  assert.match(await items.take(), /"first"/);
  assert.equal((await items.take()).dropped, 2);
});

test("doesn't parse what the application sends", async (t) => {
  const server = await listen(t);
  const { states, items } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const parse = t.mock.method(JSON, "parse");
  for (const text of ['{"type":"event","n":1}', '{"n":1}', `text with ${TOKEN}`]) {
    connection.ws.send(text);
    assert.equal(await items.take(), text);
  }
  assert.equal(parse.mock.callCount(), 0);
});

test("tells of a gap in its position", async (t) => {
  const server = await listen(t);
  const { items } = follow(t, server.url);
  const connection = await server.accept({});
  connection.ws.send("before");
  connection.send({
    type: "gap",
    stream: TOKEN,
    dropped: 137,
    by_level: { debug: 130, error: 7 },
    since: "2026-11-25T18:00:00.123Z",
    until: "2026-11-25T18:00:04.001Z",
  });
  connection.ws.send("after");
  assert.equal(await items.take(), "before");
  assert.deepEqual(await items.take(), {
    dropped: 137,
    held: 0,
    byLevel: { debug: 130, error: 7 },
    since: new Date("2026-11-25T18:00:00.123Z"),
    until: new Date("2026-11-25T18:00:04.001Z"),
  });
  assert.equal(await items.take(), "after");
});

test("keeps messages of the protocol to itself that it doesn't know", async (t) => {
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const filters = settled(stream.setFilters({}));
  await connection.received.take();
  connection.send({ type: "news", stream: TOKEN });
  connection.send({ type: "filters_updated", stream: TOKEN, filters: {}, filtered: 1 });
  connection.send({ type: "filters_updated", stream: TOKEN, filters: {}, filtered: 2 }); // nobody asked
  connection.ws.send("next");
  assert.equal(await items.take(), "next");
  assert.deepEqual(await filters, { filters: {}, filtered: 1 });
});

test("reports what a callback throws, and goes on", async (t) => {
  const server = await listen(t);
  const uncaught = catching(t);
  const { states, items } = follow(t, server.url, {
    onmessage(data) {
      items.put(data);
      throw new Error("from onmessage");
    },
    ongap() {
      throw new Error("from ongap");
    },
    onstate(state) {
      states.put({ state });
      throw new Error("from onstate " + state);
    },
  });
  const connection = await server.accept({ window: 2 });
  await reach(states, "open");
  connection.send({ type: "gap", stream: TOKEN, dropped: 1 });
  connection.ws.send("a");
  connection.ws.send("b");
  assert.equal(await items.take(), "a");
  assert.equal(await items.take(), "b");
  for (const n of [2, 3, 4]) assert.deepEqual(await connection.received.take(), { type: "ack", n });
  assert.deepEqual(uncaught, [
    "from onstate connecting",
    "from onstate open",
    "from ongap",
    "from onmessage",
    "from onmessage",
  ]);
});

test("tells why messages are missing, and that only a bound of their number is known", async (t) => {
  const server = await listen(t);
  const { items } = follow(t, server.url);
  const connection = await server.accept({});
  const at = { since: 0, until: 1000 };
  connection.send({ type: "gap", stream: TOKEN, reason: "away", at_most: 12, ...at });
  assert.deepEqual(await items.take(), { reason: "away", atMost: 12, held: 0, byLevel: {}, since: new Date(0), until: new Date(1000) });
});

test("a bound is known of messages that a loop misses together with a gap that is only bounded", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({ window: 0 });
  await reach(states, "open");
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.ws.send("taken");
  await first;
  connection.send({ type: "gap", stream: TOKEN, reason: "slow", at_most: 7, since: 0, until: 0 });
  for (let i = 0; i < 1000; i++) connection.ws.send(String(i));
  await connection.waiting();
  const { gap } = (await loop.next()).value;
  assert.deepEqual([gap.reason, gap.dropped, gap.atMost], ["slow", undefined, 8]);
});
