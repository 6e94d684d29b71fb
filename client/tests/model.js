// A model of the server, as far as positions, returns, replays, gaps and fetches go. It keeps all that was published, and
// knows of a client only what its connection has said. Everything it says arrives, or the connection is cut first.
import { bytes } from "./lockstep.js";

export const LEVELS = ["a", "b", "c"];

export class Server {
  log = []; // { data, level, key, at }: its index is its number
  first = 0; // the oldest that is held
  incarnation = 0; // of this server: it doesn't know the positions of an earlier one
  gaps = []; // the messages of each gap that can be fetched, as numbers
  fetched = []; // what each fetch brings: { id, messages }
  exact = true; // every gap had a number
  due = new Set(); // the numbers of what has passed the client's filter
  again = new Set(); // those that a look-back may have brought again
  complete = 1; // how often a return is complete that could be
  #world;
  #chance;

  constructor(world, chance) {
    this.#world = world;
    this.#chance = chance;
  }

  publish(message) {
    this.log.push({ ...message, at: this.#world.now });
  }

  // restart loses what is held.
  restart() {
    this.incarnation++;
    this.first = this.log.length;
  }

  forget(count) {
    this.first = Math.max(this.first, this.log.length - count);
  }

  // accept says hello on a socket, and replays what its query asks for.
  accept(socket) {
    const { query } = socket;
    const connection = new Connection(this, socket, query.level?.split(","), this.#chance);
    if (query.since) connection.look = Number(query.last ?? 0);
    if (!query.since) {
      const cursor = Math.max(this.first, this.log.length - Number(query.last ?? 0));
      connection.cursor = cursor;
      socket.hello({ position: connection.position });
      if (query.last) connection.replay("join");
      return connection;
    }
    const { incarnation, cursor, ahead } = JSON.parse(Buffer.from(query.since.slice(1), "base64url"));
    const known = incarnation === this.incarnation && cursor >= this.first;
    const received = query.received === "unknown" ? undefined : Number(query.received ?? 0);
    const atMost = this.log.length - cursor;
    connection.cursor = cursor;
    connection.ahead = new Set(ahead);
    for (const n of this.due) if (n >= cursor) this.due.delete(n);
    // What the client has received was published before this.
    const after = received ? this.#world.now - Number(query.ago) : -1;
    const fresh = this.log.findIndex(({ at }, n) => n >= Math.max(cursor, this.first) && at > after);
    if (known && received !== undefined && this.#chance() < this.complete) {
      connection.fresh = fresh < 0 ? this.log.length : fresh;
      socket.hello({ position: connection.position, returned: { complete: true, at_most: atMost } });
      connection.replay("return");
      return connection;
    }
    const missed = connection.matching(cursor);
    let start = this.log.length;
    if (received !== undefined && fresh >= 0) {
      start = fresh + Math.floor(this.#chance() * (this.log.length - fresh + 1));
    }
    const before = missed.filter((n) => n < start);
    connection.pass(start);
    socket.hello({ position: connection.position, returned: { complete: false, at_most: atMost } });
    if (received === undefined) {
      this.exact = false;
      connection.gap("away", { at_most: before.length });
    } else {
      connection.gap("away", { dropped: before.length - received }, received ? [] : before);
    }
    connection.replay("return");
    return connection;
  }
}

class Connection {
  cursor = 0; // the next message
  ahead = new Set(); // those after the cursor that have been sent, in the place of an older value of their key
  replaying = null;
  fresh = 0; // the first message that the client can't have when it returns
  look = 0; // how many messages it looks back at after its return
  bites = null; // the messages of a fetch that are still to be sent

  constructor(server, socket, levels, chance) {
    Object.assign(this, { server, socket, levels, chance });
  }

  get position() {
    const { incarnation } = this.server;
    const name = JSON.stringify({ incarnation, cursor: this.cursor, ahead: [...this.ahead] });
    return "p" + Buffer.from(name).toString("base64url");
  }

  get behind() {
    return this.server.log.length - this.cursor;
  }

  matches(n) {
    return !this.levels || this.levels.includes(this.server.log[n].level);
  }

  // matching is the messages from one on that are for this client.
  matching(from, to = this.server.log.length) {
    const numbers = [];
    for (let n = from; n < to; n++) if (this.matches(n) && !this.ahead.has(n)) numbers.push(n);
    return numbers;
  }

  // pass goes on to a message, without sending those before it.
  pass(to) {
    for (; this.cursor < to; this.cursor++) {
      if (this.matches(this.cursor) || this.ahead.has(this.cursor)) this.server.due.add(this.cursor);
      this.ahead.delete(this.cursor);
    }
  }

  replay(of) {
    this.replaying = of;
    this.socket.say({ type: "replay", of });
  }

  // step sends the next message, or what stands in its place.
  step() {
    const { log } = this.server;
    if (this.behind) {
      const n = this.cursor;
      const sent = this.ahead.has(n);
      this.pass(n + 1);
      if (sent || !this.matches(n)) return;
      const { key, data } = log[n];
      const newest = key ? log.findLastIndex((other, m) => other.key === key && this.matches(m)) : n;
      if (newest === n) {
        this.socket.give(data);
      } else if (this.replaying === "return") {
        this.socket.say({ type: "past", ...(typeof data === "string" ? { data } : { binary: Buffer.from(data).toString("base64") }) });
      } else if (!this.ahead.has(newest)) {
        this.ahead.add(newest);
        this.socket.give(log[newest].data);
      }
    } else if (this.replaying) {
      this.socket.say({ type: "replayed", of: this.replaying });
      this.replaying = null;
      if (this.look) this.#lookBack(this.look);
    }
  }

  // lookBack goes back to the newest messages that match.
  #lookBack(last) {
    const numbers = this.matching(this.server.first).slice(-last);
    for (let n = numbers[0] ?? this.cursor; n < this.cursor; n++) this.server.again.add(n);
    this.cursor = numbers[0] ?? this.cursor;
    this.look = 0;
    this.replay("subscribe");
  }

  drain() {
    while (this.behind || this.replaying) this.step();
    while (this.bites) this.bite();
  }

  mark() {
    this.socket.say({ type: "mark", window: 0, ...(this.chance() < 0.8 && { position: this.position }) });
  }

  gap(reason, known, numbers = []) {
    const id = `g${this.server.gaps.push(numbers) - 1}`;
    this.socket.say({ type: "gap", id, reason, ...known, held: this.#held(numbers).length, position: this.position, since: 0, until: 0 });
  }

  #held(numbers) {
    return numbers.filter((n) => n >= this.server.first);
  }

  // skip goes on to the newest messages, as with a slow client. Within the replay of a return, it goes past all that the
  // client has already, since the gap ends the tail. How many of these are among the others is not known.
  skip(left) {
    const newest = this.server.log.length - left;
    const to = Math.max(this.cursor, this.replaying === "return" ? Math.max(newest, this.fresh) : newest);
    const numbers = this.matching(this.cursor, to);
    this.pass(to);
    if (this.replaying === "return") this.server.exact = false;
    if (this.replaying === "return") this.gap("slow", { at_most: numbers.length });
    else if (numbers.length) this.gap("slow", { dropped: numbers.length }, numbers);
  }

  // serve answers what the client has asked for.
  serve() {
    for (const { type, filters, last, gap } of this.socket.asked()) {
      if (type === "subscribe") this.#subscribe(filters, last);
      else if (type === "fetch") this.#fetch(gap);
      else throw new Error(`a ${type}`);
    }
  }

  #subscribe(filters, last) {
    if (this.replaying === "return") throw new Error("filters were changed within the replay of a return");
    while (this.behind || this.replaying) this.step();
    this.levels = filters.level.length ? filters.level : undefined;
    this.ahead.clear();
    if (last) {
      const numbers = this.matching(this.server.first).slice(-last);
      for (let n = numbers[0] ?? this.cursor; n < this.cursor; n++) this.server.again.add(n);
      this.cursor = numbers[0] ?? this.cursor;
    }
    this.socket.say({ type: "filters_updated", position: this.position, filters, filtered: 0 });
    if (last) this.replay("subscribe");
  }

  #fetch(id) {
    if (this.bites) throw new Error("a fetch within another one");
    this.socket.say({ type: "fetching", gap: id });
    const numbers = this.#held(this.server.gaps[Number(id.slice(1))]);
    this.bites = { id, numbers };
    this.server.fetched.push({ id, messages: numbers.map((n) => nameOf(this.server.log[n].data)) });
  }

  // bite sends the next part of a fetch. No other replay runs then.
  bite() {
    if (!this.bites || this.replaying) return;
    const { id, numbers } = this.bites;
    this.socket.say({ type: "replay", of: "gap", gap: id });
    for (const n of numbers.splice(0, 3)) this.socket.give(this.server.log[n].data);
    this.socket.say({ type: "replayed", of: "gap", gap: id, messages: 0, ...(numbers.length && { more: true }) });
    if (!numbers.length) this.bites = null;
  }
}

// nameOf tells binary data from text, and equal data from others.
export function nameOf(data) {
  return typeof data === "string" ? data : `binary ${[...new Uint8Array(data)]}`;
}

// dataOf makes data of a number: text, or the same bytes as binary data.
export function dataOf(number, binary) {
  return binary ? bytes(...Buffer.from(dataOf(number))) : `text ${number}`;
}
