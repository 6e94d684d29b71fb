import assert from "node:assert/strict";
import { test } from "node:test";
import { Browser } from "./browser.js";
import { bytes, settle, Store, World } from "./lockstep.js";
import { catching } from "./page.js";
import { Requests } from "./requests.js";

const AHEAD = 1000;
const LAG = 5_000;
const ANSWER = 20_000;

// open returns a browser with n tabs that share an open stream.
async function open(n = 1, { options, hello, ...more } = {}) {
  const browser = new Browser(more);
  const { world } = browser;
  const tabs = Array.from({ length: n }, () => browser.tab(options));
  await settle();
  world.socket().hello({ position: "p0", ...hello });
  await settle();
  for (const { take } of tabs) assert.deepEqual(take(), [["connecting"], ["open"]]);
  return { browser, world, tabs, socket: world.socket() };
}

// numbers gives messages with the numbers from first to last.
function numbers(socket, first, last) {
  for (let n = first; n <= last; n++) socket.give(String(n));
}

function counts(first, last) {
  return Array.from({ length: last - first + 1 }, (_, i) => String(first + i));
}

// freeze stops a tab, as a browser does with one in the background.
function freeze(tab) {
  tab.port.frozen = true;
}

// drain takes all that a tab is given, until there is no more.
async function drain(tab) {
  const got = [];
  for (;;) {
    await settle();
    const more = tab.take();
    if (!more.length) return got;
    got.push(...more);
  }
}

test("tabs share one connection, and each receives every message once", async () => {
  const { browser, world, tabs, socket } = await open(8, { options: { filters: { level: "error" } } });
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(socket.query, { level: "error" });
  assert.equal(new Set(browser.asked.map(({ name }) => name)).size, 1);
  assert.equal(browser.asked[0].script, "http://host/stream/projects/mesherstream.js");
  assert.equal(browser.asked[0].type, "module");
  socket.onmessage({ data: "1", origin: "ws://host" });
  socket.give(bytes(2));
  await settle();
  for (const { take, stream, event } of tabs) {
    const [one, two] = take();
    assert.deepEqual([one, ...new Uint8Array(two)], ["1", 2]);
    assert.deepEqual([stream.shared, stream.transport, stream.hello.project, stream.state], [true, "websocket", "shop", "open"]);
    assert.ok(event instanceof MessageEvent);
  }
  socket.onmessage({ data: "3", origin: "ws://host" });
  await settle();
  for (const { take, event } of tabs) assert.deepEqual([take(), event.data, event.origin], [["3"], "3", "ws://host"]);
});

test("a tab that closes its stream leaves it to the others, and the last one closes the connection", async () => {
  const { browser, world, tabs, socket } = await open(3);
  const [one, two, three] = tabs;
  one.stream.close(4000, "enough");
  assert.deepEqual(one.take(), [["closed", { code: 4000, reason: "enough" }]]);
  socket.give("1");
  await settle();
  assert.deepEqual([one.take(), two.take(), three.take()], [[], ["1"], ["1"]]);
  assert.equal(socket.left, null);
  two.stream.close();
  three.stream.close(4001, "all");
  await settle();
  assert.deepEqual(socket.left, { code: 4001, reason: "all" });
  assert.ok(browser.worker.ports.every(({ closed }) => closed));

  // The worker may still be there for the next one.
  const next = browser.tab();
  assert.equal(world.sockets.length, 2);
  await settle();
  world.socket().hello().give("2");
  await settle();
  assert.deepEqual(next.take(), [["connecting"], ["open"], "2"]);
});

test("a code that a WebSocket refuses closes the connection all the same", async (t) => {
  const { tabs, socket } = await open();
  const close = socket.close;
  let refused = 0;
  socket.close = function (code, reason) {
    if (code === 5) throw new RangeError(`no ${++refused}`);
    close.call(this, code, reason);
  };
  const uncaught = catching(t);
  tabs[0].stream.close(5);
  await settle();
  assert.deepEqual([refused, uncaught, socket.left], [1, ["no 1"], { code: 1000, reason: "" }]);
});

test("a signal closes the stream of its tab", async () => {
  const controller = new AbortController();
  const browser = new Browser();
  const one = browser.tab({ signal: controller.signal });
  const two = browser.tab();
  browser.world.socket().hello();
  await settle();
  controller.abort();
  assert.equal(one.stream.state, "closed");
  browser.world.socket().give("1");
  await settle();
  assert.deepEqual([one.take().at(-1)[0], two.take().at(-1)], ["closed", "1"]);

  const never = browser.tab({ signal: controller.signal });
  assert.equal(never.stream.state, "closed");
  assert.equal(browser.asked.length, 2);
});

test("streams of other urls, filters, transports and delays are others", async () => {
  const { fetch } = new Requests();
  const browser = new Browser({ fetch });
  const url = "ws://host/stream/projects/shop";
  for (const options of [{}, { url: url + "?last=1" }, { filters: { level: "error" } }, { transports: ["websocket"] }, { minDelay: 1 }, { maxDelay: 1000 }]) {
    browser.tab(options);
    browser.tab(options);
  }
  await settle();
  assert.equal(browser.workers.size, 6);
  assert.equal(browser.world.sockets.length, 6);
});

test("tabs with the same filters share them, in whichever form they are", async () => {
  const browser = new Browser();
  browser.tab({ filters: { level: "error" } });
  browser.tab({ filters: { level: ["error"], environment: [] } });
  assert.equal(browser.world.sockets.length, 1);
});

test("a worker follows with what it is told, events too", async () => {
  const requests = new Requests();
  const browser = new Browser({ fetch: requests.fetch });
  const options = { transports: ["sse"], minDelay: 100, maxDelay: 400, filters: { level: ["a", "b"] } };
  const tabs = [browser.tab(options), browser.tab(options)];
  const events = await requests.events();
  assert.equal(requests.made.length, 1);
  assert.deepEqual(events.query, { level: "a,b" });
  await (await events.open()).hello({ position: "p0" });
  await events.give(["1", "2"], "p1");
  for (const { take, stream } of tabs) {
    assert.deepEqual(take(), [["connecting"], ["open"], "1", "2"]);
    assert.equal(stream.transport, "sse");
  }
  browser.world.chance = () => 1;
  await events.lose();
  assert.equal(tabs[1].take()[0][1].delay, 100);
  browser.world.tick(100);
  await (await requests.events()).lose();
  for (const delay of [200, 400, 400]) {
    assert.equal(tabs[1].take().at(-1)[1].delay, delay);
    browser.world.tick(delay);
    await (await requests.events()).lose();
  }
});

test("what the callback of one tab throws is no matter of the others", async (t) => {
  const uncaught = catching(t);
  const browser = new Browser();
  const bad = browser.tab({
    onmessage: (data) => {
      bad.log.push(data);
      throw new Error("oops " + data);
    },
  });
  const good = browser.tab();
  await settle();
  browser.world.socket().hello().give("1", "2");
  await settle();
  for (const { take } of [bad, good]) assert.deepEqual(take(), [["connecting"], ["open"], "1", "2"]);
  assert.deepEqual(uncaught, ["oops 1", "oops 2"]);
});

// --- tabs that come later

test("a tab that comes later is given the newest messages that it asks for, and the rest once", async () => {
  const options = { url: "ws://host/stream/projects/shop?last=3" };
  const { browser, tabs, socket } = await open(1, { options, hello: { position: undefined } });
  socket.say({ type: "replay", of: "join" }).give("1").say({ type: "replayed", of: "join", position: "p1" }).give("2");
  socket.say({ type: "gap", reason: "slow", dropped: 5, since: 0, until: 0, position: "p2" }).give("3", "4");
  await settle();
  const [one] = tabs;
  assert.equal(one.take().length, 5);

  const two = browser.tab(options);
  await settle();
  const [connecting, opened, b, gap, c, d] = two.take();
  assert.deepEqual([connecting, opened, b, c, d], [["connecting"], ["open"], "2", "3", "4"]);
  assert.deepEqual([gap.dropped, gap.reason, gap.since], [5, "slow", new Date(0)]);
  assert.equal(two.stream.hello.project, "shop");
  socket.give("5");
  await settle();
  assert.deepEqual([one.take(), two.take()], [["5"], ["5"]]);
  assert.deepEqual([one.replays, two.replays], [["join", null, null, null, null], ["join", "join", "join", null]]);

  const three = browser.tab(options);
  await settle();
  assert.deepEqual(three.take(), [["connecting"], ["open"], "3", "4", "5"]);
});

test("a tab that comes later is given nothing of what was before if it doesn't ask for it", async () => {
  const { browser, socket } = await open();
  socket.give("1");
  await settle();
  const two = browser.tab();
  socket.give("2");
  await settle();
  assert.deepEqual(two.take(), [["connecting"], ["open"], "2"]);
});

test("messages are kept for tabs that come later however long nothing else arrives", async () => {
  for (const query of ["?last=5", "?since=10m"]) {
    const options = { url: "ws://host/stream/projects/shop" + query };
    const { browser, tabs, socket } = await open(1, { options, constants: { MAX_KEPT: 10, MAX_LOG: "2 ** 13" } });
    socket.give("1");
    const gaps = 25;
    for (let i = 0; i < 100; i++) { // more than the log has room for
      socket.say({ type: "mark", position: "p" + i });
      if (i < gaps) socket.say({ type: "gap", reason: "relay", dropped: 1, since: 0, until: 0, position: "q" + i });
      await settle();
    }
    socket.give("2");
    await settle();
    assert.equal(tabs[0].take().length, gaps + 2);
    const late = browser.tab(options);
    await settle();
    const [, , first, ...rest] = late.take();
    assert.equal(rest.length, 20 - (query === "?last=5"));
    assert.equal(rest.at(-1), "2");
    if (query === "?since=10m") assert.deepEqual([first.reason, first.dropped], ["away", gaps + 2 - 20]);
  }
});

test("a tab that comes later and asks for the last ones since a time is given these", async () => {
  const options = { url: "ws://host/stream/projects/shop?last=2&since=10m" };
  const { browser, socket } = await open(1, { options });
  socket.give("1", "2", "3");
  await settle();
  const late = browser.tab(options);
  await settle();
  assert.deepEqual(late.take(), [["connecting"], ["open"], "2", "3"]);
});

test("what is kept for tabs that come later is bounded in its size", async () => {
  const options = { url: "ws://host/stream/projects/shop?since=10m" };
  const { browser, tabs, socket } = await open(1, { options });
  for (let n = 0; n < 6; n++) {
    socket.give("x".repeat(2 ** 21));
    assert.equal((await drain(tabs[0])).length, 1);
  }
  const late = browser.tab(options);
  const got = await drain(late);
  assert.deepEqual([got.length, got[2].dropped], [3 + 3, 3]);
  socket.give("y".repeat(2 ** 24));
  await drain(tabs[0]);
  const later = await drain(browser.tab(options));
  assert.deepEqual([later.length, later[2].dropped, later[3].length], [4, 6, 2 ** 24]);
});

test("what the server has sent to this client alone is not for tabs that come later", async () => {
  const options = { url: "ws://host/stream/projects/shop?last=2" };
  const { browser, tabs, socket } = await open(1, { options });
  socket.give("1", "2").say({ type: "direct" }).give("alone");
  await settle();
  assert.deepEqual(tabs[0].take(), ["1", "2", "alone"]);
  const two = browser.tab(options);
  await settle();
  assert.deepEqual(two.take(), [["connecting"], ["open"], "1", "2"]);
});

test("of more than 1,000 messages since, a tab that comes later is told of the others", async () => {
  const options = { url: "ws://host/stream/projects/shop?since=10m" };
  const { browser, tabs, socket } = await open(1, { options });
  const late = async () => {
    const tab = browser.tab(options);
    await settle();
    return tab.take().slice(2);
  };
  socket.say({ type: "gap", reason: "relay", dropped: 2, by_level: { error: 2 }, since: 0, until: 0 });
  numbers(socket, 1, 1000);
  await settle();
  assert.deepEqual((await late()).map((item) => item.dropped ?? item), [2, ...counts(1, 1000)]);
  numbers(socket, 1001, 1005);
  await settle();
  const [gap, ...kept] = await late();
  assert.deepEqual([gap.dropped, gap.reason, gap.held, gap.byLevel, gap.since], [7, "away", 0, { error: 2 }, new Date(0)]);
  assert.deepEqual(await gap.fetch(), []);
  assert.deepEqual(kept, counts(6, 1005));
  assert.equal(tabs[0].take().length, 1006);
});

test("a tab that comes after the stream has looked back anew is given that only", async () => {
  for (const query of ["?last=5", "?since=10m"]) {
    const options = { url: "ws://host/stream/projects/shop" + query };
    const { browser, world, tabs, socket } = await open(1, { options, hello: { position: undefined }, constants: { MAX_KEPT: 2 } });
    socket.say({ type: "replay", of: "join" }).give("1", "2", "3");
    socket.cut();
    world.tick(1);
    world.socket().hello().say({ type: "replay", of: "join" }).give("1", "2", "3").say({ type: "replayed", of: "join", position: "p1" });
    await settle();
    const late = browser.tab(options);
    await settle();
    const [, , ...got] = late.take().map((item) => item.dropped ?? item);
    assert.deepEqual(got, query === "?last=5" ? ["2", "3"] : [1, "2", "3"]);
    const states = tabs[0].take().filter(Array.isArray).map(([state, info]) => state + (info ? "!" : ""));
    assert.deepEqual(states, ["waiting!", "connecting", "open"]);
  }
});

test("a tab that comes while the others wait makes an attempt at once, and their return is no news to it", async () => {
  const { browser, world, tabs, socket } = await open();
  world.chance = () => 1;
  socket.cut();
  await settle();
  assert.equal(tabs[0].take()[0][0], "waiting");
  const two = browser.tab();
  assert.equal(world.sockets.length, 2);
  await settle();
  world.socket().hello({ position: "p1", returned: { complete: true } });
  await settle();
  assert.deepEqual(tabs[0].take(), [["connecting"], ["open", { complete: true }]]);
  assert.deepEqual(two.take(), [["connecting"], ["waiting", { code: 1006, reason: "", delay: 500 }], ["connecting"], ["open"]]);
});

test("a tab that comes while the server is to be left alone is told how long that still takes", async () => {
  const { browser, world, tabs, socket } = await open();
  socket.end(1013, "retry_after_ms=60000");
  await settle();
  assert.deepEqual(tabs[0].take(), [["waiting", { code: 1013, reason: "retry_after_ms=60000", delay: 60_000 }]]);
  world.tick(15_000);
  const two = browser.tab();
  await settle();
  assert.deepEqual(two.take()[1], ["waiting", { code: 1013, reason: "retry_after_ms=60000", delay: 45_000 }]);
  world.pass(50_000); // the timer is late
  const three = browser.tab();
  await settle();
  assert.equal(three.take()[1][1].delay, 0);
  assert.equal(world.sockets.length, 1);
  world.tick(0);
  assert.equal(world.sockets.length, 2);
});

// --- tabs that don't keep up

test("a tab that stands still for a moment misses nothing, whatever arrives meanwhile", async () => {
  const { world, tabs, socket } = await open(2);
  const [fast, slow] = tabs;
  freeze(slow);
  for (let n = 1; n <= 6_000; n += 500) {
    numbers(socket, n, n + 499);
    await settle();
  }
  assert.equal(slow.port.inbox.length, AHEAD);
  assert.deepEqual(await drain(fast), counts(1, 6_000));
  world.tick(LAG - 1);
  socket.give("6001");
  await settle();
  slow.thaw();
  assert.deepEqual(await drain(slow), counts(1, 6_001));
});

test("a tab that stands still for longer is told how much it misses, and delays no other one", async () => {
  const { world, tabs, socket } = await open(3);
  const [fast, slow, slower] = tabs;
  freeze(slow);
  freeze(slower);
  numbers(socket, 1, 1200);
  await settle();
  assert.deepEqual(await drain(fast), counts(1, 1200));
  world.tick(LAG + 1);
  socket.say({ type: "gap", reason: "relay", dropped: 3, by_level: { error: 3 }, since: 0, until: 0 }).give("1201");
  await settle();
  assert.equal((await drain(fast)).length, 2);
  slow.thaw();
  const [gap, ...rest] = (await drain(slow)).slice(AHEAD);
  assert.deepEqual([gap.reason, gap.dropped, gap.held, gap.byLevel], ["slow", 200, 0, {}]);
  assert.deepEqual(rest.map((item) => item.dropped ?? item), [3, "1201"]);

  world.tick(LAG + 1);
  socket.say({ type: "gap", reason: "relay", at_most: 4, by_level: { error: 2 }, since: 0, until: 0 }).give("1202");
  await settle();
  slower.thaw();
  const [all, last] = (await drain(slower)).slice(AHEAD);
  assert.deepEqual([all.reason, all.dropped, all.byLevel, all.since < all.until], ["slow", 204, { error: 3 }, true]);
  assert.equal(last.atMost, 4);
});

test("how much a tab misses is no more than a bound if that is what the server knows", async () => {
  const { world, tabs, socket } = await open(2);
  freeze(tabs[1]);
  numbers(socket, 1, AHEAD);
  socket.say({ type: "gap", reason: "away", at_most: 4, since: 0, until: 0 }).give("x");
  await drain(tabs[0]);
  world.tick(LAG + 1);
  socket.give("y");
  await settle();
  tabs[1].thaw();
  const [gap] = (await drain(tabs[1])).slice(AHEAD);
  assert.deepEqual([gap.reason, gap.dropped, gap.atMost], ["slow", undefined, 5]);
});

test("what waits for tabs is bounded in its size, and so is what is posted to one", async () => {
  const { tabs, socket } = await open(2, { constants: { MAX_LOG: "2 ** 16" } });
  const [fast, slow] = tabs;
  freeze(slow);
  const large = "x".repeat(2 ** 14);
  for (let n = 0; n < 20; n++) {
    socket.give(large);
    await settle();
  }
  assert.equal((await drain(fast)).length, 20);
  assert.equal(slow.port.inbox.filter(({ data }) => data).length, 4);
  slow.thaw();
  const got = await drain(slow);
  assert.deepEqual([got.length, got[4].dropped], [4 + 1 + 3, 20 - 7]);
  assert.ok([...got.slice(0, 4), ...got.slice(5)].every((data) => data === large));

  freeze(slow);
  for (let n = 0; n < 20; n++) {
    socket.give(new ArrayBuffer(2 ** 14));
    await settle();
  }
  assert.equal(slow.port.inbox.filter(({ data }) => data).length, 4);

  // An entry without data is taken for 256 bytes. So are those that wait: states, marks and empty messages.
  freeze(fast);
  for (let n = 0; n < 300; n++) socket.give("");
  await settle();
  assert.equal(fast.port.inbox.length, 256);
});

test("one message that is larger than all bounds arrives", async () => {
  const { tabs, socket } = await open(2);
  socket.give("x".repeat(2 ** 24), "y");
  for (const tab of tabs) assert.deepEqual((await drain(tab)).map(({ length }) => length), [2 ** 24, 1]);
});

test("a tab that has missed states is told the newest one, after what it misses", async () => {
  const { world, tabs, socket } = await open(2, { options: { minDelay: 1 } });
  const [fast, slow] = tabs;
  freeze(slow);
  numbers(socket, 1, AHEAD + 1);
  await drain(fast);
  socket.cut();
  world.tick(1);
  world.socket().hello({ position: "p1", returned: { complete: true } }).say({ type: "replayed", of: "return", position: "p2" });
  await settle();
  world.tick(LAG + 1);
  world.socket().give("last");
  await settle();
  slow.thaw();
  const [gap, state, last, ...none] = (await drain(slow)).slice(AHEAD);
  assert.deepEqual([gap.dropped, state, last, none], [1, ["open", { complete: true }], "last", []]);
  assert.equal(slow.stream.hello.position, "p1");
});

test("a tab that stands still while the server ends the stream is told all of it", async () => {
  const { browser, world, tabs, socket } = await open(2);
  const [fast, slow] = tabs;
  freeze(slow);
  numbers(socket, 1, AHEAD + 100);
  await drain(fast);
  socket.end(4001, "final");
  await settle();
  assert.deepEqual(fast.take(), [["closed", { code: 4001, reason: "final" }]]);

  // The worker follows anew for a tab that comes meanwhile.
  const next = browser.tab();
  await settle();
  world.socket().hello({ position: "p0" });
  numbers(world.socket(), 1, 2 * AHEAD);
  assert.equal((await drain(next)).length, 2 * AHEAD + 2);
  slow.thaw();
  const got = await drain(slow);
  assert.deepEqual([got.length, got.at(-1)], [AHEAD + 101, ["closed", { code: 4001, reason: "final" }]]);
});

test("a loop that stands still holds back its own tab only, and is given everything", async () => {
  const { tabs, socket } = await open(2);
  const [fast, slow] = tabs;
  const loop = slow.stream[Symbol.asyncIterator]();
  const step = loop.next();
  numbers(socket, 1, 1500);
  assert.deepEqual(await drain(fast), counts(1, 1500));
  const got = [(await step).value.data];
  while (got.length < 1500) got.push((await loop.next()).value.data ?? "gap");
  assert.deepEqual(got, counts(1, 1500));
});

test("a tab handles what it has been given while the worker has no connection", async () => {
  const options = { url: "ws://host/stream/projects/shop?since=10m", minDelay: 1 };
  const { browser, world, tabs, socket } = await open(1, { options });
  numbers(socket, 1, AHEAD);
  await drain(tabs[0]);
  socket.end(1013, "retry_after_ms=10000");
  const late = browser.tab(options);
  assert.equal((await drain(late)).filter((item) => typeof item === "string").length, AHEAD);
  world.tick(15_000);
  world.socket().hello({ position: "p1", returned: { complete: true } }).give("next");
  const got = await drain(late);
  assert.deepEqual([got.at(-1), late.stream.shared, world.sockets.length], ["next", true, 2]);
});

test("the server is told what the fastest tab has handled", async () => {
  const { world, tabs, socket } = await open(2, { hello: { window: 100 } });
  const [one, two] = tabs;
  const before = socket.acked;
  freeze(one);
  freeze(two);
  numbers(socket, 1, 80);
  socket.say({ type: "mark", position: "p1", age_ms: 5 });
  await settle();
  assert.equal(socket.acked, before); // although half the window is full
  two.thaw();
  await settle();
  assert.equal(socket.acked, before + 81);
  assert.deepEqual([one.stream.age, two.stream.age], [undefined, 5]);
  numbers(socket, 81, 120);
  socket.say({ type: "mark", position: "p2" });
  await settle();
  assert.equal(socket.acked, before + 122);
  world.tick(1);
});

test("a worker whose tabs all stand still does not take that for silence", async () => {
  const { world, tabs, socket } = await open(1, { hello: { mark_ms: 1000 } });
  freeze(tabs[0]);
  socket.give("1");
  await settle();
  world.tick(10_000);
  assert.equal(socket.left, null);
  tabs[0].thaw();
  await settle();
  world.tick(10_000);
  assert.notEqual(socket.left, null);
});

// --- gaps

const fetchable = { type: "gap", id: "g1", reason: "slow", dropped: 2, held: 2, by_level: { error: 2 }, since: 0, until: 0, position: "p1" };

test("a gap is fetched by the tab that asks", async () => {
  const { tabs, socket } = await open(2);
  socket.say(fetchable);
  await settle();
  const [one, two] = tabs;
  const [gap] = one.take();
  assert.deepEqual([gap.held, gap.byLevel, gap.since], [2, { error: 2 }, new Date(0)]);
  assert.equal(two.take().length, 1);
  const fetched = gap.fetch();
  await settle();
  assert.deepEqual(socket.asked(), [{ type: "fetch", gap: "g1" }]);
  socket.say({ type: "fetching" }, { type: "replay", of: "gap" }).give("a", bytes(7)).say({ type: "replayed", of: "gap" }).give("live");
  const [a, b] = await fetched;
  assert.deepEqual([a, ...new Uint8Array(b)], ["a", 7]);
  await settle();
  for (const { take } of tabs) assert.deepEqual(take(), ["live"]);
});

test("a gap that can't be fetched any more is refused as by the server", async () => {
  const { world, tabs, socket } = await open();
  socket.say(fetchable);
  await settle();
  const [gap] = tabs[0].take();
  const refused = gap.fetch();
  await settle();
  socket.say({ type: "error", code: "invalid_gap", message: "because" }).give("after");
  await assert.rejects(refused, { code: "invalid_gap", message: "mesherstream: because" });
  await settle();
  assert.deepEqual(tabs[0].take(), ["after"]);

  world.tick(1000);
  const unanswered = gap.fetch();
  await settle();
  tabs[0].stream.close();
  await assert.rejects(unanswered, { code: "closed" });
  await assert.rejects(gap.fetch(), { code: "closed" });
});

test("a fetch waits for a connection, and lasts over a reconnect", async () => {
  const { world, tabs, socket } = await open(1, { options: { minDelay: 1 } });
  socket.say(fetchable);
  await settle();
  const [gap] = tabs[0].take();
  socket.cut();
  await settle();
  const fetched = gap.fetch();
  world.tick(1);
  world.socket().hello({ position: "p1", returned: { complete: true } }).say({ type: "replayed", of: "return", position: "p1" });
  await settle();
  world.tick(200);
  await settle();
  assert.deepEqual(world.socket().asked(), [{ type: "fetch", gap: "g1" }]);
  world.socket().cut();
  world.tick(1);
  world.socket().hello({ position: "p1", returned: { complete: true } }).say({ type: "replayed", of: "return", position: "p1" });
  world.tick(200);
  await settle();
  assert.deepEqual(world.socket().asked(), [{ type: "fetch", gap: "g1" }]);
  world.socket().say({ type: "fetching" }, { type: "replay", of: "gap" }).give("a").say({ type: "replayed", of: "gap" });
  assert.deepEqual(await fetched, ["a"]);
});

test("the body of a loop may fetch a gap, whatever waits for the loop", async () => {
  const { tabs, socket } = await open();
  const loop = tabs[0].stream[Symbol.asyncIterator]();
  const step = loop.next();
  socket.say(fetchable);
  numbers(socket, 1, 1200);
  await settle();
  const { gap } = (await step).value;
  const fetched = gap.fetch();
  await settle();
  socket.say({ type: "fetching" }, { type: "replay", of: "gap" }).give("a").say({ type: "replayed", of: "gap" });
  assert.deepEqual(await fetched, ["a"]);
});

test("more than a tab may be posted can be fetched", async () => {
  const { tabs, socket } = await open();
  socket.say(fetchable);
  await settle();
  const fetched = tabs[0].take()[0].fetch();
  await settle();
  socket.say({ type: "fetching" }, { type: "replay", of: "gap" });
  numbers(socket, 1, 5000);
  socket.say({ type: "replayed", of: "gap" });
  assert.deepEqual(await fetched, counts(1, 5000));
});

// --- states, and what can't be shared

test("tabs are told the states of the connection, and the end for good", async () => {
  const { browser, world, tabs, socket } = await open(2, { options: { minDelay: 8 } });
  world.chance = () => 0.5;
  socket.end(1001, "bye");
  await settle();
  for (const { take, stream } of tabs) {
    assert.deepEqual(take(), [["waiting", { code: 1001, reason: "bye", delay: 4 }]]);
    assert.deepEqual([stream.hello, stream.transport, stream.age], [null, "websocket", undefined]);
  }
  world.tick(4);
  world.socket().hello({ position: "p1", returned: { complete: false, at_most: 7 } });
  await settle();
  for (const { take } of tabs) assert.deepEqual(take(), [["connecting"], ["open", { complete: false, atMost: 7 }]]);
  world.socket().end(4001, "final");
  await settle();
  for (const { take, stream } of tabs) {
    assert.deepEqual(take(), [["closed", { code: 4001, reason: "final" }]]);
    assert.deepEqual([stream.state, stream.hello], ["closed", null]);
  }
  assert.ok(tabs.every(({ port }) => port.closed));

  // The end of that stream is not the end of the next one, and nothing is left of it.
  const next = browser.tab({ minDelay: 8 });
  await settle();
  world.socket().hello({ position: "p1" }).give("1");
  await settle();
  assert.deepEqual(next.take(), [["connecting"], ["open"], "1"]);
});

test("a refused handshake has its status for each tab", async () => {
  const requests = new Requests();
  const browser = new Browser({ fetch: requests.fetch });
  const tab = browser.tab({ transports: ["sse"] });
  await (await requests.events()).refuse(403);
  await settle();
  assert.deepEqual(tab.take(), [["connecting"], ["closed", { code: 1006, reason: "HTTP 403", status: 403 }]]);
});

test("a shared stream can't change its filters, and goes on", async () => {
  const { tabs, socket } = await open();
  const [{ stream, take }] = tabs;
  await assert.rejects(stream.setFilters({ level: "error" }), { code: "shared" });
  socket.give("1");
  await settle();
  assert.deepEqual([stream.state, take()], ["open", ["1"]]);
  stream.close();
  await assert.rejects(stream.setFilters({ level: "error" }), { code: "closed" });
});

test("options that can't be shared are refused", () => {
  const browser = new Browser();
  const refused = [{ protocols: "x" }, { protocols: [] }, { WebSocket: browser.world.WebSocket }, { fetch() {} }, { fetch: null }, { storage: new Store() }];
  for (const option of refused) {
    const message = new RegExp(`^mesherstream: option ${Object.keys(option)[0]} can't be given with shared$`);
    assert.throws(() => browser.tab(option), { name: "TypeError", code: "malformed", message });
    for (const shared of [false, null, undefined]) {
      browser.world.page({ WebSocket: browser.world.WebSocket }).connect("ws://host/", { ...option, shared }).close();
    }
  }
  assert.throws(() => browser.tab({ shared: "yes" }), { name: "TypeError", message: /shared is no boolean/ });
  browser.tab({ shared: false });
  assert.equal(browser.asked.length, 0);
  browser.tab({ protocols: null, WebSocket: null, storage: null, fetch: undefined });
  assert.equal(browser.asked.length, 1);
});

// --- tabs without a worker

// alone checks that a tab has a stream of its own.
async function alone(browser, tab) {
  await settle();
  browser.world.socket().hello().give("1");
  await settle();
  assert.deepEqual(tab.take(), [["connecting"], ["open"], "1"]);
  assert.equal(tab.stream.shared, false);
  const change = tab.stream.setFilters({ level: "error" });
  const [{ filters }] = browser.world.socket().asked();
  browser.world.socket().say({ type: "filters_updated", filters, filtered: 3 });
  assert.deepEqual(await change, { filters, filtered: 3 });
  tab.page.hide(true);
  assert.equal(tab.stream.state, "waiting");
}

test("a tab has a stream of its own in a browser without shared workers", async () => {
  const browser = new Browser();
  await alone(browser, browser.tab({}, { SharedWorker: undefined }));
  assert.equal(browser.asked.length, 0);
});

test("a tab has a stream of its own if it may have no worker", async () => {
  const browser = new Browser();
  class SharedWorker {
    constructor() {
      throw new DOMException("no", "SecurityError");
    }
  }
  await alone(browser, browser.tab({}, { SharedWorker }));
});

test("a tab has a stream of its own if the worker doesn't load", async () => {
  const browser = new Browser({ loads: false });
  const tab = browser.tab();
  const loop = tab.stream[Symbol.asyncIterator]();
  const step = loop.next(); // before the tab knows
  await alone(browser, tab);
  assert.equal((await step).value.data, "1");
  assert.equal(tab.port.closed, true);
});

test("a tab has a stream of its own if the worker doesn't answer within 20 seconds", async () => {
  const browser = new Browser({ loads: "an old module" });
  const tab = browser.tab();
  await settle();
  browser.world.tick(ANSWER - 1);
  assert.equal(browser.world.sockets.length, 0);
  browser.world.tick(1);
  assert.equal(browser.world.sockets.length, 1);
  await alone(browser, tab);
});

test("an error of the worker after it has answered changes nothing", async () => {
  const browser = new Browser();
  const tab = browser.tab();
  await settle();
  browser.world.socket().hello();
  await settle();
  tab.worker.onerror(new Event("error"));
  browser.world.socket().give("1");
  await settle();
  assert.deepEqual([tab.take().at(-1), tab.stream.shared, browser.world.sockets.length], ["1", true, 1]);
});

test("only a worker that is started for it serves tabs", () => {
  const world = new World();
  const none = { get: () => assert.fail(), set: () => assert.fail() };
  const worker = (name) => Object.defineProperty({ SharedWorkerGlobalScope: Object, name }, "onconnect", none);
  world.load(worker("the page's own"));
  world.load(worker(undefined));
  world.load(Object.defineProperty({ name: "mesherstream shared 1 []" }, "onconnect", none));
});

// --- tabs and workers that are gone

test("a tab that crashes doesn't keep the stream open", async () => {
  const { tabs, socket } = await open(2, { locks: true });
  const [one, two] = tabs;
  one.crash();
  await settle();
  socket.give("1");
  await settle();
  assert.deepEqual([two.take(), socket.left], [["1"], null]);
  two.crash();
  await settle();
  assert.deepEqual(socket.left, { code: 1000, reason: "" });
});

test("a tab that is left says so itself", async () => {
  const { tabs, socket } = await open(2);
  tabs[0].page.hide(false);
  await settle();
  socket.give("1");
  await settle();
  assert.deepEqual([tabs[0].take(), tabs[1].take(), socket.left], [[], ["1"], null]);
  tabs[1].page.hide(false);
  await settle();
  assert.equal(socket.left.code, 1000);
});

test("a tab that has closed its stream leaves nothing behind", async () => {
  const { browser, tabs } = await open(2, { locks: true });
  const [one, two] = tabs;
  assert.equal(one.locks(), 2); // its own, and it waits for that of the worker
  one.stream.close();
  await settle();
  assert.equal(one.locks(), 0);
  one.page.hide(true);
  one.page.look("visible");
  browser.worker.crash();
  await settle();
  assert.deepEqual(one.take(), [["closed", { code: 1000, reason: "" }]]);
  assert.equal(two.take()[0][0], "waiting");
});

test("a tab doesn't take a worker for gone that has yet to get its lock", async () => {
  let arrive;
  const { browser, tabs, socket } = await open(2, { locks: true, way: new Promise((resolve) => (arrive = resolve)) });
  socket.give("1");
  await settle();
  arrive();
  await settle();
  for (const { take, stream } of tabs) assert.deepEqual([take(), stream.shared], [["1"], true]);
  browser.worker.crash();
  await settle();
  for (const { stream } of tabs) assert.equal(stream.shared, false);
});

test("nothing that arrives late concerns a tab that has closed its stream", async () => {
  const { browser, tabs } = await open(1, { locks: true });
  const [{ stream, take, port }] = tabs;
  browser.worker.crash(); // its lock is granted in a moment
  stream.close();
  port.onmessage({ data: { n: 1, data: "late" } });
  await settle();
  assert.deepEqual(take(), [["closed", { code: 1000, reason: "" }]]);
});

test("a worker that doesn't load concerns no tab that has closed its stream", async () => {
  const browser = new Browser({ loads: false });
  const { stream, take } = browser.tab();
  stream.close();
  await settle();
  assert.deepEqual([take(), browser.world.sockets.length], [[["closed", { code: 1000, reason: "" }]], 0]);
});

test("a tab that learns late of the end of its stream asks nothing of the next one", async () => {
  const { browser, world, tabs, socket } = await open();
  const [slow] = tabs;
  freeze(slow);
  socket.give("1").end(4001, "final");
  const next = browser.tab();
  await settle();
  world.socket().hello({ position: "p0" });
  numbers(world.socket(), 1, 50);
  await settle();
  assert.equal(next.take().length, 52);
  slow.thaw();
  await settle();
  assert.deepEqual(slow.take(), ["1", ["closed", { code: 4001, reason: "final" }]]);
  world.socket().give("51");
  await settle();
  assert.deepEqual(next.take(), ["51"]);
});

// crashed returns a browser with two tabs. Its worker has crashed after play, and the tabs have noticed it.
async function crashed(more, play) {
  const opened = await open(2, { locks: true, ...more });
  await play(opened);
  await settle();
  for (const { take } of opened.tabs) take();
  opened.browser.worker.crash();
  await settle();
  return opened;
}

test("a tab whose worker has crashed returns by itself from where it was, and misses nothing", async () => {
  const { browser, world, tabs } = await crashed({}, async ({ world, socket }) => {
    socket.give("1").say({ type: "mark", position: "p1" }).give("2", "3");
    await settle();
    world.pass(250);
  });
  for (const { take, stream } of tabs) {
    assert.deepEqual(take(), [["waiting", { code: 1006, reason: "the worker has ended", delay: 0 }]]);
    assert.equal(stream.shared, false);
  }
  world.tick(1);
  assert.equal(world.sockets.length, 3);
  for (const socket of world.sockets.slice(1)) {
    assert.deepEqual(socket.query, { since: "p1", received: "2", ago: "251" });
    socket.open().hello({ position: "p2", returned: { complete: true } }).say({ type: "replay", of: "return" });
    socket.give("2", "3", "4").say({ type: "replayed", of: "return", position: "p3" }).give("5");
  }
  for (const { take } of tabs) assert.deepEqual(take(), [["connecting"], ["open", { complete: true }], "4", "5"]);
  const change = tabs[0].stream.setFilters({ level: "error" });
  assert.equal(world.sockets[1].asked().length, 1);
  tabs[0].stream.close();
  await assert.rejects(change, { code: "closed" });

  // It is a page like any other, which closes its connection when it is put away.
  tabs[1].page.hide(true);
  assert.notEqual(world.sockets[2].left, null);

  // A tab that comes later has another worker.
  const next = browser.tab();
  await settle();
  world.socket().hello({ position: "p4" });
  await settle();
  assert.deepEqual([next.take(), next.stream.shared], [[["connecting"], ["open"]], true]);
});

test("a tab whose worker has crashed counts as the server does", async () => {
  for (const [play, query] of [
    [({ socket }) => socket, { since: "p0" }],
    [({ socket }) => socket.say({ type: "direct" }).give("alone").give("1"), { since: "p0", received: "1", ago: "1" }],
    [({ socket }) => socket.give("1").say({ type: "gap", dropped: 2, since: 0, until: 0, position: "p1" }), { since: "p1" }],
    [({ socket }) => socket.say({ type: "gap", dropped: 2, since: 0, until: 0 }), { since: "p0", received: "unknown", ago: "1" }],
    [({ socket }) => socket.say({ type: "mark", position: null }).give("1"), { since: "p0", received: "unknown", ago: "1" }],
    // The replay of a return names the same place anew, before all of it has arrived.
    [
      async ({ world, socket }) => {
        socket.give("1", "2").cut();
        await settle();
        world.tick(1);
        world.socket().hello({ position: "p1", returned: { complete: true } }).give("1");
      },
      { since: "p0", received: "2", ago: "2" },
    ],
  ]) {
    const { world } = await crashed({ options: { minDelay: 1 } }, play);
    world.tick(1);
    assert.deepEqual(world.sockets.at(-1).query, query);
  }
});

test("a tab that came later returns by itself from where the worker was", async () => {
  for (const [last, query] of [[[], { since: "p1" }], [["2"], { received: "1", ago: "1", since: "p2" }]]) {
    const { browser, world, socket } = await open(1, { locks: true });
    socket.give("1").say({ type: "mark", position: "p1" });
    const late = browser.tab();
    await settle();
    if (last.length) socket.say({ type: "mark", position: "p2" }).give(...last);
    await settle();
    late.take();
    browser.worker.crash();
    await settle();
    world.tick(1);
    assert.deepEqual(world.socket().query, query);
    assert.equal(late.take()[0][0], "waiting");
  }
});

test("a tab that came while the others wait returns by itself from where they were", async () => {
  const { browser, world, socket } = await open(1, { locks: true });
  socket.give("1").say({ type: "mark", position: "p1" }).cut();
  const late = browser.tab();
  await settle();
  browser.worker.crash();
  await settle();
  world.tick(1);
  assert.deepEqual([world.socket().query, late.stream.state], [{ since: "p1" }, "connecting"]);
});

test("a tab that came after the newest position is told of a gap when its worker has crashed", async () => {
  const { browser, world, socket } = await open(1, { locks: true });
  socket.give("1").say({ type: "mark", position: "p1" }).give("2");
  const late = browser.tab();
  await settle();
  late.take();
  browser.worker.crash();
  await settle();
  assert.equal(late.take()[0].reason, "away");
  world.tick(1);
  assert.deepEqual(world.socket().query, {});
});

test("a tab that has no position is told of a gap when its worker has crashed", async () => {
  const { browser, world, tabs, socket } = await open(1, { locks: true, hello: { position: undefined }, options: { url: "ws://host/a/b?last=5" } });
  socket.give("1");
  const late = browser.tab({ url: "ws://host/a/b?last=5" });
  await settle();
  for (const { take } of [...tabs, late]) take();
  browser.worker.crash();
  await settle();
  for (const { take } of [...tabs, late]) {
    const [gap, [state]] = take();
    assert.deepEqual([gap.reason, gap.dropped, gap.atMost, gap.held, gap.since, state], ["away", undefined, undefined, 0, new Date(world.wall), "waiting"]);
  }
  world.tick(1);
  assert.deepEqual(world.socket().query, {});

  // Nothing can be missing if the stream was never open.
  const first = new Browser({ locks: true });
  const tab = first.tab({ url: "ws://host/a/b?last=5" });
  await settle();
  tab.take();
  first.worker.crash();
  await settle();
  assert.equal(tab.take()[0][0], "waiting");
  first.world.tick(1);
  assert.deepEqual(first.world.socket().query, { last: "5" });
});

test("a frozen tab doesn't keep the others from noticing that their worker has crashed", async () => {
  const { browser, tabs } = await open(3, { locks: true });
  tabs[0].freeze();
  browser.worker.crash();
  await settle();
  for (const { take } of tabs.slice(1)) assert.equal(take()[0][0], "waiting");
});

test("delays without a bound can be shared", async () => {
  const { tabs } = await open(1, { options: { minDelay: Infinity, maxDelay: Infinity } });
  assert.ok(tabs[0].stream.shared);
});

// crowd returns a browser with n tabs that have followed events, and whose worker has crashed.
async function crowd(n, more, options) {
  const requests = new Requests();
  const browser = new Browser({ fetch: requests.fetch, ...more });
  const tabs = Array.from({ length: n }, () => browser.tab({ transports: ["sse"], minDelay: 1, ...options }));
  await (await (await requests.events()).open()).hello({ position: "p0" });
  await (await requests.events()).give(["1"], "p1");
  for (const { take } of tabs) assert.deepEqual(take(), [["connecting"], ["open"], "1"]);
  browser.worker.crash();
  for (let i = 0; i < 4; i++) await settle();
  return { browser, tabs, requests, world: browser.world };
}

const left = ["waiting", { code: 1006, reason: "the worker has ended", delay: 0 }];

test("after the worker has crashed, the tabs leave connections for pages to load", async () => {
  const { browser, tabs, requests, world } = await crowd(8, { locks: true }, { url: "ws://host/stream/projects/shop?last=5" });
  world.tick(1);
  await settle();
  const [, ...made] = requests.made;
  assert.deepEqual(made.map(({ query }) => JSON.stringify(query)).sort(), [...Array(3).fill('{"since":"p1"}'), "{}"]);
  for (const request of made) {
    await (await request.open()).hello("since" in request.query ? { position: "p9", returned: { complete: true } } : { position: "p9" });
    await request.give(["2"], "p10");
  }
  for (const { take, stream } of tabs.slice(0, 3)) {
    assert.deepEqual([take(), stream.shared], [[left, ["connecting"], ["open", { complete: true }], "2"], false]);
  }
  for (const { take, stream } of tabs.slice(3)) {
    const [waiting, connecting, opened, gap, ...rest] = take();
    assert.deepEqual([waiting, connecting, opened], [left, ["connecting"], ["open", { complete: false }]]);
    assert.deepEqual([gap.reason, gap.dropped, gap.atMost, gap.held], ["away", undefined, undefined, 0]);
    assert.deepEqual([rest, stream.shared], [["2"], true]);
  }

  // The next one may crash too. A tab that has left makes room for one.
  tabs[0].stream.close();
  await settle();
  browser.worker.crash();
  await settle();
  world.tick(1);
  await settle();
  const sinces = requests.made.slice(5).map(({ query }) => query.since).sort();
  assert.deepEqual(sinces, ["p10", undefined]);
});

test("a page that has no locks leaves the connections to others after its worker has crashed", async () => {
  const { tabs, requests, world } = await crowd(2);
  for (let i = 0; i < 2; i++) {
    world.tick(ANSWER);
    await settle();
  }
  const next = await requests.events();
  assert.equal(requests.made.length, 2);
  await (await next.open()).hello({ position: "p9" });
  for (const { take } of tabs) assert.deepEqual(take().map((item) => item.reason ?? item[0]), ["waiting", "connecting", "open", "away"]);
});

test("a tab that finds no other worker goes on by itself, and misses nothing", async () => {
  for (const loads of [false, "never"]) {
    const requests = new Requests();
    const browser = new Browser({ fetch: requests.fetch });
    const { take, stream } = browser.tab({ transports: ["sse"], minDelay: 1 });
    await (await (await requests.events()).open()).hello({ position: "p0" });
    browser.loads = loads;
    browser.worker.crash();
    for (let i = 0; i < (loads ? 3 : 2); i++) {
      browser.world.tick(ANSWER);
      await settle();
    }
    browser.world.tick(1);
    const next = await requests.events();
    assert.deepEqual([next.query, stream.shared], [{ since: "p0" }, false]);
    await (await next.open()).hello({ position: "p0", returned: { complete: true } });
    assert.deepEqual(take().at(-1), ["open", { complete: true }]);
  }
});

test("a callback may close a stream whose worker has crashed", async () => {
  const requests = new Requests();
  const browser = new Browser({ fetch: requests.fetch });
  const states = [];
  const onstate = (state) => {
    states.push(state);
    if (state === "waiting") stream.close();
  };
  const { stream } = browser.tab({ transports: ["sse"], onstate });
  await (await (await requests.events()).open()).hello({ position: "p0" });
  browser.worker.crash();
  for (let i = 0; i < 2; i++) {
    browser.world.tick(ANSWER);
    await settle();
  }
  assert.deepEqual(states, ["connecting", "open", "waiting", "closed"]);
  assert.deepEqual([browser.asked.length, requests.made.length], [1, 1]);
});

test("a fetch outlives the worker", async () => {
  let fetched;
  const { world } = await crashed({}, async ({ tabs, socket }) => {
    socket.say(fetchable);
    await settle();
    fetched = tabs[1].take()[0].fetch();
    await settle();
    assert.equal(socket.asked().length, 1);
  });
  world.tick(1);
  world.socket().hello({ position: "p1", returned: { complete: true } }).say({ type: "replayed", of: "return", position: "p1" });
  world.tick(200);
  assert.deepEqual(world.socket().asked(), [{ type: "fetch", gap: "g1" }]);
  world.socket().say({ type: "fetching" }, { type: "replay", of: "gap" }).give("a").say({ type: "replayed", of: "gap" });
  assert.deepEqual(await fetched, ["a"]);
});

test("a page that has no locks asks a worker that says nothing whether it is there", async () => {
  const { browser, world, tabs, socket } = await open();
  const [{ take }] = tabs;
  for (let i = 0; i < 5; i++) {
    world.tick(ANSWER);
    await settle();
    world.tick(ANSWER - 1);
    await settle();
  }
  assert.deepEqual(take(), []);
  socket.give("1");
  await settle();
  assert.deepEqual(take(), ["1"]);
  browser.worker.crash();
  world.tick(2 * ANSWER - 1);
  assert.deepEqual(take(), []);
  world.tick(1);
  assert.deepEqual(take(), [["waiting", { code: 1006, reason: "the worker has ended", delay: 0 }]]);
  world.tick(1);
  assert.deepEqual(world.socket().query, { since: "p0", received: "1", ago: String(2 * ANSWER + 1) });
});

test("a page whose timers are late gives the worker time to answer", async () => {
  const { browser, world, tabs, socket } = await open();
  const [tab] = tabs;
  world.tick(ANSWER);
  freeze(tab); // it has asked, and the answer waits for it as long as it is frozen
  await settle();
  world.pass(100_000);
  world.tick(0);
  tab.thaw();
  world.tick(ANSWER - 1);
  socket.give("1");
  await settle();
  assert.deepEqual([tab.take(), tab.stream.shared], [["1"], true]);

  world.tick(ANSWER);
  browser.worker.crash();
  world.pass(100_000);
  world.tick(0);
  assert.equal(tab.stream.shared, true);
  world.tick(999);
  assert.equal(tab.stream.shared, true);
  world.tick(1);
  assert.deepEqual([tab.take()[0][0], tab.stream.shared], ["waiting", false]);
});

test("a page whose timers are always late notices that its worker has ended", async () => {
  const { browser, world, tabs } = await open();
  browser.worker.crash();
  for (let i = 0; i < 3; i++) {
    assert.equal(tabs[0].stream.shared, true);
    world.pass(60_000);
    world.tick(0);
  }
  assert.equal(tabs[0].stream.shared, false);
});

// --- tabs that are put away

test("the connection is closed while all tabs are put away, and nothing is lost", async () => {
  for (const [away, back] of [
    [(page) => page.hide(true), (page) => page.show()],
    [(page) => page.freeze(), (page) => page.resume()],
    [(page) => page.freeze(), (page) => page.look("visible")],
  ]) {
    const { world, tabs, socket } = await open(2);
    const [one, two] = tabs;
    away(one.page);
    await settle();
    socket.give("1");
    await settle();
    assert.deepEqual([one.take(), two.take(), socket.left], [["1"], ["1"], null]);
    away(two.page);
    await settle();
    assert.deepEqual(socket.left, { code: 1000, reason: undefined });
    assert.deepEqual([one.port.inbox, two.port.inbox], [[], []]);
    for (let i = 0; i < 20; i++) {
      world.tick(10_000);
      await settle();
    }
    assert.equal(world.sockets.length, 1);
    for (const { take } of tabs) assert.deepEqual(take(), []);

    back(one.page);
    await settle();
    assert.deepEqual(world.socket().query, { since: "p0", received: "1", ago: "200000" });
    world.socket().hello({ position: "p1", returned: { complete: true } }).give("1", "2");
    await settle();
    const waiting = ["waiting", { code: 1001, reason: "the page was put away", delay: Infinity }];
    for (const { take } of tabs) assert.deepEqual(take(), [waiting, ["connecting"], ["open", { complete: true }], "2"]);
    away(one.page);
    back(two.page);
    await settle();
    assert.equal(world.socket().left, null);
  }
});

test("the connection is closed when the only tab left is one that is put away", async () => {
  const { browser, world, tabs, socket } = await open(2);
  tabs[0].page.freeze();
  await settle();
  tabs[1].stream.close();
  await settle();
  assert.deepEqual(socket.left, { code: 1000, reason: undefined });
  const next = browser.tab();
  await settle();
  assert.equal(world.sockets.length, 2);
  world.socket().hello({ position: "p1", returned: { complete: true } }).give("1");
  await settle();
  assert.deepEqual([next.take().at(-1), tabs[0].take().at(-1)], ["1", "1"]);
});

test("a tab that is looked at makes an attempt at once, one that is hidden does not", async () => {
  const { world, tabs, socket } = await open(2);
  world.chance = () => 1;
  socket.cut();
  await settle();
  tabs[0].page.look("hidden");
  await settle();
  assert.equal(world.sockets.length, 1);
  tabs[0].page.look("visible");
  await settle();
  assert.equal(world.sockets.length, 2);
});
