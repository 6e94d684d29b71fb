// Tabs that share a stream under whatever can happen, by chance: each receives every message once and in order, or is told
// of it at its place.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Browser } from "./browser.js";
import { random, settle } from "./lockstep.js";

// Every fifth message is the same as the others of its kind.
const isTick = (n) => n % 5 === 0;
const textOf = (n) => (isTick(n) ? "tick" : String(n));

// Server publishes to sockets. A position is "p" and the number of the newest message.
class Server {
  newest = 0;
  sent = new Map(); // by open sockets: the number of the newest message that each has been sent or told of

  constructor(world, chance) {
    Object.assign(this, { world, chance });
  }

  // accept answers all handshakes that wait. A server that has restarted knows nothing of what was before, and a page that has
  // lost count can't be brought it.
  accept(restarted) {
    for (const socket of this.world.sockets) {
      if (this.sent.has(socket) || socket.left || socket.cutOff) continue;
      socket.open();
      const { since, received = 0 } = socket.query;
      const position = "p" + this.newest;
      this.sent.set(socket, this.newest);
      if (!since) {
        socket.hello({ position });
        continue;
      }
      const first = Number(since.slice(1)) + 1;
      const brings = !restarted && received !== "unknown";
      if (!brings) {
        socket.hello({ position, returned: { complete: false } });
        const missing = this.newest + 1 - first - received;
        const known = Number.isNaN(missing) ? { at_most: this.newest + 1 - first } : { dropped: missing };
        socket.say({ type: "gap", reason: "away", ...known, since: 0, until: 0, position });
      } else {
        socket.hello({ position: since, returned: { complete: true } });
      }
      socket.say({ type: "replay", of: "return" });
      // The connection may be lost in the middle, and the page be told of a position.
      for (let n = first; brings && n <= this.newest; n++) {
        if (this.chance() < 0.02) return this.cut(socket);
        socket.give(textOf(n));
        if (this.chance() < 0.1) socket.say({ type: "mark", position: "p" + n });
      }
      socket.say({ type: "replayed", of: "return", position });
    }
  }

  publish() {
    const { newest } = this;
    this.newest += Math.ceil(this.chance() * 8);
    const drops = this.chance() < 0.1;
    for (const socket of this.open()) {
      let n = newest;
      if (drops) {
        n = this.newest - 1;
        if (n > newest) socket.say({ type: "gap", id: "g" + n, reason: "slow", dropped: n - newest, held: 0, since: 0, until: 0, position: "p" + n });
      }
      while (n < this.newest) socket.give(textOf(++n));
      this.sent.set(socket, n);
    }
  }

  mark() {
    for (const socket of this.open()) socket.say({ type: "mark", position: "p" + this.sent.get(socket) });
  }

  cut(socket) {
    socket.cutOff = true;
    socket.cut();
  }

  open() {
    return [...this.sent.keys()].filter((socket) => !socket.left && !socket.cutOff);
  }
}

// audit holds what a tab has shown against what was published. The next message is one of those from lowest to highest.
function audit(log, highest, newest) {
  let lowest = 1;
  let told = 0;
  const states = [];
  log.forEach((item, i) => {
    const place = `item ${i} of ${JSON.stringify(log.slice(Math.max(0, i - 12), i + 1))}, next ${lowest} to ${highest}`;
    if (Array.isArray(item)) {
      states.push(item[0]);
    } else if (item === "tick") {
      lowest = Math.ceil(lowest / 5) * 5 + 1;
      highest = Math.floor(highest / 5) * 5 + 1;
    } else if (typeof item === "string") {
      assert.ok(item >= lowest && item <= highest, place);
      lowest = highest = Number(item) + 1;
    } else if (item.byLevel) {
      told++;
      lowest += item.dropped ?? 0;
      highest += item.dropped ?? item.atMost ?? Infinity;
    }
    assert.ok(lowest <= highest, place);
  });
  assert.ok(newest + 1 >= lowest && newest + 1 <= highest, `the newest is ${newest}, and the tab knows up to ${lowest - 1} or ${highest - 1}: ${JSON.stringify(log.slice(-12))}`);
  return { told, states };
}

// play plays a scene by chance. It has small bounds, so that they are often reached.
async function play(seed) {
  const chance = random(seed);
  const browser = new Browser({ locks: chance() < 0.7, constants: { MAX_AHEAD: 4, LAG: 300, MAX_LOG: chance() < 0.3 ? 3000 : "2 ** 23" } });
  const { world } = browser;
  const server = new Server(world, chance);
  const tabs = [];
  const all = [];
  const any = () => tabs[Math.floor(chance() * tabs.length)];
  const happened = {};
  const put = (tab, frozen) => {
    tab.port.frozen = frozen;
    if (!frozen) tab.port.take();
  };
  const open = () => {
    if (tabs.length > 5) return;
    const tab = browser.tab({ minDelay: 1, maxDelay: 2 });
    tabs.push(tab);
    all.push(tab);
    // It misses nothing since it has come, or since the connection was made for it.
    tab.from = server.newest + 1;
    const { onstate } = tab.stream;
    tab.stream.onstate = (...change) => {
      onstate(...change);
      if (change[0] !== "open") return;
      tab.from = Math.max(tab.from, Number(tab.stream.hello.position.slice(1)) + 1);
      tab.stream.onstate = onstate;
    };
  };
  const close = (how) => {
    if (tabs.length < 2) return;
    const [tab] = tabs.splice(tabs.indexOf(any()), 1);
    put(tab, false); // or it would still be there, and never be
    how(tab);
  };
  const events = {
    publish: [40, () => server.publish()],
    mark: [8, () => server.mark()],
    freeze: [4, () => put(any(), true)],
    thaw: [6, () => put(any(), false)],
    away: [3, () => any().page.freeze()],
    back: [5, () => any().page.resume()],
    open: [4, open],
    close: [2, () => close(({ stream }) => stream.close())],
    leave: [1, () => close((tab) => (tab.page.hide(false), settle().then(tab.crash)))],
    crash: [1, () => close((tab) => tab.crash())],
    cut: [4, () => server.open().forEach((socket) => chance() < 0.7 && server.cut(socket))],
    end: [0.4, () => browser.worker?.crash()],
    pause: [3, () => world.tick(chance() * 1000)],
    long: [0.5, () => world.tick(41_000)],
  };
  const sum = Object.values(events).reduce((sum, [weight]) => sum + weight, 0);
  open();
  open();
  for (let i = 0; i < 150; i++) {
    let at = chance() * sum;
    const [name, [, happen]] = Object.entries(events).find(([, [weight]]) => (at -= weight) < 0);
    happened[name] = (happened[name] ?? 0) + 1;
    happen();
    if (chance() < 0.7) await settle();
    if (chance() < 0.7) world.tick(3);
    if (chance() < 0.7) server.accept(chance() < 0.1);
  }
  for (const tab of tabs) {
    put(tab, false);
    tab.page.resume();
  }
  for (let i = 0; i < 30; i++) {
    await settle();
    world.tick(3000);
    server.accept();
  }
  server.publish();
  await settle();
  let alone = 0;
  for (const tab of tabs) {
    const { told } = audit(tab.log, tab.from, server.newest);
    happened.told = (happened.told ?? 0) + told;
    alone += !tab.stream.shared;
    assert.equal(tab.stream.state, "open");
  }
  happened.alone = alone;
  happened.shared = tabs.length - alone;
  assert.ok(server.open().length <= alone + 1, `${server.open().length} connections for ${tabs.length} tabs, ${alone} of which are alone`);
  for (const { stream } of all) stream.close();
  await settle();
  browser.worker?.crash(); // a browser ends a worker that no tab is left for, also if it doesn't know of a crash
  assert.equal(server.open().length, 0);
  return happened;
}

test("tabs that share a stream miss nothing silently, whatever happens", async (t) => {
  const runs = Number(process.env.RUNS ?? 60);
  const first = Number(process.env.SEED ?? 1);
  const happened = {};
  for (let seed = first; seed < first + runs; seed++) {
    try {
      for (const [name, n] of Object.entries(await play(seed))) happened[name] = (happened[name] ?? 0) + n;
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
  t.diagnostic(JSON.stringify(happened));
  for (const name of ["told", "alone", "shared", "end", "crash", "long"]) assert.ok(happened[name] > runs / 20 || runs < 50, `${name} hardly happened`);
});
