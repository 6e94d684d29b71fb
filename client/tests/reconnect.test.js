import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "./page.js";
import { follow, freeze, listen, reach, turns } from "./server.js";

test("connects again after every code that may pass", async (t) => {
  const server = await listen(t);
  for (const code of [1000, 1001, undefined, 1011, 1012, 1013, 1014, 3000]) {
    const { stream, states } = follow(t, server.url, { minDelay: 1 });
    (await server.accept({})).ws.close(code, code && "why");
    const { delay, ...waiting } = await reach(states, "waiting");
    assert.deepEqual(waiting, { state: "waiting", code: code ?? 1005, reason: code ? "why" : "" });
    assert.ok(delay >= 0 && delay < 1);
    assert.equal(stream.state, "waiting");
    await server.accept({});
    assert.equal((await states.take()).state, "connecting");
    assert.equal((await states.take()).state, "open");
    stream.close();
  }
});

test("connects again after a connection that was lost, and after a handshake that was refused", async (t) => {
  const server = await listen(t);
  const { states } = follow(t, server.url, { minDelay: 1, maxDelay: 1 });
  (await server.accept({})).lose();
  assert.equal((await reach(states, "waiting")).code, 1006);
  const again = await server.accept({});
  await reach(states, "open");
  server.refuse = 503;
  again.lose();
  for (let i = 0; i < 3; i++) assert.equal((await reach(states, "waiting")).code, 1006);
  server.refuse = 0;
  await server.accept({});
  await reach(states, "open");
});

test("looks back once, and not again with each connection", async (t) => {
  const server = await listen(t);
  const { states, items } = follow(t, server.url + "?last=200&since=10m&level=error", { minDelay: 1 });
  server.refuse = 503;
  assert.equal((await reach(states, "waiting")).code, 1006);
  server.refuse = 0;
  const first = await server.accept({});
  assert.equal(first.query, "?last=200&since=10m&level=error");
  await reach(states, "open");
  first.send("a"); // and no replay: it doesn't look back
  await items.take();
  first.lose();
  assert.equal((await server.accept({})).query, "?level=error");
});

test("is closed for good after a code that would come again", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const codes = [1002, 1003, 1007, 1008, 1009, 4000, 4321, 4999];
  for (const code of codes) {
    const { stream, states } = follow(t, server.url);
    (await server.accept({})).ws.close(code, "why");
    assert.deepEqual(await reach(states, "closed"), { state: "closed", code, reason: "why" });
    assert.equal(stream.state, "closed");
    assert.equal(stream.hello, null);
    tick(1e6);
  }
  assert.equal(server.attempts, codes.length);
});

test("backs off exponentially with full jitter", async (t) => {
  for (const chance of [0, 0.5, 0.999]) {
    await t.test(`at chance ${chance}`, async (t) => {
      const tick = freeze(t, chance);
      const server = await listen(t);
      server.refuse = 503;
      const { stream, states } = follow(t, server.url);
      for (const backOff of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]) {
        const { delay } = await reach(states, "waiting");
        assert.equal(delay, chance * backOff);
        const { attempts } = server;
        if (delay) tick(Math.ceil(delay) - 1);
        assert.equal(stream.state, "waiting");
        tick(1);
        assert.equal((await states.take()).state, "connecting");
        await reachAttempts(server, attempts + 1);
      }
    });
  }
});

test("takes minDelay and maxDelay", async (t) => {
  const tick = freeze(t, 0.5);
  const server = await listen(t);
  server.refuse = 503;
  const { states } = follow(t, server.url, { minDelay: 10, maxDelay: 25 });
  for (const backOff of [10, 20, 25, 25]) {
    assert.equal((await reach(states, "waiting")).delay, backOff / 2);
    tick(20);
  }
});

test("starts the back-off again after a connection that was open for 10 s, and not before", async (t) => {
  const tick = freeze(t, 0.5);
  const server = await listen(t);
  const { states } = follow(t, server.url);
  const openFor = async (ms) => {
    const connection = await server.accept({});
    await reach(states, "open");
    tick(ms);
    connection.ws.close(1001);
    const { delay } = await reach(states, "waiting");
    tick(20_000);
    return delay;
  };
  assert.equal(await openFor(0), 250);
  assert.equal(await openFor(9_999), 500);
  assert.equal(await openFor(9_999), 1000);
  assert.equal(await openFor(10_000), 250);
  assert.equal(await openFor(0), 500);
  assert.equal(await openFor(1e9), 250);
});

test("a clock that is set back or forth doesn't count", async (t) => {
  const tick = freeze(t, 0.5);
  const server = await listen(t);
  const { states } = follow(t, server.url);
  const openFor = async (ms, set) => {
    const connection = await server.accept({});
    await reach(states, "open");
    tick(ms);
    t.mock.timers.setTime(Math.max(0, Date.now() + set));
    connection.ws.close(1001);
    const { delay } = await reach(states, "waiting");
    tick(20_000);
    return delay;
  };
  assert.equal(await openFor(0, 0), 250);
  assert.equal(await openFor(0, 3_600_000), 500);
  assert.equal(await openFor(10_000, -3_600_000), 250);
});

test("does not start the back-off again after a handshake that took long", async (t) => {
  const tick = freeze(t, 0.5);
  const server = await listen(t);
  const { states } = follow(t, server.url);
  const stable = await server.accept({});
  await reach(states, "open");
  tick(10_000);
  stable.lose();
  assert.equal((await reach(states, "waiting")).delay, 250);
  for (const delay of [500, 1000]) {
    tick(1000);
    const silent = await server.accept();
    tick(19_000);
    silent.lose();
    assert.equal((await reach(states, "waiting")).delay, delay);
  }
});

test("waits as long as the server says, and up to half of it more", async (t) => {
  const longest = 2 ** 31 - 1;
  const cases = [
    [1012, "retry_after_ms=3000", 0, 3000],
    [1013, "retry_after_ms=3000", 0.5, 3750],
    [1013, "too many clients; retry_after_ms=3000, please", 0.999, 4498.5],
    [1013, "retry_after_ms=40000", 0.5, 50_000], // over maxDelay
    [1012, "retry_after_ms=99999999999999999999", 0.5, longest],
    [1012, "retry_after_ms=0", 0.5, 250],
    [1012, "retry_after_ms=-5", 0.5, 250],
    [1012, "retry_after_ms=soon", 0.5, 250],
    [1012, "", 0.5, 250],
    [1001, "retry_after_ms=3000", 0.5, 250],
    [1011, "retry_after_ms=3000", 0.5, 250],
  ];
  for (const [code, reason, chance, want] of cases) {
    await t.test(`${code} ${reason}`, async (t) => {
      freeze(t, chance);
      const server = await listen(t);
      const { states } = follow(t, server.url);
      (await server.accept({})).ws.close(code, reason);
      assert.equal((await reach(states, "waiting")).delay, want);
    });
  }
});

test("goes on with the back-off after a wait that the server told", async (t) => {
  const tick = freeze(t, 0.5);
  const server = await listen(t);
  const { states } = follow(t, server.url);
  (await server.accept({})).ws.close(1013, "retry_after_ms=1000");
  assert.equal((await reach(states, "waiting")).delay, 1250);
  tick(1249);
  assert.equal(server.attempts, 1);
  tick(1);
  (await server.accept({})).ws.close(1013);
  assert.equal((await reach(states, "waiting")).delay, 500);
});

test("tries at once when the page is back online or becomes visible", async (t) => {
  const page = openPage(t);
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const wait = async (code, reason) => {
    (await server.accept({})).ws.close(code, reason);
    return reach(states, "waiting");
  };
  await wait(1001);
  page.online();
  assert.equal(stream.state, "connecting");
  page.online(); // must not make a second attempt

  await wait(1001);
  page.show("hidden");
  assert.equal(stream.state, "waiting");
  page.show("visible");
  assert.equal(stream.state, "connecting");

  await wait(1012, "retry_after_ms=1000"); // it said not to
  page.online();
  page.show("visible");
  assert.equal(stream.state, "waiting");
  assert.equal(server.attempts, 3);

  tick(1250);
  await wait(1001);
  page.online();
  await server.accept({});
  await reach(states, "open");
  tick(10_000); // nothing is left of the wait that it cut short
  assert.equal(stream.state, "open");
});

test("leaves a page's connection alone while it is open", async (t) => {
  const page = openPage(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  await server.accept({});
  await reach(states, "open");
  page.online();
  page.show("visible");
  assert.equal(stream.state, "open");
  assert.equal(server.attempts, 1);
});

test("listens to nothing any more when it is closed", async (t) => {
  const page = openPage(t);
  const abort = new AbortController();
  const server = await listen(t);
  const listeners = watchListeners(t, [globalThis, document, abort.signal]);
  const { stream } = follow(t, server.url, { signal: abort.signal });
  assert.equal(listeners.size, 6);
  stream.close();
  page.online();
  page.show("visible");
  page.leave();
  page.freeze();
  page.comeBack();
  abort.abort();
  assert.deepEqual([...listeners.values()], [0, 0, 0, 0, 0, 0]);
});

test("close ends it in every state, once", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const reachable = {
    connecting: () => {},
    open: async (states) => {
      const connection = await server.accept({});
      await reach(states, "open");
      return connection;
    },
    waiting: async (states) => {
      (await server.accept({})).ws.close(1001);
      await reach(states, "waiting");
    },
  };
  let attempts = 0;
  for (const [state, arrive] of Object.entries(reachable)) {
    const { stream, states } = follow(t, server.url);
    const connection = await arrive(states);
    assert.equal(stream.state, state);
    stream.close(4001, "enough");
    assert.equal(stream.state, "closed");
    assert.equal(stream.hello, null);
    stream.close();
    assert.deepEqual(await reach(states, "closed"), { state: "closed", code: 4001, reason: "enough" });
    if (connection) assert.deepEqual(await connection.closed, { code: 4001, reason: "enough" });
    tick(1e6);
    await turns();
    assert.equal(states.length, 0);
    if (state !== "connecting") attempts++;
  }
  assert.equal(server.attempts, attempts);
});

test("close right after connect is all that is told", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  stream.close();
  await turns();
  assert.deepEqual(await states.take(), { state: "closed", code: 1000, reason: "" });
  assert.equal(states.length, 0);
  assert.equal(stream.state, "closed");
});

test("close says 1000 by default, and hands on what WebSocket thinks of a code", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept({});
  await reach(states, "open");
  assert.throws(() => stream.close(999));
  assert.equal(stream.state, "open");
  stream.close();
  assert.deepEqual(await connection.closed, { code: 1000, reason: "" });
});

test("ignores what comes after close", async (t) => {
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url, {
    onmessage(data) {
      items.put(data);
      if (data === "last") stream.close();
    },
  });
  const connection = await server.accept({ window: 1 });
  await reach(states, "open");
  for (const text of ["first", "last", "late"]) connection.ws.send(text);
  await connection.closed;
  assert.equal((await states.take()).state, "closed");
  assert.equal(items.length, 2);
});

test("an AbortSignal closes it", async (t) => {
  const server = await listen(t);
  const abort = new AbortController();
  const { stream, states } = follow(t, server.url, { signal: abort.signal });
  const connection = await server.accept({});
  await reach(states, "open");
  abort.abort();
  assert.equal(stream.state, "closed");
  assert.deepEqual(await connection.closed, { code: 1000, reason: "" });

  const late = follow(t, server.url, { signal: abort.signal });
  assert.equal(late.stream.state, "closed");
  assert.deepEqual(await late.states.take(), { state: "closed", code: 1000, reason: "" });
  await assert.rejects(late.stream.setFilters({}), { code: "closed" });
  for await (const item of late.stream) assert.fail(item);
  assert.equal(server.attempts, 1);
});

async function reachAttempts(server, n) {
  while (server.attempts < n) await turns();
}

// watchListeners counts how often each listener is called that is added from now on.
function watchListeners(t, targets) {
  const calls = new Map();
  for (const target of targets) {
    const add = target.addEventListener;
    t.mock.method(target, "addEventListener", (type, listener, options) => {
      calls.set(listener, 0);
      add.call(
        target,
        type,
        (event) => {
          calls.set(listener, calls.get(listener) + 1);
          listener(event);
        },
        options,
      );
    });
  }
  return calls;
}
