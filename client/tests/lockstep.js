// A page in lock-step: the module with a clock, timers, chance, storage and sockets that a test moves by hand. Nothing
// happens by itself, except what waits for a promise: settle lets that happen.
//
// The module needs nothing else of its surroundings that could differ between two runs. It takes these by name from the
// global scope: setTimeout, clearTimeout, performance.now, Math.random, Date (for the times of storage and of gaps that
// the stream makes itself), and what belongs to a page, by globalThis: document, addEventListener, localStorage. Here
// they are parameters of a function around its text, so each page has its own.
import { readFileSync } from "node:fs";

export const TOKEN = "q7XK2M9A";

const text = readFileSync(new URL("../mesherstream.js", import.meta.url), "utf8").replace("export function connect", "function connect");
const names = ["setTimeout", "clearTimeout", "performance", "Math", "Date", "globalThis"];

// loader makes a function that loads the module anew, with other constants if need be.
const loader = (constants = {}) => {
  let own = text;
  for (const [name, value] of Object.entries(constants)) {
    const declared = new RegExp(`^const ${name} = .*?;`, "m");
    if (!declared.test(own)) throw new Error(`the module has no ${name}`);
    own = own.replace(declared, `const ${name} = ${value};`);
  }
  return new Function(...names, `"use strict";${own}\nreturn connect;`);
};

// World is a clock and the sockets of all its pages.
export class World {
  now = 1000;
  wall = Date.UTC(2026, 10, 27); // what Date tells: it goes with the clock, and may be set
  chance = () => 0; // so that each attempt is made at once, in the next millisecond
  sockets = [];
  timers = new Map(); // those that are set, by their handles
  #handles = 0;
  #load;

  constructor(constants) {
    this.#load = loader(constants);
  }

  // page loads the module anew. Its connect has a WebSocket, and each stream a log of what its callbacks received.
  page(globals = {}) {
    const window = new EventTarget();
    const document = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: "http://host/" });
    const listen = (...args) => window.addEventListener(...args);
    const connect = this.load(Object.assign(Object.create(globals), { document, addEventListener: listen }));
    const dispatch = (target, type, more) => target.dispatchEvent(Object.assign(new Event(type), more));
    return {
      connect,
      follow: (options) => this.#follow(connect, options),
      hide: (persisted) => dispatch(window, "pagehide", { persisted }),
      show: () => dispatch(window, "pageshow", { persisted: true }),
      freeze: () => dispatch(document, "freeze"),
      resume: () => dispatch(document, "resume"),
      look: (visibilityState) => dispatch(Object.assign(document, { visibilityState }), "visibilitychange"),
      online: () => dispatch(window, "online"),
    };
  }

  // load loads the module anew, for a page or a worker with this global scope, and returns its connect.
  load(global) {
    const set = (callback, delay, ...args) => {
      if (delay >= 2 ** 31) throw new RangeError("a timer that is set for longer fires immediately");
      this.timers.set(++this.#handles, { at: this.now + Math.max(1, delay), callback: () => callback(...args) });
      return this.#handles;
    };
    const Clock = new Proxy(Date, {
      construct: (_, args) => new Date(...(args.length ? args : [this.wall])),
      get: (_, name) => (name === "now" ? () => this.wall : Date[name]),
    });
    const chance = Object.create(Math, { random: { value: () => this.chance() } });
    return this.#load(set, (handle) => this.timers.delete(handle), { now: () => this.now }, chance, Clock, global);
  }

  // WebSocket makes a socket of this world.
  get WebSocket() {
    const { sockets } = this;
    return class extends Socket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
      }
    };
  }

  #follow(connect, { url = "ws://host/stream/projects/shop", ...options } = {}) {
    const log = [];
    const stream = connect(url, {
      WebSocket: this.WebSocket,
      fetch: null,
      onmessage: (data) => log.push(data),
      ongap: (gap) => log.push(gap),
      onstate: (state, info) => log.push(info === undefined ? [state] : [state, info]),
      ...options,
    });
    // take returns what was logged since the last call.
    return { stream, log, take: () => log.splice(0) };
  }

  // socket is the newest one, with its handshake behind it.
  socket() {
    const socket = this.sockets.at(-1);
    if (!socket.opened) socket.open();
    return socket;
  }

  // tick lets time pass, and the timers fire in their order.
  tick(ms) {
    const end = this.now + ms;
    for (;;) {
      const [handle, next] = [...this.timers].sort(([a, x], [b, y]) => x.at - y.at || a - b)[0] ?? [];
      if (!next || next.at > end) break;
      this.pass(Math.max(0, next.at - this.now));
      this.timers.delete(handle);
      next.callback();
    }
    this.pass(end - this.now);
  }

  // pass lets time pass without a timer: the page was frozen, or its thread busy.
  pass(ms) {
    this.now += ms;
    this.wall += ms;
  }
}

class Socket {
  opened = false;
  left = null; // how the page closed it
  sent = []; // everything that the page said
  #read = 0;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocol = protocols[0];
  }

  send(data) {
    if (!this.opened) throw new Error("sent before it was open");
    if (!this.left) this.sent.push(JSON.parse(data));
  }

  close(code, reason) {
    this.left ??= { code, reason };
  }

  // --- the server's side

  get query() {
    return Object.fromEntries(this.url.searchParams);
  }

  open() {
    this.opened = true;
    this.onopen({});
    return this;
  }

  hello(more = {}) {
    const values = (field) => this.url.searchParams.get(field)?.split(",") ?? [];
    const filters = { level: values("level"), environment: values("environment") };
    return this.say({ type: "hello", id: 17, project: "shop", filters, max_buffer: 100, window: 0, ...more });
  }

  // say sends messages of the protocol.
  say(...messages) {
    for (const message of messages) this.give(JSON.stringify({ ...message, type: message.type, stream: TOKEN }));
    return this;
  }

  // give sends messages of the application.
  give(...messages) {
    for (const data of messages) this.onmessage({ data });
    return this;
  }

  // asked is what the page said since the last call, its acknowledgements excepted.
  asked() {
    const said = this.sent.slice(this.#read);
    this.#read = this.sent.length;
    return said.filter(({ type }) => type !== "ack");
  }

  get acked() {
    return this.sent.filter(({ type }) => type === "ack").at(-1)?.n;
  }

  // cut ends the connection without a close frame, and end with one.
  cut() {
    this.end(1006, "");
  }

  end(code, reason) {
    this.onclose({ code, reason });
  }
}

// settle lets everything happen that waits for promises.
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

// Store is a Storage that a test can look into, and break.
export class Store {
  entries = new Map();
  writes = 0;

  getItem(key) {
    return this.entries.get(key) ?? null;
  }

  setItem(key, value) {
    this.writes++;
    this.entries.set(key, String(value));
  }

  removeItem(key) {
    this.entries.delete(key);
  }
}

export function bytes(...values) {
  return Uint8Array.from(values).buffer;
}

// random returns a generator of numbers from 0 to 1, which a seed repeats (mulberry32).
export function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
