import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, settle, World } from "./lockstep.js";

// follow returns a stream on a server with positions, whose first connection is open at the position p0.
function follow(options) {
  const world = new World();
  const page = world.page();
  const { stream, take, log } = page.follow(options);
  const socket = world.socket().hello({ position: "p0" });
  take();
  // again cuts the connection and makes the next one. It returns its socket before the hello.
  const again = () => {
    world.sockets.at(-1).cut();
    world.tick(1);
    return world.socket();
  };
  return { world, page, stream, take, log, socket, again };
}

// whole is the hello of a return whose replay is complete.
const whole = { position: "p0", returned: { complete: true, at_most: 9 } };
const start = { type: "replay", of: "return" };
const end = { type: "replayed", of: "return" };
const mark = (position) => ({ type: "mark", window: 0, position });

// shown is the messages among what was logged.
const shown = (log) => log.filter((entry) => !Array.isArray(entry));

test("returns with its position, the number of messages since, and the age of the newest", () => {
  const { world, socket, again, stream } = follow();
  socket.give("a");
  world.tick(100);
  socket.give("b", bytes(1));
  world.tick(250.7);
  const second = again();
  const { since, received, ago } = second.query;
  assert.deepEqual({ since, received }, { since: "p0", received: "3" });
  assert.equal(ago, "251"); // rounded down, and a millisecond until the next attempt
  assert.equal(stream.replaying, null);
});

test("says nothing of messages if there are none since the position", () => {
  const { socket, again } = follow();
  socket.give("a").say(mark("p1"));
  assert.deepEqual(again().query, { since: "p1" });
});

test("a first connection keeps where its URL begins, also at a further attempt, and a return replaces it", () => {
  const url = "ws://host/?token=1&last=200&since=10m&received=4&ago=5&level=error";
  const world = new World();
  world.page().follow({ url });
  const query = { token: "1", last: "200", since: "10m", received: "4", ago: "5", level: "error" };
  assert.deepEqual(world.sockets[0].query, query);
  world.sockets[0].end(1001, "");
  world.tick(1);
  assert.deepEqual(world.sockets[1].query, query);
  world.socket().hello({ position: "p0" });
  world.socket().cut();
  world.tick(1);
  assert.deepEqual(world.sockets[2].query, { token: "1", since: "p0", level: "error" });
});

test("takes what it has out of a complete replay, and shows the rest in order", () => {
  const { socket, again, take } = follow();
  socket.give("a", "b", "c");
  assert.deepEqual(take(), ["a", "b", "c"]);
  again().hello(whole).say(start).give("a", "x", "b", "c", "a", "y").say(end).give("a");
  assert.deepEqual(shown(take()), ["x", "a", "y", "a"]);
});

test("equal messages are taken out as often as they were received", () => {
  const { socket, again, take } = follow();
  socket.give("a", "a");
  take();
  again().hello(whole).say(start).give("a", "a", "a").say(end);
  assert.deepEqual(shown(take()), ["a"]);
});

test("tells binary data from text, and remembers what a callback transfers", () => {
  const { socket, again, stream } = follow();
  const got = [];
  stream.onmessage = (data) => got.push(typeof data === "string" ? data : structuredClone(data, { transfer: [data] }));
  socket.give(bytes(97, 0, 255, 128, 159), "b");
  assert.deepEqual(got.splice(0), [bytes(97, 0, 255, 128, 159), "b"]);
  again().hello(whole).say(start).give("a", bytes(98), bytes(97, 0, 255, 128, 159), bytes(97)).say(end);
  assert.deepEqual(got, ["a", bytes(98), bytes(97)]);
});

test("binary data that differ in any byte are different", () => {
  for (let value = 0; value < 256; value++) {
    const { socket, again, take } = follow();
    socket.give(bytes(value));
    take();
    const others = Array.from({ length: 256 }, (_, other) => bytes(other));
    again().hello(whole).say(start).give(...others).say(end);
    assert.deepEqual(shown(take()).map((data) => new Uint8Array(data)[0]), [...Array(256).keys()].filter((other) => other !== value));
  }
});

test("nothing is taken out of a return that is not complete, and the tail is over", () => {
  for (const returned of [{ complete: false, at_most: 9 }, { complete: "yes" }, {}]) {
    const { socket, again, take } = follow();
    socket.give("a");
    take();
    again().hello({ position: "p7", returned }).say({ type: "gap", reason: "away", position: "p8", dropped: 3 }, start).give("a").say(end);
    const [, , , gap, a] = take();
    assert.deepEqual([gap.reason, gap.dropped, a], ["away", 3, "a"]);
    const { since, received } = again().query;
    assert.deepEqual({ since, received }, { since: "p8", received: "1" });
  }
});

test("a return that is not complete keeps its position until the gap has told what is missing", () => {
  const { socket, again } = follow();
  socket.give("a");
  const second = again().hello({ position: "p7", returned: { complete: false } }).say(start);
  const third = again();
  assert.deepEqual([third.query.since, third.query.received], ["p0", "1"]);
  third.hello({ position: "p7", returned: { complete: false } }).say(start, { type: "gap", reason: "away", position: "p7" });
  assert.deepEqual(again().query, { since: "p7" });
  assert.equal(second.left, null);
});

test("onstate tells what a return has brought, and nothing of a first connection", () => {
  const cases = [
    [{ position: "p1", returned: { complete: true, at_most: 0 } }, { complete: true, atMost: 0 }],
    [{ position: "p1", returned: { complete: false, at_most: 57 } }, { complete: false, atMost: 57 }],
    [{ position: "p1", returned: { complete: false } }, { complete: false }],
    [{ position: "p1", returned: { complete: "yes" } }, { complete: false }],
    [{ position: "p1" }, { complete: false }], // it doesn't say so
    [{}, { complete: false }], // an older server
  ];
  for (const [hello, info] of cases) {
    const world = new World();
    const { log } = world.page().follow();
    world.socket().hello({ position: "p0" });
    world.socket().cut();
    world.tick(1);
    world.socket().hello(hello);
    const opens = log.filter(([state]) => state === "open");
    assert.deepEqual(opens, [["open"], ["open", info]]);
  }
});

test("a server without positions is followed as ever", () => {
  const world = new World();
  const { take, stream } = world.page().follow({ url: "ws://host/?last=5" });
  world.socket().hello().give("a").say({ type: "gap", dropped: 1 }, { type: "mark", window: 0 });
  world.socket().cut();
  world.tick(1);
  assert.deepEqual(world.socket().query, {});
  take();
  world.socket().hello().give("a");
  assert.deepEqual(take(), [["open"], "a"]);
  assert.equal(stream.state, "open");
});

test("an older server after a newer one ends the tail and the position", () => {
  const { socket, again, take } = follow();
  socket.give("a");
  const older = again();
  take();
  older.hello().give("a");
  assert.deepEqual(take(), [["open", { complete: false }], "a"]);
  const newer = again();
  assert.deepEqual(newer.query, {});
  take();
  newer.hello({ position: "p5" }).give("a");
  assert.deepEqual(take(), [["open"], "a"]);
});

test("a message for this client alone is shown, is in no tail and in no replay", () => {
  const { socket, again, take } = follow();
  socket.say({ type: "direct" }).give("a").give("b");
  const second = again();
  assert.equal(second.query.received, "1");
  take();
  second.hello(whole).say(start, { type: "direct" }).give("b", "a", "b").say(end);
  assert.deepEqual(shown(take()), ["b", "a"]);
  assert.equal(again().query.received, "2");
});

test("a connection that breaks before the message for this client alone makes no other one of it", () => {
  const { socket, again } = follow();
  socket.say({ type: "direct" });
  again().hello(whole).say(start).give("a").say(end);
  assert.equal(again().query.received, "1");
});

test("an older value of a key is not shown, and no longer expected", () => {
  const { socket, again, take } = follow();
  socket.give("k1", bytes(1, 200), "z");
  take();
  const past = { type: "past", data: "k1" };
  again()
    .hello(whole)
    .say(start, past, past, { type: "past", binary: "Acg=" }, { type: "past", data: "never had" })
    .give("z", "k1", bytes(1, 200), "k2")
    .say(end);
  // Equal messages that are new are not swallowed.
  assert.deepEqual(shown(take()), ["k1", bytes(1, 200), "k2"]);
});

test("an older value of a key may be empty", () => {
  const { socket, again, take } = follow();
  socket.give(bytes(), "", "z");
  take();
  again()
    .hello(whole)
    .say(start, { type: "past" }, { type: "past", binary: "" }, { type: "past", data: "" })
    .give("z", "k", bytes(), "")
    .say(end);
  assert.deepEqual(shown(take()), ["k", bytes(), ""]);
});

test("a mark within the replay leaves what is still expected in the tail", () => {
  const { socket, again, take } = follow();
  socket.give("a", "b", "c", "d");
  const second = again();
  take();
  second.hello(whole).say(start).give("a", "x", "b").say(mark("p5")).give("c", "y");
  assert.deepEqual(shown(take()), ["x", "y"]);
  // It breaks: c and d are after p5, and so is y.
  const third = again();
  take();
  assert.deepEqual([third.query.since, third.query.received], ["p5", "3"]);
  third.hello({ ...whole, position: "p5" }).say(start).give("c", "y", "d", "e").say(end);
  assert.deepEqual(shown(take()), ["e"]);
});

test("a connection that breaks within the replay leaves what came before and what was shown since in the tail", () => {
  const { socket, again, take } = follow();
  socket.give("a", "b");
  again().hello(whole).say(start).give("a", "x");
  const third = again();
  take();
  assert.deepEqual([third.query.since, third.query.received], ["p0", "3"]);
  third.hello(whole).say(start).give("a", "x", "b", "y").say(end);
  assert.deepEqual(shown(take()), ["y"]);
});

test("what the replay has not brought leaves the tail with its end", () => {
  const { socket, again, take } = follow();
  socket.give("a", "b");
  again().hello(whole).say(start).give("a").say(end).give("b");
  assert.deepEqual(shown(take()), ["a", "b", "b"]);
  assert.equal(again().query.received, "2");
});

test("a mark without a position leaves the old one, and the tail goes on", () => {
  const { socket, again } = follow();
  socket.give("a").say({ type: "mark", window: 0 }).give("b");
  const { since, received } = again().query;
  assert.deepEqual({ since, received }, { since: "p0", received: "2" });
});

test("a message that was taken for an old value of a key is made up for when that comes", () => {
  for (const [text, past] of [["a", { data: "a" }], [bytes(1), { binary: "AQ==" }]]) {
    const { socket, again, take, stream } = follow();
    const events = [];
    stream.onmessage = (data, event) => events.push([data, event.data]);
    socket.give(text, "b");
    const second = again().hello(whole).say(start).give("b", text).say(mark()).give("c");
    take();
    events.length = 0;
    second.say({ type: "past", ...past });
    assert.deepEqual(events, [[text, text]]);
    second.say({ type: "past", ...past }); // it can't stand for a third one
    assert.equal(events.length, 1);
    second.say(end, { type: "past", ...past });
    assert.equal(events.length, 1);
    assert.equal(again().query.received, "5"); // each is known to a further replay
  }

  const other = follow();
  other.socket.give("a");
  const second = other.again().hello(whole).say(start).give("a").say({ type: "gap", position: "p4", dropped: 1, reason: "slow" });
  other.take();
  second.say({ type: "past", data: "a" });
  assert.deepEqual(other.take(), []);
});

test("an old value that the page has not had is not shown, and known to a further replay", () => {
  const { socket, again, take } = follow();
  socket.give("x");
  const past = { type: "past", data: "a" };
  again().hello(whole).say(start).give("x").say(past).give("a");
  take();
  const third = again();
  assert.equal(third.query.received, "3");
  third.hello(whole).say(start).give("x").say(past).give("a", "b").say(end);
  assert.deepEqual(shown(take()), ["b"]);
});

test("what follows a mark whose position is null is not counted, until the next position", () => {
  const none = { type: "mark", window: 0, position: null };
  const { world, socket, again } = follow();
  socket.give("a").say(none);
  world.tick(10);
  const second = again(); // nothing has followed
  assert.deepEqual({ ...second.query }, { since: "p0", received: "1", ago: "11" });
  second.hello(whole).say(start).give("a", "b").say(end).give("c"); // the filter of another connection is not in force
  assert.equal(again().query.received, "3");

  const other = follow();
  other.socket.say(none, { type: "direct" }).give("x");
  assert.deepEqual(other.again().query, { since: "p0" });

  const third = follow();
  third.socket.say(none).give("a").say({ type: "mark", window: 0 }).give("b");
  assert.deepEqual(third.again().query, { since: "p0", received: "unknown", ago: "1" });

  const fourth = follow();
  fourth.socket.say(none, mark("p4")).give("a");
  assert.deepEqual(fourth.again().query, { since: "p4", received: "1", ago: "1" });
  fourth.world.sockets.at(-1).hello({ position: "p4", returned: { complete: true } }).say(start, none, end).give("b");
  assert.equal(fourth.again().query.received, "unknown");

  const fifth = follow();
  fifth.socket.say(none, { type: "filters_updated", filters: {}, filtered: 0, position: "p5" }).give("a");
  assert.deepEqual(fifth.again().query, { since: "p5", received: "1", ago: "1" });
});

test("a gap and a change of filters end the tail, and what is expected", () => {
  const cuts = [
    { type: "gap", position: "p4", dropped: 1, reason: "slow" },
    { type: "filters_updated", position: "p4", filters: {}, filtered: 0 },
  ];
  for (const cut of cuts) {
    const { socket, again, take } = follow();
    socket.give("a").say(cut);
    assert.deepEqual(again().query, { since: "p4" });

    const other = follow();
    other.socket.give("a", "b");
    other.take();
    other.again().hello(whole).say(start, cut).give("a").say(end);
    assert.equal(shown(other.take()).at(-1), "a");
    const { since, received } = other.again().query;
    assert.deepEqual({ since, received }, { since: "p4", received: "1" });
    take();
  }
});

test("a gap without a position loses count, until the next position, and forgets nothing", () => {
  const { world, socket, again, take } = follow();
  socket.give("a").say({ type: "gap", reason: "relay", at_most: 3 });
  world.tick(10);
  socket.give("b");
  const second = again();
  assert.deepEqual({ ...second.query }, { since: "p0", received: "unknown", ago: "1" });
  take();
  second.hello(whole).say(start).give("a", "b", "c").say(end);
  assert.deepEqual(shown(take()), ["c"]);
  const third = again();
  assert.equal(third.query.received, "unknown");
  third.hello(whole).say(start, end); // which brings nothing of it
  const fourth = again();
  assert.deepEqual({ ...fourth.query }, { since: "p0", received: "unknown", ago: "2" }); // since c
  fourth.hello(whole).say(start, end, mark("p9"));
  assert.deepEqual(again().query, { since: "p9" });
});

test("a gap without a position within the replay leaves what is expected", () => {
  const { socket, again, take } = follow();
  socket.give("a", "b");
  const second = again().hello(whole).say(start).give("a").say({ type: "gap", reason: "relay" });
  take();
  second.give("b", "c").say(end);
  assert.deepEqual(take(), ["c"]);
});

test("what was expected on a connection that broke is not expected on one whose return is not complete", () => {
  const { socket, again, take } = follow();
  socket.give("a");
  again().hello(whole).say(start);
  const third = again().hello({ position: "p7", returned: { complete: false } }).say(start);
  take();
  third.give("a");
  assert.deepEqual(take(), ["a"]);
});

test("a gap without a position counts as the newest message does", () => {
  const { world, socket, again } = follow();
  world.tick(500);
  socket.say({ type: "gap", reason: "relay" });
  assert.deepEqual(again().query, { since: "p0", received: "unknown", ago: "1" });
});

test("a tail that grows too long, or too large, is counted no longer", () => {
  for (const [count, size] of [[4096, 1], [16, 2 ** 16]]) {
    const { socket, again } = follow();
    const text = "x".repeat(size);
    for (let i = 0; i < count; i++) socket.give(text);
    assert.equal(again().query.received, String(count));

    const over = follow();
    for (let i = 0; i < count; i++) over.socket.give(text);
    over.world.tick(100);
    over.socket.give("x");
    const { received, ago } = over.again().query;
    assert.deepEqual([received, ago], ["unknown", "1"]);
    over.world.sockets.at(-1).hello({ position: "p1", returned: { complete: false } });
    over.world.sockets.at(-1).say({ type: "gap", reason: "away", at_most: count, position: "p1" }).give("a");
    assert.equal(over.again().query.received, "1");
  }
});

test("what a return leaves in the tail counts for its size", () => {
  const { socket, again } = follow();
  const text = "x".repeat(2 ** 16);
  for (let i = 0; i < 15; i++) socket.give(text + i);
  const second = again().hello(whole).give("a", text);
  const third = again();
  assert.equal(third.query.received, "unknown");
  assert.equal(second.left, null);
});

test("stream.replaying says which replay it is", () => {
  const { socket, stream, again } = follow();
  for (const of of ["join", "subscribe"]) {
    socket.say({ type: "replay", of });
    assert.equal(stream.replaying, of);
    socket.say({ type: "replayed", of });
    assert.equal(stream.replaying, null);
  }
  const second = again().hello(whole).say(start);
  let seen;
  stream.onmessage = () => (seen = stream.replaying);
  second.give("x");
  assert.equal(seen, "return");
  second.cut();
  assert.equal(stream.replaying, null);
  again();
});

test("a stream that is cut while it looks back does so again, until it has a position", () => {
  const world = new World();
  const { stream } = world.page().follow({ url: "ws://host/?last=5" });
  const join = { type: "replay", of: "join" };
  world.socket().hello({ mark_ms: 25_000 }).cut();
  world.tick(500);
  assert.deepEqual(world.socket().query, { last: "5" });
  world.socket().hello().say(join).give("a").cut();
  world.tick(1000);
  assert.deepEqual(world.socket().query, { last: "5" });
  world.socket().hello({ mark_ms: 25_000 }).say(join).give("a").say({ type: "replayed", of: "join", position: "p1" }).give("b").cut();
  world.tick(2000);
  const { since, received, last } = world.socket().query;
  assert.deepEqual([since, received, last], ["p1", "1", undefined]);
  const complete = { position: "p1", returned: { complete: true } };
  world.socket().hello(complete).say(start).give("b", "c").say({ ...end, position: "p2" }).cut();
  world.tick(4000);
  assert.deepEqual(world.socket().query, { since: "p2" });
  assert.equal(stream.state, "connecting");
});

test("a look-back that is cut before it begins is asked for again, also of a server that sends no pings", () => {
  const world = new World();
  world.page().follow({ url: "ws://host/?last=5&since=1m" });
  world.socket().hello().cut();
  world.tick(500);
  assert.deepEqual(world.socket().query, { last: "5", since: "1m" });
  world.socket().hello({ position: "p1" }).cut();
  world.tick(1000);
  assert.deepEqual(world.socket().query, { since: "p1" });
});

test("a replay that looks back at other filters begins and ends with a position", () => {
  const { socket, again } = follow();
  socket.give("a").say({ type: "replay", of: "subscribe", position: "p5" });
  const second = again();
  assert.deepEqual(second.query, { since: "p5" });
  second.hello({ position: "p5", returned: { complete: true } }).say(start).give("b").say(end);
  second.say({ type: "replay", of: "subscribe" }).give("c").say({ type: "replayed", of: "subscribe", position: "p6" });
  assert.deepEqual(again().query, { since: "p6" });
});

test("what a replay brings is acknowledged like everything, taken out or not", () => {
  const { socket, again } = follow();
  socket.give("a");
  const second = again().hello({ ...whole, window: 2 }).say(start).give("a", "b").say(end, { type: "past", data: "" });
  assert.equal(second.acked, 6);
});

test("filters are changed after the replay of a return, and not within it", async () => {
  const { socket, again, stream } = follow({ filters: { level: "error" } });
  socket.give("a");
  const second = again();
  const change = stream.setFilters({ level: "fatal" });
  second.hello(whole);
  assert.deepEqual(second.asked(), []);
  second.say(start);
  stream.setFilters({ level: "debug" });
  assert.deepEqual(second.asked(), []);
  second.say(end);
  assert.deepEqual(second.asked(), [{ type: "subscribe", filters: { level: ["debug"], environment: [] } }]);
  second.say({ type: "filters_updated", position: "p4", filters: { level: ["debug"] }, filtered: 0 });
  assert.equal((await change).filters.level[0], "debug");
});

test("filters that the query can't express are asked for after the replay of a return", () => {
  const { socket, again } = follow({ filters: { level: "a,b" } });
  assert.equal(socket.asked().length, 1);
  socket.say({ type: "filters_updated", position: "p1", filters: { level: ["a,b"] }, filtered: 0 });
  const second = again().hello(whole).say(start);
  assert.deepEqual(second.asked(), []);
  second.say(end);
  assert.equal(second.asked()[0].filters.level[0], "a,b");
});

test("a connection that breaks within the replay lets the next one ask", () => {
  const { again, stream } = follow();
  again().hello(whole).say(start);
  stream.setFilters({ level: "debug" });
  const third = again().hello({ position: "p0" });
  assert.equal(third.asked().length, 1);
});

test("a page that was put away returns with its position", () => {
  const { world, page, socket, take } = follow();
  socket.give("a");
  page.hide(true);
  world.tick(3_600_000);
  take();
  page.show();
  const { since, received, ago } = world.socket().query;
  assert.deepEqual({ since, received, ago }, { since: "p0", received: "1", ago: "3600000" });
  world.socket().hello(whole).say(start).give("a", "b").say(end);
  assert.deepEqual(shown(take()), ["b"]);
});

test("the loop receives what a return brings, and nothing twice", async () => {
  const { socket, again, stream } = follow();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("a", "b");
  again().hello(whole).say(start).give("a", "b", "c").say(end);
  assert.equal((await first).value.data, "a");
  for (const want of ["b", "c"]) assert.equal((await loop.next()).value.data, want);
  const last = loop.next();
  await settle();
  stream.close();
  assert.equal((await last).done, true);
});

test("asks why a return was refused with the address of the return", async () => {
  const world = new World();
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    return { status: 503 };
  };
  world.page().follow({ fetch });
  world.socket().hello({ position: "p0" }).cut();
  world.tick(1);
  world.sockets[1].onerror({ message: "" , type: "error" });
  await settle();
  assert.deepEqual(asked, ["http://host/stream/projects/shop?since=p0"]);
});
