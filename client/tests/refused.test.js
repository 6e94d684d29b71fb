import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "./page.js";
import { follow, freeze, listen, reach, turns, WebSocket } from "./server.js";

// Page is the WebSocket of a page: its error tells nothing.
class Page extends WebSocket {
  set onerror(listener) {
    super.onerror = () => listener({ type: "error" });
  }
}

// Node22 is the WebSocket of Node 22: no close follows when a handshake has failed.
class Node22 extends WebSocket {
  #opened = false;

  set onopen(listener) {
    super.onopen = (event) => {
      this.#opened = true;
      listener(event);
    };
  }

  set onclose(listener) {
    super.onclose = (event) => this.#opened && listener(event);
  }

  set onerror(listener) {
    super.onerror = (event) =>
      listener(this.#opened ? event : { type: "error", message: "Received network error or non-101 status code." });
  }
}

const kinds = { page: Page, "Node 22": Node22, ws: WebSocket };

const final = [204, 400, 401, 402, 403, 404, 405, 406, 410, 414, 418, 422, 451];
const passing = [407, 408, 409, 421, 423, 425, 426, 429, 500, 501, 502, 503, 504, 302];

for (const [name, WebSocket] of Object.entries(kinds)) {
  test(`a handshake that is refused for good ends the stream, and says by what (${name})`, async (t) => {
    const tick = freeze(t);
    const server = await listen(t);
    for (const status of final) {
      server.refuse = status;
      const { stream, states } = follow(t, server.url, { WebSocket, filters: { level: "a b" } });
      const change = assert.rejects(stream.setFilters({}), { code: "closed" });
      assert.deepEqual(await reach(states, "closed"), { state: "closed", code: 1006, reason: `HTTP ${status}`, status });
      await change;
      tick(1e6);
      await turns();
      assert.equal(states.length, 0);
      if (WebSocket === kinds.ws) continue; // which says it itself
      const { method, url, headers } = await server.asked.take();
      assert.equal(`${method} ${url}`, "GET /stream/projects/shop?level=a+b");
      assert.equal(headers.accept, "application/vnd.mesherstream.v1");
      assert.equal(headers.upgrade, undefined);
    }
    assert.equal(server.attempts, final.length);
    assert.equal(server.asked.length, 0);
  });

  test(`a handshake that is refused for now is tried again (${name})`, async (t) => {
    const server = await listen(t);
    for (const status of passing) {
      if (status === 407 && WebSocket !== kinds.ws) continue; // which fetch keeps to itself
      server.refuse = status;
      const { stream, states } = follow(t, server.url, { WebSocket, minDelay: 1, maxDelay: 1 });
      for (let i = 0; i < 2; i++) {
        const { delay, ...waiting } = await reach(states, "waiting");
        assert.deepEqual(waiting, { state: "waiting", code: 1006, reason: `HTTP ${status}`, status });
        assert.ok(delay < 1);
      }
      server.refuse = 0;
      await server.accept({});
      await reach(states, "open");
      stream.close();
    }
  });
}

test("a session that has ended meanwhile ends the stream", async (t) => {
  const server = await listen(t);
  const { states } = follow(t, server.url, { WebSocket: Page, minDelay: 1 });
  const connection = await server.accept({});
  await reach(states, "open");
  server.refuse = 401;
  connection.lose();
  assert.equal((await reach(states, "closed")).status, 401);
});

// Some proxies say so while what is behind them restarts.
test("404 is for now where a stream has been", async (t) => {
  const server = await listen(t);
  const { states } = follow(t, server.url, { WebSocket: Page, minDelay: 1, maxDelay: 1 });
  const connection = await server.accept({});
  await reach(states, "open");
  server.refuse = 404;
  connection.lose();
  await reach(states, "waiting");
  assert.equal((await reach(states, "waiting")).status, 404);
  server.refuse = 0;
  await server.accept({});
  await reach(states, "open");
});

test("is tried again when nobody can tell why", async (t) => {
  const server = await listen(t);
  server.refuse = 401;
  const refusals = {
    "no network": () => Promise.reject(new TypeError("Failed to fetch")),
    "it throws": () => {
      throw new TypeError("a URL with credentials");
    },
    "a redirect in a page": async () => ({ type: "opaqueredirect", status: 0 }),
  };
  for (const [name, fetch] of Object.entries(refusals)) {
    const { stream, states } = follow(t, server.url, { WebSocket: Page, fetch, minDelay: 1, maxDelay: 1 });
    for (let i = 0; i < 2; i++) {
      const { delay, ...waiting } = await reach(states, "waiting");
      assert.deepEqual(waiting, { state: "waiting", code: 1006, reason: "" }, name);
    }
    stream.close();
  }
});

test("a server that doesn't answer the question is tried again after 5 s", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  server.refuse = 401;
  let aborted = 0;
  const fetch = (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason, aborted++)));
  const { stream, states } = follow(t, server.url, { WebSocket: Page, fetch });
  await reachAsking(server);
  tick(4999);
  await turns();
  assert.equal(stream.state, "connecting");
  tick(1);
  assert.equal((await reach(states, "waiting")).code, 1006);
  assert.equal(aborted, 1);

  async function reachAsking(server) {
    while (server.attempts < 1) await turns();
    for (let i = 0; i < 20; i++) await turns();
  }
});

test("close and leaving end the question", async (t) => {
  const page = openPage(t);
  const server = await listen(t);
  server.refuse = 401;
  for (const [leave, state] of [
    [(stream) => stream.close(), "closed"],
    [() => page.leave(), "waiting"],
  ]) {
    let stream, states;
    const asked = new Promise((resolve) => {
      const fetch = (_, { signal }) => {
        resolve(signal);
        return new Promise((answer) => signal.addEventListener("abort", () => answer({ status: 401 })));
      };
      ({ stream, states } = follow(t, server.url, { WebSocket: Page, fetch }));
    });
    const signal = await asked;
    await states.take(); // connecting
    leave(stream);
    assert.ok(signal.aborted);
    assert.equal((await states.take()).state, state);
    for (let i = 0; i < 5; i++) await turns();
    assert.equal(states.length, 0);
    assert.equal(stream.state, state);
  }
});

test("asks nothing where the answer could be another one", async (t) => {
  const server = await listen(t);
  server.refuse = 401;
  const cases = [
    { WebSocket: Page, protocols: "token.abc" }, // which a request can't send
    { WebSocket: Page, fetch: null },
  ];
  for (const options of cases) {
    const { stream, states } = follow(t, server.url, { minDelay: 1, maxDelay: 1, ...options });
    await reach(states, "waiting");
    assert.deepEqual((await reach(states, "waiting")).reason, "");
    stream.close();
  }
  // ws tells that there was no network, and may have had headers of its own.
  const refused = follow(t, "ws://127.0.0.1:1/", { fetch: undefined });
  t.mock.method(globalThis, "fetch", () => assert.fail("asked"));
  await reach(refused.states, "waiting");
  refused.stream.close();
  assert.equal(server.asked.length, 0);
});

test("asks by the fetch that is given, also with a token", async (t) => {
  const server = await listen(t);
  server.refuse = 503;
  const asked = [];
  const fetch = async (url, options) => {
    asked.push([url, options.credentials, options.redirect]);
    return { status: 403 };
  };
  const { states } = follow(t, server.url, { WebSocket: Page, protocols: "token.abc", fetch });
  assert.equal((await reach(states, "closed")).status, 403);
  assert.deepEqual(asked, [[server.url.replace("ws:", "http:"), "include", "manual"]]);
});

test("an error on an open connection is followed by its close, or gives it up", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  let socket;
  class Kept extends WebSocket {
    constructor(...args) {
      super(...args);
      socket = this;
    }
  }
  const { states } = follow(t, server.url, { WebSocket: Kept });
  const connection = await server.accept({});
  await reach(states, "open");
  socket.onerror({ type: "error" });
  connection.ws.close(1008, "why");
  assert.equal((await reach(states, "closed")).code, 1008);

  const silent = follow(t, server.url, { WebSocket: Kept });
  await server.accept({});
  await reach(silent.states, "open");
  socket.onerror({ type: "error" });
  tick(20_000);
  const { code, reason } = await reach(silent.states, "waiting");
  assert.deepEqual({ code, reason }, { code: 1006, reason: "error" });
});
