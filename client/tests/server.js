// The server of the tests: it speaks the protocol exactly as far as a test tells it to.
import { createServer } from "node:http";
import { once } from "node:events";
import { WebSocket as NodeWebSocket, WebSocketServer } from "ws";
import { connect } from "../mesherstream.js";

// ws stops a timer of its own when a connection ends. It has to do that in the same test: with a clock that is frozen
// since, or not any more, it would stop a timer of another one.
const open = new Set();

export class WebSocket extends NodeWebSocket {
  constructor(...args) {
    super(...args);
    watch(this);
  }
}

// watch resolves with how the socket is closed.
function watch(socket) {
  const closed = new Promise((resolve) => {
    socket.on("close", (code, reason) => {
      open.delete(closed);
      resolve({ code, reason: String(reason) });
    });
  });
  open.add(closed);
  return closed;
}

async function allClosed() {
  await Promise.all(open);
}

export const TOKEN = "q7XK2M9A";

// Queue hands over what was put, in order, to whoever takes it.
export class Queue {
  #items = [];
  #takers = [];

  put(item) {
    if (this.#takers.length) this.#takers.shift()(item);
    else this.#items.push(item);
  }

  take() {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  get length() {
    return this.#items.length;
  }
}

// listen starts a server that ends with the test.
export async function listen(t) {
  const server = new FakeServer();
  await server.listen();
  t.after(() => {
    server.close();
    return allClosed();
  });
  return server;
}

class FakeServer {
  accepted = new Queue();
  attempts = 0;
  refuse = 0; // an HTTP status refuses every handshake, and answers whoever asks why
  asked = new Queue(); // the requests of those
  choose = (offered) => offered.has("mesherstream.v1") && "mesherstream.v1";

  #http = createServer((request, response) => {
    this.asked.put(request);
    response.writeHead(this.refuse || 426).end();
  });
  #wss = new WebSocketServer({ noServer: true, handleProtocols: (offered) => this.choose(offered) });

  async listen() {
    this.#http.on("upgrade", (request, socket, head) => {
      this.attempts++;
      socket.on("error", () => {});
      if (this.refuse) {
        socket.end(`HTTP/1.1 ${this.refuse} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
        return;
      }
      this.#wss.handleUpgrade(request, socket, head, (peer) => this.accepted.put(new Connection(peer, request)));
    });
    this.#http.listen(0, "127.0.0.1");
    await once(this.#http, "listening");
  }

  get url() {
    return `ws://127.0.0.1:${this.#http.address().port}/stream/projects/shop`;
  }

  // accept takes the next connection. With an argument, it says hello.
  async accept(hello) {
    const connection = await this.accepted.take();
    if (hello) connection.hello(hello);
    return connection;
  }

  close() {
    for (const peer of this.#wss.clients) peer.terminate();
    this.#http.closeAllConnections();
    this.#http.close();
  }
}

class Connection {
  received = new Queue();
  greeted = false; // the hello is acknowledged, which is not among what was received

  constructor(peer, request) {
    this.ws = peer;
    this.query = new URL(request.url, "http://test").search;
    this.offered = request.headers["sec-websocket-protocol"];
    this.closed = watch(peer);
    peer.on("message", (data) => {
      if (!this.greeted && String(data) === '{"type":"ack","n":1}') this.greeted = true;
      else this.received.put(JSON.parse(data));
    });
    peer.on("error", () => {});
  }

  // hello says what the query asks for, as the middleware does.
  hello({ stream = TOKEN, window = 0, filters }) {
    const query = new URLSearchParams(this.query);
    const values = (field) => query.get(field)?.split(",") ?? [];
    filters ??= { level: values("level"), environment: values("environment") };
    this.send({ type: "hello", stream, id: 17, project: "shop", filters, max_buffer: 100, window });
  }

  // send sends a message of the protocol, or an application's JSON.
  send(message) {
    this.ws.send(JSON.stringify(message));
  }

  // answer takes the next request, which must be a subscribe, and grants it.
  async answer(filtered = 0) {
    const { type, filters } = await this.received.take();
    if (type !== "subscribe") throw new Error(`got a ${type}, want a subscribe`);
    this.send({ type: "filters_updated", stream: TOKEN, filters, filtered });
    return filters;
  }

  async refuse(code) {
    const { type } = await this.received.take();
    if (type !== "subscribe") throw new Error(`got a ${type}, want a subscribe`);
    this.send({ type: "error", stream: TOKEN, code, message: "because" });
  }

  // waiting is how many requests have come that nobody took, those included that are on their way.
  async waiting() {
    const pong = new Promise((resolve) => this.ws.once("pong", resolve));
    this.ws.ping();
    await pong;
    return this.received.length;
  }

  // lose ends the connection without a close frame.
  lose() {
    this.ws.terminate();
  }
}

// follow connects a stream that ends with the test. Its states and what it delivers can be taken one by one.
export function follow(t, url, options = {}) {
  const states = new Queue();
  const items = new Queue();
  const stream = connect(url, {
    WebSocket,
    onstate: (state, info) => states.put({ state, ...info }),
    onmessage: (data) => items.put(data),
    ongap: (gap) => items.put(gap),
    ...options,
  });
  t.after(() => {
    stream.close();
    return allClosed();
  });
  return { stream, states, items };
}

// reach takes states until one of that name comes.
export async function reach(states, name) {
  for (;;) {
    const change = await states.take();
    if (change.state === name) return change;
  }
}

// settled turns a promise into a value that can be compared.
export function settled(promise) {
  return promise.then(
    (value) => value,
    (error) => error.code,
  );
}

// turns lets everything happen that does not wait for the network or for a timer.
export function turns() {
  return new Promise((resolve) => setImmediate(resolve));
}

// freeze stops the clocks of the test, which then ticks them, and makes chance what the test says.
export function freeze(t, chance = 0.5) {
  const pass = stopwatch(t);
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  t.mock.method(Math, "random", () => chance);
  return (ms) => {
    pass(ms);
    t.mock.timers.tick(ms);
  };
}

// stopwatch stops only the clock that measures pauses. So a machine that stalls makes none, and adds no acknowledgement.
export function stopwatch(t) {
  let now = 1000;
  t.mock.method(performance, "now", () => now);
  return (ms) => {
    now += ms;
  };
}
