/*
 * mesherstream.js follows a stream of a mesherstream server, from a page or from Node. It reconnects when the connection
 * is lost and is given what it missed, reports messages that are missing and fetches them, and can change the filters of
 * an open stream. If no WebSocket gets through, it follows the same stream as server-sent events.
 *
 *     import { connect } from "/stream/projects/mesherstream.js";
 *     const stream = connect("/stream/projects/shop", { filters: { level: ["error", "fatal"] } });
 *     stream.onmessage = (data) => show(data);
 *     stream.ongap = (gap) => warn(`${gap.dropped ?? gap.atMost ?? "some"} messages are missing`);
 *
 * It speaks the subprotocol mesherstream.v1. The file mesherstream.d.ts documents its interface.
 */

const PROTOCOL = "mesherstream.v1";

// A server that accepts and then closes at once, because it is full or keeps crashing, must see the back-off grow. So a
// connection counts as a success only if it has been open for longer than such a server would keep it.
const STABLE = 10_000;

// A proxy may accept a connection and never answer. This is longer than a TLS handshake takes on a bad mobile network.
const HELLO_TIMEOUT = 20_000;

// Something on the way may let a WebSocket connect and then pass nothing on. The upgrade and the hello take five round
// trips with TLS, so this is enough for a line on which each takes more than a second. A stream that falls back wrongly on
// an even slower one works all the same. After a WebSocket that has worked, the server is more likely to be slow: it is
// given the longer time.
const FALL_BACK = 6_000;

// A page that reconnects doesn't wait for the WebSocket first, for this long after it has fallen back. It is longer than a
// restart of a server takes, and short enough for a page that has moved to another network.
const REMEMBER = 600_000;

// A server that doesn't answer within this time won't say why a handshake failed: the next attempt doesn't wait for it.
const ASK_TIMEOUT = 5_000;

// The server promises that something arrives once per interval. The patience is this many intervals, twice as many after
// each connection that was given up for silence, and at most sixteen times as many: a line that needs longer than the
// server promises must not be given up again and again. It goes back after as many intervals without a longer pause.
const PATIENCE = 2;
const MAX_STRETCH = 16;
const CALM = 20;

// A timer that is this late was held up by the page, and so were messages that have arrived. They come first: they are
// given a second.
const LATE = 200;
const GRACE = 1000;

// A message that is announced as large may take as long as it does on a line of 4 KB/s.
const SLOWEST = 4; // bytes per millisecond

// The middleware answers a request that accepts this, and asks for no upgrade, as it would answer the handshake.
const ASK = "application/vnd.mesherstream.v1";

const EVENT_STREAM = "text/event-stream";

// How a request by fetch is made.
const REQUEST = {
  credentials: "include", // as a handshake does
  referrerPolicy: "origin", // there is no other way to tell the page's origin
  redirect: "manual", // a WebSocket doesn't follow one
  cache: "no-store",
};

// How the server answers if something on the way has turned the handshake of a WebSocket into another request.
const NO_UPGRADE = 426;

// The transports, and the lists of them that can be chosen.
const WEBSOCKET = "websocket";
const SSE = "sse";
const TRANSPORTS = [[WEBSOCKET, SSE], [WEBSOCKET], [SSE]];

// A change of filters over events waits so long for the end of a write. A position may be missing for longer: while messages
// with keys are sent to a slow page in another order.
const CHANGE_TIMEOUT = 2_000;

const NO_COMMA = "without a WebSocket, no value of a filter has a comma";

const SILENCE = "silence";
const WORKER_ENDED = "the worker has ended";

// The events of an event stream that are messages of the protocol.
const PROTOCOL_EVENTS = ["hello", "gap", "mark", "replay", "replayed", "direct", "large", "past"];

// The server permanently closes a client that sends more than 20 requests a second. The network can bunch requests up,
// so this is half of that rate.
const REQUEST_SPACING = 100;

// The server's window bounds the items that a loop over the stream has not received yet. That isn't enough if there is
// no window, or if the stream reconnects while the loop stands still: each connection has a window of its own.
const MAX_QUEUE = 1000;

// What has arrived since the newest position is kept, to be taken out of the replay of a return. The server names a new
// position about once a second, so that this is seldom reached. Beyond it, the stream only says that it has lost count.
const MAX_TAIL = 4096;
const MAX_TAIL_SIZE = 2 ** 20; // characters

// How many places before the newest one are remembered while a loop has not handled them.
const MAX_PASSED = 64;

// What the keys of binary messages begin with.
const BINARY = "\ud800";

// What is stored, in characters. A longer tail is left out.
const MAX_STORED = 2 ** 18;

// What was received longer ago than this, by a clock that may have been set since, is taken for new: about a year.
const MAX_AGO = 2 ** 35;

// A position is opaque. But a server would refuse a return with something else, and for good.
const POSITION = /^p[\w-]{0,2047}$/;

// The parameters of the query that say where a stream begins.
const START = ["last", "since"];
const RETURN = [...START, "received", "ago"];

// The first message that arrives after this long with nothing to handle is acknowledged at once.
const PAUSE = 500;

// What has been handled is acknowledged after this long in any case, so that a page that needs long for each message
// shows that it goes on.
const PROGRESS = 2000;

// A timer that is set for longer fires immediately.
const MAX_TIMER = 2 ** 31 - 1;

// The codes that would recur, and those of the application.
const FINAL = /^(100[23789]|4...)$/;

// The statuses of 4xx that say "not now", or nothing about the handshake. Any other one is a permanent refusal.
const PASSING = [407, 408, 409, 421, 423, 424, 425, 426, 429];

// How many messages a change of filters may look back at.
const MAX_LAST = 1_000_000;

const FIELDS = ["level", "environment"];

// What carries the stream of a tab that shares it. The name of the worker is this, and what it needs to know of the options.
// The number is that of the entries: a worker may have been started by another version.
const SHARED = "mesherstream shared 1 ";

// How many entries are posted to a tab ahead of the last handled one, unless they are too large.
const MAX_AHEAD = 1000;

// What else waits for the tabs is kept only once, in a log, for at most this long: a tab that needs longer is told how much
// it misses. An entry is taken for larger than its data by a constant, so that the log has room for what the server's
// window lets pass, 32,768 messages or 8 MiB unless set.
const LAG = 5_000;
const MAX_LOG = 2 ** 23;
const ENTRY = 2 ** 8;

// How many tabs of an origin may follow events on a connection of their own after their worker has ended. Over HTTP/1.1 a
// browser opens six to a host. The next worker needs one or two of them, and a page needs one to load.
const MAX_ALONE = 3;

// How many messages are kept for tabs that come later, if the url looks back.
const MAX_KEPT = 1000;

// These can't be given to a worker. The first one has a meaning as null.
const UNSHARED = ["fetch", "protocols", "WebSocket", "storage"];

// The codes of errors that are about a fetch, whatever else is asked.
const FETCH_ERRORS = ["invalid_gap", "busy"];

const CALLBACKS = { onmessage: "function", ongap: "function", onstate: "function" };

const OPTIONS = {
  filters: "object",
  minDelay: "number",
  maxDelay: "number",
  protocols: "",
  transports: "object",
  WebSocket: "function",
  fetch: "function",
  signal: "object",
  storage: "object",
  shared: "boolean",
  ...CALLBACKS,
};

// The keys of the streams that are stored now. Two streams under one key would return with each other's position.
const stored = new Set();

// Until when streams of a host don't try a WebSocket, for a page that has no sessionStorage.
const fallen = new Map();
const SESSION_KEY = "mesherstream-sse ";

export function connect(url, options) {
  return follow(url, options);
}

// follow is one function, and the functions in it share its variables: variables minify, and the fields of a class
// don't. A worker that follows for tabs gives them: relay takes an entry for them, and oldest returns the number of the
// oldest message that none of them has handled.
function follow(url, options = {}, tabs) {
  check("option", options, OPTIONS);
  const { minDelay = 500, maxDelay = 30_000, signal } = options;
  const protocols = [].concat(options.protocols ?? []);
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  const { fetch = protocols.length ? null : globalThis.fetch } = options;
  let transports = checkTransports(options.transports ?? TRANSPORTS[0]);
  if (!WebSocket && fetch) transports = transports.slice(transports.indexOf(SSE)); // of ["websocket"], it stays
  if (!WebSocket && transports[0] === WEBSOCKET) throw invalid("no WebSocket here, give one as an option");
  if (!fetch && transports[0] === SSE) throw invalid("no fetch here, which may be because of protocols: give one as an option");
  if (!(minDelay > 0 && maxDelay >= minDelay)) throw new RangeError("mesherstream: want 0 < minDelay <= maxDelay");
  if (protocols.some((name) => typeof name !== "string")) throw invalid("protocols are a string or a list of strings");
  if (signal && !signal.addEventListener) throw invalid("signal is no AbortSignal");
  if (typeof url !== "string" && !url?.href) throw invalid("the url is a string or a URL");
  const address = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (!/^wss?:$/.test(address.protocol)) throw invalid(`the url has ws, wss, http or https, and not ${address.protocol}`);
  address.hash = "";
  const { host } = address;
  let { storage } = options;
  if (storage) checkStorage(storage);
  if (options.shared) checkShared(options);

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
    get replaying() {
      return replaying;
    },
    get age() {
      return age;
    },
    get transport() {
      return transport;
    },
    get shared() {
      return shared;
    },
    setFilters,
    close,
    [Symbol.asyncIterator]: loop,
  };

  let state = signal?.aborted ? "closed" : "connecting";
  const listening = new AbortController(); // aborted when the stream is closed: removes every listener

  // The connection.
  let link = null; // what any other link says is late, and ignored
  let over; // the transport of the link
  let shared = false; // a worker has answered
  let ended = null; // when the worker before this one has ended
  let transport = null; // that of the newest connection that was open
  let blocked = 0; // handshakes that failed since a WebSocket was open, although the server would have accepted them
  let streams = transports.includes(SSE) && Boolean(fetch); // this fetch may have streams
  let hello = null;
  let pulse; // ends a connection on which nothing arrives
  let heard = 0; // when something has arrived
  let large = 0; // how long the next message may take in addition
  let stretch = 1; // of the patience
  let calm = 0; // since when no pause has been longer than the patience
  let age; // the server's measurement
  let asking = null; // aborts the request that asks why a handshake failed
  let timer; // ends the wait for the next attempt, for the hello, or for the answer
  let attempts = 0; // since a connection was stable
  let openedAt = 0;
  let wasOpen = false; // ever
  let asks = false; // this connection has asked for what was before it
  let looking = false; // and that has not arrived yet
  let told = null; // the server said how long to wait
  let due = 0; // when the next attempt is made
  let paused = false; // the page is put away
  let arrived = 0; // messages on all connections, the protocol's own included
  let base = 0; // those of earlier connections, which are not counted in acknowledgements
  let acked = 0;
  let marks = []; // which of them are acknowledged as soon as they are handled
  let confirmed = 0; // when the last acknowledgement was sent
  let ahead = 0; // the window: how many may be unacknowledged
  let idle = 0; // since when nothing has been handled
  let replaying = null; // the kind of replay that what arrives belongs to
  let direct = false; // the next message is for this client alone

  // The position, and the tail: the messages since. The position is the server's name for a place in the stream.
  // Everything before it has arrived, or a gap has told of it. A return gives the position, and takes what is in the
  // tail out of the replay. Messages have no numbers, so equal ones can stand for each other.
  let place = null; // null if the server has no positions
  let misplaced = false; // what arrives now is of another filter than the place, and can't be counted
  let passed = []; // the places before this one, of which not everything has been handled; kept only for the storage
  let expected = []; // the entries of the tail that the replay of a return has not brought yet
  let brought = []; // those that it has brought
  let returning = false; // that replay is not over

  // The filters. One request is in flight at a time, and one waits for it. A new request replaces the waiting one.
  let accepted = options.filters && normalize(options.filters); // undefined leaves the filters to the URL
  if (transports[0] === SSE && accepted && !isExpressible(accepted)) throw invalid(NO_COMMA);
  let sent = null;
  let next = null;
  let restore = false; // the accepted filters are not in force on this connection, and are requested first
  let spacing = null; // the timer that keeps requests apart
  let urging = null; // the timer of a change that waits for the end of a write

  // The gaps to fetch. One fetch runs at a time, the first, and the others wait.
  let fetches = [];
  let fetching = null; // the fetch that runs on this connection
  let bite = false; // what arrives belongs to it

  // The loop over the stream. All are null when there is none.
  let queue = null;
  let wake = null;
  let taken = null; // the entry that the loop's body handles: it has not asked for the next one
  let room = MAX_QUEUE; // for entries: the largest window of this connection, if that is more

  // The key is the address, without what says where a stream begins, and the filters of the options.
  const bare = new URL(address);
  for (const name of RETURN) bare.searchParams.delete(name);
  const key = `mesherstream ${bare}${accepted ? " " + JSON.stringify(accepted) : ""}`;

  const first = state;
  if (!signal?.aborted) {
    if (storage) load();
    if (!options.shared || !attach()) start();
    signal?.addEventListener("abort", () => close(), { signal: listening.signal });
  }
  // Reported a moment later, so that callbacks set right after connect are called, and may use the returned stream.
  queueMicrotask(() => {
    if (state === first) enter(first, first === "closed" ? { code: 1000, reason: "" } : undefined);
  });
  if (tabs) return { acknowledge, close, fetchGap, hurry, pause, resume };
  return new Proxy(stream, { set: assign });

  // --- what a stream can do

  // assign accepts only callbacks: a misspelt one would never be called.
  function assign(_, name, callback) {
    check("callback", { [String(name)]: callback }, CALLBACKS);
    stream[name] = callback;
    return true;
  }

  function setFilters(filters, lookBack = {}) {
    return new Promise((resolve, reject) => {
      open();
      if (over === SHARED) throw failure("shared", "the stream is shared: connect another one with these filters");
      check("option", lookBack, { last: "number" });
      const { last } = lookBack;
      if (last !== undefined && !(Number.isInteger(last) && last > 0 && last <= MAX_LAST)) {
        throw invalid("last is an integer from 1 to 1,000,000");
      }
      ask({ filters: normalize(filters), last, waiters: [{ resolve, reject }] });
      flush();
    });
  }

  function open() {
    if (state === "closed") throw failure("closed", "the stream is closed");
  }

  function close(code = 1000, reason = "") {
    link?.close(code, reason);
    end(code, reason);
  }

  async function* loop() {
    if (queue) throw new Error("mesherstream: another loop reads this stream");
    queue = [];
    try {
      for (;;) {
        if (queue.length) {
          taken = queue.shift();
          yield taken.item;
          taken = null;
          acknowledge();
        } else if (state === "closed") {
          return;
        } else {
          await new Promise((resolve) => (wake = resolve));
        }
      }
    } finally {
      queue = wake = taken = null;
      acknowledge();
    }
  }

  // --- the connection

  function start() {
    dial(); // throws what WebSocket throws, for instance at a subprotocol that is no token
    if (storage) stored.add(key);
    listen();
  }

  function dial(by = choose()) {
    const target = new URL(address);
    const { searchParams: query } = target;
    over = by;
    if (over === SSE) change();
    const { filters, last } = sent ?? { filters: accepted };
    if (place) {
      for (const name of RETURN) query.delete(name);
      query.set("since", place.position);
      const { tail, unknown, newest } = place;
      if (unknown || tail.length) {
        query.set("received", unknown ? "unknown" : tail.length);
        query.set("ago", Math.floor(performance.now() - newest));
      }
    } else if (wasOpen && !looking) {
      for (const name of START) query.delete(name); // the page has seen it
    }
    if (last) query.set("last", last);
    asks = !place && START.some((name) => query.has(name));
    for (const field of filters ? FIELDS : []) {
      const values = filters[field];
      if (values.length && expressible(values)) query.set(field, values.join());
      else query.delete(field);
    }
    base = arrived; // only the hello is acknowledged before the loop has handled what earlier ones brought
    ahead = 0;
    marks = [];
    room = MAX_QUEUE;
    let opened;
    const current = (handle) => (...args) => opened === link && handle(...args);
    const on = { receive: current(receive), hear: current(hear), drop: current(drop) };
    if (over === SSE) {
      on.closed = current(lost);
      on.failed = current(refused);
      opened = link = followEvents(fetch, target.href.replace("ws", "http"), on);
    } else {
      on.closed = current((code, reason) => (hello || code !== 1006 ? lost(code, reason) : failed(target)));
      on.failed = current((message) => failed(target, message));
      on.erred = current(() => wait(drop, HELLO_TIMEOUT, "error"));
      try {
        opened = link = openWebSocket(WebSocket, target.href, protocols, on);
      } catch (error) {
        // The page may not open any. But a subprotocol that is no token is a mistake.
        if (error.name === "SyntaxError" || !canFallBack()) throw error;
        failed(target);
        return;
      }
    }
    awaitHello(over === WEBSOCKET && canFallBack() && transport !== WEBSOCKET ? FALL_BACK : HELLO_TIMEOUT);
  }

  // awaitHello ends an attempt that has brought no hello in time.
  function awaitHello(delay, last) {
    const due = performance.now() + delay;
    wait(() => {
      if (performance.now() - due > LATE && !last) awaitHello(GRACE, true);
      else if (over === WEBSOCKET && canFallBack()) redial();
      else drop("no hello");
    }, delay);
  }

  // wait sets the one timer of an attempt.
  function wait(...args) {
    clearTimeout(timer);
    timer = setTimeout(...args);
  }

  // choose returns the transport of the next attempt.
  function choose() {
    return transports[0] === SSE || (canFallBack() && recallFall(host)) ? SSE : WEBSOCKET;
  }

  function canFallBack() {
    return streams && !(accepted && !isExpressible(accepted));
  }

  // change takes the change of filters that waits, to make the next event stream with it. How many of the messages since the
  // position match the new filters, nobody knows. So there must be none, unless the change has waited for that too long. And
  // a replay that brings what was missed must end first, also on a later connection: it leaves out old values of keys
  // whose newest ones it has yet to bring.
  function change() {
    if (!next || returning || !(isClean() || next.urgent)) return;
    sent = next;
    next = null;
    if (!isExpressible(sent.filters)) settle(({ reject }) => reject(failure("invalid_filter", NO_COMMA)));
  }

  // isClean reports whether everything that has arrived is before the position.
  function isClean() {
    return place ? !place.unknown && !place.tail.length : !looking;
  }

  // settle ends the request that is in flight.
  function settle(settleEach) {
    const { waiters } = sent;
    sent = null;
    waiters.forEach(settleEach);
  }

  // redial replaces the connection by an event stream.
  function redial() {
    const left = link;
    leave();
    left.close();
    space();
    dial(SSE);
  }

  function begin(message) {
    // The query can't express every value, and a route of the application's own need not read it.
    const wanted = sent?.filters ?? accepted;
    restore = wanted && !FIELDS.every((field) => within(message.filters?.[field], wanted[field]));
    if (restore && !link.send) {
      if (sent) settle(({ reject }) => reject(failure("not_granted", "the filters are not in force")));
      return drop("the filters are not in force");
    }
    clearTimeout(timer);
    hello = message;
    transport = over;
    blocked = 0;
    if (over === WEBSOCKET) forgetFall(host);
    else if (transports[0] !== SSE && !recallFall(host)) rememberFall(host);
    resize(hello.window);
    confirm(arrived); // at once: this says that marks will be acknowledged
    openedAt = heard = calm = performance.now(); // not Date.now(): that clock may be set
    wasOpen = true;
    if (patience() > 0) watch(patience() * stretch);
    accepted = wanted;
    const changed = sent;
    enter("open", arrive(hello));
    if (changed && sent === changed) settle(({ resolve }) => resolve({ filters: message.filters, filtered: 0 }));
    flush();
  }

  // arrive takes the position of a hello. It returns what the return has brought, and nothing for a first connection. The
  // server says so explicitly if the replay is complete. If it isn't, a gap follows, and until then the position remains
  // the old one: a connection that breaks before the gap, or a page that is reloaded, must be told of it again. A server
  // that names no position, although it is asked to look back or promises to break the silence, looks back first; the end
  // of that replay names one.
  function arrive({ position, returned }) {
    const complete = returned?.complete === true;
    const atMost = returned?.at_most;
    const info = place ? { complete, ...(atMost !== undefined && { atMost }) } : undefined;
    looking ||= !position && (asks || hello.mark_ms > 0);
    misplaced = false;
    if (!position) {
      place = null;
      passed = [];
      erase();
    } else if (!place) {
      move(position, []);
    } else if (complete) {
      move(position, place.tail, place.unknown); // the same place, named anew
      expected = [...place.tail];
    }
    returning = Boolean(returned);
    return info;
  }

  // patience is how long nothing may arrive; 0 if the server promises nothing.
  function patience() {
    return PATIENCE * (hello.mark_ms ?? 0);
  }

  // watch looks after a delay whether something has arrived. A connection may be dead without anyone telling: a relay that
  // stops forwarding keeps both ends open. While a loop stands still, the window may be full, or a mark unanswered: the
  // server then only sends pings, of which a page learns nothing. So the connection is not given up before the loop has
  // handled what has arrived, and the server has had time to answer. The timer doesn't keep a Node process running, since
  // an idle stream doesn't.
  function watch(delay, last) {
    const due = performance.now() + delay;
    pulse = setTimeout(() => {
      const now = performance.now();
      const left = Math.max(heard, confirmed) + patience() * stretch + large - now;
      if (left > 0) watch(left);
      else if (handled() < arrived) watch(patience() * stretch);
      else if (now - due > LATE && !last) watch(GRACE, true);
      else {
        stretch = Math.min(2 * stretch, MAX_STRETCH);
        drop(SILENCE);
      }
    }, Math.min(delay, MAX_TIMER));
    pulse?.unref?.();
  }

  // hear notes that something has arrived.
  function hear() {
    if (!hello) return;
    const now = performance.now();
    if (now - heard > patience()) calm = now;
    else if (now - calm >= CALM * hello.mark_ms) stretch = 1;
    heard = now;
    large = 0;
  }

  // drop abandons a connection that the other side has not closed.
  function drop(reason) {
    const dropped = link;
    link = null;
    dropped?.close();
    lost(1006, reason);
  }

  // refused ends an attempt to follow the events, with the status of the answer if there is one. A change of filters may be
  // the reason: then the stream goes on with the old ones.
  function refused(status, unable) {
    const code = sent && { 400: "invalid_filter", 403: "not_granted" }[status];
    if (code) {
      settle(({ reject }) => reject(failure(code, `HTTP ${status}`)));
      return redial();
    }
    if (unable) streams = false;
    if (unable && transports[0] === SSE) end(1006, "this fetch has no streams");
    else lost(1006, status ? `HTTP ${status}` : "", status);
  }

  // failed ends an attempt whose handshake failed. The WebSocket of a page doesn't tell why, so fetch asks. The answer
  // may end the stream, so it must be about the same request. Nothing is asked if a subprotocol may be a token, which
  // fetch can't send. Nor is anything asked if the caller's own WebSocket, which may send other headers, has told why
  // (Node's ws has the status).
  async function failed(target, message = "") {
    leave();
    let status = Number(/server response: (\d{3})/.exec(message)?.[1] ?? 0);
    if (!status && fetch && (!options.WebSocket || !message || message.includes("101"))) {
      const question = (asking = new AbortController());
      timer = setTimeout(() => question.abort(), ASK_TIMEOUT);
      try {
        const answer = await fetch(target.href.replace("ws", "http"), {
          ...REQUEST,
          headers: { Accept: ASK },
          signal: question.signal,
        });
        status = answer.status;
        question.abort(); // the rest of the answer doesn't matter
      } catch {
        // no network, no answer, or one that this page may not see
      }
      if (asking !== question) return; // the stream was closed, or the page put away
    }
    // The network may have failed just once, if WebSockets have come through before.
    if (status === NO_UPGRADE && canFallBack() && (transport !== WEBSOCKET || blocked++)) return dial(SSE);
    lost(1006, status ? `HTTP ${status}` : "", status);
  }

  function lost(code, reason, status) {
    if (over === SSE && (!hello || reason === SILENCE)) forgetFall(host); // the WebSocket may do better
    const known = status && { status };
    // Some proxies answer 404 while their server restarts: this is not final if the stream has been open before.
    if (FINAL.test(code) || (isFinal(status) && !(status === 404 && wasOpen))) return end(code, reason, known);
    leave();

    // Full jitter: anything up to the back-off. When a server restarts, its clients reconnect spread over the whole
    // back-off, and not in waves.
    let delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** attempts++);
    told = [1012, 1013].includes(code) && /retry_after_ms=([1-9]\d*)/.exec(reason);
    if (told) delay = told[1] * (1 + Math.random() / 2);
    delay = Math.min(delay, MAX_TIMER);
    due = performance.now() + delay;
    timer = setTimeout(retry, delay);
    enter("waiting", { code, reason, ...known, delay });
  }

  function retry() {
    clearTimeout(timer);
    dial();
    enter("connecting");
  }

  // end closes the stream permanently.
  function end(code, reason, known) {
    if (state === "closed") return;
    leave();
    listening.abort();
    const waiters = [...(next?.waiters ?? []), ...fetches];
    next = null;
    fetches = [];
    erase(); // before the callback, which may connect anew
    if (storage) stored.delete(key);
    storage = null;
    enter("closed", { code, reason, ...known });
    for (const { reject } of waiters) reject(failure("closed", `closed (${code} ${reason})`));
    wake?.();
  }

  // leave forgets the connection. A request without a reply is sent again on the next connection: it may not have
  // arrived, and it may arrive twice without harm. A fetch is made again from the start: nobody knows how far it got.
  function leave() {
    if (hello && performance.now() - openedAt >= STABLE) attempts = 0;
    asking?.abort();
    const later = next;
    next = null;
    if (sent?.waiters?.length) ask(sent);
    if (later) ask(later);
    if (fetching) fetching.messages = [];
    fetching?.stop?.();
    clearTimeout(timer);
    clearTimeout(spacing);
    clearTimeout(urging);
    clearTimeout(pulse);
    link = asking = hello = sent = spacing = urging = fetching = replaying = null;
    bite = direct = restore = false;
    expected = [];
    brought = [];
    age = undefined;
  }

  // pause closes the connection when the page is put away: frozen, or kept by the browser to go back to. Such a page
  // would accept nothing, and be a slow client forever.
  function pause() {
    if (paused) return;
    paused = true;
    clearTimeout(timer);
    if (state === "waiting") return;
    const left = link;
    leave();
    told = null;
    left?.close(1000);
    enter("waiting", { code: 1001, reason: "the page was put away", delay: Infinity });
  }

  function resume() {
    if (!paused) return;
    paused = false;
    const delay = told ? due - performance.now() : 0;
    if (delay > 0) timer = setTimeout(retry, delay);
    else retry();
  }

  // hurry makes an attempt immediately, unless the server said how long to wait.
  function hurry() {
    if (state === "waiting" && !told && !paused) retry();
  }

  // listen notes when the network or the user is back, and when the page is put away.
  function listen() {
    const { document } = globalThis;
    const on = listenUntil(listening.signal);
    on(globalThis, "online", () => {
      forgetFall(host); // it may be another network
      hurry();
    });
    on(globalThis, "pagehide", ({ persisted }) => {
      save();
      if (persisted) pause();
    });
    on(globalThis, "pageshow", resume);
    on(document, "freeze", () => {
      save(); // the page may be discarded
      pause();
    });
    on(document, "resume", resume);
    on(document, "visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      resume();
      hurry();
    });
  }

  // --- the sharing

  // attach reports whether this page may share the stream. The worker reconnects, and not the tab. The tab has the position
  // all the same, to return by itself if the worker ends.
  function attach() {
    const delays = [minDelay, maxDelay].map((delay) => Math.min(delay, MAX_TIMER)); // JSON has no Infinity
    const name = SHARED + JSON.stringify([address, accepted, transports, ...delays]);
    const current = (handle) => (...args) => opened === link && handle(...args);
    const on = { receive: current(relayed), failed: current(detach), gone: current(abandon) };
    const opened = (link = openShared(address, name, on));
    if (!link) return false;
    over = SHARED;
    room = 2 * MAX_AHEAD; // what is posted is kept whole for the loop
    wait(detach, HELLO_TIMEOUT);
    return true;
  }

  // detach goes on without a worker, if it doesn't load or answer.
  function detach() {
    if (shared) return;
    if (ended) return proceed();
    link.close();
    leave();
    start();
  }

  // probe asks a worker that says nothing whether it is still there. A page without https learns it in no other way.
  function probe(delay = HELLO_TIMEOUT, asked = 0) {
    const due = performance.now() + delay;
    wait(() => {
      if (asked > 1 || (asked && performance.now() - due <= LATE)) return abandon();
      if (!asked) send({ type: "ping" });
      probe(asked ? GRACE : HELLO_TIMEOUT, asked + 1);
    }, delay);
  }

  // abandon goes on without a worker that has ended. If all tabs followed events by themselves, they would take all
  // connections to the host, and no other page of it could load.
  async function abandon() {
    const left = link;
    clearTimeout(timer);
    const crowded = (transport ?? transports[0]) === SSE && !(await mayFollowAlone(listening.signal));
    if (link !== left) return; // the stream was closed
    if (crowded) rejoin();
    else proceed();
  }

  // proceed goes on alone, from the position.
  function proceed() {
    if (wasOpen && !place) heed(unknownGap(ended ?? Date.now()));
    shared = false;
    ended = null;
    listen();
    drop(WORKER_ENDED);
  }

  // rejoin shares the next worker, which has no position of this tab.
  function rejoin() {
    link.close();
    leave();
    shared = false;
    ended ??= Date.now();
    base = acked = arrived;
    marks = [];
    enter("waiting", { code: 1006, reason: WORKER_ENDED, delay: 0 });
    if (state === "closed") return; // by the callback
    for (const name of wasOpen ? START : []) address.searchParams.delete(name);
    if (!attach()) proceed();
  }

  function unknownGap(since) {
    return { type: "gap", reason: "away", since, until: Date.now() };
  }

  // relayed takes an entry of the worker: a state, or a message as of any other link, or both a reply and what was fetched.
  function relayed({ pong, mark, state: entered, message, data, origin, direct: alone, fetched, position, ...more }) {
    shared = true;
    probe();
    if (pong) return;
    arrived++;
    if (mark) marks.push(arrived);
    if ("replaying" in more) ({ age, replaying } = more);
    if (entered) {
      share(entered, more);
    } else if (message) {
      heed(message);
    } else if (data !== undefined) {
      direct = alone;
      take(data, new MessageEvent("message", { data, origin }));
    }
    if (fetched) {
      fetching.messages = fetched;
      bitten();
    }
    if (position) move(position, []);
    else if (position === null && place) lose();
    acknowledge();
  }

  // share enters a state of the worker. To a tab that was not there before, the return is no news. One that has lost its
  // worker misses what came until now.
  function share(entered, { info, ...more }) {
    ({ hello, transport } = more);
    if (entered === "closed") {
      link.close();
      return end(info.code, info.reason, info);
    }
    if (entered === "connecting" && state === entered) return;
    const opened = entered === "open";
    const since = opened && wasOpen ? ended : null;
    if (opened) ended = null;
    if (since) place = null;
    enter(entered, since ? { complete: false } : opened && !wasOpen ? undefined : info);
    wasOpen ||= opened;
    if (since && link) heed(unknownGap(since));
    flush(); // a fetch may have waited
  }

  // tell gives the tabs an entry.
  function tell(entry) {
    tabs?.relay({ n: arrived, age, replaying, ...entry });
  }

  // --- the storage

  // advance goes on to the newest place before which everything has been handled.
  function advance() {
    const n = handled();
    let moved = false;
    for (; passed.length && (passed[1] ?? place).from <= n; moved = true) passed.shift();
    if (moved) save();
  }

  // save stores how far the page has handled the stream. What the loop has not handled is brought again after a reload.
  function save() {
    const { position, tail, unknown, newest = performance.now(), filters } = passed[0] ?? place ?? {};
    if (!storage || !position) return;
    const n = handled();
    const keys = tail.filter((entry) => entry.n <= n).map((entry) => entry.key);
    const at = Date.now() - performance.now() + newest; // this page's other clock means nothing to the next one
    const text = (tail) => JSON.stringify({ position, tail, at, filters });
    const whole = unknown ? "" : text(keys);
    if (!(whole && whole.length <= MAX_STORED && store(whole))) store(text());
  }

  // store reports whether there was space. If there is none, or it is forbidden, a reload returns from what was stored before.
  function store(text) {
    try {
      storage.setItem(key, text);
      return true;
    } catch {
      return false;
    }
  }

  // load takes up where the page was before it was reloaded. How many of the messages match other filters than those in
  // force then, nobody knows.
  function load() {
    if (stored.has(key)) throw invalid("another stream with this url and these filters is stored already");
    try {
      const { position, tail, at, filters } = JSON.parse(storage.getItem(key));
      if (!POSITION.test(position)) return;
      const past = Date.now() - at; // this clock may have been set
      const newest = performance.now() - (past > 0 && past < MAX_AGO ? past : 0);
      const same = JSON.stringify(filters) === JSON.stringify(accepted);
      const entries = (tail ?? []).map((key) => ({ n: 0, key: String(key), at: newest }));
      const unknown = !tail || (!same && entries.length > 0);
      place = { position, from: 0, filters: accepted, tail: entries, size: sizeOf(entries), unknown, newest };
    } catch {
      // nothing is stored, or it is garbage
    }
  }

  function erase() {
    try {
      storage?.removeItem(key);
    } catch {
      // it is forbidden
    }
  }

  // --- messages

  // receive takes what a link has received: a message of the protocol, or data of the application.
  function receive(message, data, event) {
    const rested = hello && handled() === arrived && performance.now() - idle >= PAUSE;
    arrived++;
    hear();
    if (rested || (hello && message?.type === "mark")) marks.push(arrived);
    if (!hello) {
      if (message?.type === "hello") begin(message);
      else drop("no hello");
    } else if (message) {
      heed(message);
    } else {
      take(data, event);
    }
    if (tabs && message) tell(placed());
    acknowledge();
  }

  // placed tells the tabs what their position is: null if they have none, and nothing if something has arrived after it.
  function placed() {
    if (!place || place.unknown || misplaced) return { position: null };
    return place.tail.length ? {} : { position: place.position };
  }

  // take takes a message of the application.
  function take(data, event) {
    if (bite) {
      fetching.messages.push(data);
      return;
    }
    const alone = direct;
    direct = false;
    if (place && !alone) {
      const key = keyOf(data); // now: a callback may transfer the data
      const known = found(key, expected);
      if (known) {
        brought.push(known);
        return;
      }
      remember(key);
    }
    if (!alone && !replaying) looking = false; // an older server doesn't look back
    push({ type: "message", data });
    call("onmessage", data, event);
    tell({ data, origin: event.origin, direct: alone });
  }

  // heed takes a message of the protocol.
  function heed(message) {
    const { type, of, position } = message;
    if (type === "gap") {
      if (position) cut(position);
      else if (place) lose(); // the tail goes on, and nobody knows how much of it the gap counts
      const gap = gapOf(message);
      push({ type: "gap", gap });
      call("ongap", gap);
      tell({ message, gap });
    } else if (type === "mark") {
      resize(message.window);
      age = message.age_ms ?? age;
      misplaced ||= position === null;
      if (position) move(position, expected); // what is still expected is after it
      flush(); // a change of filters may have waited for it
    } else if (type === "replay") {
      if (of === "gap") bite = Boolean(fetching);
      else replaying = of;
      looking ||= of === "join";
      if (position) cut(position);
    } else if (type === "replayed") {
      if (of === "gap") bitten(message.more);
      else replayed(of, position);
    } else if (type === "direct") {
      direct = true;
    } else if (type === "large") {
      large = message.bytes / SLOWEST || 0;
    } else if (type === "past") {
      const data = message.data ?? bytesOf(message.binary ?? "").buffer;
      const key = keyOf(data);
      if (found(key, expected)) return;
      // An equal message was taken for this one, which may have come before it, since keys change the order.
      if (found(key, brought)) take(data, new MessageEvent("message", { data, origin: address.origin }));
      else if (returning && place) remember(key); // or a further replay would take an equal message for it
    } else {
      answered(message);
    }
  }

  // --- positions

  // move goes on to another position, with those entries of the tail that are after it.
  function move(position, tail, unknown = false) {
    const newest = unknown ? place.newest : tail.at(-1)?.at;
    looking = false;
    if (position !== place?.position) misplaced = false;
    if (storage && place) passed.push(place);
    place = { position, from: arrived, filters: accepted, tail: [...tail], size: sizeOf(tail), unknown, newest };
    // A loop that stands still must not make this grow. The oldest one stays: it is the one to be stored.
    while (passed.length > 1 && (passed.length > MAX_PASSED || passed.reduce((sum, { size }) => sum + size, 0) > MAX_TAIL_SIZE)) {
      passed.splice(1, 1);
      Object.assign(passed[0], { unknown: true, newest: undefined });
    }
  }

  // cut goes on to a position after which nothing has arrived. A server without positions names none here either.
  function cut(position) {
    expected = [];
    brought = [];
    if (position) move(position, []);
    else if (place) lose();
  }

  function remember(key) {
    const at = (place.newest = performance.now());
    place.size += key.length;
    place.unknown ||= misplaced;
    if (place.tail.push({ n: arrived, key, at, over }) <= MAX_TAIL && place.size <= MAX_TAIL_SIZE) return;
    move(place.position, [], true);
  }

  // lose loses count of the tail until the next position.
  function lose() {
    place.unknown = true;
    place.newest = performance.now();
  }

  // found takes a message out of some entries, and returns its entry if it was there. A replay has the order of the tail, so
  // that it is usually the first.
  function found(key, entries) {
    const asEvents = (entry) => (entry.over !== WEBSOCKET || over !== WEBSOCKET) && plain(entry.key) === plain(key);
    const index = entries.findIndex((entry) => entry.key === key || asEvents(entry));
    return index >= 0 ? entries.splice(index, 1)[0] : undefined;
  }

  // replayed ends a replay. What a return's replay has not repeated is not repeated later, so it leaves the tail.
  function replayed(of, position) {
    replaying = null;
    if (of === "join") looking = false;
    if (position) cut(position);
    if (of !== "return") return;
    const gone = new Set(expected);
    if (gone.size) move(place.position, place.tail.filter((entry) => !gone.has(entry)), place.unknown);
    expected = [];
    brought = [];
    returning = false;
    flush();
  }

  function push(item) {
    if (!queue) return;
    queue.push({ n: arrived, at: new Date(), item });
    if (queue.length > room) queue.splice(0, 2, merge(queue[0], queue[1]));
    wake?.();
  }

  // resize takes the window of a hello or a mark. What was sent under a larger one is kept whole for the loop.
  function resize(window) {
    if (!Number.isInteger(window) || window < 0) return;
    ahead = window;
    room = Math.max(room, window);
  }

  // handled is how many messages have been handled: those before the oldest that the loop's body handles, or that waits
  // for it. A message is handled when its callback has returned and the loop has asked for the next one.
  function handled() {
    const oldest = tabs ? tabs.oldest() : (taken ?? queue?.[0])?.n;
    return oldest ? Math.min(oldest - 1, arrived) : arrived;
  }

  // acknowledge tells the server how many messages have been handled, so that it knows how old they were, and sends as
  // many more. It does so at each mark, at the first message after a pause, in steps of half the window, and every two
  // seconds. It is called when something has been handled, never by a timer: those of a hidden page hardly run. A loop
  // that awaits setFilters receives no messages meanwhile, but the reply arrives all the same: the window doesn't hold
  // replies back. It does hold back what a fetch brings, so a loop whose body awaits one would wait forever. Therefore
  // all that has arrived is acknowledged while the body is the one that called fetch.
  function acknowledge() {
    advance();
    if (!hello && !(shared && link)) return; // a worker waits for it also while it has no connection
    const n = taken && fetches.some((fetch) => fetch.taken === taken) ? arrived : handled();
    idle = performance.now();
    let now = (ahead && n - acked >= ahead / 2) || (n > acked && idle - confirmed >= PROGRESS);
    while (marks[0] <= n) now = marks.shift();
    if (now) confirm(n);
  }

  function confirm(n) {
    acked = n;
    confirmed = performance.now();
    send({ type: "ack", n: n - base });
  }

  // send sends a message, if the link can do so: nobody waits for an acknowledgement of events.
  function send(message) {
    link.send?.(JSON.stringify(message));
  }

  // --- filters

  // ask replaces the waiting request. The callers of the replaced request receive the reply to the new one, which looks
  // back for them if it doesn't do so itself.
  function ask(request) {
    if (next) request.waiters.unshift(...next.waiters);
    request.last ??= next?.last;
    next = request;
  }

  // flush sends the next request, if one may be sent. A replay that brings what was missed must end first: it depends
  // on the filters. Over events, nothing can be sent: a change of filters is a new connection, and a fetch has one besides.
  function flush() {
    if (hello && !link.send && fetches.length && !fetching) collect(fetches[0]);
    if (!hello || sent || spacing || returning) return;
    if (!link.send) {
      change();
      if (sent) {
        redial();
        enter("connecting");
      } else if (next) {
        urging ??= setTimeout(() => {
          if (next) next.urgent = true;
          flush();
        }, CHANGE_TIMEOUT);
      }
    } else if (restore) {
      restore = false;
      subscribe({ filters: accepted, waiters: [] });
    } else if (next) {
      const request = next;
      next = null;
      subscribe(request);
    } else if (fetches.length && !fetching) {
      fetching = fetches[0];
      request(fetching, { type: "fetch", gap: fetching.id });
    }
  }

  function subscribe(asked) {
    request(asked, { type: "subscribe", filters: asked.filters, last: asked.last });
  }

  function request(asked, message) {
    sent = asked;
    space();
    send(message);
  }

  function space() {
    spacing = setTimeout(() => {
      spacing = null;
      flush();
    }, REQUEST_SPACING);
  }

  // answered takes the reply to the request that is in flight. A fetch may fail later too.
  function answered({ type, code, message, filters, filtered, position }) {
    const { waiters } = sent ?? {};
    if (code === "invalid_ack") return;
    if (type === "error" && fetching && (sent === fetching || FETCH_ERRORS.includes(code))) {
      unfetched(code, message);
    } else if (type === "error" && waiters) {
      sent = null;
      for (const { reject } of waiters) reject(failure(code, message));
      // No caller waits if these are the stream's own filters, which the URL can't express. Without them it would be
      // another stream, and asking again would not help.
      if (!waiters.length) {
        link.close();
        end(1008, code);
      }
    } else if (type === "filters_updated") {
      if (waiters) accepted = sent.filters;
      cut(position);
      if (!waiters) return;
      sent = null;
      for (const { resolve } of waiters) resolve({ filters, filtered });
    } else if (type === "fetching" && sent === fetching) {
      sent = null;
    }
    flush();
  }

  // --- gaps

  // gapOf returns a gap as the page receives it. Its fetch is not enumerable: two gaps that say the same are equal, and
  // one may be sent to a worker.
  function gapOf({ id, reason, dropped, at_most: atMost, held, by_level: byLevel = {}, since, until }) {
    const gap = {
      ...(reason && { reason }),
      ...(dropped !== undefined ? { dropped } : atMost !== undefined && { atMost }),
      held: (id && held) || 0,
      byLevel,
      since: new Date(since),
      until: new Date(until),
    };
    return Object.defineProperty(gap, "fetch", { value: () => fetchGap(id, gap.held) });
  }

  function fetchGap(id, held) {
    return new Promise((resolve, reject) => {
      if (!held) return resolve([]);
      open();
      fetches.push({ id, taken, messages: [], resolve, reject });
      flush();
      acknowledge(); // what a loop held back
    });
  }

  // collect makes a fetch over events: a request of its own brings the messages. It is made again if it breaks, or if
  // nothing arrives for too long.
  function collect(asked) {
    fetching = asked;
    const target = new URL(bare);
    target.searchParams.set("gap", asked.id);
    let timer;
    let within = false;
    const current = (handle) => (...args) => asked.stop === stop && handle(...args);
    const again = () => {
      stop();
      asked.messages = [];
      asked.tries = (asked.tries ?? 0) + 1;
      timer = setTimeout(collect, Math.random() * Math.min(maxDelay, minDelay * 2 ** asked.tries), asked);
      asked.stop = () => clearTimeout(timer);
    };
    const hear = () => {
      clearTimeout(timer);
      timer = setTimeout(again, HELLO_TIMEOUT);
    };
    const request = followEvents(fetch, target.href.replace("ws", "http"), {
      hear: current(hear),
      receive: current((message, data) => {
        if (!message && within) asked.messages.push(data);
        if (message?.of !== "gap") return;
        within = message.type === "replay";
        if (within || message.more) return;
        stop();
        bitten();
      }),
      closed: current(again),
      failed: current((status) => {
        if (!isFinal(status)) return again();
        stop();
        unfetched(status === 403 ? "not_granted" : "invalid_gap", `HTTP ${status}`);
        flush();
      }),
    });
    const stop = (asked.stop = () => {
      asked.stop = null; // whatever this request still brings is ignored
      clearTimeout(timer);
      request.close();
    });
    hear();
  }

  // bitten ends a bite of the fetch that runs. The last one completes it.
  function bitten(more) {
    bite = false;
    if (!fetching || more) return;
    const { resolve, messages } = fetches.shift();
    fetching = null;
    resolve(messages);
    flush();
  }

  // unfetched ends a fetch that the server refuses. If another one runs there, it is asked for again.
  function unfetched(code, message) {
    if (sent === fetching) sent = null;
    fetching = null;
    bite = false;
    if (code !== "busy") fetches.shift().reject(failure(code, message));
  }

  // --- callbacks

  function enter(entered, info) {
    state = entered;
    call("onstate", state, info);
    tell({ state, info, hello, transport });
  }

  // call keeps a callback's exception away from the stream, and lets it be reported as uncaught.
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

// check refuses unknown names and values of wrong types. It also refuses anything but a plain object: a promise, for
// instance, would have none of the names, and the mistake would go unnoticed.
function check(what, given, types) {
  const names = Object.keys(types).join(", ");
  const prototype = given && Object.getPrototypeOf(given);
  if (typeof given !== "object" || !given || (prototype && Object.getPrototypeOf(prototype))) {
    throw invalid(`${what}s are a plain object with ${names}`);
  }
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(types, name)) throw invalid(`unknown ${what} ${name}, want one of ${names}`);
    const type = types[name];
    if (type && value !== undefined && (value !== null || type === "number") && typeof value !== type) {
      throw invalid(`${what} ${name} is no ${type}`);
    }
  }
}

// normalize copies filters, which are kept for every attempt, into one form. It refuses a misspelt name, which would
// otherwise widen the filter silently.
function normalize(filters) {
  check("filter", filters, { level: "", environment: "" });
  const [level, environment] = FIELDS.map((field) => [].concat(filters[field] ?? []).filter((v) => v !== ""));
  if ([...level, ...environment].some((v) => typeof v !== "string")) {
    throw invalid("filters are level and environment, each a string or a list of strings");
  }
  return { level, environment };
}

// checkStorage refuses localStorage too: two tabs would return with each other's position.
function checkStorage(storage) {
  if (!["getItem", "setItem", "removeItem"].every((name) => typeof storage[name] === "function")) {
    throw invalid("option storage is no Storage, such as sessionStorage");
  }
  let shared;
  try {
    shared = globalThis.localStorage;
  } catch {
    // this page may not have one
  }
  if (storage === shared) throw invalid("option storage can't be localStorage, which tabs share; give sessionStorage");
}

function checkShared(options) {
  const given = UNSHARED.find((name) => options.fetch === null || (options[name] ?? null) !== null);
  if (given) throw invalid(`option ${given} can't be given with shared`);
}

function checkTransports(transports) {
  const chosen = TRANSPORTS.find((list) => JSON.stringify(list) === JSON.stringify(transports));
  if (!chosen) throw invalid(`transports are one of ${TRANSPORTS.map((list) => JSON.stringify(list)).join(", ")}`);
  return chosen;
}

// within reports whether the filters in a hello are those that were requested, or narrower.
function within(inForce, asked) {
  const values = [].concat(inForce ?? []);
  return !asked.length || (values.length > 0 && values.every((v) => asked.includes(v)));
}

// expressible reports whether a query can express this list, in which commas separate the values.
function expressible(values) {
  return !values.some((v) => v.includes(","));
}

function isExpressible(filters) {
  return FIELDS.every((field) => expressible(filters[field]));
}

// isFinal reports whether a refusal with this status would recur. 204 is how a server ends an EventSource for good.
function isFinal(status) {
  return status === 204 || (status >= 400 && status < 500 && !PASSING.includes(status));
}

// --- the links
//
// A link carries one connection. It has close, and send if something can be sent. It tells what happens by the functions of
// on: receive(message) of the protocol, receive(undefined, data, event) of the application, closed(code, reason) of a
// connection that was made, failed(why) of one that was not, and drop(reason) to be given up.

function openWebSocket(WebSocket, url, protocols, on) {
  const socket = new WebSocket(url, [PROTOCOL].concat(protocols));
  let opened = false;
  let token;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    opened = true;
    if (socket.protocol !== PROTOCOL) on.drop("no " + PROTOCOL);
  };
  socket.onmessage = (event) => {
    const message = parse(event.data, token);
    token ??= message?.stream;
    on.receive(message, event.data, event);
  };
  socket.onclose = ({ code, reason }) => on.closed(code, reason);
  // In Node 22, no close event follows a failed handshake. After a successful one it does, and has the code.
  socket.onerror = ({ message }) => (opened ? on.erred() : on.failed(message));
  return socket;
}

// followEvents follows an event stream. All that arrives is a sign of life, also a comment, and a part of an event.
function followEvents(fetch, url, on) {
  const request = new AbortController();
  const close = () => request.abort();
  // Whatever ends it, the rest is not read.
  const closed = (code, reason) => {
    close();
    on.closed(code, reason);
  };
  const follow = async () => {
    const accept = { Accept: `${EVENT_STREAM}, ${ASK}` };
    const { status, headers, body } = await fetch(url, { ...REQUEST, headers: accept, signal: request.signal });
    if (status !== 200 || !headers?.get("content-type")?.startsWith(EVENT_STREAM)) return on.failed(status);
    if (!body?.getReader) return on.failed(0, true);
    const reader = body.getReader();
    const read = readEvents(url, { ...on, closed });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      on.hear();
      try {
        read(value);
      } catch (error) {
        closed(1006, String(error)); // it is no event stream of this protocol
      }
    }
  };
  // Nobody has told how it ends.
  const end = () => closed(1006, "");
  follow().then(end, end);
  return { close };
}

// readEvents returns a function that takes the bytes of an event stream, and tells of the events when they are complete:
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. The position that is the id of
// an event comes after it, as a mark.
function readEvents(url, on) {
  const { origin } = new URL(url);
  const decoder = new TextDecoder(); // leaves the byte order mark out
  let line = ""; // a part
  let afterCR = false; // an LF would belong to it
  let event = { data: [] };

  const dispatch = ({ type = "message", data: lines, id }) => {
    const data = lines.join("\n");
    if (!lines.length) {
      // it only has an id
    } else if (type === "message" || type === "binary") {
      const content = type === "binary" ? bytesOf(data).buffer : data;
      on.receive(undefined, content, new MessageEvent("message", { data: content, origin }));
    } else if (type === "close") {
      const { code = 1006, reason = "" } = JSON.parse(data);
      on.closed(code, reason);
    } else if (PROTOCOL_EVENTS.includes(type)) {
      on.receive({ ...JSON.parse(data), type });
    }
    if (POSITION.test(id)) on.receive({ type: "mark", position: id });
  };
  const take = (text) => {
    if (!text) {
      dispatch(event);
      event = { data: [] };
      return;
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(text);
    if (name === "data") event.data.push(value);
    else if (name === "event") event.type = value || undefined;
    else if (name === "id" && !value.includes("\0")) event.id = value;
  };
  return (bytes) => {
    let text = decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (afterCR && text[0] === "\n") text = text.slice(1);
    afterCR = text.endsWith("\r");
    const [end, ...others] = text.split(/\r\n?|\n/);
    line += end;
    for (const other of others) {
      take(line);
      line = other;
    }
  };
}

// --- one stream for many tabs
//
// A SharedWorker follows the stream as long as one of its tabs is there. It posts entries to each: states, messages as a link
// brings them, and positions. A tab acknowledges them, and fetches gaps, as over a WebSocket.

// openShared returns the link to the worker, or null if the page may not have one. The worker's script is the copy of this
// module that the server serves beside its streams: in a bundled page, this module has no address of its own.
//
// The worker waits for a lock that the tab holds, to notice that the tab is gone, and the tab waits for one that the worker
// holds. When the worker ends, all tabs are granted that lock at once, since a frozen tab would not pass it on.
function openShared(address, name, on) {
  let worker;
  try {
    const script = new URL("mesherstream.js", address.href.replace("ws", "http"));
    worker = new globalThis.SharedWorker(script, { type: "module", name });
  } catch {
    return null;
  }
  const { port } = worker;
  const { document, navigator } = globalThis;
  const closing = new AbortController();
  const { signal } = closing;
  const lock = `mesherstream ${Math.random()}`;
  const send = (text) => port.postMessage(text);
  const say = (message) => () => send(JSON.stringify(message));
  const close = (code, reason) => {
    say({ type: "leave", code, reason })();
    port.close();
    closing.abort();
  };
  const request = (lock, mode, granted) => navigator?.locks?.request(lock, { signal, mode }, granted).catch(() => {});
  const listen = listenUntil(signal);
  const away = say({ type: "away" });
  const back = say({ type: "back" });
  worker.onerror = on.failed;
  port.onmessage = ({ data }) => (data.lock ? request(data.lock, "shared", on.gone) : on.receive(data));
  request(lock, "exclusive", () => {
    say({ type: "lock", lock })();
    return new Promise((resolve) => signal.addEventListener("abort", resolve));
  });
  listen(globalThis, "pagehide", ({ persisted }) => (persisted ? away() : close()));
  listen(globalThis, "pageshow", back);
  listen(document, "freeze", away);
  listen(document, "resume", back);
  listen(document, "visibilitychange", () => document.visibilityState === "visible" && back());
  return { send, close };
}

// mayFollowAlone reports whether fewer than MAX_ALONE tabs of the origin do so. This one counts until the signal. Without
// locks, nobody knows how many they are.
async function mayFollowAlone(signal) {
  const { locks } = globalThis.navigator ?? {};
  const hold = (n) =>
    new Promise((resolve, reject) => {
      const granted = (lock) => {
        resolve(Boolean(lock));
        return lock && !signal.aborted && new Promise((end) => signal.addEventListener("abort", end));
      };
      locks.request(`mesherstream alone ${n}`, { ifAvailable: true }, granted).catch(reject);
    });
  try {
    for (let n = 0; locks && n < MAX_ALONE; n++) if (await hold(n)) return true;
  } catch {
    // this page may not have any
  }
  return false;
}

// serveTabs is the worker. Its log has the entries that have not been posted to all tabs, each with the number n of its message
// in the stream, and a time. A tab has a place in the log, and the numbers and sizes of the entries that it has not
// acknowledged. At most one of them asks for an acknowledgement. The stream acknowledges what the fastest tab has handled:
// if all are slow, the server sends less.
function serveTabs(scope) {
  const [url, filters, transports, minDelay, maxDelay] = JSON.parse(scope.name.slice(SHARED.length));
  const { searchParams: query } = new URL(url);
  const all = query.has("since") && !query.has("last"); // a tab that comes later is told how much of it is not kept
  const keep = Math.min(query.get("last") ?? (all ? MAX_KEPT : 0), MAX_KEPT);
  const tabs = new Set();
  let stream;
  let latest; // the newest state
  let log;
  let first; // how many entries were before those in the log
  let size; // of the log
  let kept; // the messages and gaps for tabs that come later
  let keptSize;
  let messages; // in it
  let before; // the gap for those before them
  let clean; // the position, if nothing has arrived after it
  let resting; // all tabs are put away

  const { locks } = scope.navigator;
  const held = new Promise((granted) => {
    locks?.request(scope.name, () => {
      granted();
      return new Promise(() => {}); // for as long as it lives
    });
  });

  scope.onconnect = ({ ports: [port] }) => {
    if (!tabs.size) open();
    const tab = { port, next: first + log.length, sent: [], size: 0, acked: 0, asked: false, missed: null, state: null };
    tabs.add(tab);
    port.onmessage = ({ data }) => tabs.has(tab) && requested(tab, JSON.parse(data));
    held.then(() => port.postMessage({ lock: scope.name }));
    welcome(tab);
    wake();
  };

  function open() {
    log = [];
    first = size = 0;
    clean = null;
    forgetAll();
    latest = { n: 0, state: "connecting", hello: null, transport: null };
    stream = follow(url, { filters, transports, minDelay, maxDelay }, { relay, oldest });
  }

  // welcome gives a tab that comes what it asks for.
  function welcome(tab) {
    const { info, at } = latest;
    // The delay of a stream that waits is what is left of it.
    post(tab, info?.delay ? { ...latest, info: { ...info, delay: Math.max(0, info.delay - (performance.now() - at)) } } : latest);
    if (before) post(tab, before);
    for (const entry of kept) post(tab, { ...entry, replaying: "join" });
    if (clean) post(tab, { n: latest.n, position: clean });
  }

  // isKept reports whether an entry is a message for tabs that come later, too.
  function isKept({ data, direct }) {
    return data !== undefined && !direct;
  }

  function forgetAll() {
    kept = [];
    keptSize = messages = 0;
    before = null;
  }

  // retain keeps an entry for tabs that come later, in place of the oldest.
  function retain(entry) {
    kept.push(entry);
    keptSize += sizeOfEntry(entry);
    messages += isKept(entry);
    while (kept.length > 1 && (messages - isKept(kept[0]) >= keep || kept.length > 2 * MAX_KEPT || keptSize > MAX_LOG)) {
      const old = kept.shift();
      keptSize -= sizeOfEntry(old);
      messages -= isKept(old);
      if (all) before = add(old, before, "away");
    }
  }

  function relay(entry) {
    const { state, info, gap, position = null } = entry;
    entry.at = performance.now();
    if (!state) clean = position;
    else latest = entry;
    if (state === "open" && !info) forgetAll(); // it looks back, and may have done so before
    if (keep && (gap || isKept(entry))) retain(entry);
    log.push(entry);
    size += sizeOfEntry(entry);
    for (const tab of tabs) pump(tab, state === "closed");
    evict();
    if (state === "closed") tabs.clear();
  }

  // oldest returns the number of the oldest message that no tab has handled.
  function oldest() {
    return Math.max(...[...tabs].map(({ sent: [oldest] }) => oldest?.n ?? Infinity));
  }

  // evict takes out of the log what all tabs have been given, and what one has not been given for too long.
  function evict() {
    const next = Math.min(...[...tabs].map((tab) => tab.next));
    const old = performance.now() - LAG;
    while (log.length && (first < next || size > MAX_LOG || log[0].at < old)) {
      const entry = log.shift();
      size -= sizeOfEntry(entry);
      for (const tab of tabs) if (tab.next === first) miss(tab, entry);
      first++;
    }
  }

  function miss(tab, entry) {
    tab.next++;
    if (entry.state) tab.state = entry;
    else if (entry.gap || entry.data !== undefined) tab.missed = add(entry, tab.missed, "slow");
  }

  // add adds an entry to a gap. The first one makes it.
  function add({ n, at, gap }, sum, reason) {
    const then = new Date(Date.now() - performance.now() + at);
    const none = { reason, dropped: 0, byLevel: {}, since: gap?.since ?? then, until: then };
    const [a, b] = [sum?.gap ?? none, gap].map((gap) => ({ at: then, item: { gap } }));
    const { gap: total } = merge(a, b).item;
    return { n, gap: total, message: { ...total, type: "gap", at_most: total.atMost, by_level: total.byLevel } };
  }

  // pump posts to a tab what it may be posted.
  function pump(tab, last) {
    const may = () => last || (!resting && tab.sent.length < MAX_AHEAD && tab.size < MAX_LOG);
    for (const name of ["missed", "state"]) {
      if (!tab[name] || !may()) continue;
      post(tab, tab[name]);
      tab[name] = null;
    }
    while (tab.next < first + log.length && may()) post(tab, log[tab.next++ - first]);
  }

  function post(tab, entry) {
    const size = sizeOfEntry(entry);
    tab.sent.push({ n: entry.n, size });
    tab.size += size;
    tab.port.postMessage({ ...entry, mark: !tab.asked });
    tab.asked = true;
  }

  function requested(tab, { type, n, gap, lock, code, reason }) {
    if (type === "ack") {
      for (; tab.acked < n; tab.acked++) tab.size -= tab.sent.shift().size;
      tab.asked = false;
      pump(tab);
      if (tab.sent.length && !tab.asked) post(tab, { n: tab.sent.at(-1).n });
      stream.acknowledge();
    } else if (type === "fetch") {
      const answer = (message, fetched) => post(tab, { n: latest.n, message, fetched });
      const refuse = ({ code, message }) => answer({ type: "error", code, message: message.replace("mesherstream: ", "") });
      stream.fetchGap(gap, 1).then((messages) => answer({ type: "fetching" }, messages), refuse);
    } else if (type === "ping") {
      tab.port.postMessage({ pong: true });
    } else if (type === "lock") {
      locks.request(lock, () => forget(tab));
    } else if (type === "leave") {
      forget(tab, code, reason);
    } else {
      tab.away = type === "away";
      tab.away ? rest() : wake();
    }
  }

  // rest closes the connection while all tabs are put away. They are told so later: a browser may not keep a page for the
  // back button if something arrives for it.
  function rest() {
    resting = [...tabs].every(({ away }) => away);
    if (resting) stream.pause();
  }

  function wake() {
    resting = false;
    stream.resume();
    stream.hurry();
  }

  function forget(tab, code, reason) {
    tab.port.close();
    tabs.delete(tab);
    if (tabs.size) return rest();
    try {
      stream.close(code, reason);
    } finally {
      stream.close(); // a WebSocket throws at a code that may not be sent
    }
  }
}

function sizeOfEntry({ data }) {
  return ENTRY + (data?.length ?? data?.byteLength ?? 0);
}

// --- what links on a host have found out

function recallFall(host) {
  const until = fallen.get(host) ?? inSession((storage) => storage.getItem(SESSION_KEY + host));
  return until > Date.now() && until <= Date.now() + REMEMBER; // that clock may have been set
}

function rememberFall(host) {
  const until = Date.now() + REMEMBER;
  fallen.set(host, until);
  inSession((storage) => storage.setItem(SESSION_KEY + host, until));
}

function forgetFall(host) {
  fallen.delete(host);
  inSession((storage) => storage.removeItem(SESSION_KEY + host));
}

function inSession(use) {
  try {
    return use(globalThis.sessionStorage);
  } catch {
    // this page may not have one
  }
}

// parse returns a message of the protocol, and undefined for one of the application. The server's first message
// contains the token of this connection, which only the server knows. So no message that the application relays can be
// mistaken for the protocol's. Most messages are the application's, and are not worth parsing here.
function parse(data, token = "") {
  if (typeof data !== "string" || !data.startsWith('{"type":"') || !data.includes(token)) return;
  try {
    const message = JSON.parse(data);
    if (token ? message.stream === token : message.type === "hello" && message.stream) return message;
  } catch {
    // not JSON, so not the protocol's
  }
}

// listenUntil returns a function that adds listeners, which the signal removes.
function listenUntil(signal) {
  return (target, type, listener) => target?.addEventListener?.(type, listener, { signal });
}

// merge returns a gap in place of two entries of a queue. Neither is handled until the loop has handled the gap. Of the
// sum, no more is known than of each part. It can't be fetched: messages that the stream itself dropped have no number,
// and a fetch of the rest would look complete.
function merge(a, b) {
  const parts = [a, b].map(({ at, item }) => item.gap ?? { dropped: 1, byLevel: {}, since: at, until: at });
  const [x, y] = parts;
  const byLevel = { ...x.byLevel };
  for (const level in y.byLevel) byLevel[level] = y.byLevel[level] + (Object.hasOwn(byLevel, level) ? byLevel[level] : 0);
  const sum = (x.dropped ?? x.atMost) + (y.dropped ?? y.atMost); // NaN if nothing is known of a part
  const known = parts.every((part) => part.dropped >= 0) ? { dropped: sum } : sum >= 0 && { atMost: sum };
  const gap = { ...(x.reason && { reason: x.reason }), ...known, held: 0, byLevel, since: x.since, until: y.until };
  Object.defineProperty(gap, "fetch", { value: async () => [] });
  return { n: a.n, item: { type: "gap", gap } };
}

function sizeOf(tail) {
  return tail.reduce((sum, { key }) => sum + key.length, 0);
}

// plain returns the key that a message has if it came as an event, which has lost the ends of its lines.
function plain(key) {
  return key.includes("\r") && key[0] !== BINARY ? key.replace(/\r\n?/g, "\n") : key;
}

// keyOf returns a string that is equal for equal messages. It is made when a message arrives, since a callback may
// transfer the data. No text that has come as UTF-8 has half a surrogate pair, so none is taken for binary data.
function keyOf(data) {
  return typeof data === "string" ? data : BINARY + new TextDecoder("latin1").decode(data);
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (byte) => byte.charCodeAt());
}

function failure(code, message) {
  return Object.assign(new Error("mesherstream: " + message), { code });
}

function invalid(message) {
  return Object.assign(new TypeError("mesherstream: " + message), { code: "malformed" });
}

if (globalThis.SharedWorkerGlobalScope && globalThis.name?.startsWith(SHARED)) serveTabs(globalThis);
