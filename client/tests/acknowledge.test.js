import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "./lockstep.js";
import { openPage } from "./page.js";
import { follow, freeze, listen, reach, stopwatch, TOKEN, WebSocket } from "./server.js";

const mark = (window) => ({ type: "mark", stream: TOKEN, window });
const gap = { type: "gap", stream: TOKEN, dropped: 1, since: 0, until: 0 };

// open follows a stream whose hello says a window. The clock that measures pauses stands still unless a test moves it.
async function open(t, window, options) {
  const pass = stopwatch(t);
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url, { minDelay: 1, ...options });
  const again = async (window) => {
    const connection = await server.accept({ window }); // 1
    await reach(states, "open");
    return connection;
  };
  return { pass, stream, states, items, again, connection: await again(window) };
}

// acked is the counts that were acknowledged since the last call, the hello's on its own excepted. The stream has
// received all that was sent before, and answered it.
async function acked(connection) {
  const counts = [];
  for (let left = await connection.waiting(); left > 0; left--) {
    const { type, n } = await connection.received.take();
    assert.equal(type, "ack");
    counts.push(n);
  }
  return counts;
}

test("acknowledges the hello at once, before it says anything else", async (t) => {
  for (const window of [0, 1, 2, 1024]) {
    const server = await listen(t);
    const { stream, states } = follow(t, server.url, {
      filters: { level: "a,b" }, // which only a request can ask for
      onstate: (state) => states.put({ state }),
    });
    const connection = await server.accept();
    const said = [];
    connection.ws.on("message", (data) => said.push(String(data)));
    connection.hello({ window });
    await reach(states, "open");
    await connection.waiting();
    assert.equal(said[0], '{"type":"ack","n":1}', `window ${window}`);
    assert.match(said[1], /"subscribe"/);
    assert.equal(said.length, 2);
    stream.close();
  }
});

test("acknowledges each half of the window, whatever has arrived", async (t) => {
  for (const [window, steps] of [
    [1, [2, 3, 4, 5, 6, 7]],
    [2, [2, 3, 4, 5, 6, 7]],
    [3, [3, 5, 7]],
    [5, [4, 7]],
    [6, [4, 7]],
    [7, [5]],
    [100, []],
    [0, []],
  ]) {
    const { stream, connection } = await open(t, window); // 1
    connection.ws.send("text"); // 2
    connection.ws.send(Buffer.from("binary")); // 3
    connection.send(gap); // 4
    connection.send({ type: "news", stream: TOKEN }); // 5
    connection.ws.send('{"type":"event"}'); // 6
    connection.ws.send("last"); // 7
    assert.deepEqual(await acked(connection), steps, `window ${window}`);
    stream.close();
  }
});

test("counts from the start on each connection", async (t) => {
  let { connection, again } = await open(t, 4);
  for (let i = 0; i < 3; i++) {
    for (const text of ["a", "b", "c"]) connection.ws.send(text);
    assert.deepEqual(await acked(connection), [3]);
    assert.ok(connection.greeted);
    connection.lose();
    connection = await again(4);
  }
});

test("acknowledges a mark, with any window, and shows it to nobody", async (t) => {
  for (const window of [0, 1024]) {
    const { stream, connection, items } = await open(t, window);
    connection.ws.send("a"); // 2
    assert.deepEqual(await acked(connection), []);
    connection.send(mark(window)); // 3
    assert.deepEqual(await acked(connection), [3]);
    connection.ws.send("b");
    connection.ws.send("c");
    connection.send(mark(window)); // 6
    connection.send(mark(window)); // 7
    assert.deepEqual(await acked(connection), [6, 7]);
    assert.deepEqual([await items.take(), await items.take(), await items.take()], ["a", "b", "c"]);
    assert.equal(items.length, 0);
    stream.close();
  }
});

test("a mark is acknowledged when the loop has handled all that is before it", async (t) => {
  const { stream, connection } = await open(t, 1024);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.ws.send("a"); // 2
  connection.ws.send("b"); // 3
  connection.send(mark(1024)); // 4
  connection.ws.send("c"); // 5
  connection.send(mark(1024)); // 6
  assert.deepEqual(await acked(connection), []);
  assert.equal((await first).value.data, "a");
  assert.equal((await loop.next()).value.data, "b");
  assert.deepEqual(await acked(connection), []);
  assert.equal((await loop.next()).value.data, "c");
  assert.deepEqual(await acked(connection), [4]);
  const last = loop.next();
  assert.deepEqual(await acked(connection), [6]);

  // A loop that waits has handled everything, and one that is left, too.
  connection.send(mark(1024)); // 7
  assert.deepEqual(await acked(connection), [7]);
  connection.ws.send("d"); // 8
  await last;
  connection.send(mark(1024)); // 9
  assert.deepEqual(await acked(connection), []);
  await loop.return();
  assert.deepEqual(await acked(connection), [9]);
});

test("nothing is acknowledged twice", async (t) => {
  const { stream, connection } = await open(t, 2);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.send(mark(2)); // 2
  assert.deepEqual(await acked(connection), [2]);
  connection.ws.send("a"); // 3
  await first;
  const second = loop.next();
  assert.deepEqual(await acked(connection), [3]);
  connection.ws.send("b"); // 4
  await second;
  await loop.return();
  assert.deepEqual(await acked(connection), [4]);
  await stream[Symbol.asyncIterator]().return();
  assert.deepEqual(await acked(connection), []);
});

test("several reasons make one acknowledgement", async (t) => {
  const { pass, stream, connection } = await open(t, 2);
  pass(1000);
  connection.send(mark(2)); // 2: a mark, after a pause, and half a window
  assert.deepEqual(await acked(connection), [2]);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.ws.send("a"); // 3
  for (let n = 4; n < 10; n++) connection.send(mark(2));
  await first;
  assert.deepEqual(await acked(connection), []);
  loop.next();
  assert.deepEqual(await acked(connection), [9]);
  connection.ws.send("b"); // 10, which the loop takes and has not handled
  assert.deepEqual(await acked(connection), []);
});

test("acknowledges the first message after a pause at once", async (t) => {
  const firsts = ["text", Buffer.from("binary"), JSON.stringify(gap), `{"type":"news","stream":"${TOKEN}"}`];
  for (const window of [0, 1024]) {
    const { pass, stream, connection } = await open(t, window);
    let n = 1;
    for (const first of firsts) {
      pass(500);
      connection.ws.send(first);
      assert.deepEqual(await acked(connection), [++n], String(first));
      pass(499);
      connection.ws.send(first);
      assert.deepEqual(await acked(connection), []);
      n++;
    }
    stream.close();
  }
});

test("the time that a callback takes is no pause", async (t) => {
  const { pass, stream, connection } = await open(t, 1024);
  stream.onmessage = stream.ongap = () => pass(500);
  for (const event of ["a", JSON.stringify(gap), "b"]) connection.ws.send(event); // 2 to 4
  assert.deepEqual(await acked(connection), []);
  pass(500);
  connection.ws.send("c"); // 5
  assert.deepEqual(await acked(connection), [5]);
});

test("the time that a loop takes is no pause", async (t) => {
  const { pass, stream, connection } = await open(t, 1024);
  const loop = stream[Symbol.asyncIterator]();
  let next = loop.next();
  connection.ws.send("a"); // 2
  await next;
  pass(500);
  connection.ws.send("b"); // 3: the loop still handles a
  await connection.waiting();
  await loop.next(); // b
  pass(500);
  next = loop.next();
  assert.deepEqual(await acked(connection), []);
  connection.ws.send("c"); // 4: the loop has just handled b
  await next;
  next = loop.next();
  assert.deepEqual(await acked(connection), []);

  pass(500);
  connection.ws.send("d"); // 5: after a pause, but the loop has not handled it
  await next;
  assert.deepEqual(await acked(connection), []);
  next = loop.next();
  assert.deepEqual(await acked(connection), [5]);
});

test("a page that needs long for each message acknowledges every two seconds", async (t) => {
  const { pass, stream, connection } = await open(t, 1024);
  stream.onmessage = () => pass(700);
  for (const event of "abcdefgh") connection.ws.send(event); // 2 to 9
  assert.deepEqual(await acked(connection), [4, 7]);
  stream.onmessage = () => pass(10_000);
  for (const event of "abc") connection.ws.send(event); // 10 to 12
  assert.deepEqual(await acked(connection), [10, 11, 12]);
  pass(10_000);
  assert.deepEqual(await acked(connection), []);
});

test("no time that passes causes an acknowledgement", async (t) => {
  const tick = freeze(t);
  const server = await listen(t);
  const { states } = follow(t, server.url);
  const connection = await server.accept({ window: 1024 });
  await reach(states, "open");
  connection.ws.send("a");
  await connection.waiting();
  tick(1e9);
  assert.deepEqual(await acked(connection), []);
});

test("the newest mark says the window", async (t) => {
  const { connection } = await open(t, 1024);
  const send = (count) => {
    for (let i = 0; i < count; i++) connection.ws.send("a");
  };
  connection.send(mark(4)); // 2
  send(5); // to 7
  assert.deepEqual(await acked(connection), [2, 4, 6]);
  connection.send(mark(10)); // 8
  send(11); // to 19
  assert.deepEqual(await acked(connection), [8, 13, 18]);
  connection.send(mark(0)); // 20
  send(100); // to 120
  assert.deepEqual(await acked(connection), [20]);
  connection.send(mark(2)); // 121
  send(1); // 122
  assert.deepEqual(await acked(connection), [121, 122]);
});

test("a window that shrinks holds at once, also for a loop with a backlog", async (t) => {
  const { stream, connection } = await open(t, 1024);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  for (let n = 2; n <= 8; n++) connection.ws.send(String(n));
  await connection.waiting();
  await first;
  for (let i = 0; i < 3; i++) await loop.next(); // 4 is handled
  assert.deepEqual(await acked(connection), []);
  connection.send(mark(4)); // 9
  assert.deepEqual(await acked(connection), [4]);
  for (let i = 0; i < 3; i++) await loop.next(); // 7 is handled
  assert.deepEqual(await acked(connection), [6]);
  loop.next(); // and so 8 is handled
  assert.deepEqual(await acked(connection), [9]);
});

test("a mark of another shape is acknowledged, and leaves the window as it is", async (t) => {
  const { connection, items } = await open(t, 6);
  const windows = ["", ',"window":"2"', ',"window":-1', ',"window":1.5', ',"window":null', ',"window":[2]', ',"window":{}', ',"window":true', ',"window":1e999'];
  let n = 1;
  for (const window of windows) {
    connection.ws.send(`{"type":"mark","stream":"${TOKEN}"${window},"more":{"window":2}}`);
    assert.deepEqual(await acked(connection), [++n], window);
    for (const text of ["a", "b", "c", "d"]) connection.ws.send(text);
    assert.deepEqual(await acked(connection), [n + 3], window);
    n += 4;
    for (const text of ["a", "b", "c", "d"]) assert.equal(await items.take(), text);
  }
  assert.equal(items.length, 0);
});

test("a mark of another connection or of the application is a message like any other", async (t) => {
  const { connection, items } = await open(t, 1024);
  for (const text of ['{"type":"mark","window":1}', '{"type":"mark","stream":"another","window":1}', '{"type":"mark"}']) {
    connection.ws.send(text);
    assert.equal(await items.take(), text);
  }
  assert.deepEqual(await acked(connection), []);
});

test("acknowledges nothing before the hello", async (t) => {
  const server = await listen(t);
  const { states } = follow(t, server.url);
  const connection = await server.accept();
  connection.send(mark(1024));
  assert.equal((await reach(states, "waiting")).reason, "no hello");
  await connection.closed;
  assert.equal(connection.greeted, false);
  assert.equal(connection.received.length, 0);
});

test("acknowledges nothing after the end of a connection, and of the stream", async (t) => {
  const sent = [];
  class Spy extends WebSocket {
    send(data) {
      sent.push(data);
      super.send(data);
    }
  }
  const { stream, states, connection, again } = await open(t, 2, { WebSocket: Spy });
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  const fill = async (on, text) => {
    for (let i = 0; i < 3; i++) on.ws.send(text);
    on.send(mark(2));
    await on.waiting();
  };
  await fill(connection, "a");
  await first;
  connection.lose();
  await reach(states, "waiting");
  await loop.next();
  await loop.next();
  const second = await again(2);
  assert.deepEqual(sent, Array(2).fill('{"type":"ack","n":1}'));
  await fill(second, "b");
  stream.close();
  for (let i = 0; i < 3; i++) assert.equal((await loop.next()).value.data, "b");
  assert.equal((await loop.next()).done, true);
  assert.equal(sent.length, 2);
});

test("what an earlier connection brought is not acknowledged on this one, and keeps its marks waiting", async (t) => {
  const { stream, states, connection, again } = await open(t, 1024);
  const loop = stream[Symbol.asyncIterator]();
  let next = loop.next();
  for (const text of ["a", "b", "c"]) connection.ws.send(text); // 2 to 4
  connection.send(mark(2)); // 5
  await connection.waiting();
  await next; // a, which the loop still handles
  connection.lose();
  await reach(states, "waiting");

  const second = await again(null); // its window is none that the stream knows
  second.send(mark(null)); // 2
  assert.deepEqual(await acked(second), []);
  assert.ok(second.greeted);
  await loop.next(); // b
  await loop.next(); // c
  assert.deepEqual(await acked(second), []);
  next = loop.next(); // c is handled
  assert.deepEqual(await acked(second), [2]);
  for (const text of ["d", "e", "f", "g"]) second.ws.send(text); // 3 to 6
  for (let i = 0; i < 4; i++) {
    await next;
    next = loop.next();
  }
  assert.deepEqual(await acked(second), []);
});

test("a mark among messages that the stream drops waits until the loop has handled their gap", async (t) => {
  const { stream, connection, items } = await open(t, 0);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.ws.send("first"); // 2
  await first;
  connection.ws.send("a"); // 3
  connection.send(mark(0)); // 4
  connection.ws.send("b"); // 5
  for (let i = 0; i < 999; i++) connection.ws.send(String(i)); // of which one is dropped, with a and b
  connection.ws.send("last");
  while ((await items.take()) !== "last");
  assert.equal((await loop.next()).value.gap.dropped, 3);
  assert.deepEqual(await acked(connection), []);
  assert.equal((await loop.next()).value.data, "1");
  assert.deepEqual(await acked(connection), [6]);
});

test("a loop is given all that a larger window let through, and no more than the next connection's", async (t) => {
  const { stream, states, connection, again, items } = await open(t, 0);
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  connection.send(mark(1500)); // 2
  for (let i = 0; i < 1400; i++) connection.ws.send(String(i));
  connection.send(mark(4));
  for (let i = 1400; i < 1403; i++) connection.ws.send(String(i));
  while ((await items.take()) !== "1402");
  assert.equal((await first).value.data, "0");
  assert.equal((await loop.next()).value.data, "1");
  assert.deepEqual(await acked(connection), [2]);
  connection.lose();
  await reach(states, "waiting");
  const second = await again(4);
  for (const text of ["a", "b", "c"]) second.ws.send(text);
  while ((await items.take()) !== "c");
  assert.equal((await loop.next()).value.gap.dropped, 4);
  assert.equal((await loop.next()).value.data, "6");
});

test("a page that is put away acknowledges nothing, and counts from the start when it is back", async (t) => {
  const page = openPage(t);
  const { stream, connection, again } = await open(t, 4);
  const loop = stream[Symbol.asyncIterator]();
  let next = loop.next();
  for (const text of ["a", "b"]) connection.ws.send(text); // 2 and 3
  connection.send(mark(4)); // 4
  assert.deepEqual(await acked(connection), []);
  await next;
  page.leave();
  await connection.closed;
  await loop.next(); // b
  assert.equal(connection.received.length, 0);
  page.comeBack();
  const second = await again(4);
  second.send(mark(4)); // 2
  assert.deepEqual(await acked(second), []);
  assert.ok(second.greeted);
  next = loop.next();
  assert.deepEqual(await acked(second), [2]);
});

test("stream.age is what the newest mark said, and unknown on a new connection", () => {
  const world = new World();
  const { stream } = world.page().follow();
  const socket = world.socket().hello();
  assert.equal(stream.age, undefined);
  socket.say(mark(0));
  assert.equal(stream.age, undefined);
  for (const age of [180, 0, 0.5]) {
    socket.say({ ...mark(0), age_ms: age });
    assert.equal(stream.age, age);
  }
  socket.say(mark(0));
  assert.equal(stream.age, 0.5);
  socket.cut();
  assert.equal(stream.age, undefined);
  world.tick(1);
  world.socket().hello();
  assert.equal(stream.age, undefined);
});
