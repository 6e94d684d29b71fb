import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "./lockstep.js";
import { follow, freeze, listen, reach, settled, TOKEN, turns } from "./server.js";

test("setFilters resolves with what the server answers", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const change = stream.setFilters({ level: "error", environment: ["production", "", "staging"] });
  assert.deepEqual(await connection.answer(12), { level: ["error"], environment: ["production", "staging"] });
  assert.deepEqual(await change, {
    filters: { level: ["error"], environment: ["production", "staging"] },
    filtered: 12,
  });
});

test("setFilters rejects with the server's code", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const change = assert.rejects(stream.setFilters({ level: "secret" }), {
    name: "Error",
    code: "not_granted",
    message: "mesherstream: because",
  });
  await connection.refuse("not_granted");
  await change;
  assert.equal(stream.state, "open");
  const another = stream.setFilters({ level: "error" });
  await connection.answer(1);
  assert.equal((await another).filtered, 1);
});

test("setFilters rejects filters that have another form, without asking", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const wrong = [
    ...[{ levels: "error" }, { level: 1 }, { level: ["a", null] }, { level: [["a"]] }, { environment: { a: 1 } }],
    ...[null, undefined, "", "error", 5, [], ["error"], () => {}, new Map([["level", "error"]]), new Set(["error"])],
    ...[Promise.resolve({ level: "error" }), new URLSearchParams("level=error")], // no names, so they would accept all
  ];
  for (const filters of wrong) {
    await assert.rejects(stream.setFilters(filters), { name: "TypeError", code: "malformed" }, String(filters));
  }
  assert.equal(await connection.waiting(), 0);
});

test("setFilters doesn't hold on to the caller's lists", async (t) => {
  const server = await listen(t);
  const { stream } = follow(t, server.url);
  const level = ["error"];
  const change = stream.setFilters({ level });
  level.push("debug");
  const connection = await server.accept({});
  assert.deepEqual((await connection.answer()).level, ["error"]);
  await change;
});

test("quick calls become few requests, of which the last wins", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const changes = [];
  const order = [];
  for (let i = 0; i < 100; i++) {
    changes.push(stream.setFilters({ level: `l${i}` }));
    changes[i].then(() => order.push(i));
  }
  await connection.answer(1);
  assert.deepEqual((await changes[0]).filters.level, ["l0"]);
  tick(99);
  assert.equal(await connection.waiting(), 0);
  tick(1);
  await connection.answer(2);
  for (const change of changes.slice(1)) assert.deepEqual((await change).filters.level, ["l99"]);
  assert.deepEqual(order, [...order.keys()]);
});

test("one request is on its way at a time", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const changes = [stream.setFilters({ level: "a" })];
  tick(100);
  changes.push(stream.setFilters({ level: "b" }));
  tick(100);
  assert.equal(await connection.waiting(), 1);
  assert.deepEqual((await connection.answer(1)).level, ["a"]);
  assert.deepEqual((await connection.answer(2)).level, ["b"]); // which the answer let go
  assert.deepEqual(await Promise.all(changes.map(async (change) => (await change).filtered)), [1, 2]);
});

test("calls that are overtaken share the later one's refusal", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url, { filters: { level: "start" } });
  const connection = await server.accept({});
  await reach(states, "open");
  const changes = ["a", "b", "c"].map((level) => settled(stream.setFilters({ level })));
  await connection.answer();
  await changes[0];
  tick(100);
  await connection.refuse("invalid_filter");
  assert.equal(await changes[1], "invalid_filter");
  assert.equal(await changes[2], "invalid_filter");

  connection.lose(); // the one that was granted is still in force
  await reach(states, "waiting");
  tick(1000);
  assert.equal((await server.accept()).query, "?level=a");
});

test("a loop of setFilters stays under twenty requests a second", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  let done = 0;
  (async () => {
    for (;;) {
      await stream.setFilters({ level: `l${done}` });
      done++;
    }
  })().catch(() => {});
  for (let ms = 0; ms < 1000; ms += 100) {
    await connection.answer();
    while (done <= ms / 100) await turns();
    assert.equal(await connection.waiting(), 0);
    tick(100);
  }
  assert.equal(done, 10);
});

test("requests on a new connection are kept apart from the first one on", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url, { minDelay: 20 });
  const first = await server.accept({});
  await reach(states, "open");
  const changes = [stream.setFilters({ level: "a" })];
  await first.received.take();
  first.lose();
  await reach(states, "waiting");
  tick(10);
  const second = await server.accept({});
  await second.answer(); // at 10 ms
  await changes[0];
  changes.push(stream.setFilters({ level: "b" }));
  tick(99);
  assert.equal(await second.waiting(), 0);
  tick(1);
  await second.answer();
  await changes[1];
});

test("an answer to an acknowledgement settles nothing", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  const change = stream.setFilters({});
  connection.send({ type: "error", stream: TOKEN, code: "invalid_ack", message: "" });
  await connection.answer(3);
  assert.equal((await change).filtered, 3);
});

test("new filters are kept over a reconnect, and replace those of the URL", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url + "?token=1&level=debug&environment=x", { minDelay: 1 });
  const connection = await server.accept({});
  assert.equal(connection.query, "?token=1&level=debug&environment=x");
  await reach(states, "open");
  const change = stream.setFilters({ level: ["error", "fatal"] });
  await connection.answer();
  await change;
  connection.lose();
  const again = await server.accept({});
  assert.equal(again.query, "?token=1&level=error%2Cfatal");
  await reach(states, "open");
  assert.equal(await again.waiting(), 0);
});

// At each moment at which a connection may be lost, the change is asked for again, and settles.
const moments = {
  "before the first connection": async (server, { stream }) => [stream.setFilters({ level: "new" })],
  "when the request is on its way": async (server, { stream, states }) => {
    const connection = await server.accept({});
    await reach(states, "open");
    const changes = [stream.setFilters({ level: "new" })];
    connection.lose();
    return changes;
  },
  "when the request has arrived": async (server, { stream, states }) => {
    const connection = await server.accept({});
    await reach(states, "open");
    const changes = [stream.setFilters({ level: "new" })];
    await connection.received.take();
    connection.lose();
    return changes;
  },
  "when another one waits": async (server, { stream, states }) => {
    const connection = await server.accept({});
    await reach(states, "open");
    const changes = ["old", "older", "new"].map((level) => stream.setFilters({ level }));
    await connection.received.take();
    connection.lose();
    return changes;
  },
  "while it waits for the next attempt": async (server, { stream, states }) => {
    (await server.accept({})).lose();
    await reach(states, "waiting");
    return [stream.setFilters({ level: "new" })];
  },
  "between the handshake and the hello": async (server, { stream }) => {
    const connection = await server.accept();
    const changes = [stream.setFilters({ level: "new" })];
    connection.lose();
    return changes;
  },
  "after two connections": async (server, { stream, states }) => {
    const first = await server.accept({});
    await reach(states, "open");
    const changes = [stream.setFilters({ level: "older" })];
    await first.received.take();
    first.lose();
    const second = await server.accept({});
    await second.received.take();
    changes.push(stream.setFilters({ level: "new" }));
    second.lose();
    return changes;
  },
};

for (const [moment, arrive] of Object.entries(moments)) {
  test(`setFilters settles ${moment}`, async (t) => {
    const server = await listen(t);
    const client = follow(t, server.url, { filters: { level: "first" }, minDelay: 1 });
    const changes = await arrive(server, client);
    let connection;
    do connection = await server.accept(); while (connection.ws.readyState !== 1);
    assert.equal(connection.query, "?level=first"); // the new ones might be refused, and the connection with them
    connection.hello({});
    assert.deepEqual((await connection.answer(5)).level, ["new"]);
    for (const change of changes) {
      assert.deepEqual(await change, { filters: { level: ["new"], environment: [] }, filtered: 5 });
    }
  });

  test(`setFilters rejects when the stream is closed ${moment}`, async (t) => {
    const server = await listen(t);
    const client = follow(t, server.url, { minDelay: 1 });
    const changes = (await arrive(server, client)).map(settled);
    client.stream.close();
    for (const change of changes) assert.equal(await change, "closed");
    assert.equal(await settled(client.stream.setFilters({})), "closed");
  });

  test(`setFilters rejects when the server closes for good ${moment}`, async (t) => {
    const server = await listen(t);
    const client = follow(t, server.url, { minDelay: 1 });
    const changes = (await arrive(server, client)).map(settled);
    let connection;
    do connection = await server.accept({}); while (connection.ws.readyState !== 1);
    connection.ws.close(4000);
    for (const change of changes) assert.equal(await change, "closed");
  });
}

test("filters with commas are asked for first on every connection", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const filters = { level: ["a,b", "c"], environment: ["production"] };
  const { states } = follow(t, server.url + "?level=debug", { filters, minDelay: 1 });
  for (let i = 0; i < 2; i++) {
    const connection = await server.accept({});
    assert.equal(connection.query, "?environment=production");
    await reach(states, "open");
    assert.deepEqual(await connection.received.take(), { type: "subscribe", filters });
    if (i) {
      connection.send({ type: "filters_updated", stream: TOKEN, filters, filtered: 0 });
      assert.equal(await connection.waiting(), 0);
      tick(100);
      assert.equal(await connection.waiting(), 0); // asked for once
    }
    connection.lose();
    await reach(states, "waiting");
    tick(1);
  }
});

test("a stream whose filters with commas are refused is closed", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url, { filters: { level: "a,b" } });
  const connection = await server.accept({});
  const change = settled(stream.setFilters({ level: "c" }));
  await connection.refuse("not_granted");
  assert.deepEqual(await reach(states, "closed"), { state: "closed", code: 1008, reason: "not_granted" });
  assert.equal(await change, "closed");
  await connection.closed;
});

// A route of the application's own need not read the query.
const grants = [
  ["nothing filtered", {}, { level: "error" }, true],
  ["less filtered", { level: ["error", "fatal"] }, { level: ["error"] }, true],
  ["another list", { level: ["error"] }, { level: "error", environment: "production" }, true],
  ["as asked", { level: ["error", "fatal"], environment: ["x"] }, { level: ["fatal", "error"], environment: "x" }, false],
  ["narrower, as granted", { level: ["error"] }, { level: ["error", "fatal"] }, false],
  ["all that is granted", { level: ["error"] }, {}, false],
];
for (const [name, told, filters, asks] of grants) {
  test(`compares what the hello tells, and ${asks ? "subscribes" : "leaves it"}: ${name}`, async (t) => {
    const server = await listen(t);
    const { stream, states } = follow(t, server.url, { filters, minDelay: 1 });
    for (let i = 0; i < 2; i++) {
      const connection = await server.accept({ filters: { level: [], environment: [], ...told } });
      await reach(states, "open");
      if (asks) {
        const want = Object.fromEntries(["level", "environment"].map((field) => [field, [].concat(filters[field] ?? [])]));
        assert.deepEqual(await connection.answer(), want);
      }
      assert.equal(await connection.waiting(), 0);
      connection.lose();
      await reach(states, "waiting");
    }
    assert.notEqual(stream.state, "closed");
  });
}

test("a hello without filters tells that nothing is filtered", async (t) => {
  const server = await listen(t);
  follow(t, server.url, { filters: { level: "error" } });
  const connection = await server.accept();
  connection.send({ type: "hello", stream: TOKEN });
  assert.deepEqual(await connection.answer(), { level: ["error"], environment: [] });
});

test("is closed when a route of one's own refuses the filters that it didn't apply", async (t) => {
  const server = await listen(t);
  const { states } = follow(t, server.url, { filters: { level: "debug" } });
  const connection = await server.accept({ filters: { level: ["error"], environment: [] } });
  await connection.refuse("not_granted");
  assert.deepEqual(await reach(states, "closed"), { state: "closed", code: 1008, reason: "not_granted" });
});

// lock returns an open stream in lock-step.
function lock() {
  const world = new World();
  const { stream, take } = world.page().follow();
  return { world, stream, take, socket: world.socket().hello({ position: "p0" }) };
}

test("a change of filters looks back, and stream.replaying tells which messages it brings", async () => {
  const { stream, socket } = lock();
  const change = stream.setFilters({ level: "error" }, { last: 200 });
  assert.deepEqual(socket.asked(), [{ type: "subscribe", filters: { level: ["error"], environment: [] }, last: 200 }]);
  const seen = [];
  stream.onmessage = (data) => seen.push([data, stream.replaying]);
  socket.say({ type: "filters_updated", position: "p1", filters: {}, filtered: 0 }, { type: "replay", of: "subscribe" });
  socket.give("before").say({ type: "replayed", of: "subscribe" }).give("live");
  assert.deepEqual(seen, [["before", "subscribe"], ["live", null]]);
  await change;
});

test("a change of filters doesn't look back unless it is told to", () => {
  for (const args of [[], [undefined], [{}], [{ last: undefined }]]) {
    const { stream, socket } = lock();
    stream.setFilters({}, ...args);
    assert.deepEqual(socket.asked(), [{ type: "subscribe", filters: { level: [], environment: [] } }]);
  }
});

test("setFilters rejects a look-back that is none, without asking", async () => {
  const { stream, socket } = lock();
  const wrong = [null, 5, [], { last: 0 }, { last: -1 }, { last: 1.5 }, { last: 1_000_001 }, { last: "200" }, { last: NaN }, { last: null }, { since: 1 }];
  for (const lookBack of wrong) {
    await assert.rejects(stream.setFilters({}, lookBack), { name: "TypeError", code: "malformed" }, JSON.stringify(lookBack));
  }
  assert.deepEqual(socket.asked(), []);
  stream.setFilters({}, { last: 1_000_000 });
  assert.equal(socket.asked()[0].last, 1_000_000);
});

test("a request that replaces a waiting one looks back as far, unless it says how far itself", () => {
  for (const [second, want] of [[undefined, 200], [{ last: 5 }, 5]]) {
    const { world, stream, socket } = lock();
    stream.setFilters({ level: "first" });
    stream.setFilters({ level: "a" }, { last: 200 });
    stream.setFilters({ level: "b" }, second);
    socket.say({ type: "filters_updated", position: "p1", filters: {}, filtered: 0 });
    world.tick(100);
    const [first, last] = socket.asked();
    assert.deepEqual([first.last, last.filters.level, last.last], [undefined, ["b"], want]);
    stream.setFilters({ level: "c" }); // what has been asked for once isn't asked for again
    world.tick(100);
    socket.say({ type: "filters_updated", position: "p1", filters: {}, filtered: 0 });
    assert.equal(socket.asked()[0].last, undefined);
  }
});

test("a look-back that has no reply is asked for again on the next connection, also by what replaces it", () => {
  for (const [replace, level] of [[false, "a"], [true, "b"]]) {
    const { world, stream, socket } = lock();
    stream.setFilters({ level: "a" }, { last: 200 });
    if (replace) stream.setFilters({ level: "b" });
    socket.cut();
    world.tick(1);
    const second = world.socket().hello({ position: "p0", returned: { complete: true } });
    second.say({ type: "replay", of: "return" }, { type: "replayed", of: "return" });
    assert.deepEqual(second.asked(), [{ type: "subscribe", filters: { level: [level], environment: [] }, last: 200 }]);
  }
});
