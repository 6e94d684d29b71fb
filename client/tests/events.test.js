import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { test } from "node:test";
import { connect } from "../mesherstream.js";
import { bytes, settle, Store, World } from "./lockstep.js";
import { Requests } from "./requests.js";

const INTERVAL = 25_000;
const whole = { position: "p0", returned: { complete: true, at_most: 9 } };

// follow returns a stream over events, whose first connection is open at the position p0.
async function follow(options, globals) {
  const world = new World();
  const requests = new Requests();
  const page = world.page(globals);
  const { stream, take } = page.follow({ transports: ["sse"], fetch: requests.fetch, ...options });
  const events = await (await requests.events()).open();
  await events.hello({ position: "p0" });
  take();
  // again ends the connection and makes the next one. It returns its request before the answer.
  const again = async () => {
    await requests.made.at(-1).end();
    world.tick(1);
    return requests.events();
  };
  return { world, requests, page, stream, take, events, again };
}

// shown is the messages among what was logged.
const shown = (log) => log.filter((entry) => !Array.isArray(entry));

// --- what an event is

const HELLO = 'event: hello\ndata: {"filters":{"level":[],"environment":[]},"max_buffer":100,"window":0,"position":"p0"}\n\n';

// parsed is what is shown of an event stream that arrives in the given chunks.
async function parsed(...chunks) {
  const { fetch, made } = new Requests();
  const { take, stream } = new World().page().follow({ transports: ["sse"], fetch });
  await settle();
  await made[0].open();
  for (const chunk of chunks) made[0].put(chunk);
  await settle();
  const [, , ...items] = take();
  assert.equal(stream.state, "open", JSON.stringify(items));
  return items;
}

test("events are read as the HTML standard says", async () => {
  const cases = [
    ["data: a\n\n", ["a"]],
    ["data:a\n\ndata:  b\n\ndata\n\ndata:\n\n", ["a", " b", "", ""]],
    ["data: a\ndata: b\ndata:\ndata: c\n\n", ["a\nb\n\nc"]],
    ["data: a\rdata: b\r\rdata: c\r\ndata: d\r\n\r\n", ["a\nb", "c\nd"]],
    [": a comment\n:\ndata: a\n: another\n\n", ["a"]],
    ["data: a\nretry: 10\nwhatever: x\nwhatever\ndata x\n data: y\n\n", ["a"]],
    ["event: message\ndata: a\n\nevent:\ndata: b\n\nevent: news\ndata: c\n\ndata: d\n\n", ["a", "b", "d"]],
    ["event: news\nevent: message\ndata: a\n\n", ["a"]],
    ["event: news\n\ndata: a\n\n", ["a"]], // the name goes with its event
    ["\n\n\n:\n\ndata: a\n\n", ["a"]],
    ["data: a:b: c\n\n", ["a:b: c"]],
    ["data: \u2028\u2029\u0085\u000b\u000c\n\n", ["\u2028\u2029\u0085\u000b\u000c"]], // which end no line
    ["data: \ufeffa\n\n", ["\ufeffa"]], // only the first one is the mark of the byte order
    ["data: a\n\ndata: not over\n", ["a"]],
    ["Data: a\n\nDATA: b\n\n", []],
    ["data: ä€😀\n\n", ["ä€😀"]],
  ];
  for (const [text, want] of cases) {
    for (const mark of ["", "\ufeff"]) {
      const whole = Buffer.from(mark + HELLO + text);
      assert.deepEqual(await parsed(whole), want, JSON.stringify(text));
      assert.deepEqual(await parsed(...[...whole].map((byte) => Uint8Array.of(byte))), want, JSON.stringify(text));
    }
  }
});

test("an event stream may be cut anywhere", async () => {
  const text = "data: ä😀\r\ndata: b\r\n\r\n: c\revent: binary\rdata: AAEC/w==\r\rid: p1\ndata: d\n\n";
  const want = ["ä😀\nb", bytes(0, 1, 2, 255), "d"];
  const whole = Buffer.from(HELLO + text);
  for (let at = HELLO.length; at <= whole.length; at++) {
    assert.deepEqual(await parsed(whole.subarray(0, at), new Uint8Array(0), whole.subarray(at)), want, `at ${at}`);
  }
});

test("a byte that is no UTF-8 is replaced, as a browser does", async () => {
  assert.deepEqual(await parsed(HELLO, Uint8Array.from([...Buffer.from("data: a"), 0xff, ...Buffer.from("b\n\n")])), ["a\ufffdb"]);
});

test("a large event is read in one piece, and takes no time for each of its chunks", async () => {
  const { events, take } = await follow();
  const piece = "x".repeat(2 ** 14);
  events.put("data: ");
  for (let i = 0; i < 1024; i++) events.put(piece);
  await events.write("\n\ndata: next\n\n");
  await settle();
  const [large, next] = take();
  assert.equal(large.length, 2 ** 24);
  assert.equal(next, "next");
});

test("what is no event of this protocol ends the connection, and not the stream", async () => {
  for (const text of ["event: gap\ndata: {\n\n", "event: binary\ndata: ä\n\n", "event: close\ndata: bye\n\n"]) {
    const { events, take, again } = await follow();
    await events.give("a", "p1");
    await events.write(text + "data: b\n\n");
    const [a, [state, { code, reason }], ...rest] = take();
    assert.deepEqual([a, state, code, rest], ["a", "waiting", 1006, []]);
    assert.match(reason, /Error/);
    assert.ok(events.left);
    assert.deepEqual((await again()).query, { since: "p1" });
  }
});

test("onmessage is given an event of a message", async () => {
  const { events, stream } = await follow();
  const got = [];
  stream.onmessage = (data, event) => got.push([data, event instanceof MessageEvent, event.data, event.origin]);
  await events.give("a");
  assert.deepEqual(got, [["a", true, "a", "http://host"]]);
});

// --- positions and returns

test("the id of an event is the position after it", async () => {
  const { world, events, again } = await follow();
  await events.give(["a", "b"], "p1");
  await events.give(["c", bytes(1)]);
  world.tick(100);
  await events.give("d");
  world.tick(250);
  const { since, received, ago } = (await again()).query;
  assert.deepEqual({ since, received, ago }, { since: "p1", received: "3", ago: "251" });
});

test("an id that is no position, or has a NUL, moves nothing", async () => {
  for (const id of ["17", "", "p\0", "p 1", "q1"]) {
    const { events, again } = await follow();
    await events.write(`id: ${id}\ndata: a\n\n`);
    const { since, received } = (await again()).query;
    assert.deepEqual({ since, received }, { since: "p0", received: "1" }, id);
  }
  const { events, again } = await follow();
  await events.write("id: p1\nid: p\0\ndata: a\n\n");
  assert.deepEqual((await again()).query, { since: "p1" });
});

test("the heartbeat moves the position, and so does an event that isn't known, or has no data", async () => {
  for (const text of [":\n\nevent: mark\nid: p1\ndata: {}\n\n", "event: news\nid: p1\ndata: x\n\n", "id: p1\n\n"]) {
    const { events, again, take } = await follow();
    await events.give("a");
    await events.write(text);
    assert.deepEqual(take(), ["a"]);
    assert.deepEqual((await again()).query, { since: "p1" });
  }
});

test("takes what it has out of a complete replay, and shows the rest in order", async () => {
  const { events, again, take, stream } = await follow();
  await events.give(["a", bytes(1), "c"]);
  const second = await again();
  take();
  await (await second.open()).hello(whole);
  assert.deepEqual(take(), [["open", { complete: true, atMost: 9 }]]);
  await second.say({ type: "replay", of: "return" });
  assert.equal(stream.replaying, "return");
  await second.give(["a", "x", bytes(1)], "p5"); // which is the end of a write, within the replay
  await second.give(["c", "y"]);
  await second.say({ type: "replayed", of: "return", position: "p6" });
  await second.give("a");
  assert.equal(stream.replaying, null);
  assert.deepEqual(take(), ["x", "y", "a"]);
  const { since, received } = (await again()).query;
  assert.deepEqual({ since, received }, { since: "p6", received: "1" });
});

test("a connection that breaks within the replay returns to the end of the last write", async () => {
  const { events, again, take } = await follow();
  await events.give(["a", "b", "c"]);
  const second = await again();
  await (await second.open()).hello(whole);
  await second.say({ type: "replay", of: "return" });
  await second.give(["a", "x"], "p5");
  const { since, received } = (await again()).query;
  assert.deepEqual({ since, received }, { since: "p5", received: "2" }); // b and c are still to come
  take();
});

test("a gap is told in its place, with its position", async () => {
  const { events, again, take } = await follow();
  await events.give("a");
  await events.write(
    'event: gap\nid: p4\ndata: {"type":"gap","id":"g1","reason":"slow","dropped":137,"held":130,"by_level":{"debug":137},' +
      '"since":"2026-11-25T18:00:00.123Z","until":"2026-11-25T18:00:04.001Z","position":"p4"}\n\n',
  );
  await events.give("b");
  assert.deepEqual(take(), [
    "a",
    {
      reason: "slow",
      dropped: 137,
      held: 130,
      byLevel: { debug: 137 },
      since: new Date("2026-11-25T18:00:00.123Z"),
      until: new Date("2026-11-25T18:00:04.001Z"),
    },
    "b",
  ]);
  const { since, received } = (await again()).query;
  assert.deepEqual({ since, received }, { since: "p4", received: "1" });
});

test("a message for this client alone is in no tail, also at the end of a write", async () => {
  const { events, again, take } = await follow();
  await events.give("a");
  await events.say({ type: "direct" });
  await events.give("alone");
  await events.give("b");
  const second = await again();
  assert.equal(second.query.received, "2");
  await (await second.open()).hello(whole);
  await second.say({ type: "replay", of: "return" });
  await second.give(["a", "b"]);
  await second.say({ type: "direct" });
  take();
  await second.give("b", "p1");
  await second.say({ type: "replayed", of: "return" });
  assert.deepEqual(take(), ["b"]);
  assert.deepEqual((await again()).query, { since: "p1" });
});

test("an older value of a key is not shown, and no longer expected", async () => {
  const { events, again, take } = await follow();
  await events.give(["k1", bytes(1), "z"]);
  const second = await again();
  await (await second.open()).hello(whole);
  await second.say({ type: "replay", of: "return" }, { type: "past", data: "k1" }, { type: "past", binary: "AQ==" });
  take();
  await second.give(["z", "k1", bytes(1)]);
  assert.deepEqual(take(), ["k1", bytes(1)]);
});

test("a look-back is repeated until it has a position", async () => {
  const world = new World();
  const requests = new Requests();
  const { take, stream } = world.page().follow({ transports: ["sse"], fetch: requests.fetch, url: "ws://host/?last=5" });
  const first = await (await requests.events()).open();
  await first.hello({ mark_ms: INTERVAL });
  await first.say({ type: "replay", of: "join" });
  await first.give("a");
  assert.equal(stream.replaying, "join");
  await first.end();
  world.tick(1);
  const second = await requests.events();
  assert.deepEqual(second.query, { last: "5" });
  await (await second.open()).hello({ mark_ms: INTERVAL });
  await second.say({ type: "replay", of: "join" });
  await second.give(["a", "b"], "p3");
  await second.end();
  world.tick(1);
  assert.deepEqual((await requests.events()).query, { since: "p3" });
  take();
});

test("a stream that moves from a WebSocket to events, and back, goes on from its position", async () => {
  const world = new World();
  const requests = new Requests();
  const { take, stream } = world.page().follow({ fetch: requests.fetch });
  world.socket().hello({ position: "p0" }).give("a", "b");
  world.socket().cut();
  world.tick(1);
  world.sockets.at(-1).cut();
  await (await requests.question()).refuse(426);
  world.tick(1); // the network may have failed just once
  world.sockets.at(-1).cut();
  await (await requests.question()).refuse(426);
  const events = await requests.events();
  assert.deepEqual({ ...events.query, ago: 0 }, { since: "p0", received: "2", ago: 0 });
  await (await events.open()).hello(whole);
  await events.say({ type: "replay", of: "return" });
  await events.give(["a", "b", "c"], "p3");
  await events.say({ type: "replayed", of: "return", position: "p3" });
  await events.give("d");
  world.tick(700_000); // the WebSocket is tried again
  await events.end();
  world.tick(1);
  const second = world.socket();
  assert.deepEqual({ ...second.query, ago: 0 }, { since: "p3", received: "1", ago: 0 });
  second.hello({ ...whole, position: "p3" }).say({ type: "replay", of: "return" }).give("d", "e").say({ type: "replayed", of: "return" });
  assert.deepEqual(shown(take()), ["a", "b", "c", "d", "e"]);
  assert.equal(stream.transport, "websocket");
});

test("a message that has lost how its lines end is the same message", async () => {
  const text = "a\r\nb\rc\n";
  const lossy = "a\nb\nc\n";
  const binary = bytes(13, 10);
  // From a WebSocket to events.
  const world = new World();
  const requests = new Requests();
  const { take, stream } = world.page().follow({ fetch: requests.fetch });
  world.socket().hello({ position: "p0" }).give(text, binary);
  world.socket().cut();
  world.tick(1);
  world.tick(20_000); // nobody answers
  const events = await (await requests.events()).open();
  await events.hello(whole);
  await events.say({ type: "replay", of: "return" });
  take();
  await events.give([text, bytes(10), binary, "x"]);
  assert.deepEqual(take(), [bytes(10), "x"]);
  await events.say({ type: "replayed", of: "return", position: "p1" });
  // An old value of a key.
  await events.give([text, text]);
  assert.deepEqual(take(), [lossy, lossy]);
  await events.end();
  world.tick(1);
  const second = await (await requests.events()).open();
  await second.hello({ ...whole, position: "p1" });
  await second.say({ type: "replay", of: "return" }, { type: "past", data: text });
  take();
  await second.give([text, text]);
  assert.deepEqual(take(), [lossy]);
  await second.say({ type: "replayed", of: "return", position: "p2" });
  // And back.
  await second.give(text);
  world.tick(700_000);
  await second.end();
  world.tick(1);
  world.socket().hello({ ...whole, position: "p2" }).say({ type: "replay", of: "return" });
  take();
  world.socket().give(text, text);
  assert.deepEqual(take(), [text]);
  assert.equal(stream.transport, "websocket");
});

test("over WebSockets alone, messages whose lines end differently are different", () => {
  const world = new World();
  const { take } = world.page().follow();
  world.socket().hello({ position: "p0" }).give("a\r\n");
  world.socket().cut();
  world.tick(1);
  world.socket().hello(whole).say({ type: "replay", of: "return" });
  take();
  world.socket().give("a\n", "a\r\n");
  assert.deepEqual(take(), ["a\n"]);
});

test("storage keeps the position of an event stream too", async () => {
  const storage = new Store();
  const { world, events, page } = await follow({ storage });
  await events.give(["a", "b"], "p1");
  await events.give("c");
  page.hide(false);
  const requests = new Requests();
  const { take } = world.page().follow({ transports: ["sse"], fetch: requests.fetch, storage });
  const second = await requests.events();
  assert.deepEqual({ ...second.query, ago: 0 }, { since: "p1", received: "1", ago: 0 });
  await (await second.open()).hello({ ...whole, position: "p1" });
  await second.say({ type: "replay", of: "return" });
  await second.give(["c", "d"]);
  assert.deepEqual(shown(take()), ["d"]);
});

test("a loop receives the events in order, and what it leaves too long becomes a gap", async () => {
  const { events, stream } = await follow();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  await events.give("taken");
  assert.equal((await first).value.data, "taken");
  await events.give(Array.from({ length: 1500 }, (_, i) => String(i)));
  const { gap } = (await loop.next()).value;
  assert.deepEqual([gap.dropped, gap.held], [501, 0]);
  assert.equal((await loop.next()).value.data, "501");
});

// --- the end of a connection

test("an event named close is a close with that code and reason", async () => {
  const cases = [
    [1001, "the server is shutting down", "waiting"],
    [1000, "", "waiting"],
    [1008, "too many requests", "closed"],
    [4001, "enough", "closed"],
    [1013, "retry_after_ms=5000", "waiting", 5000],
    [1012, "restart, retry_after_ms=700", "waiting", 700],
  ];
  for (const [code, reason, state, delay = 0] of cases) {
    const { events, take } = await follow();
    await events.write(`retry: 7213\nevent: close\ndata: ${JSON.stringify({ code, reason })}\n\ndata: late\n\n`);
    assert.deepEqual(take(), [[state, state === "waiting" ? { code, reason, delay } : { code, reason }]]);
    assert.ok(events.left); // the rest of it is not read
  }
});

test("an end that is not told of is a lost connection", async () => {
  for (const end of ["end", "lose"]) {
    const { events, take } = await follow();
    await events[end]();
    assert.deepEqual(take(), [["waiting", { code: 1006, reason: "", delay: 0 }]]);
    assert.ok(events.left);
  }
});

test("a refusal that passes has its status, and is tried again", async () => {
  for (const status of [404, 429, 500, 503]) {
    const { again, take, world, stream } = await follow();
    const second = await again();
    take();
    await second.refuse(status);
    assert.deepEqual(take(), [["waiting", { code: 1006, reason: `HTTP ${status}`, status, delay: 0 }]]);
    world.tick(1);
    assert.equal(stream.state, "connecting");
  }
});

test("close, a signal and the page that is put away abort the request", async () => {
  const ends = {
    close: ({ stream }) => stream.close(),
    signal: ({ controller }) => controller.abort(),
    pagehide: ({ page }) => page.hide(true),
    freeze: ({ page }) => page.freeze(),
  };
  for (const [name, end] of Object.entries(ends)) {
    const controller = new AbortController();
    const opened = await follow({ signal: controller.signal });
    end({ ...opened, controller });
    assert.ok(opened.events.left, name);
    await opened.events.write("data: late\n\n");
    assert.equal(opened.take().length, 1, name);

    const world = new World();
    const requests = new Requests();
    const page = world.page();
    const { stream, take } = page.follow({ transports: ["sse"], fetch: requests.fetch, signal: controller.signal.aborted ? undefined : controller.signal });
    const asked = await requests.events();
    if (name === "signal") continue;
    end({ stream, page });
    assert.ok(asked.left, name);
    await settle();
    assert.deepEqual(take().map(([state]) => state).slice(1), [stream.state], name); // after the first state, which is told late
  }
});

test("a page that is back has its position, and a new connection", async () => {
  const { page, requests, events, take, stream } = await follow();
  await events.give("a", "p1");
  page.hide(true);
  assert.deepEqual(take().at(-1), ["waiting", { code: 1001, reason: "the page was put away", delay: Infinity }]);
  page.show();
  const second = await requests.events();
  assert.deepEqual(second.query, { since: "p1" });
  await (await second.open()).hello({ ...whole, position: "p1" });
  assert.equal(stream.state, "open");
});

test("a callback that closes the stream is the last one", async () => {
  const { events, stream, take } = await follow();
  stream.onmessage = () => stream.close();
  await events.write("data: a\n\ndata: b\n\nevent: gap\ndata: {}\n\n");
  assert.deepEqual(take(), [["closed", { code: 1000, reason: "" }]]);
  assert.ok(events.left);
});

// --- liveness

test("a connection on which nothing arrives for two intervals is given up", async () => {
  const { again, world, take } = await follow();
  const events = await again();
  await (await events.open()).hello({ mark_ms: INTERVAL });
  take();
  // A comment, a part of an event and a mark are signs of life.
  for (const text of [":\n", "data: a", "b\n\nevent: mark\nid: p1\ndata: {}\n\n"]) {
    world.tick(2 * INTERVAL - 1);
    await events.write(text);
  }
  world.tick(2 * INTERVAL - 1);
  assert.deepEqual(take(), ["ab"]);
  world.tick(1);
  assert.deepEqual(take(), [["waiting", { code: 1006, reason: "silence", delay: 0 }]]);
  assert.ok(events.left);
});

test("stream.age is not known", async () => {
  const { events, stream } = await follow();
  await events.mark("p1");
  assert.equal(stream.age, undefined);
});

// --- filters

test("setFilters returns to the position with the new filters", async () => {
  const { world, requests, events, stream, take } = await follow({ filters: { level: "error" } });
  await events.give("a", "p1");
  const change = stream.setFilters({ level: ["fatal", "error"], environment: "production" });
  assert.ok(events.left);
  const second = await requests.events();
  assert.deepEqual(second.query, { since: "p1", level: "fatal,error", environment: "production" });
  take();
  await (await second.open()).hello({ ...whole, position: "p1" });
  assert.deepEqual(take(), [["open", { complete: true, atMost: 9 }]]);
  assert.deepEqual(await change, { filters: { level: ["fatal", "error"], environment: ["production"] }, filtered: 0 });
  await second.say({ type: "replay", of: "return" }, { type: "replayed", of: "return", position: "p2" });
  await second.end();
  world.tick(1);
  assert.equal((await requests.events()).query.level, "fatal,error"); // they are kept
});

test("setFilters waits for the end of a write, so that what follows can be told from what is there", async () => {
  const { requests, events, stream, take } = await follow();
  await events.give(["a", "b"]);
  const change = stream.setFilters({ level: "error" });
  await settle();
  assert.ok(!events.left);
  events.put("data: c\n\nid: p2\ndata: d\n\ndata: it comes again\n\n");
  const second = await requests.events();
  assert.ok(events.left);
  assert.deepEqual(second.query, { since: "p2", level: "error" });
  await (await second.open()).hello({ ...whole, position: "p2" });
  await change;
  assert.deepEqual(shown(take()), ["a", "b", "c", "d"]);
});

test("setFilters waits two seconds for the end of a write, and no longer", async () => {
  const { world, requests, events, stream } = await follow();
  await events.give("a");
  const changes = [stream.setFilters({ level: "error" })];
  world.tick(1000);
  changes.push(stream.setFilters({ level: "fatal" }));
  world.tick(999);
  await settle();
  assert.ok(!events.left);
  world.tick(1);
  const second = await requests.events();
  assert.deepEqual({ ...second.query, ago: 0 }, { since: "p0", received: "1", ago: 0, level: "fatal" });
  await (await second.open()).hello({ position: "p0", returned: { complete: false } });
  for (const { filters } of await Promise.all(changes)) assert.deepEqual(filters.level, ["fatal"]);
});

test("setFilters waits for the end of a return", async () => {
  const { again, requests, events, stream } = await follow();
  await events.give("a", "p1");
  const second = await again();
  await (await second.open()).hello({ ...whole, position: "p1" });
  await second.say({ type: "replay", of: "return" });
  stream.setFilters({ level: "error" });
  await second.give("x", "p2");
  assert.ok(!second.left);
  await second.say({ type: "replayed", of: "return", position: "p3" });
  assert.deepEqual((await requests.events()).query, { since: "p3", level: "error" });
});

test("a return that breaks before its end is made again with the old filters", async () => {
  const { again, requests, events, stream } = await follow();
  await events.give("a", "p1");
  const second = await again();
  await (await second.open()).hello({ ...whole, position: "p1" });
  await second.say({ type: "replay", of: "return" });
  stream.setFilters({ level: "error" });
  await second.give("x", "p2");
  const third = await again();
  assert.deepEqual(third.query, { since: "p2" });
  await (await third.open()).hello({ ...whole, position: "p2" });
  await third.say({ type: "replay", of: "return" }, { type: "replayed", of: "return", position: "p3" });
  assert.deepEqual((await requests.events()).query, { since: "p3", level: "error" });
});

test("setFilters with last asks for that many earlier messages besides", async () => {
  const { world, requests, events, stream, take } = await follow({ url: "ws://host/?last=7" });
  await events.give("a", "p1");
  const change = stream.setFilters({ level: "error" }, { last: 200 });
  const second = await requests.events();
  assert.deepEqual(second.query, { since: "p1", last: "200", level: "error" });
  await (await second.open()).hello({ ...whole, position: "p1" });
  await change;
  await second.say({ type: "replay", of: "return" }, { type: "replayed", of: "return" }, { type: "replay", of: "subscribe" });
  assert.equal(stream.replaying, "subscribe");
  await second.give("a");
  await second.say({ type: "replayed", of: "subscribe", position: "p2" });
  assert.deepEqual(shown(take()), ["a", "a"]);
  await second.end();
  world.tick(1);
  assert.deepEqual((await requests.events()).query, { since: "p2", level: "error" });
});

test("a change that is refused leaves the filters as they were", async () => {
  for (const [status, code] of [[400, "invalid_filter"], [403, "not_granted"]]) {
    const { requests, events, stream, take } = await follow({ filters: { level: "error" } });
    await events.give("a", "p1");
    const change = assert.rejects(stream.setFilters({ level: "secret" }), { code });
    await (await requests.events()).refuse(status);
    await change;
    const third = await requests.events();
    assert.equal(requests.made.length, 3);
    assert.deepEqual(third.query, { since: "p1", level: "error" });
    await (await third.open()).hello({ ...whole, position: "p1" });
    assert.deepEqual(take(), ["a", ["connecting"], ["open", { complete: true, atMost: 9 }]]);
  }
});

test("a session that has ended ends the stream when the filters change, and a server that is away does not", async () => {
  const { requests, stream, take, world } = await follow({ filters: { level: "error" } });
  const change = stream.setFilters({ level: "fatal" });
  await (await requests.events()).refuse(503);
  assert.equal(take().at(-1)[1].status, 503);
  world.tick(1);
  const again = await requests.events();
  assert.equal(again.query.level, "fatal");
  const end = assert.rejects(change, { code: "closed" });
  await again.refuse(401);
  await end;
  assert.equal(stream.state, "closed");
});

test("a change that the page makes without a connection is made with the next one", async () => {
  const { requests, events, stream, world } = await follow();
  await events.give("a", "p1");
  await events.end();
  const change = stream.setFilters({ level: "error" });
  world.tick(1);
  const second = await requests.events();
  assert.deepEqual(second.query, { since: "p1", level: "error" });
  await (await second.open()).hello({ ...whole, position: "p1" });
  assert.deepEqual((await change).filters.level, ["error"]);
});

test("a change that would make a part of the tail uncertain waits for the return to end", async () => {
  const { requests, events, stream, world } = await follow();
  await events.give("a");
  await events.end();
  stream.setFilters({ level: "error" });
  world.tick(1);
  const second = await requests.events();
  assert.deepEqual({ ...second.query, ago: 0 }, { since: "p0", received: "1", ago: 0 });
  await (await second.open()).hello(whole);
  await second.say({ type: "replay", of: "return" });
  await second.give("a");
  await second.say({ type: "replayed", of: "return", position: "p1" });
  assert.deepEqual((await requests.events()).query, { since: "p1", level: "error" });
});

test("changes are made ten times a second at most, and the last one wins", async () => {
  const { requests, events, stream, world } = await follow();
  const order = [];
  const changes = [0, 1, 2].map((i) => stream.setFilters({ level: `l${i}` }).then(() => order.push(i)));
  const opened = async (level) => {
    const next = await requests.events();
    assert.equal(next.query.level, level);
    await (await next.open()).hello({ position: "p0", returned: { complete: true } });
    await next.say({ type: "replayed", of: "return" });
    return next;
  };
  assert.ok(events.left);
  await opened("l0");
  assert.deepEqual(order, [0]);
  world.tick(99);
  await settle();
  assert.equal(requests.made.length, 2);
  world.tick(1);
  await opened("l2");
  await Promise.all(changes);
  assert.deepEqual(order, [0, 1, 2]);
});

test("a stream that is closed while a change waits has no timer", async () => {
  const { world, events, stream } = await follow();
  await events.give("a");
  stream.setFilters({ level: "error" }).catch(() => {});
  stream.close();
  assert.equal(world.timers.size, 0);
});

test("a change that onstate makes when the stream opens has an answer of its own", async () => {
  const world = new World();
  const requests = new Requests();
  const changes = [];
  const change = (stream, state) => state === "open" && !changes.length && changes.push(stream.setFilters({ level: "x" }));
  const { stream } = world.page().follow({ transports: ["sse"], fetch: requests.fetch, onstate: (state) => change(stream, state) });
  await (await (await requests.events()).open()).hello({ position: "p0" });
  const second = await requests.events();
  assert.deepEqual(second.query, { since: "p0", level: "x" });
  await (await second.open()).hello({ position: "p0", returned: { complete: true } });
  assert.deepEqual((await changes.pop()).filters.level, ["x"]);

  const other = world.page().follow({ onstate: (state) => change(other.stream, state) });
  const socket = world.socket().hello({ position: "p0" });
  assert.equal(socket.asked().length, 1);
  socket.say({ type: "filters_updated", filters: { level: ["x"], environment: [] }, filtered: 3, position: "p1" });
  assert.equal((await changes.pop()).filtered, 3);
});

test("a value with a comma is refused, and the connection stays", async () => {
  const { requests, events, stream } = await follow();
  await assert.rejects(stream.setFilters({ level: "a,b" }), { code: "invalid_filter", message: /comma/ });
  assert.ok(!events.left);
  assert.equal(requests.made.length, 1);
  await events.end(); // and without a connection
});

test("a route that doesn't read the filters rejects a change", async () => {
  const { requests, stream, world } = await follow();
  const change = assert.rejects(stream.setFilters({ level: "error" }), { code: "not_granted" });
  const second = await requests.events();
  await (await second.open()).hello({ position: "p0", filters: { level: [], environment: [] } });
  await change;
  world.tick(1);
  assert.deepEqual((await requests.events()).query, { since: "p0" });
});

test("a change that onstate makes is not answered by the hello that it is told of", async () => {
  const { requests, stream, world } = await follow();
  const first = stream.setFilters({ level: "first" });
  let second;
  stream.onstate = (state) => {
    if (state === "open") second ??= stream.setFilters({ level: "second" });
  };
  const events = await requests.events();
  await (await events.open()).hello({ position: "p0", returned: { complete: true } });
  assert.deepEqual((await first).filters.level, ["first"]);
  await events.say({ type: "replayed", of: "return" });
  world.tick(100);
  const third = await requests.events();
  assert.equal(third.query.level, "second");
  await (await third.open()).hello({ position: "p0", returned: { complete: true } });
  assert.deepEqual((await second).filters.level, ["second"]);
});

// --- gaps

// missed returns a stream that has been told of three gaps, and the gaps.
async function missed(options) {
  const opened = await follow({ url: "ws://host/stream/projects/shop?token=1&last=5", filters: { level: "error" }, ...options });
  const gaps = [];
  opened.stream.ongap = (gap) => gaps.push(gap);
  const gap = { type: "gap", reason: "slow", dropped: 2, held: 2, position: "p1" };
  await opened.events.say({ ...gap, id: "g1" }, { ...gap, id: "g2" }, { ...gap, id: undefined });
  return { ...opened, gaps };
}

const bite = (type, more) => ({ type, of: "gap", ...(more && { more }) });

test("a gap is fetched by a request of its own, while the newest messages arrive", async () => {
  const { events, requests, gaps, take, stream } = await missed();
  const fetched = gaps[0].fetch();
  const other = gaps[1].fetch();
  const request = await requests.events();
  assert.deepEqual(request.query, { token: "1", gap: "g1" });
  await (await request.open()).hello();
  await request.say(bite("replay"));
  await request.give(["a", bytes(1)]);
  take();
  await events.give("live");
  assert.deepEqual(take(), ["live"]);
  await request.say(bite("replayed", true), bite("replay"));
  await request.give("c");
  assert.equal(requests.made.at(-1), request); // one fetch runs at a time
  await request.say(bite("replayed"));
  await request.write('event: close\ndata: {"type":"close","code":1000,"reason":""}\n\n');
  assert.deepEqual(await fetched, ["a", bytes(1), "c"]);
  assert.ok(request.left);
  const second = await requests.events();
  assert.equal(second.query.gap, "g2");
  await (await second.open()).hello();
  await second.say(bite("replay"), bite("replayed"));
  assert.deepEqual(await other, []);
  assert.deepEqual(await gaps[2].fetch(), []);
  assert.equal(stream.state, "open");
  assert.deepEqual(take(), []);
});

test("a fetch whose gap is not known, or no longer granted, is rejected, and the next one is made", async () => {
  for (const [status, code] of [[410, "invalid_gap"], [400, "invalid_gap"], [403, "not_granted"]]) {
    const { requests, gaps, stream, world } = await missed();
    const fetched = assert.rejects(gaps[0].fetch(), { code, message: `mesherstream: HTTP ${status}` });
    gaps[1].fetch().catch(() => {});
    await (await requests.events()).refuse(status);
    await fetched;
    assert.equal((await requests.events()).query.gap, "g2");
    assert.equal(stream.state, "open");
    stream.close();
    assert.equal(world.timers.size, 0);
  }
});

test("a fetch that breaks is made again from the start", async () => {
  const breaks = {
    "an end": (request) => request.end(),
    "a lost connection": (request) => request.lose(),
    silence: (_, world) => world.tick(20_000),
  };
  for (const [name, happen] of Object.entries(breaks)) {
    const { requests, gaps, world, stream } = await missed();
    const fetched = gaps[0].fetch();
    const request = await requests.events();
    await (await request.open()).hello();
    await request.say(bite("replay"));
    world.tick(19_999);
    await request.give("a");
    await happen(request, world);
    assert.ok(request.left, name);
    world.tick(1);
    await (await requests.events()).refuse(503);
    world.tick(1);
    const again = await requests.events();
    assert.equal(requests.made.length, 4, name);
    await (await again.open()).hello();
    await again.say(bite("replay"));
    await again.give(["a", "b"]);
    await again.say(bite("replayed"));
    assert.deepEqual(await fetched, ["a", "b"], name);
    stream.close();
    assert.equal(world.timers.size, 0, name);
  }
});

test("what is no replay of the gap is not what was missed", async () => {
  const { requests, gaps } = await missed();
  const fetched = gaps[0].fetch();
  const request = await (await requests.events()).open();
  await request.hello();
  await request.give("live");
  await request.say({ type: "replay", of: "join" });
  await request.give("old");
  await request.say({ type: "replayed", of: "join" }, bite("replay"));
  await request.give("a");
  await request.say(bite("replayed"));
  assert.deepEqual(await fetched, ["a"]);
});

test("a fetch waits for a connection, is made again on the next one, and ends with the stream", async () => {
  const { events, requests, gaps, world, stream } = await missed();
  const fetched = assert.rejects(gaps[0].fetch(), { code: "closed" });
  const first = await requests.events();
  await events.end();
  assert.ok(first.left);
  await settle();
  assert.equal(requests.made.length, 2);
  world.tick(1);
  await (await (await requests.events()).open()).hello({ ...whole, position: "p1" });
  const second = await requests.events(); // also while the return is not over
  assert.equal(second.query.gap, "g1");
  stream.close();
  assert.ok(second.left);
  await fetched;
  assert.equal(world.timers.size, 0);
});

// --- in earnest

test("follows a server by the fetch of Node itself", async (t) => {
  const responses = [];
  const server = createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    responses.push({ request, response, closed: once(response, "close") });
    response.write(HELLO);
    server.emit("follower");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (server.closeAllConnections(), server.close()));
  const follower = () => once(server, "follower");
  const url = `http://127.0.0.1:${server.address().port}/stream/projects/shop`;
  let next = follower();
  const stream = connect(url, { transports: ["sse"], minDelay: 1, maxDelay: 1 });
  t.after(() => stream.close());
  const loop = stream[Symbol.asyncIterator]();
  const item = loop.next();
  await next;
  const [first] = responses;
  assert.equal(first.request.headers.accept, "text/event-stream, application/vnd.mesherstream.v1");
  assert.equal(first.request.headers["cache-control"], "no-cache");
  first.response.write("id: p1\ndata: {\"n\":1}\n\n");
  assert.deepEqual((await item).value, { type: "message", data: '{"n":1}' });
  next = follower();
  first.response.end();
  await next;
  assert.equal(responses[1].request.url, "/stream/projects/shop?since=p1");
  next = follower();
  const change = stream.setFilters({ level: "error" }).catch((error) => error.code);
  await next;
  await responses[1].closed; // the page has left it
  stream.close();
  await responses[2].closed;
  assert.ok(await change);
});
