import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../mesherstream.js";
import { bytes, settle, Store, World } from "./lockstep.js";
import { WebSocket } from "./server.js";

const mark = (position) => ({ type: "mark", window: 0, position });
const start = { type: "replay", of: "return" };
const end = { type: "replayed", of: "return" };
const whole = (position) => ({ position, returned: { complete: true } });

// visit loads a page with a stream that is stored, and says hello. A reload is a further visit of the same world.
function visit(world, storage, { hello = { position: "p0" }, ...options } = {}) {
  const page = world.page();
  const { stream, take } = page.follow({ storage, ...options });
  const dialed = world.sockets.at(-1).query;
  const socket = world.socket().hello(hello);
  return { page, stream, socket, take, dialed };
}

// returned is the query with which a page returns from what is stored.
function returned(world, storage, options) {
  return visit(world, storage, options).dialed;
}

const shown = (log) => log.filter((entry) => !Array.isArray(entry));

test("a reload returns from the newest mark, with the messages since as they were when the page was left", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, dialed } = visit(world, storage, { url: "ws://host/?last=200" });
  assert.deepEqual(dialed, { last: "200" });
  socket.give("a").say(mark("p1")).give("b", bytes(200));
  world.tick(300);
  page.hide(false);
  world.tick(5000); // it takes long to load

  const second = visit(world, storage, { url: "ws://host/?last=200", hello: whole("p1") });
  assert.deepEqual(second.dialed, { since: "p1", received: "2", ago: "5300" });
  second.socket.say(start).give("b", bytes(200), "c").say(end);
  assert.deepEqual(shown(second.take()), ["c"]);
});

test("a return after a reload tells what it has brought, and has its state again at the next one", async () => {
  const world = new World();
  const storage = new Store();
  visit(world, storage).page.hide(false);
  const second = visit(world, storage, { hello: { position: "p5", returned: { complete: false, at_most: 7 } } });
  await settle();
  assert.deepEqual(second.take().find(([state]) => state === "open"), ["open", { complete: false, atMost: 7 }]);
  second.socket.say({ type: "gap", reason: "away", at_most: 7, position: "p5" });
  second.page.hide(false);
  assert.deepEqual(returned(world, storage), { since: "p5" });
});

test("a page that crashes returns from its newest mark, and is shown again what it had handled since", () => {
  const world = new World();
  const storage = new Store();
  const { socket } = visit(world, storage);
  socket.give("a").say(mark("p1")).give("b");
  assert.deepEqual(returned(world, storage, { hello: whole("p1") }), { since: "p1" });
});

test("is written at marks and when the page is left or frozen, and not with each message", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.give("a", "b", "c");
  assert.equal(storage.writes, 0);
  socket.say(mark("p1"));
  assert.equal(storage.writes, 1);
  socket.give("d").say({ type: "mark", window: 0 });
  assert.equal(storage.writes, 1);
  page.freeze();
  assert.deepEqual([storage.writes, returned(world, storage).received], [2, "1"]);
});

test("a page that the browser keeps is stored too, and goes on as it was", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.give("a");
  page.hide(true);
  assert.equal(storage.writes, 1);
  page.show();
  assert.equal(world.socket().query.received, "1");
  assert.deepEqual(returned(world, storage).received, "1");
});

test("the position is that of what the loop has handled", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, stream } = visit(world, storage);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("a").say(mark("p1")).give("b", "c").say(mark("p2")).give("d");
  await first;
  assert.equal(storage.writes, 0);
  const left = () => {
    page.hide(false);
    return returned(world, storage, { hello: whole("p9") });
  };
  const { since, received } = left();
  assert.deepEqual({ since, received }, { since: "p0", received: undefined });
  await loop.next(); // a is handled
  assert.deepEqual(left(), { since: "p1" });
  await loop.next(); // b
  assert.deepEqual([left().since, left().received], ["p1", "1"]);
  await loop.next(); // c
  assert.deepEqual(left(), { since: "p2" });
  loop.next();
  await settle(); // d
  assert.deepEqual([left().since, left().received], ["p2", "1"]);
});

test("the loop's position is right over a return within its backlog", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, stream } = visit(world, storage);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("a", "b", "c");
  await first;
  socket.cut();
  world.tick(1);
  const second = world.socket().hello(whole("p0")).say(start).give("a", "b").say(mark("p1")).give("c", "d").say(end);
  const left = () => {
    page.hide(false);
    const { since, received } = returned(world, storage);
    return [since, received];
  };
  await loop.next(); // a is handled
  assert.deepEqual(left(), ["p0", "1"]);
  await loop.next();
  assert.deepEqual(left(), ["p0", "2"]);
  await loop.next(); // c, and with it all that came before the mark
  assert.deepEqual(left(), ["p1", "1"]);
  loop.next();
  await settle();
  assert.deepEqual(left(), ["p1", "2"]);
  assert.equal(second.left, null);
});

test("a loop that stands still doesn't make what is kept grow, and what it has handled is known no more", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, stream } = visit(world, storage);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("taken");
  await first;
  socket.give("x", "y").say(mark("p1"));
  world.tick(70);
  for (let i = 2; i <= 500; i++) socket.give("x", "y").say(mark(`p${i}`));
  await loop.next();
  page.hide(false);
  const { since, received, ago } = returned(world, storage);
  assert.deepEqual({ since, received, ago }, { since: "p0", received: "unknown", ago: "0" });
  for (let i = 0; i < 999; i++) await loop.next();
  loop.next();
  await settle();
  page.hide(false);
  assert.deepEqual(returned(world, storage), { since: "p500" });
});

test("a loop's backlog of large messages doesn't make what is kept grow", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, stream } = visit(world, storage);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("taken");
  await first;
  for (let i = 1; i <= 8; i++) socket.give("x".repeat(2 ** 18)).say(mark(`p${i}`));
  await loop.next();
  page.hide(false);
  assert.equal(returned(world, storage).received, "unknown");
});

test("the end of the stream removes what is stored, before its callback", () => {
  for (const finish of [
    ({ stream }) => stream.close(),
    ({ socket }) => socket.end(4000, ""),
    ({ controller }) => controller.abort(),
  ]) {
    const world = new World();
    const storage = new Store();
    const controller = new AbortController();
    let size;
    const onstate = (state) => (size = storage.entries.size);
    const visited = visit(world, storage, { signal: controller.signal, onstate });
    visited.socket.give("a").say(mark("p1"));
    assert.equal(storage.entries.size, 1);
    finish({ ...visited, controller });
    assert.equal(size, 0);
    visited.page.hide(false);
    assert.equal(storage.entries.size, 0);
    assert.deepEqual(returned(world, storage), {});
  }
});

test("a loop that goes on after the end stores nothing", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, stream } = visit(world, storage);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("a", "b").say(mark("p1"));
  await first;
  stream.close();
  await loop.next();
  await loop.next();
  assert.equal(storage.entries.size, 0);
});

test("a connection that is lost removes nothing", () => {
  const world = new World();
  const storage = new Store();
  const { socket } = visit(world, storage);
  socket.say(mark("p1")).cut();
  assert.equal(returned(world, storage).since, "p1");
});

test("has a key per URL and filters, whatever says where the stream begins", () => {
  const world = new World();
  const storage = new Store();
  const open = (url, filters) => visit(world, storage, { url, filters }).socket.say(mark("p1"));
  const keys = () => [...storage.entries.keys()];
  open("ws://host/a?token=1&last=5#part");
  for (const query of ["?token=1", "?token=1&since=10m", "?received=1&token=1&ago=2"]) open("ws://host/a" + query);
  assert.deepEqual(keys(), ["mesherstream ws://host/a?token=1"]);
  open("ws://host/a?token=2");
  open("ws://host/a?token=1", { level: "error" });
  open("ws://host/a?token=1", { level: ["error", ""], environment: [] });
  assert.deepEqual(keys().slice(1), ["mesherstream ws://host/a?token=2", 'mesherstream ws://host/a?token=1 {"level":["error"],"environment":[]}']);
});

test("two streams of a page are never stored under one key", () => {
  const world = new World();
  const storage = new Store();
  const page = world.page();
  const { stream } = page.follow({ storage });
  assert.throws(() => page.follow({ storage }), { name: "TypeError", message: /is stored already/ });
  assert.equal(world.sockets.length, 1);
  const other = page.follow({}); // which isn't stored, so its end is none of the first one's
  other.stream.close();
  assert.throws(() => page.follow({ storage }), TypeError);
  page.follow({ storage, filters: { level: "error" } });
  stream.close();
  page.follow({ storage });
});

test("a stream that can't begin holds no key", () => {
  const world = new World();
  const page = world.page();
  const storage = new Store();
  class Refuses {
    constructor() {
      throw new SyntaxError("no token");
    }
  }
  assert.throws(() => page.follow({ storage, WebSocket: Refuses }), SyntaxError);
  page.follow({ storage });
});

test("of messages that were received with other filters, nobody knows how many match", async () => {
  const world = new World();
  const storage = new Store();
  const { socket, page, stream } = visit(world, storage);
  const change = stream.setFilters({ level: "error" });
  socket.say({ type: "filters_updated", position: "p3", filters: { level: ["error"] }, filtered: 0 });
  await change;
  page.hide(false);
  assert.deepEqual(returned(world, storage), { since: "p3" }); // there are none
  socket.give("a");
  page.hide(false);
  const again = visit(world, storage, { hello: whole("p3") });
  assert.deepEqual(again.dialed, { since: "p3", received: "unknown", ago: "0" });
  again.socket.say(start).give("a", "b").say(end);
  assert.deepEqual(shown(again.take()), ["b"]);
});

test("a tail that is too large is left out", () => {
  for (const [size, received] of [[200_000, "1"], [300_000, "unknown"]]) {
    const world = new World();
    const storage = new Store();
    const { socket, page } = visit(world, storage);
    socket.give("x".repeat(size));
    world.tick(70);
    page.hide(false);
    const query = returned(world, storage);
    assert.deepEqual([query.received, query.ago], [received, "70"]);
  }
});

test("a tail of which count is lost stays so", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.give("a").say({ type: "gap", reason: "relay" });
  page.hide(false);
  assert.equal(returned(world, storage).received, "unknown");
});

test("a clock that is set back says that the newest message has just arrived", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.give("a");
  page.hide(false);
  world.wall -= 3_600_000;
  assert.equal(returned(world, storage).ago, "0");
});

test("a storage that is full, forbidden or full of garbage costs nothing", () => {
  const forbid = () => {
    throw new Error("forbidden");
  };
  for (const broken of [{ getItem: forbid }, { setItem: forbid }, { removeItem: forbid }, { getItem: async () => "" }]) {
    const world = new World();
    const storage = Object.assign(new Store(), broken);
    const { socket, page, take, stream, dialed } = visit(world, storage);
    assert.deepEqual(dialed, {});
    socket.give("a").say(mark("p1"));
    page.hide(true);
    page.show();
    world.socket().hello(whole("p1")).say(start, end).give("b");
    assert.deepEqual(shown(take()), ["a", "b"]);
    stream.close();
  }
  const key = "mesherstream ws://host/stream/projects/shop";
  const garbage = [
    ...["", "null", "5", '"p1"', "[]", "{}", "{", "undefined", '{"position":5}', '{"position":"10m"}', '{"position":""}'],
    ...['{"position":"p1","tail":5}', '{"position":"p1","tail":{}}', `{"position":"p${"x".repeat(3000)}","tail":[]}`],
  ];
  for (const text of garbage) {
    const storage = new Store();
    storage.setItem(key, text);
    assert.deepEqual(returned(new World(), storage), {}, text);
  }
  for (const at of ['"now"', "null", "1e999", "[]", "0", "-1e15", "-1e300"]) {
    const storage = new Store();
    storage.setItem(key, `{"position":"p1","tail":["a"],"at":${at}}`);
    assert.deepEqual(returned(new World(), storage), { since: "p1", received: "1", ago: "0" }, at);
  }
});

test("a tail for which there is no space is left out, so that a return shows none of it again", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.give("a").say(mark("p1"));
  const { setItem } = storage;
  storage.setItem = (key, text) => {
    if (text.length > 100) throw new Error("full");
    setItem.call(storage, key, text);
  };
  socket.say(mark("p2")).give("b".repeat(100));
  page.hide(false);
  assert.deepEqual(returned(world, storage), { since: "p2", received: "unknown", ago: "0" });
});

test("a server without positions leaves nothing that a later one could be asked for", () => {
  const world = new World();
  const storage = new Store();
  const { socket, page } = visit(world, storage);
  socket.say(mark("p1"));
  page.hide(false);
  visit(world, storage, { hello: {} }).socket.give("a");
  assert.deepEqual(returned(world, storage), {});
});

test("throws a TypeError at what is no storage, and at one that tabs share", () => {
  const world = new World();
  const local = new Store();
  const page = world.page({ localStorage: local });
  for (const storage of [{}, new Map(), { getItem() {}, setItem() {} }, "sessionStorage"]) {
    assert.throws(() => page.follow({ storage }), { name: "TypeError", message: /^mesherstream: option storage is no / });
  }
  assert.throws(() => page.follow({ storage: local }), { name: "TypeError", message: /localStorage/ });
  page.follow({ storage: new Store() });
  const forbidden = world.page({
    get localStorage() {
      throw new Error("SecurityError");
    },
  });
  forbidden.follow({ storage: new Store() });
  for (const storage of [undefined, null]) connect("ws://127.0.0.1:1/", { WebSocket, storage }).close();
});

test("a stream that is aborted before it begins touches no storage", () => {
  const storage = new Store();
  storage.setItem("mesherstream ws://host/stream/projects/shop", '{"position":"p1","tail":[],"at":0}');
  new World().page().follow({ storage, signal: AbortSignal.abort() });
  assert.equal(storage.entries.size, 1);
});
