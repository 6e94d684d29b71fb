import assert from "node:assert/strict";
import { test } from "node:test";
import { follow, freeze, listen, reach, stopwatch, TOKEN } from "./server.js";

test("a loop gets what the callbacks get, in order", async (t) => {
  const server = await listen(t);
  const { stream } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const connection = await server.accept({});
  connection.ws.send("a");
  connection.ws.send(Buffer.from([7]));
  const time = "2026-11-25T18:00:00.000Z";
  connection.send({ type: "gap", stream: TOKEN, dropped: 2, by_level: { debug: 2 }, since: time, until: time });
  connection.ws.send("b");
  assert.deepEqual((await first).value, { type: "message", data: "a" });
  assert.deepEqual([...new Uint8Array((await loop.next()).value.data)], [7]);
  const gap = { dropped: 2, held: 0, byLevel: { debug: 2 }, since: new Date(time), until: new Date(time) };
  assert.deepEqual((await loop.next()).value, { type: "gap", gap });
  assert.deepEqual((await loop.next()).value, { type: "message", data: "b" });
});

test("a loop ends when the stream is closed and everything is taken", async (t) => {
  const server = await listen(t);
  for (const close of [(stream) => stream.close(), (stream, connection) => connection.ws.close(4000)]) {
    const { stream, states, items } = follow(t, server.url);
    const loop = stream[Symbol.asyncIterator]();
    const first = loop.next();
    const connection = await server.accept({});
    for (const text of ["a", "b", "c"]) connection.ws.send(text);
    while ((await items.take()) !== "c");
    close(stream, connection);
    await reach(states, "closed");
    const got = [(await first).value.data];
    for await (const item of loop) got.push(item.data);
    assert.deepEqual(got, ["a", "b", "c"]);
    for await (const item of stream) assert.fail(item);
  }
});

test("a loop that waits ends when the stream is closed", async (t) => {
  const server = await listen(t);
  const { stream } = follow(t, server.url);
  const end = (async () => {
    for await (const item of stream) assert.fail(item);
  })();
  await server.accept({});
  stream.close();
  await end;
});

test("there is one loop at a time", async (t) => {
  const server = await listen(t);
  const { stream } = follow(t, server.url);
  const connection = server.accept({});
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  await assert.rejects(stream[Symbol.asyncIterator]().next(), /another loop/);
  (await connection).ws.send("a");
  assert.equal((await first).value.data, "a");
  await loop.return();

  const second = stream[Symbol.asyncIterator]().next();
  (await connection).ws.send("b");
  assert.equal((await second).value.data, "b");
  assert.equal(stream.state, "open");
});

test("what a loop has not handled is not acknowledged", async (t) => {
  stopwatch(t);
  const server = await listen(t);
  const { stream, items } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const connection = await server.accept({ window: 4 }); // 1
  for (const text of ["a", "b", "c", "d"]) connection.ws.send(text); // 2 to 5
  while ((await items.take()) !== "d");
  await first; // a
  await loop.next(); // b, so a is handled
  assert.equal(await connection.waiting(), 0);
  await loop.next(); // c, so b is handled
  assert.deepEqual(await connection.received.take(), { type: "ack", n: 3 });
  await loop.next(); // d
  assert.equal(await connection.waiting(), 0);
  connection.ws.send("e"); // 6
  await items.take();
  await loop.return(); // and so nothing waits for the loop any more
  assert.deepEqual(await connection.received.take(), { type: "ack", n: 6 });
});

test("a slow loop makes the server hold back", async (t) => {
  const window = 16;
  const total = 2000;
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  let taken = 0;
  let ahead = 0;
  let sent = 0;
  const slow = (async () => {
    for await (const { data } of stream) {
      assert.equal(data, String(taken++));
      ahead = Math.max(ahead, sent - taken);
      if (taken % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      if (taken === total) break;
    }
  })();
  const connection = await server.accept({ window });
  await reach(states, "open");
  let acked = 0;
  while (sent < total) {
    // As the server does: the hello counts too.
    while (sent < total && sent + 1 - acked < window) connection.ws.send(String(sent++));
    if (sent < total) acked = (await connection.received.take()).n;
  }
  await slow;
  assert.ok(ahead > 0 && ahead < window, `the server was ${ahead} ahead`);
});

test("a loop that awaits setFilters gets its answer though the window is full", async (t) => {
  stopwatch(t);
  const server = await listen(t);
  const { stream, items } = follow(t, server.url);
  const got = [];
  const loop = (async () => {
    for await (const { data } of stream) {
      got.push(data);
      if (data === "a") got.push((await stream.setFilters({ level: "error" })).filtered);
      if (data === "c") break;
    }
  })();
  const connection = await server.accept({ window: 4 }); // 1
  for (const text of ["a", "b", "c"]) connection.ws.send(text); // 2 to 4
  while ((await items.take()) !== "c");
  assert.equal((await connection.received.take()).type, "subscribe");
  // The loop stands, so neither the message that it has taken nor what arrived after it is acknowledged.
  assert.equal(await connection.waiting(), 0);
  connection.send({ type: "filters_updated", stream: TOKEN, filters: {}, filtered: 3 });
  await loop;
  assert.deepEqual(got, ["a", 3, "b", "c"]);
});

test("without a window, a loop that stands still keeps the newest and is told of the others", async (t) => {
  const server = await listen(t);
  const { stream, items } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const connection = await server.accept({});
  connection.ws.send("taken");
  await first;
  const at = (year) => ({ since: new Date(Date.UTC(year)), until: new Date(Date.UTC(year + 1)) });
  connection.send({ type: "gap", stream: TOKEN, dropped: 5, by_level: { debug: 3, error: 1 }, ...at(2001) });
  for (let i = 0; i < 502; i++) connection.ws.send(String(i));
  connection.send({ type: "gap", stream: TOKEN, dropped: 2, by_level: { debug: 2 }, ...at(2098) });
  for (let i = 502; i < 1501; i++) connection.ws.send(String(i));
  while ((await items.take()) !== "1500");

  const { value } = await loop.next();
  assert.deepEqual(value, {
    type: "gap",
    gap: {
      dropped: 5 + 502 + 2,
      held: 0,
      byLevel: { debug: 5, error: 1 },
      since: new Date(Date.UTC(2001)),
      until: new Date(Date.UTC(2099)),
    },
  });
  for (let i = 502; i < 1501; i++) assert.equal((await loop.next()).value.data, String(i));
});

test("a message that the stream drops itself counts from when it arrived", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, items } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const connection = await server.accept({});
  connection.ws.send("taken");
  await first;
  for (let i = 0; i < 1002; i++) {
    connection.ws.send(String(i));
    if (i < 4) while ((await items.take()) !== String(i));
    tick(1000);
  }
  while ((await items.take()) !== "1001");
  const { gap } = (await loop.next()).value;
  assert.deepEqual(gap, { dropped: 3, held: 0, byLevel: {}, since: new Date(0), until: new Date(2000) });
});

test("a window of more than that is kept whole", async (t) => {
  const window = 1500;
  const server = await listen(t);
  const { stream, items } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const connection = await server.accept({ window });
  for (let i = 1; i < window; i++) connection.ws.send(String(i));
  while ((await items.take()) !== String(window - 1));
  assert.equal((await first).value.data, "1");
  for (let i = 2; i < window; i++) assert.equal((await loop.next()).value.data, String(i));
});

test("connections that come and go leave a loop that stands still no more than its bound", async (t) => {
  stopwatch(t);
  const window = 600;
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url, { minDelay: 1 });
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  for (let i = 0; i < 3; i++) {
    const connection = await server.accept({ window });
    await reach(states, "open");
    for (let j = 1; j < window; j++) connection.ws.send(`${i} ${j}`);
    while ((await items.take()) !== `${i} ${window - 1}`);
    if (i) assert.equal(await connection.waiting(), 0);
    if (i < 2) connection.lose();
    else {
      // What older connections brought comes first, and is not acknowledged on this one.
      await first;
      const { value } = await loop.next();
      assert.equal(value.gap.dropped, 3 * 599 - 1 - 999);
      for (let k = 0; k < 400; k++) await loop.next();
      assert.equal(await connection.waiting(), 0);
      for (let k = 0; k < 300; k++) await loop.next();
      assert.equal(await connection.waiting(), 0);
      await loop.next(); // and so the 300th message of this connection is handled
      assert.deepEqual(await connection.received.take(), { type: "ack", n: 301 });
    }
  }
});
