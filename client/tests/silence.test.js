import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { test } from "node:test";
import { World } from "./lockstep.js";
import { listen, TOKEN } from "./server.js";

const INTERVAL = 25_000;
const mark = { type: "mark", window: 0 };

// follow returns a stream whose server promises a mark per interval.
function follow(hello = { mark_ms: INTERVAL }) {
  const world = new World();
  const page = world.page();
  const { stream, take } = page.follow();
  const socket = world.socket().hello(hello);
  take();
  // next makes the next connection, after silence.
  const next = () => {
    world.tick(1);
    assert.equal(stream.state, "connecting");
    return world.socket().hello(hello);
  };
  // silence is how long nothing has to arrive until the connection is given up.
  const silence = (limit = 1e8) => {
    const start = world.now;
    while (stream.state === "open" && world.now - start < limit) world.tick(1000);
    return world.now - start;
  };
  return { world, page, stream, socket, take, next, silence };
}

const given = ["waiting", { code: 1006, reason: "silence", delay: 0 }];

test("a connection on which nothing arrives for two intervals is given up, and the stream returns", () => {
  const { world, socket, take, stream } = follow({ mark_ms: INTERVAL, position: "p0" });
  world.tick(2 * INTERVAL - 1);
  assert.equal(stream.state, "open");
  world.tick(1);
  assert.deepEqual(take(), [given]);
  assert.deepEqual(socket.left, { code: undefined, reason: undefined });
  world.tick(1);
  assert.deepEqual(world.socket().query, { since: "p0" });
  socket.give("late");
  assert.deepEqual(take(), [["connecting"]]);
});

test("whatever arrives counts, from when it arrives", () => {
  const { world, socket, stream, silence } = follow();
  for (const arrive of [() => socket.give("a"), () => socket.say(mark), () => socket.say({ type: "news" })]) {
    world.tick(2 * INTERVAL - 1);
    arrive();
  }
  world.tick(2 * INTERVAL - 1);
  assert.equal(stream.state, "open");
  assert.equal(silence(), 1000);
});

test("a server that promises nothing may be silent for ever", () => {
  for (const hello of [{}, { mark_ms: 0 }, { mark_ms: null }, { mark_ms: "often" }, { mark_ms: -1 }]) {
    const { world, stream } = follow(hello);
    assert.equal(world.timers.size, 0);
    world.tick(1e9);
    assert.equal(stream.state, "open");
  }
});

test("an interval that is longer than a timer can be is kept", () => {
  const { world, stream } = follow({ mark_ms: 2 ** 31 });
  world.tick(2 ** 32 - 1);
  assert.equal(stream.state, "open");
  world.tick(1);
  assert.equal(stream.state, "waiting");
});

test("a timer that fires late leaves a second to what is queued", () => {
  // The page is frozen past the end, and what was queued comes before the second is over.
  const { world, socket, stream, take } = follow();
  world.pass(3 * INTERVAL);
  world.tick(999);
  assert.equal(stream.state, "open");
  socket.give("queued");
  world.tick(2 * INTERVAL - 1);
  assert.equal(stream.state, "open");
  take();
  world.tick(1);
  assert.deepEqual(take(), [given]);

  // And nothing was queued.
  const dead = follow();
  dead.world.pass(3 * INTERVAL);
  dead.world.tick(999);
  assert.equal(dead.stream.state, "open");
  dead.world.tick(1);
  assert.equal(dead.stream.state, "waiting");
});

test("a page whose timers all fire late gives a dead connection up all the same", () => {
  const { world, stream } = follow();
  world.pass(2 * INTERVAL + 30_000); // a hidden page's timers fire once a minute
  world.tick(0);
  assert.equal(stream.state, "open");
  world.pass(60_000);
  world.tick(0);
  assert.equal(stream.state, "waiting");
});

test("a timer that fires a little late is not late", () => {
  const { world, stream } = follow();
  world.pass(2 * INTERVAL + 200);
  world.tick(0);
  assert.equal(stream.state, "waiting");
});

test("a page that was busy since a message arrived waits for what is queued", () => {
  const { world, socket, stream } = follow();
  world.tick(INTERVAL);
  stream.onmessage = () => world.pass(4 * INTERVAL); // as long as this takes
  socket.give("a");
  world.tick(0);
  assert.equal(stream.state, "open");
  socket.say(mark);
  world.tick(1000);
  assert.equal(stream.state, "open");
});

test("each connection that ends in silence doubles the patience, up to sixteen times", () => {
  const { next, silence } = follow();
  for (const times of [1, 2, 4, 8, 16, 16]) {
    assert.equal(silence(), times * 2 * INTERVAL);
    next();
  }
});

test("the patience stays while pauses are longer than two intervals, and goes back after twenty without one", () => {
  const { world, stream, next, silence } = follow();
  silence();
  const second = next();
  for (let i = 0; i < 20; i++) {
    world.tick(3 * INTERVAL); // it is longer than it would have been given up after
    assert.equal(stream.state, "open");
    second.say(mark);
  }
  for (let i = 0; i < 19; i++) {
    world.tick(INTERVAL);
    second.say(mark);
  }
  world.tick(3 * INTERVAL);
  assert.equal(stream.state, "open");
  second.say(mark);
  for (let i = 0; i < 20; i++) {
    world.tick(INTERVAL);
    second.say(mark);
  }
  assert.equal(silence(), 2 * INTERVAL);
});

test("the calm of an earlier connection says nothing of this one", () => {
  const { world, socket, next, silence } = follow();
  const beat = (connection, times) => {
    for (let i = 0; i < times; i++) {
      world.tick(INTERVAL);
      connection.say(mark);
    }
  };
  beat(socket, 30);
  assert.equal(silence(), 2 * INTERVAL);
  beat(next(), 2);
  assert.equal(silence(), 4 * INTERVAL);
});

test("a line that dies every few minutes is noticed each time as soon as the first time", () => {
  const { world, next, silence, socket } = follow();
  let connection = socket;
  for (let i = 0; i < 5; i++) {
    for (let j = 0; j < 20; j++) {
      world.tick(INTERVAL);
      connection.say(mark);
    }
    assert.equal(silence(), 2 * INTERVAL);
    connection = next();
  }
});

test("a message that is announced as large may take as long as it does at 4 KB/s", () => {
  const { world, socket, stream, silence } = follow();
  socket.say({ type: "large", bytes: 2 ** 20 });
  world.tick(2 * INTERVAL + 2 ** 18 - 1);
  assert.equal(stream.state, "open");
  socket.give("x");
  assert.equal(silence(), 2 * INTERVAL); // the next one is not large
});

test("a large message that does not arrive is noticed", () => {
  for (const [bytes, extra] of [[2 ** 20, 2 ** 18], [undefined, 0], ["many", 0]]) {
    const { world, socket, stream } = follow();
    world.tick(INTERVAL); // so that the timer is set before
    socket.say({ type: "large", bytes });
    world.tick(2 * INTERVAL + extra - 1);
    assert.equal(stream.state, "open");
    world.tick(1);
    assert.equal(stream.state, "waiting");
  }
});

test("a page that is put away has no timer, and one that is back has one", () => {
  const { world, page, stream, silence } = follow();
  page.hide(true);
  assert.equal(world.timers.size, 0);
  world.tick(1e9);
  page.show();
  world.socket().hello({ mark_ms: INTERVAL });
  assert.equal(stream.state, "open");
  assert.equal(silence(), 2 * INTERVAL);
});

test("a stream that is closed has no timer", () => {
  const { world, stream } = follow();
  stream.close();
  assert.equal(world.timers.size, 0);
});

test("a server that stays silent before its hello is given up after 20 s, as ever", () => {
  const { world, silence, take } = follow();
  silence();
  world.tick(1);
  world.socket(); // and no hello
  take();
  world.tick(20_000);
  assert.equal(take()[0][1].reason, "no hello");
});

// The socket is no longer a reason to run, so only the timer could be one.
const idle = `
  import { WebSocket } from "ws";
  import { connect } from "${new URL("../mesherstream.js", import.meta.url)}";
  class Idle extends WebSocket {
    constructor(...args) {
      super(...args);
      this.on("message", () => this._socket.unref());
    }
  }
  connect(process.argv[1], { WebSocket: Idle, onstate: (state) => console.log(state) });
`;

test("an idle stream doesn't keep Node running by its timer", async (t) => {
  const server = await listen(t);
  const options = { cwd: new URL("..", import.meta.url), timeout: 60_000 };
  const child = promisify(execFile)(process.execPath, ["--input-type=module", "-e", idle, server.url], options);
  const connection = await server.accept();
  connection.send({ type: "hello", stream: TOKEN, window: 0, mark_ms: 600_000 });
  assert.equal((await child).stdout, "connecting\nopen\n");
});

test("in Node, a connection that is frozen is given up", async (t) => {
  const server = await listen(t);
  const program = `
    import { WebSocket } from "ws";
    import { connect } from "${new URL("../mesherstream.js", import.meta.url)}";
    connect(process.argv[1], { WebSocket, minDelay: 1, onstate(state, info) {
      if (info?.reason === "silence") process.exit(7);
    } });
  `;
  const options = { cwd: new URL("..", import.meta.url), timeout: 60_000 };
  const child = promisify(execFile)(process.execPath, ["--input-type=module", "-e", program, server.url], options);
  const connection = await server.accept();
  connection.send({ type: "hello", stream: TOKEN, window: 0, mark_ms: 50 });
  await assert.rejects(child, { code: 7 });
});

test("a loop that stands still is no silence, and what follows it is", async () => {
  const { world, socket, stream, silence } = follow();
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  socket.give("a");
  socket.say(mark);
  await first; // and the loop's body takes its time
  world.tick(10 * INTERVAL + 1000);
  assert.equal(stream.state, "open");
  loop.next().catch(assert.fail); // handled, and acknowledged
  await null;
  assert.equal(socket.acked, 3);
  assert.equal(silence(), 2 * INTERVAL);
});
