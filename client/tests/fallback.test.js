import assert from "node:assert/strict";
import { test } from "node:test";
import { settle, Store, World } from "./lockstep.js";
import { Requests } from "./requests.js";

const SILENT = 6_000;
const REMEMBERED = 600_000;

// follow returns a stream in a page that has both transports.
function follow(options, globals) {
  const world = new World();
  const requests = new Requests();
  const page = world.page(globals);
  const { stream, take } = page.follow({ fetch: requests.fetch, ...options });
  return { world, requests, page, stream, take };
}

// block fails the newest WebSocket as something on the way does it, and lets the server say that it would have accepted it.
async function block({ world, requests }) {
  world.sockets.at(-1).cut();
  await (await requests.question()).refuse(426);
  return requests.events();
}

// fall returns a stream that has fallen back and is open.
async function fall(options, globals, mark_ms = 0) {
  const page = follow(options, globals);
  const events = await block(page);
  await (await events.open()).hello({ position: "p0", mark_ms });
  assert.equal(page.stream.transport, "sse");
  page.take();
  return { ...page, events };
}

test("has both transports, or the one that is chosen, and refuses any other list", () => {
  const page = new World().page();
  const { fetch } = new Requests();
  for (const transports of [undefined, null, ["websocket", "sse"], ["websocket"], ["sse"], Object.freeze(["sse"])]) {
    page.follow({ fetch, transports }).stream.close();
  }
  const wrong = [[], ["sse", "websocket"], ["websocket", "websocket"], ["polling"], ["sse", null], [["sse"]], "sse", { 0: "sse" }, 5];
  for (const transports of wrong) {
    assert.throws(() => page.follow({ fetch, transports }), { name: "TypeError", message: /^mesherstream: .*transports/ }, JSON.stringify(transports));
  }
});

test("events alone need a fetch, and no WebSocket", async () => {
  const world = new World();
  const page = world.page({ WebSocket: undefined });
  const { fetch, made } = new Requests();
  assert.throws(() => page.follow({ transports: ["sse"], fetch: null }), { name: "TypeError", message: /no fetch/ });
  assert.throws(() => page.follow({ transports: ["sse"], fetch: undefined, protocols: "token" }), { name: "TypeError", message: /no fetch/ });
  assert.throws(() => page.follow({ WebSocket: undefined, fetch, transports: ["websocket"] }), { name: "TypeError", message: /no WebSocket/ });
  assert.throws(() => page.follow({ WebSocket: undefined, fetch: null }), { name: "TypeError", message: /no WebSocket/ });
  page.follow({ transports: ["sse"], WebSocket: undefined, fetch });
  page.follow({ WebSocket: undefined, fetch }); // where there is no WebSocket, nothing else is tried
  await settle();
  assert.equal(made.length, 2);
  assert.equal(world.sockets.length, 0);
});

test("events are asked for as the handshake would be, of the same address", async () => {
  const { requests, stream, take } = follow({
    transports: ["sse"],
    url: "ws://host/stream/projects/shop?token=1&last=5",
    filters: { level: ["error", "fatal"] },
  });
  assert.equal(stream.transport, null);
  const { url, options, query } = await requests.events();
  assert.equal(url.origin + url.pathname, "http://host/stream/projects/shop");
  assert.deepEqual(query, { token: "1", last: "5", level: "error,fatal" });
  const { credentials, redirect, cache, referrerPolicy, method } = options;
  assert.deepEqual({ credentials, redirect, cache, referrerPolicy, method }, {
    credentials: "include", redirect: "manual", cache: "no-store", referrerPolicy: "origin", method: undefined,
  });
  await (await (await requests.events()).open()).hello();
  assert.deepEqual(take(), [["connecting"], ["open"]]);
  assert.equal(stream.transport, "sse");
  assert.equal(stream.hello.project, "shop");
});

test("falls back when the server would have accepted the handshake, within the same attempt", async () => {
  const page = follow();
  const events = await block(page);
  assert.deepEqual(page.take(), [["connecting"]]);
  assert.equal(page.stream.transport, null);
  await (await events.open()).hello({ position: "p0" });
  await events.give(["a", "b"], "p1");
  assert.deepEqual(page.take(), [["open"], "a", "b"]);
  assert.equal(page.stream.transport, "sse");
});

test("falls back in a page that may not open a WebSocket", async () => {
  const world = new World();
  const requests = new Requests();
  class Forbidden {
    constructor() {
      throw new DOMException("refused by the policy of the page", "SecurityError");
    }
  }
  const page = world.page();
  const { stream } = page.follow({ WebSocket: Forbidden, fetch: requests.fetch });
  await (await requests.question()).refuse(426);
  await (await (await requests.events()).open()).hello();
  assert.equal(stream.transport, "sse");
  assert.throws(() => page.follow({ WebSocket: Forbidden, fetch: null }), { name: "SecurityError" });
  assert.throws(() => page.follow({ WebSocket: Forbidden, transports: ["websocket"] }), { name: "SecurityError" });
});

test("a mistake of the page still throws", () => {
  class Strict {
    constructor() {
      throw new DOMException("no token", "SyntaxError");
    }
  }
  assert.throws(() => follow({ WebSocket: Strict }), { name: "SyntaxError" });
});

test("falls back when nobody answers the handshake, or says hello", async () => {
  for (const answered of [false, true]) {
    const { world, requests, stream, take } = follow();
    if (answered) world.socket();
    world.tick(SILENT - 1);
    await settle();
    assert.equal(requests.made.length, 0);
    world.tick(1);
    assert.deepEqual(world.sockets[0].left, { code: undefined, reason: undefined });
    const events = await requests.events();
    assert.deepEqual(take(), [["connecting"]]);
    await (await events.open()).hello();
    assert.equal(stream.transport, "sse");
  }
});

test("falls back when the connection is ended before the hello", async () => {
  const page = follow();
  page.world.socket();
  await (await (await block(page)).open()).hello();
  assert.equal(page.stream.transport, "sse");
});

test("a WebSocket that has worked is tried first when it breaks, and given twenty seconds", async () => {
  const page = follow();
  const { world, requests, stream } = page;
  world.socket().hello({ position: "p0" });
  assert.equal(stream.transport, "websocket");
  world.socket().cut();
  world.tick(1);
  assert.equal(world.sockets.length, 2);
  world.tick(19_999);
  await settle();
  assert.equal(requests.made.length, 0);
  assert.equal(stream.transport, "websocket");
  world.tick(1);
  const events = await requests.events();
  assert.deepEqual(events.query, { since: "p0" });
  await (await events.open()).hello({ position: "p0", returned: { complete: true } });
  assert.equal(stream.transport, "sse");
});

test("one handshake that fails after a WebSocket has worked is tried again, and a second one leads to events", async () => {
  const page = follow();
  const { world, requests, stream, take } = page;
  const refused = async () => {
    world.sockets.at(-1).cut();
    await (await requests.question()).refuse(426);
  };
  world.socket().hello({ position: "p0" });
  for (let i = 0; i < 2; i++) {
    world.socket().cut();
    world.tick(1);
    await refused();
    assert.deepEqual(take().at(-1), ["waiting", { code: 1006, reason: "HTTP 426", status: 426, delay: 0 }]);
    world.tick(1);
    world.socket().hello({ position: "p0" });
  }
  world.socket().cut();
  world.tick(1);
  await refused();
  world.tick(1);
  await refused();
  await (await (await requests.events()).open()).hello({ position: "p0", returned: { complete: true } });
  assert.equal(stream.transport, "sse");
});

test("a page that was too busy for six seconds takes the hello that has arrived", async () => {
  for (const transports of [["websocket", "sse"], ["websocket"]]) {
    const { world, stream, requests } = follow({ transports });
    world.pass(60_000);
    world.tick(999);
    world.socket().hello();
    assert.equal(stream.transport, "websocket");
    world.tick(1e6);
    await settle();
    assert.equal(requests.made.length, 0);
  }
  const { world, requests } = follow();
  world.pass(60_000);
  world.tick(1000); // and none had arrived
  await requests.events();

  const hidden = follow(); // all its timers fire late
  for (let i = 0; i < 2; i++) {
    hidden.world.pass(60_000);
    hidden.world.tick(0);
  }
  await hidden.requests.events();
});

test("a refusal that is final is final, and leads to no events", async () => {
  for (const status of [400, 401, 403, 404, 410]) {
    const { world, requests, stream, take } = follow();
    world.sockets[0].cut();
    await (await requests.question()).refuse(status);
    assert.deepEqual(take().at(-1), ["closed", { code: 1006, reason: `HTTP ${status}`, status }]);
    assert.equal(requests.made.length, 1);

    const alone = follow({ transports: ["sse"] });
    await (await alone.requests.events()).refuse(status);
    assert.deepEqual(alone.take().at(-1), ["closed", { code: 1006, reason: `HTTP ${status}`, status }]);
    assert.equal(stream.transport, null);
  }
});

test("a server that is away, busy or shutting down leads to no events", async () => {
  for (const status of [0, 429, 500, 502, 503]) {
    const { world, requests, take } = follow();
    world.sockets[0].cut();
    const question = await requests.question();
    if (status) await question.refuse(status);
    else await question.lose();
    assert.equal(take().at(-1)[0], "waiting");
    assert.equal(requests.made.length, 1);
    world.tick(1);
    assert.equal(world.sockets.length, 2);
  }
});

test("a server without events is tried again by WebSocket", async () => {
  const page = follow();
  const events = await block(page);
  await events.refuse(426);
  assert.deepEqual(page.take().at(-1), ["waiting", { code: 1006, reason: "HTTP 426", status: 426, delay: 0 }]);
  page.world.tick(1);
  assert.equal(page.world.sockets.length, 2);
});

test("falls back to nothing if only the WebSocket is chosen, or there is no fetch", async () => {
  for (const options of [{ transports: ["websocket"] }, { fetch: null }, { fetch: undefined, protocols: "token" }]) {
    const { world, requests, take } = follow(options);
    world.tick(19_999);
    assert.deepEqual(take(), []);
    world.tick(1);
    assert.deepEqual(take().at(-1), ["waiting", { code: 1006, reason: "no hello", delay: 0 }]);
    world.tick(1);
    world.sockets.at(-1).cut();
    if (options.transports) await (await requests.question()).refuse(426);
    assert.equal(take().at(-1)[0], "waiting");
    assert.ok(requests.made.length <= 1);
  }
});

test("an answer that is no event stream is no connection", async () => {
  for (const type of ["text/html", "", "application/json; a=text/event-stream"]) {
    const page = follow();
    const events = await block(page);
    await events.open(type);
    assert.deepEqual(page.take().at(-1), ["waiting", { code: 1006, reason: "HTTP 200", status: 200, delay: 0 }]);
    assert.ok(events.left); // the rest of it is not read
  }
  const page = follow();
  const events = await block(page);
  await (await events.open("text/event-stream; charset=utf-8")).hello();
  assert.equal(page.stream.state, "open");
});

test("a fetch without streams stays with the WebSocket", async () => {
  const page = follow();
  const events = await block(page);
  events.answer({ status: 200, headers: new Headers({ "Content-Type": "text/event-stream" }) });
  await settle();
  assert.ok(events.left);
  page.world.tick(1);
  page.world.tick(SILENT);
  assert.equal(page.stream.state, "connecting");
  page.world.sockets.at(-1).cut();
  await (await page.requests.question()).refuse(426);
  assert.equal(page.take().at(-1)[0], "waiting");
  assert.equal(page.requests.made.length, 3);

  const alone = follow({ transports: ["sse"] });
  (await alone.requests.events()).answer({ status: 200, headers: new Headers({ "Content-Type": "text/event-stream" }) });
  await settle();
  assert.deepEqual(alone.take().at(-1), ["closed", { code: 1006, reason: "this fetch has no streams" }]);
});

test("an event stream that says no hello is given up after twenty seconds", async () => {
  const { world, requests, take } = follow({ transports: ["sse"] });
  const events = await (await requests.events()).open();
  world.tick(19_999);
  await events.write(": kept open\n\n");
  assert.deepEqual(take(), [["connecting"]]);
  world.tick(1);
  assert.deepEqual(take(), [["waiting", { code: 1006, reason: "no hello", delay: 0 }]]);
  assert.ok(events.left);
});

test("an event stream whose first event is no hello is given up", async () => {
  for (const first of ["data: a\n\n", "event: mark\nid: p1\ndata: {}\n\n", "event: gap\ndata: {}\n\n"]) {
    const { requests, take } = follow({ transports: ["sse"] });
    const events = await (await requests.events()).open();
    await events.write(first);
    assert.deepEqual(take().at(-1), ["waiting", { code: 1006, reason: "no hello", delay: 0 }]);
    assert.ok(events.left);
  }
});

test("a stream that has fallen back doesn't wait for the WebSocket again, for ten minutes", async () => {
  const { world, requests, events } = await fall();
  world.tick(REMEMBERED - 100);
  for (let i = 0; i < 2; i++) {
    await (await requests.events()).end();
    world.tick(1);
    await (await (await requests.events()).open()).hello({ position: "p0" });
  }
  assert.equal(world.sockets.length, 1);
  assert.ok(events.left);
  world.tick(100);
  await (await requests.events()).end();
  world.tick(1);
  await settle();
  assert.equal(world.sockets.length, 2); // the second time doesn't prolong it
});

test("another stream of the page knows, and one after a reload of the page", async () => {
  const sessionStorage = new Store();
  const { world, page, requests } = await fall({}, { sessionStorage });
  const { stream } = page.follow({ fetch: requests.fetch, url: "ws://host/stream/projects/other" });
  await (await (await requests.events()).open()).hello();
  assert.equal(stream.transport, "sse");
  page.follow({ fetch: requests.fetch, url: "ws://elsewhere/stream/projects/shop" });
  assert.equal(world.sockets.length, 2); // what is blocked there is not known

  const reloaded = world.page({ sessionStorage });
  reloaded.follow({ fetch: requests.fetch });
  await requests.events();
  assert.equal(world.sockets.length, 2);
  world.page({ sessionStorage }).follow({ fetch: requests.fetch, transports: ["websocket"] });
  assert.equal(world.sockets.length, 3);

  world.wall -= 3_600_000; // the clock is set
  world.page({ sessionStorage }).follow({ fetch: requests.fetch });
  assert.equal(world.sockets.length, 4);
});

test("a page whose storage is forbidden, full or has garbage falls back all the same", async () => {
  const broken = () => {
    throw new DOMException("denied", "SecurityError");
  };
  const forbidden = Object.defineProperty({}, "sessionStorage", { get: broken });
  for (const globals of [forbidden, { sessionStorage: { getItem: () => "soon", setItem: broken, removeItem: broken } }]) {
    const { world, requests, events } = await fall({}, globals);
    await events.end();
    world.tick(1);
    await requests.events();
    assert.equal(world.sockets.length, 1);
  }
});

test("only events are no finding about WebSockets", async () => {
  const sessionStorage = new Store();
  const { requests, page, world } = follow({ transports: ["sse"] }, { sessionStorage });
  await (await (await requests.events()).open()).hello();
  page.follow({ fetch: requests.fetch });
  assert.equal(world.sockets.length, 1);
  assert.equal(sessionStorage.entries.size, 0);
});

test("the WebSocket is tried again after another network, a failed event stream, and silence", async () => {
  const causes = {
    "another network": async ({ page, requests, world }, events) => {
      page.online();
      await events.end();
      world.tick(1);
    },
    "a refusal": async ({ world, requests }, events) => {
      await events.end();
      world.tick(1);
      await (await requests.events()).refuse(502);
      world.tick(1);
    },
    "no answer": async ({ world, requests }, events) => {
      await events.end();
      world.tick(1);
      await (await requests.events()).lose();
      world.tick(1);
    },
    "no hello": async ({ world, requests }, events) => {
      await events.end();
      world.tick(1);
      await (await requests.events()).open();
      world.tick(20_000);
      world.tick(1);
    },
    silence: async ({ world }) => {
      world.tick(50_000);
      world.tick(1);
    },
  };
  for (const [name, happen] of Object.entries(causes)) {
    const sessionStorage = new Store();
    const page = await fall({}, { sessionStorage }, 25_000);
    assert.equal(sessionStorage.entries.size, 1);
    await happen(page, page.events);
    assert.equal(page.world.sockets.length, 2, name);
    assert.equal(sessionStorage.entries.size, 0, name);
  }
});

test("a WebSocket that opens again is what is known then", async () => {
  const sessionStorage = new Store();
  const { world, page, requests } = await fall({}, { sessionStorage });
  const { stream } = page.follow({ fetch: requests.fetch, transports: ["websocket"] });
  world.socket().hello();
  assert.equal(stream.transport, "websocket");
  assert.equal(sessionStorage.entries.size, 0);
});

test("filters that events can't express stay with the WebSocket", async () => {
  const filters = { level: ["a,b"] };
  assert.throws(() => follow({ transports: ["sse"], filters }), { name: "TypeError", message: /comma/ });
  const { world, requests, take } = follow({ filters });
  world.sockets[0].cut();
  await (await requests.question()).refuse(426);
  assert.equal(take().at(-1)[0], "waiting");
});

test("a route that doesn't read the filters gives no event stream, and the WebSocket is tried", async () => {
  const { world, requests, take, stream } = follow({ filters: { level: "error" } });
  const events = await block({ world, requests });
  await (await events.open()).hello({ filters: { level: [], environment: [] } });
  assert.deepEqual(take().at(-1), ["waiting", { code: 1006, reason: "the filters are not in force", delay: 0 }]);
  assert.ok(events.left);
  assert.equal(stream.transport, null);
  world.tick(1);
  assert.equal(world.sockets.length, 2);
});
