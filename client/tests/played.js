// Pages that another process plays, in lock-step: the simulation in position_test.go, which has the real server. Each line
// of the input names a page, the time, and what happens to the page. The line that answers it says what the page has done
// meanwhile and then: what it has sent and shown, whether it has dialed, left its connection or stored how far it has got.
import { readSync, writeSync } from "node:fs";
import { random, settle, Store, World } from "./lockstep.js";

class Page {
  world;
  store = new Store();
  lives = 0; // the page is loaded anew for each
  waiting = 0; // calls of setFilters without a result
  failures = []; // those of calls
  shown = [];
  connection = null; // the socket that was accepted
  read = 0; // how many of its messages have been reported

  constructor({ url, filters, tail, chance }) {
    this.world = new World(tail ? { MAX_TAIL: tail } : {});
    this.world.wall = 0;
    this.world.chance = random(chance);
    this.options = { url, ...(filters && { filters }), storage: this.store };
    for (const name of ["setItem", "removeItem"]) {
      const write = this.store[name];
      this.store[name] = (...args) => {
        this.stored = true;
        write.apply(this.store, args);
      };
    }
    this.load();
  }

  load() {
    const life = ++this.lives;
    this.waiting = 0;
    this.world.timers.clear();
    this.page = this.world.page();
    const show = (item) => life === this.lives && this.shown.push({ ...item, replay: this.stream.replaying ?? "" });
    const { stream } = this.page.follow({
      ...this.options,
      onmessage: (data) => show(typeof data === "string" ? { text: data } : { binary: Buffer.from(data).toString("base64") }),
      ongap: (gap) => show({ gap }),
      onstate: null,
    });
    this.stream = stream;
  }

  // advance lets time pass until then. The sums of small steps would not be exact.
  advance(ms) {
    this.world.tick(Math.max(0, 1000 + ms - this.world.now));
    this.world.now = 1000 + ms;
    this.world.wall = ms;
  }

  // Whatever may happen to a page.

  accept() {
    this.connection = this.world.sockets.at(-1).open();
    this.read = 0;
  }

  receive({ text, binary }) {
    this.connection.give(text ?? Uint8Array.from(Buffer.from(binary ?? "", "base64")).buffer);
  }

  end({ code, reason }) {
    this.connection?.end(code, reason);
    this.connection = null;
  }

  online() {
    this.page.online();
  }

  save() {
    this.page.hide(false);
  }

  reload() {
    this.load();
  }

  setFilters({ filters, last }) {
    const life = this.lives;
    const settled = (failure) => {
      if (life !== this.lives) return;
      this.waiting--;
      if (failure) this.failures.push(failure.message);
    };
    this.waiting++;
    this.stream.setFilters(filters, last ? { last } : {}).then(() => settled(), settled);
  }

  report() {
    const { world, connection } = this;
    const newest = world.sockets.at(-1);
    const sent = connection ? connection.sent.slice(this.read).map((message) => JSON.stringify(message)) : [];
    this.read += sent.length;
    const isLeft = Boolean(connection?.left);
    if (isLeft) this.connection = null;
    world.sockets.splice(0, world.sockets.length - 1);
    const report = {
      sent,
      shown: this.shown.splice(0),
      isLeft,
      dials: newest && !newest.opened && !newest.left ? newest.url.search.slice(1) : undefined,
      wait: Math.min(...[...world.timers.values()].map(({ at }) => at)) - world.now,
      stored: this.stored && { position: "", ...JSON.parse([...this.store.entries.values()][0] ?? "{}") },
      waiting: this.waiting,
      failures: this.failures.splice(0),
      state: this.stream.state,
    };
    this.stored = undefined;
    return report;
  }
}

// lines reads the input. It may block: nothing happens meanwhile.
function* lines() {
  const chunk = Buffer.alloc(65_536);
  for (let rest = ""; ; ) {
    const length = readSync(0, chunk);
    if (!length) return;
    rest += chunk.latin1Slice(0, length);
    for (let end; (end = rest.indexOf("\n")) >= 0; rest = rest.slice(end + 1)) {
      yield JSON.parse(Buffer.from(rest.slice(0, end), "latin1").toString());
    }
  }
}

const pages = new Map();

for (const { page: name, at, what, ...args } of lines()) {
  let answer;
  try {
    if (what === "open") pages.set(name, new Page(args));
    const page = pages.get(name);
    page.advance(at);
    if (what !== "open") page[what]?.(args);
    await settle();
    answer = page.report();
  } catch (error) {
    answer = { failures: [error.stack] };
  }
  writeSync(1, JSON.stringify(answer) + "\n");
}
