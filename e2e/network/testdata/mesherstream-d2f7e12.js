/*
 * mesherstream.js follows a stream of a mesherstream server from a page or from Node, and keeps following it: it connects
 * again when the connection is lost, tells what was dropped for this client, and changes the filters on the way.
 *
 *     import { connect } from "/stream/projects/mesherstream.js";
 *     const stream = connect("/stream/projects/shop", { filters: { level: ["error", "fatal"] } });
 *     stream.onmessage = (data) => show(data);
 *     stream.ongap = (gap) => warn(`${gap.dropped} messages were dropped`);
 *
 * It speaks the subprotocol mesherstream.v1. What each thing does is written in mesherstream.d.ts.
 */

const PROTOCOL = "mesherstream.v1";

// A server that accepts and then closes at once, because it is full or keeps crashing, must see the back-off grow. So a
// connection counts as a success only when it has been open for longer than such a server lets one live.
const STABLE = 10_000;

// A proxy may take a connection and never answer. This is longer than a TLS handshake takes on a bad mobile network.
const HELLO_TIMEOUT = 20_000;

// The server closes a client that asks more than 20 times a second, for good. The network can push requests together,
// so half of that.
const REQUEST_SPACING = 100;

// What a loop over the stream has not taken yet is bounded by the server's window. That isn't enough when there is no
// window, or when connections come and go while the loop stands still: each one brings a window of its own.
const MAX_QUEUE = 1000;

// A timer that is set for longer fires at once.
const MAX_TIMER = 2 ** 31 - 1;

// The codes after which the same would happen again, and those of the application.
const FINAL = /^(100[23789]|4...)$/;

const FIELDS = ["level", "environment"];

// connect is one function, and the functions in it share its variables: they minify, and the fields of a class don't.
export function connect(url, options = {}) {
  const { minDelay = 500, maxDelay = 30_000, protocols = [], signal } = options;
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  if (!WebSocket) throw new TypeError("mesherstream: no WebSocket here, give one as an option");
  if (!(minDelay > 0 && maxDelay >= minDelay)) throw new RangeError("mesherstream: want 0 < minDelay <= maxDelay");
  const address = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.hash = "";

  const stream = {
    onmessage: options.onmessage,
    ongap: options.ongap,
    onstate: options.onstate,
    get state() {
      return state;
    },
    get hello() {
      return hello;
    },
    setFilters,
    close,
    [Symbol.asyncIterator]: loop,
  };

  let state = signal?.aborted ? "closed" : "connecting";
  const listening = new AbortController(); // aborted when the stream is closed: removes every listener

  // The connection.
  let socket = null; // events of any other socket are late, and ignored
  let hello = null;
  let timer; // ends the wait for the next attempt, or for the hello
  let attempts = 0; // since a connection was stable
  let openedAt = 0;
  let told = null; // the server said how long to wait
  let arrived = 0; // messages on this connection, the protocol's own included
  let acked = 0;

  // The filters. One request is on its way at a time, and one waits for it: whatever is asked meanwhile replaces that.
  let accepted = options.filters && normalize(options.filters); // undefined leaves them to the URL
  let sent = null;
  let next = null;
  let spacing = null; // the timer that keeps requests apart

  // The loop over the stream. Both are null when there is none.
  let queue = null;
  let wake = null;

  const first = state;
  if (!signal?.aborted) {
    dial(); // throws what WebSocket throws, for instance at a subprotocol that is no token
    listen();
  }
  // Told a moment later, so that callbacks hear of it that are set right after connect, and may use what it returned.
  queueMicrotask(() => {
    if (state === first) enter(first, first === "closed" ? { code: 1000, reason: "" } : undefined);
  });
  return stream;

  // --- what a stream can do

  function setFilters(filters) {
    return new Promise((resolve, reject) => {
      if (state === "closed") throw failure("closed", "the stream is closed");
      ask({ filters: normalize(filters), waiters: [{ resolve, reject }] });
      flush();
    });
  }

  function close(code = 1000, reason = "") {
    socket?.close(code, reason);
    end(code, reason);
  }

  async function* loop() {
    if (queue) throw new Error("mesherstream: another loop reads this stream");
    queue = [];
    try {
      for (;;) {
        if (queue.length) {
          const { item } = queue.shift();
          acknowledge();
          yield item;
        } else if (state === "closed") {
          return;
        } else {
          await new Promise((resolve) => (wake = resolve));
        }
      }
    } finally {
      queue = wake = null;
      acknowledge();
    }
  }

  // --- the connection

  function dial() {
    const target = new URL(address);
    for (const field of accepted ? FIELDS : []) {
      const values = accepted[field];
      if (values.length && expressible(values)) target.searchParams.set(field, values.join());
      else target.searchParams.delete(field);
    }
    const dialed = new WebSocket(target.href, [PROTOCOL].concat(protocols));
    const current = (handle) => (event) => dialed === socket && handle(event);
    dialed.binaryType = "arraybuffer";
    dialed.onopen = current(() => dialed.protocol === PROTOCOL || drop("no " + PROTOCOL));
    dialed.onmessage = current(receive);
    dialed.onclose = current((event) => lost(event.code, event.reason));
    dialed.onerror = () => {}; // a close follows; but without a listener, Node's ws would throw
    socket = dialed;
    arrived = acked = 0;
    for (const entry of queue ?? []) entry.n = 0; // nothing is acknowledged until these are taken
    timer = setTimeout(drop, HELLO_TIMEOUT, "no hello");
  }

  function begin(message) {
    clearTimeout(timer);
    hello = message;
    openedAt = Date.now();
    if (accepted && !FIELDS.every((field) => expressible(accepted[field]))) {
      subscribe({ filters: accepted, waiters: [] });
    }
    enter("open");
    flush();
  }

  // drop gives a connection up that the other side has not closed.
  function drop(reason) {
    const dropped = socket;
    socket = null;
    dropped.close();
    lost(1006, reason);
  }

  function lost(code, reason) {
    if (FINAL.test(code)) return end(code, reason);
    if (hello && Date.now() - openedAt >= STABLE) attempts = 0;
    leave();

    // Full jitter: anything up to the back-off. When a server restarts, its clients come back spread over the whole of
    // it, and not in waves.
    let delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** attempts++);
    told = [1012, 1013].includes(code) && /retry_after_ms=([1-9]\d*)/.exec(reason);
    if (told) delay = told[1] * (1 + Math.random() / 2);
    delay = Math.min(delay, MAX_TIMER);
    timer = setTimeout(retry, delay);
    enter("waiting", { code, reason, delay });
  }

  function retry() {
    clearTimeout(timer);
    dial();
    enter("connecting");
  }

  // end closes the stream for good.
  function end(code, reason) {
    if (state === "closed") return;
    leave();
    listening.abort();
    const waiters = next?.waiters ?? [];
    next = null;
    enter("closed", { code, reason });
    for (const { reject } of waiters) reject(failure("closed", `closed (${code} ${reason})`));
    wake?.();
  }

  // leave forgets the connection. A request that has no answer is made again on the next one: nobody knows whether it
  // arrived, and it may arrive twice without harm.
  function leave() {
    const later = next;
    next = null;
    if (sent?.waiters.length) ask(sent);
    if (later) ask(later);
    clearTimeout(timer);
    clearTimeout(spacing);
    socket = hello = sent = spacing = null;
  }

  // listen makes an attempt at once when the network is back, or the user: unless the server said how long to wait.
  function listen() {
    const until = { signal: listening.signal };
    const hurry = () => state === "waiting" && !told && retry();
    const { document } = globalThis;
    globalThis.addEventListener?.("online", hurry, until);
    document?.addEventListener("visibilitychange", () => document.visibilityState === "visible" && hurry(), until);
    signal?.addEventListener("abort", () => close(), until);
  }

  // --- messages

  function receive(event) {
    const { data } = event;
    const message = parse(data, hello?.stream);
    arrived++;
    if (!hello) {
      if (message) begin(message);
      else drop("no hello");
    } else if (!message) {
      push({ type: "message", data });
      call("onmessage", data, event);
    } else if (message.type === "gap") {
      const { dropped, by_level: byLevel = {}, since, until } = message;
      const gap = { dropped, byLevel, since: new Date(since), until: new Date(until) };
      push({ type: "gap", gap });
      call("ongap", gap);
    } else {
      answered(message);
    }
    acknowledge();
  }

  function push(item) {
    if (!queue) return;
    queue.push({ n: arrived, at: new Date(), item });
    if (queue.length > Math.max(MAX_QUEUE, hello.window)) queue.splice(0, 2, merge(queue[0], queue[1]));
    wake?.();
  }

  // acknowledge tells the server how many messages have been handled, in steps of half its window, so that it may send
  // as many more. What waits for the loop is not handled. A loop that awaits setFilters takes nothing meanwhile, but its
  // answer comes all the same: the window doesn't hold answers back.
  function acknowledge() {
    if (!hello?.window) return;
    const n = queue?.length ? queue[0].n - 1 : arrived;
    if (n - acked < hello.window / 2) return;
    acked = n;
    send({ type: "ack", n });
  }

  function send(message) {
    socket.send(JSON.stringify(message));
  }

  // --- filters

  // ask puts a request in place of the one that waits. Whoever waits for that one gets the answer to this one.
  function ask(request) {
    if (next) request.waiters.unshift(...next.waiters);
    next = request;
  }

  // flush sends the request that waits, when it may go.
  function flush() {
    if (!next || !hello || sent || spacing) return;
    subscribe(next);
    next = null;
  }

  function subscribe(request) {
    sent = request;
    spacing = setTimeout(() => {
      spacing = null;
      flush();
    }, REQUEST_SPACING);
    send({ type: "subscribe", filters: request.filters });
  }

  function answered({ type, code, message, filters, filtered }) {
    if (!sent || code === "invalid_ack") return;
    const { waiters } = sent;
    if (type === "error") {
      sent = null;
      for (const { reject } of waiters) reject(failure(code, message));
      // Nobody waits where these are the stream's own filters, which the URL can't say. Without them it would be another
      // stream, and asking again would not help.
      if (!waiters.length) {
        socket.close();
        end(1008, code);
      }
    } else if (type === "filters_updated") {
      accepted = sent.filters;
      sent = null;
      for (const { resolve } of waiters) resolve({ filters, filtered });
    }
    flush();
  }

  // --- callbacks

  function enter(entered, info) {
    state = entered;
    call("onstate", state, info);
  }

  // call keeps what a callback throws away from the stream, and lets it be reported as uncaught.
  function call(name, ...args) {
    try {
      stream[name]?.(...args);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

// normalize copies filters, which are kept for every attempt, into one form. A name that is misspelt would otherwise
// widen the filter silently.
function normalize(filters) {
  const [level, environment] = FIELDS.map((field) => [].concat(filters[field] ?? []).filter((v) => v !== ""));
  if (
    Object.keys(filters).some((name) => !FIELDS.includes(name)) ||
    [...level, ...environment].some((v) => typeof v !== "string")
  ) {
    throw failure("malformed", "filters are level and environment, each a string or a list of strings");
  }
  return { level, environment };
}

// expressible says whether a query can say this list, where commas part the values.
function expressible(values) {
  return !values.some((v) => v.includes(","));
}

// parse returns a message of the protocol, and undefined for one of the application. Only the server knows the token of
// this connection, which its first message brings, so nothing that the application relays can pass for the protocol's.
// Most messages are the application's, and are not worth parsing here.
function parse(data, token = "") {
  if (typeof data !== "string" || !data.startsWith('{"type":"') || !data.includes(token)) return;
  try {
    const message = JSON.parse(data);
    if (token ? message.stream === token : message.type === "hello" && message.stream) return message;
  } catch {
    // not JSON, so not the protocol's
  }
}

// merge returns a gap in place of two entries of a queue.
function merge(a, b) {
  const [x, y] = [a, b].map(({ at, item }) => item.gap ?? { dropped: 1, byLevel: {}, since: at, until: at });
  const byLevel = { ...x.byLevel };
  for (const level in y.byLevel) byLevel[level] = y.byLevel[level] + (Object.hasOwn(byLevel, level) ? byLevel[level] : 0);
  const gap = { dropped: x.dropped + y.dropped, byLevel, since: x.since, until: y.until };
  return { n: b.n, item: { type: "gap", gap } };
}

function failure(code, message) {
  return Object.assign(new Error("mesherstream: " + message), { code });
}
