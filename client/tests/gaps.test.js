import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, settle, World } from "./lockstep.js";

const SPACING = 100;

const bite = (gap) => ({ type: "replay", of: "gap", gap });
const bitten = (gap, more) => ({ type: "replayed", of: "gap", gap, messages: 0, ...(more && { more }) });
const fetching = (gap) => ({ type: "fetching", gap });
const told = (id, more) => ({ type: "gap", id, reason: "slow", dropped: 3, held: 2, position: "p1", since: 0, until: 0, ...more });

// follow returns an open stream that has been told of gaps with these ids.
function follow(...ids) {
  const world = new World();
  const page = world.page();
  const { stream, take } = page.follow();
  const socket = world.socket().hello({ position: "p0" });
  take();
  socket.say(...ids.map((id) => told(id)));
  const again = (hello = { position: "p1", returned: { complete: true } }) => {
    world.sockets.at(-1).cut();
    world.tick(1);
    return world.socket().hello(hello).say({ type: "replay", of: "return" }, { type: "replayed", of: "return" });
  };
  return { world, page, stream, socket, again, take, gaps: take() };
}

// outcome follows a promise: what it has come to is known after settle.
function outcome(promise) {
  const seen = {};
  promise.then(
    (value) => (seen.value = value),
    (error) => (seen.error = error),
  );
  return seen;
}

test("a gap says what is known of it, and how much can be fetched", () => {
  const { socket, take } = follow();
  const at = { since: 0, until: 1000 };
  const times = { byLevel: {}, since: new Date(0), until: new Date(1000) };
  const cases = [
    [{ id: "g", reason: "slow", dropped: 3, held: 2, ...at }, { reason: "slow", dropped: 3, held: 2, ...times }],
    [{ id: "g", reason: "away", at_most: 3, held: 3, ...at }, { reason: "away", atMost: 3, held: 3, ...times }],
    [{ id: "g", reason: "relay", ...at }, { reason: "relay", held: 0, ...times }],
    [{ held: 5, dropped: 5, ...at }, { dropped: 5, held: 0, ...times }], // no id to ask by
    [{ reason: "away", dropped: 0, ...at }, { reason: "away", dropped: 0, held: 0, ...times }],
  ];
  for (const [said, want] of cases) {
    socket.say({ type: "gap", ...said });
    assert.deepEqual(take(), [want]);
  }
});

test("the fetch of a gap is not in the way of a comparison, of a copy to a worker, nor of JSON", () => {
  const { gaps } = follow("g1");
  assert.equal(typeof gaps[0].fetch, "function");
  assert.deepEqual(Object.keys(gaps[0]), ["reason", "dropped", "held", "byLevel", "since", "until"]);
  assert.deepEqual(structuredClone(gaps[0]), gaps[0]);
});

test("fetch brings the messages of a gap, in bites, and live ones come between them", async () => {
  const { socket, gaps, take, stream } = follow("g1");
  const fetched = outcome(gaps[0].fetch());
  assert.deepEqual(socket.asked(), [{ type: "fetch", gap: "g1" }]);
  socket.say(fetching("g1"), bite("g1"));
  assert.equal(stream.replaying, null);
  socket.give("a", bytes(1)).say(bitten("g1", true)).give("live").say(bite("g1")).give("b");
  await settle();
  assert.deepEqual(fetched, {});
  socket.say(bitten("g1")).give("live too");
  await settle();
  assert.deepEqual(fetched.value, ["a", bytes(1), "b"]);
  assert.deepEqual(take(), ["live", "live too"]);
});

test("messages of a fetch are in no tail, and take nothing out of it", () => {
  const { world, socket, gaps, take } = follow("g1");
  socket.give("live");
  gaps[0].fetch();
  socket.say(fetching("g1"), bite("g1")).give("a", "live").say(bitten("g1"));
  socket.cut();
  world.tick(1);
  assert.equal(world.socket().query.received, "1");
  take();
  world.socket().hello({ position: "p1", returned: { complete: true } }).say({ type: "replay", of: "return" });
  world.socket().give("a", "live").say({ type: "replayed", of: "return" });
  assert.deepEqual(take(), [["open", { complete: true }], "a"]);
});

test("messages of a fetch are acknowledged", () => {
  const { socket, gaps } = follow("g1"); // the gap is 2
  gaps[0].fetch();
  socket.say(fetching("g1"), bite("g1")).give("a", "b").say(bitten("g1"), { type: "mark", window: 0 });
  assert.equal(socket.acked, 8);
});

test("a gap of which nothing is held is not asked for, not even when the stream is closed", async () => {
  const { socket, take, stream } = follow();
  socket.say(told("g1", { held: 0 }), told(undefined));
  const gaps = take();
  for (const gap of gaps) assert.deepEqual(await gap.fetch(), []);
  assert.deepEqual(socket.asked(), []);
  stream.close();
  assert.deepEqual(await gaps[0].fetch(), []);
});

test("one fetch runs at a time, and requests are kept apart", async () => {
  const { world, socket, gaps, stream } = follow("g1", "g2");
  const fetches = [gaps[0].fetch(), gaps[1].fetch(), gaps[0].fetch()].map(outcome);
  const filters = outcome(stream.setFilters({ level: "error" }));
  const gapsAsked = () => socket.asked().map(({ type, gap }) => gap ?? type);
  assert.deepEqual(gapsAsked(), ["g1"]);
  world.tick(SPACING);
  assert.deepEqual(gapsAsked(), []); // nothing has answered
  socket.say(fetching("g1"));
  assert.deepEqual(gapsAsked(), ["subscribe"]); // which doesn't wait for a fetch to end
  socket.say({ type: "filters_updated", position: "p2", filters: {}, filtered: 0 });
  socket.say(bite("g1")).give("1").say(bitten("g1"));
  assert.deepEqual(gapsAsked(), []);
  world.tick(SPACING);
  assert.deepEqual(gapsAsked(), ["g2"]);
  socket.say(fetching("g2"), bite("g2")).give("2");
  world.tick(SPACING);
  assert.deepEqual(gapsAsked(), []);
  socket.say(bitten("g2"));
  assert.deepEqual(gapsAsked(), ["g1"]);
  socket.say(fetching("g1"), bite("g1"), bitten("g1"));
  await settle();
  assert.deepEqual(fetches.map(({ value }) => value), [["1"], ["2"], []]);
  assert.ok(filters.value);
});

test("a fetch waits for a connection, and for the end of what a return brings", async () => {
  const { world, socket, gaps } = follow("g1");
  socket.cut();
  const fetched = outcome(gaps[0].fetch());
  world.tick(1);
  const second = world.socket().hello({ position: "p1", returned: { complete: true } });
  second.say({ type: "replay", of: "return" });
  assert.deepEqual(second.asked(), []);
  second.say({ type: "replayed", of: "return" });
  assert.deepEqual(second.asked(), [{ type: "fetch", gap: "g1" }]);
  second.say(fetching("g1"), bite("g1")).give("a").say(bitten("g1"));
  await settle();
  assert.deepEqual(fetched.value, ["a"]);
});

test("a fetch that breaks is made again from the start, wherever it breaks", async () => {
  const moments = [
    () => {},
    (socket) => socket.say(fetching("g1")),
    (socket) => socket.say(fetching("g1"), bite("g1")).give("a"),
    (socket) => socket.say(fetching("g1"), bite("g1")).give("a").say(bitten("g1", true)),
    (socket) => socket.say(fetching("g1"), bite("g1")).give("a").say(bitten("g1", true), bite("g1")).give("b"),
  ];
  for (const arrive of moments) {
    const { world, socket, gaps, again, take } = follow("g1", "g2");
    const fetches = gaps.map((gap) => outcome(gap.fetch()));
    arrive(socket);
    const second = again();
    take();
    assert.deepEqual(second.asked(), [{ type: "fetch", gap: "g1" }]);
    second.give("live");
    assert.deepEqual(take(), ["live"]); // it is not of the bite that broke
    second.say(fetching("g1"), bite("g1")).give("a", "b").say(bitten("g1"));
    world.tick(SPACING);
    second.say(fetching("g2"), bite("g2"), bitten("g2"));
    await settle();
    assert.deepEqual(fetches.map(({ value }) => value), [["a", "b"], []]);
  }
});

test("fetch rejects with the server's code, and the next one goes on", async () => {
  const { world, socket, gaps } = follow("g1", "g2");
  const fetches = gaps.map((gap) => outcome(gap.fetch()));
  socket.say({ type: "error", code: "invalid_gap", message: "no gap of this server" });
  await settle();
  assert.equal(fetches[0].error.code, "invalid_gap");
  assert.equal(fetches[0].error.message, "mesherstream: no gap of this server");
  world.tick(SPACING);
  assert.deepEqual(socket.asked().map(({ gap }) => gap), ["g1", "g2"]);
  socket.say(fetching("g2"), bite("g2")).give("half");
  socket.say({ type: "error", code: "invalid_gap", message: "" }).give("live");
  await settle();
  assert.equal(fetches[1].error.code, "invalid_gap");
});

test("an older server's refusal of a fetch rejects the fetch, and no change of filters", async () => {
  const { socket, gaps, stream, world } = follow("g1");
  const fetched = outcome(gaps[0].fetch());
  const changed = outcome(stream.setFilters({}));
  socket.say({ type: "error", code: "unknown_type", message: "" });
  await settle();
  assert.equal(fetched.error.code, "unknown_type");
  assert.deepEqual(changed, {});
  world.tick(SPACING);
  socket.say({ type: "error", code: "not_granted", message: "" });
  await settle();
  assert.equal(changed.error.code, "not_granted");
});

test("the refusal of a filter rejects no fetch that runs", async () => {
  const { world, socket, gaps, stream } = follow("g1");
  const fetched = outcome(gaps[0].fetch());
  socket.say(fetching("g1"));
  const changed = outcome(stream.setFilters({}));
  world.tick(SPACING);
  socket.say({ type: "error", code: "not_granted", message: "" }, bite("g1"), bitten("g1"));
  await settle();
  assert.equal(changed.error.code, "not_granted");
  assert.deepEqual(fetched.value, []);
});

test("errors about acknowledgements reject no fetch", async () => {
  const { socket, gaps } = follow("g1");
  const fetched = outcome(gaps[0].fetch());
  socket.say({ type: "error", code: "invalid_ack", message: "" }, fetching("g1"), bite("g1"), bitten("g1"));
  await settle();
  assert.deepEqual(fetched.value, []);
});

test("a fetch that the server is too busy for is asked for again", async () => {
  const { world, socket, gaps } = follow("g1");
  const fetched = outcome(gaps[0].fetch());
  for (let i = 0; i < 3; i++) {
    assert.deepEqual(socket.asked(), [{ type: "fetch", gap: "g1" }]);
    socket.say({ type: "error", code: "busy", message: "" });
    assert.deepEqual(socket.asked(), []);
    world.tick(SPACING);
  }
  socket.say(fetching("g1"), bite("g1")).give("a").say(bitten("g1"));
  await settle();
  assert.deepEqual(fetched.value, ["a"]);
});

test("the end of the stream rejects every fetch, and so does a later call", async () => {
  for (const close of [({ stream }) => stream.close(), ({ socket }) => socket.end(4000, "enough")]) {
    const all = follow("g1", "g2");
    const fetches = all.gaps.map((gap) => outcome(gap.fetch()));
    all.socket.say(fetching("g1"), bite("g1")).give("a");
    close(all);
    fetches.push(outcome(all.gaps[0].fetch()));
    await settle();
    assert.deepEqual(fetches.map(({ error }) => error.code), ["closed", "closed", "closed"]);
  }
});

test("a bite that nobody asked for is live", () => {
  const { socket, take } = follow();
  socket.say(bite("g9")).give("a").say(bitten("g9")).give("b");
  assert.deepEqual(take(), ["a", "b"]);
});

test("the body of a loop can await a fetch", async () => {
  const { world, socket, stream } = follow();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const mark = { type: "mark", window: 0 };
  socket.say(told("g1")).give("a").say(mark); // 2 to 4
  const { gap } = (await first).value;
  assert.equal(socket.acked, 1);
  const fetched = outcome(gap.fetch());
  assert.equal(socket.acked, 4); // the server may be waiting for this
  socket.say(fetching("g1"), bite("g1")).give("m").say(bitten("g1", true), mark); // 5 to 9
  assert.equal(socket.acked, 9);
  socket.give("b").say(bite("g1"), bitten("g1"), mark); // 10 to 13
  await settle();
  assert.deepEqual(fetched.value, ["m"]);
  // From here on, what waits for the loop holds acknowledgements back again.
  assert.equal(socket.acked, 9);
  assert.equal((await loop.next()).value.data, "a");
  assert.equal((await loop.next()).value.data, "b");
  loop.next();
  await settle();
  assert.equal(socket.acked, 13);
  assert.equal(world.sockets.length, 1);
});

test("the body of a loop can await a fetch behind another one, and over a return", async () => {
  const { world, socket, stream, gaps, again } = follow("g0");
  gaps[0].fetch();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const mark = { type: "mark", window: 0 };
  socket.say(told("g1")).give("a"); // 3, 4
  const { gap } = (await first).value;
  const fetched = outcome(gap.fetch());
  socket.say(mark);
  assert.equal(socket.acked, 5);
  const second = again().say(mark); // 4
  assert.equal(second.acked, 4);
  second.say(fetching("g0"), bite("g0"), bitten("g0"));
  world.tick(SPACING);
  second.say(fetching("g1"), bite("g1")).give("m").say(bitten("g1"));
  await settle();
  assert.deepEqual(fetched.value, ["m"]);
});

test("a fetch that the loop's body does not await holds nothing up, and hides no backlog", async () => {
  const { socket, stream } = follow();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.say(told("g1")).give("a", "b"); // 2 to 4
  const { gap } = (await first).value;
  gap.fetch();
  assert.equal((await loop.next()).value.data, "a"); // 3: the body goes on
  socket.say(fetching("g1"), { type: "mark", window: 0 }); // 5, 6
  assert.equal(socket.acked, 1);
});

test("a gap that the stream makes of others itself can't be fetched, and knows no more than they do", async () => {
  for (const [known, sum] of [[{ dropped: 3 }, { dropped: 4 }], [{ at_most: 3 }, { atMost: 4 }], [{}, {}]]) {
    const { world, socket, stream } = follow();
    const loop = stream[Symbol.asyncIterator]();
    const first = loop.next();
    socket.give("taken");
    await first;
    const { dropped, ...rest } = told("g1");
    assert.equal(dropped, 3);
    socket.say({ ...rest, ...known });
    for (let i = 0; i < 1000; i++) socket.give(String(i));
    const { gap } = (await loop.next()).value;
    const { since, until } = gap;
    assert.deepEqual(gap, { reason: "slow", ...sum, held: 0, byLevel: {}, since, until });
    assert.deepEqual(await gap.fetch(), []);
    assert.deepEqual(socket.asked(), []);
    assert.equal(world.sockets.length, 1);
  }
});
