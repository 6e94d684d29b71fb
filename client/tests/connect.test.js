import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../mesherstream.js";
import { follow, freeze, listen, reach, TOKEN, turns, WebSocket } from "./server.js";

test("offers the protocol first, and the caller's own behind it", async (t) => {
  const server = await listen(t);
  follow(t, server.url, { protocols: "token.abc" });
  follow(t, server.url, { protocols: ["a", "b"] });
  follow(t, server.url);
  const offered = [(await server.accept()).offered, (await server.accept()).offered, (await server.accept()).offered];
  assert.deepEqual(offered.sort(), ["mesherstream.v1", "mesherstream.v1,a,b", "mesherstream.v1,token.abc"]);
});

test("puts the first filters into the query", async (t) => {
  const server = await listen(t);
  const cases = [
    ["", undefined, ""],
    ["?token=1&level=debug", undefined, "?token=1&level=debug"],
    ["", {}, ""],
    ["?token=1&level=debug&environment=x", {}, "?token=1"],
    ["", { level: "", environment: [""] }, ""],
    ["", { level: "error" }, "?level=error"],
    ["?level=debug", { level: ["error", "fatal", ""], environment: "a b&c" }, "?level=error%2Cfatal&environment=a+b%26c"],
    ["", { level: ["a,b", "c"], environment: "x" }, "?environment=x"],
    ["#part", { level: "ä" }, "?level=%C3%A4"],
  ];
  for (const [suffix, filters, want] of cases) {
    const { stream } = follow(t, server.url + suffix, { filters });
    assert.equal((await server.accept()).query, want, JSON.stringify({ suffix, filters }));
    stream.close();
  }
});

test("takes addresses with http, and those relative to the page", async (t) => {
  const server = await listen(t);
  const page = server.url.replace("ws:", "http:");
  follow(t, page);
  follow(t, new URL(page));
  await server.accept();
  await server.accept();

  globalThis.document = Object.assign(new EventTarget(), { baseURI: new URL("/dashboard", page).href });
  t.after(() => delete globalThis.document);
  follow(t, "/stream/projects/shop?a=1");
  assert.equal((await server.accept()).query, "?a=1");

  delete globalThis.document; // as in a worker
  globalThis.location = { href: new URL("/worker.js", page).href };
  t.after(() => delete globalThis.location);
  follow(t, "stream/projects/shop?a=2");
  assert.equal((await server.accept()).query, "?a=2");
});

test("turns https into wss", (t) => {
  let dialed;
  class Never {
    constructor(url) {
      dialed = url;
    }
    close() {}
  }
  follow(t, "https://example.org/stream/projects/shop", { WebSocket: Never });
  assert.equal(dialed, "wss://example.org/stream/projects/shop");
});

test("throws at options that can't work", () => {
  const url = "ws://127.0.0.1:1/";
  assert.throws(() => connect("/relative", { WebSocket }), /Invalid URL/);
  assert.throws(() => connect(url, { WebSocket, minDelay: 0 }), RangeError);
  assert.throws(() => connect(url, { WebSocket, minDelay: NaN }), RangeError);
  assert.throws(() => connect(url, { WebSocket, minDelay: 2000, maxDelay: 1000 }), RangeError);
  assert.throws(() => connect(url, { WebSocket, protocols: "no token" }), SyntaxError);
});

// Each of these would say nothing otherwise, and a filter that isn't one would be wider than it was meant.
test("throws a TypeError at what it doesn't know", () => {
  const url = "ws://127.0.0.1:1/";
  const options = [
    { filter: { level: "error" } },
    { onMessage: () => {} },
    { onopen: () => {} },
    { mindelay: 1 },
    { websocket: WebSocket },
    { onmessage: "show" },
    { ongap: {} },
    { minDelay: "500" },
    { maxDelay: null },
    { protocols: 5 },
    { protocols: ["a", null] },
    { fetch: true },
    { signal: new AbortController() },
    { filters: "error" },
    { filters: false },
    { filters: ["error"] },
    { filters: { levels: "error" } },
    { filters: { Level: "error" } },
    { filters: { level: [1] } },
    { filters: { level: new Set(["error"]) } },
    { filters: new Map([["level", "error"]]) },
    { filters: new URLSearchParams("level=error") },
    { filters: Promise.resolve({ level: "error" }) },
  ];
  for (const wrong of options) {
    assert.throws(() => connect(url, { WebSocket, ...wrong }), { name: "TypeError", message: /^mesherstream: / }, JSON.stringify(wrong));
  }
  for (const wrong of ["token", ["token"], null, 5, () => {}, new Map(), Promise.resolve({})]) {
    assert.throws(() => connect(url, wrong), { name: "TypeError", message: /^mesherstream: options are / }, String(wrong));
  }
  for (const wrong of [undefined, null, 5, {}, ["ws://127.0.0.1:1/"]]) {
    assert.throws(() => connect(wrong, { WebSocket }), { name: "TypeError", message: /the url is/ }, String(wrong));
  }
  for (const wrong of ["ftp://127.0.0.1:1/", "file:///stream", "httpx://127.0.0.1:1/"]) {
    assert.throws(() => connect(wrong, { WebSocket }), { name: "TypeError", message: /the url has/ }, wrong);
  }
});

test("takes what is as good as not given", (t) => {
  const url = "ws://127.0.0.1:1/";
  for (const as of [undefined, null]) {
    const given = { WebSocket, fetch: as, filters: as, onmessage: as, ongap: as, onstate: as, signal: as, protocols: as };
    connect(url, given).close();
  }
  connect(url, Object.assign(Object.create(null), { WebSocket, minDelay: undefined, filters: { level: null } })).close();
});

test("throws a TypeError when a callback is set that there is not", (t) => {
  const stream = connect("ws://127.0.0.1:1/", { WebSocket });
  t.after(() => stream.close());
  const sloppy = new Function("stream", "name", "value", "stream[name] = value"); // as in a script that is no module
  for (const name of ["onMessage", "onopen", "onerror", "filters", "state", "hello", "close", Symbol.iterator]) {
    assert.throws(() => sloppy(stream, name, () => {}), TypeError, String(name));
  }
  assert.throws(() => (stream.onmessage = "show"), { message: "mesherstream: callback onmessage is no function" });
  stream.onmessage = stream.ongap = null;
  const show = () => {};
  stream.onstate = show;
  assert.equal(stream.onstate, show);
});

test("uses the global WebSocket, and says when there is none", async (t) => {
  const server = await listen(t);
  const native = globalThis.WebSocket;
  t.after(() => {
    if (native) globalThis.WebSocket = native;
    else delete globalThis.WebSocket;
  });
  globalThis.WebSocket = undefined;
  assert.throws(() => connect(server.url, { transports: ["websocket"] }), /no WebSocket here/);
  assert.throws(() => connect(server.url, { fetch: null }), /no WebSocket here/);
  globalThis.WebSocket = WebSocket;
  follow(t, server.url, { WebSocket: undefined });
  await server.accept();
});

test("tells the first state after connect has returned, to callbacks that were set since", async (t) => {
  const server = await listen(t);
  const { stream } = follow(t, server.url, { onstate: undefined });
  const told = [];
  stream.onstate = (state, info) => told.push([state, stream.state, info]);
  assert.deepEqual(told, []);
  await turns();
  assert.deepEqual(told, [["connecting", "connecting", undefined]]);
});

test("is open when the server has said hello", async (t) => {
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const connection = await server.accept();
  assert.equal((await states.take()).state, "connecting");
  assert.equal(stream.state, "connecting");
  assert.equal(stream.hello, null);
  connection.hello({ window: 256 });
  assert.equal((await states.take()).state, "open");
  assert.equal(stream.state, "open");
  assert.equal(stream.hello.stream, TOKEN);
  assert.equal(stream.hello.window, 256);

  connection.lose();
  assert.equal((await states.take()).code, 1006);
  assert.equal(stream.hello, null);
});

test("gives a server up that doesn't choose the protocol", async (t) => {
  const server = await listen(t);
  server.choose = () => "other";
  const { states } = follow(t, server.url, { protocols: "other" });
  const connection = await server.accept({});
  assert.deepEqual(pick(await reach(states, "waiting")), { code: 1006, reason: "no mesherstream.v1" });
  await connection.closed;

  server.choose = () => false;
  const old = follow(t, server.url);
  assert.equal((await reach(old.states, "waiting")).code, 1006);
});

test("gives a connection up whose first message is no hello", async (t) => {
  const server = await listen(t);
  const firsts = ["an event", '{"type":"hello"}', '{"type":"event","stream":"q7XK2M9A"}', '{"type":"hello', Buffer.from([1])];
  for (const first of firsts) {
    // The next one to connect is the next stream, and not this one again.
    const { stream, states, items } = follow(t, server.url, { minDelay: 1e9, maxDelay: 1e9 });
    const connection = await server.accept();
    connection.ws.send(first);
    connection.ws.send("another");
    assert.deepEqual(pick(await reach(states, "waiting")), { code: 1006, reason: "no hello" }, String(first));
    await connection.closed;
    assert.equal(items.length, 0);
    stream.close();
  }
});

test("gives a connection up that has no hello for 20 s", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { states, stream } = follow(t, server.url, { transports: ["websocket"] });
  const connection = await server.accept();
  await turns();
  tick(19_999);
  assert.equal(stream.state, "connecting");
  tick(1);
  assert.deepEqual(pick(await reach(states, "waiting")), { code: 1006, reason: "no hello" });
  await connection.closed;
});

test("keeps a connection that has said hello, and nothing since", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { states, stream } = follow(t, server.url);
  await server.accept({});
  await reach(states, "open");
  tick(1e9);
  assert.equal(stream.state, "open");
});

function pick({ code, reason }) {
  return { code, reason };
}
