// Random runs in lock-step against a model of the server. A seed repeats a run: SEED=17 node --test tests/simulation.test.js
// runs that one of each kind, and RUNS=20000 as many.
import assert from "node:assert/strict";
import { test } from "node:test";
import { random, settle, Store, World } from "./lockstep.js";
import { dataOf, LEVELS, nameOf, Server } from "./model.js";
import { Requests } from "./requests.js";

const { SEED, RUNS = "400" } = process.env;

// What a run may have. Each kind leaves out what would make its sum a bound.
const KINDS = {
  "losses and equal messages": { losses: true },
  "losses, in a loop": { losses: true, loop: true },
  "keys": { keys: true },
  "keys, in a loop": { keys: true, loop: true },
  "look-backs": { looks: true },
  "losses, over events": { losses: true, events: true },
  "losses, in a loop, over events": { losses: true, loop: true, events: true },
  "keys, over events": { keys: true, events: true },
  "look-backs, over events": { looks: true, events: true },
  "losses, over both": { losses: true, events: true, both: true },
};

for (const [index, [name, kind]] of Object.entries(KINDS).entries()) {
  test(`shown and told are what was published: ${name}`, async () => {
    const count = Math.ceil(Number(RUNS) / Object.keys(KINDS).length);
    for (const seed of SEED ? [Number(SEED)] : Array(count).keys()) {
      try {
        await new Run(seed * 16 + index, kind).go();
      } catch (error) {
        error.message = `SEED=${seed}: ${error.message}`;
        throw error;
      }
    }
  });
}

class Run {
  world = new World();
  storage = new Store();
  shown = []; // the names of messages, those for this client alone excepted
  told = 0; // how many are missing, as gaps said
  gaps = []; // those that can be fetched
  fetches = []; // those of this page
  alone = false; // what is being shown is for this client alone
  item = null; // that the loop's body handles

  constructor(seed, kind) {
    this.chance = random(seed);
    this.kind = kind;
    this.world.chance = this.chance;
    this.server = new Server(this.world, this.chance);
    if (kind.losses) this.server.complete = 0.7;
    this.unique = kind.looks || this.below(2); // or many messages are equal
    this.reloads = this.below(2); // a reload begins with other filters, so its tail would have no number
  }

  below(n) {
    return Math.floor(this.chance() * n);
  }

  async go() {
    for (let i = this.below(10); i > 0; i--) this.publish();
    this.url = "ws://host/stream" + (this.below(2) ? "?last=5" : "");
    await this.load();
    for (let steps = 20 + this.below(150); steps > 0; steps--) {
      await this.step();
      this.world.tick(this.below(3));
      await this.handle(this.below(4));
      await this.follow();
    }
    await this.finish();
    this.check();
  }

  // load is a page, anew.
  async load() {
    this.world.timers.clear();
    this.fetches = [];
    this.gaps = [];
    this.item = null;
    this.page = this.world.page();
    this.requests = new Requests();
    const { fetch } = this.requests;
    const over = this.kind.events && { fetch, transports: this.kind.both ? ["websocket", "sse"] : ["sse"] };
    const callbacks = this.kind.loop ? {} : { onmessage: (data) => this.show(data), ongap: (gap) => this.tell(gap) };
    const { stream } = this.page.follow({ url: this.url, storage: this.storage, minDelay: 1, onmessage: null, ongap: null, ...callbacks, ...over });
    this.stream = stream;
    if (this.kind.loop) {
      this.loop = stream[Symbol.asyncIterator]();
      this.ask();
    }
    await this.accept();
  }

  // accept takes the next connection.
  async accept() {
    for (let failures = this.below(8) ? 0 : 1; ; failures--) {
      let link;
      while (!(link = this.newest())) {
        this.world.tick(1000);
        await settle();
      }
      if (failures <= 0) {
        this.connection = this.server.accept(link);
        return;
      }
      link.cut();
      await settle();
    }
  }

  // newest is the connection that the page asks for, and which is not answered yet. With both transports, a WebSocket is
  // sometimes not answered at all.
  newest() {
    const socket = this.world.sockets.at(-1);
    const request = this.requests.made.at(-1);
    if (request && !request.opened && !request.left) return new Events(request, this);
    if (!socket || socket.opened || socket.left || (this.kind.both && this.below(2))) return null;
    return this.world.socket();
  }

  // follow takes the connection that the page has made by itself, to change its filters.
  async follow() {
    if (this.connection.socket.request?.left) await this.accept();
  }

  show(data) {
    if (!this.alone && !String(data).startsWith("alone")) this.shown.push(nameOf(data));
  }

  tell(gap) {
    this.told += gap.dropped ?? gap.atMost ?? 0;
    if (gap.held && !this.kind.loop) this.gaps.push([gap, `g${this.server.gaps.length - 1}`]);
  }

  // ask is the loop's next step.
  ask() {
    const { page } = this;
    this.loop.next().then(({ value }) => {
      if (page === this.page) this.item = value;
    });
  }

  // handle lets the loop go on. An item is handled when the loop asks for the next one.
  async handle(count) {
    for (; this.kind.loop && count > 0; count--) {
      if (this.item?.gap) this.tell(this.item.gap);
      else if (this.item && !String(this.item.data).startsWith("alone")) this.show(this.item.data);
      if (this.item) this.ask();
      this.item = null;
      await settle();
      if (!this.item) return;
    }
    await settle();
  }

  publish() {
    const { length } = this.server.log;
    const which = 1 + this.below(3);
    const key = this.kind.keys && this.below(2) ? `k${which}` : undefined;
    const number = key ? 1000 * which + (this.unique ? length : this.below(2)) : this.unique ? length : this.below(3);
    this.server.publish({ key, data: dataOf(number, this.unique ? length % 2 : this.below(2)), level: LEVELS[this.below(3)] });
  }

  async step() {
    const { connection, kind } = this;
    const what = this.below(40);
    if (what < 10) for (let i = this.below(4); i >= 0; i--) this.publish();
    else if (what < 22) for (let i = this.below(6); i >= 0; i--) this.pass();
    else if (what < 26) connection.mark();
    else if (what < 28) this.direct();
    else if (what < 31) await this.cut();
    else if (what < 32) await this.away();
    else if (what < 34) await this.reload();
    else if (what < 35) this.change();
    else if (what < 36) this.fetch();
    else if (kind.losses) this.lose(what);
  }

  // pass lets the next message through.
  pass() {
    this.connection.serve();
    if (this.below(4)) this.connection.step();
    else this.connection.bite();
  }

  // direct sends a message for this client alone, which may be equal to others.
  direct() {
    this.alone = true;
    this.connection.socket.say({ type: "direct" });
    this.connection.socket.give(this.kind.loop || this.kind.events ? "alone" : dataOf(this.below(3), this.below(2)));
    this.alone = false;
  }

  missed() {
    for (let i = this.below(8); i > 0; i--) this.publish();
    this.world.pass(this.below(50));
  }

  async cut() {
    this.connection.socket.cut();
    this.missed();
    await this.accept();
  }

  async away() {
    this.page.hide(true);
    this.missed();
    this.page.show();
    await this.accept();
  }

  async reload() {
    if (!this.reloads) return;
    this.page.hide(false);
    this.missed();
    await this.load();
  }

  change() {
    if (this.reloads && !this.kind.losses) return;
    const level = LEVELS.filter(() => this.below(2));
    this.stream.setFilters({ level }, this.kind.looks && this.below(2) ? { last: 1 + this.below(10) } : {});
  }

  fetch() {
    if (!this.gaps.length || this.kind.events) return;
    const [gap, id] = this.gaps[this.below(this.gaps.length)];
    const fetch = { id };
    this.fetches.push(fetch);
    gap.fetch().then((messages) => (fetch.messages = messages.map(nameOf)));
  }

  lose(what) {
    if (what < 38) this.connection.skip(this.below(4));
    else if (what < 39) this.server.forget(this.below(20));
    else if (!this.below(4)) this.server.restart();
    else if (!this.below(8)) this.connection.socket.say({ type: "gap", reason: "relay", since: 0, until: 0 });
  }

  async finish() {
    do {
      this.connection.serve();
      this.connection.drain();
      this.connection.socket.finish?.();
      this.world.tick(100);
      await this.handle(1000);
      await this.follow();
    } while (this.connection.behind || this.connection.replaying || this.item || this.connection.bites || this.fetches.some(({ messages }) => !messages));
    await settle();
  }

  check() {
    const { server, kind, shown, told } = this;
    const due = [...server.due].sort((a, b) => a - b);
    const name = (n) => nameOf(server.log[n].data);
    // The fetches of this page are the newest ones, some of which were made again.
    const fetched = server.fetched.map((fetch) => JSON.stringify(fetch));
    assertWithin(this.fetches.map(({ id, messages }) => JSON.stringify({ id, messages })), fetched);

    if (kind.looks) {
      assert.deepEqual(due.map(name).filter((each) => !shown.includes(each)), [], "lost");
      const again = new Set([...server.again].map(name));
      assert.deepEqual(shown.filter((each, i) => shown.indexOf(each) < i && !again.has(each)), [], "twice");
      return;
    }
    if (kind.keys) {
      const unkeyed = due.filter((n) => !server.log[n].key).map(name);
      const keyed = due.filter((n) => server.log[n].key);
      const names = new Set(keyed.map(name));
      assert.deepEqual(shown.filter((each) => !names.has(each)), unkeyed);
      for (const key of ["k1", "k2", "k3"]) {
        const values = keyed.filter((n) => server.log[n].key === key).map(name);
        const got = shown.filter((each) => values.includes(each));
        assert.equal(got.at(-1), values.at(-1), "the newest value");
        // An older value that the client never had may be equal to the newest one, which it has: it is shown again then,
        // since it can't be told from one that is new.
        if (this.unique) assertWithin(got, values);
      }
      return;
    }
    assertWithin(shown, due.map(name));
    if (server.exact) assert.equal(shown.length + told, due.length, "shown and told");
    else assert.ok(shown.length + told >= due.length, "told too few");
  }
}

// assertWithin holds if a list is a part of another one, in its order, and nothing is in it more often.
function assertWithin(part, all) {
  let at = 0;
  for (const each of part) {
    const found = all.indexOf(each, at);
    assert.ok(found >= 0, `${each} is out of order, or there twice`);
    at = found + 1;
  }
}

// Events is a link of the model that writes an event stream. Some events end a write, and have the position.
class Events {
  constructor(request, run) {
    Object.assign(this, { request, run });
  }

  get query() {
    return this.request.query;
  }

  hello(message) {
    this.request.open();
    this.request.hello(message);
  }

  say(message) {
    this.request.say(message);
  }

  give(data) {
    const { connection } = this.run;
    this.request.give(data, this.run.below(2) ? connection.position : undefined);
  }

  // finish ends a write.
  finish() {
    this.request.mark(this.run.connection.position);
  }

  asked() {
    return [];
  }

  cut() {
    this.request.lose();
  }
}
