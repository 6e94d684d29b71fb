import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "./page.js";
import { follow, freeze, listen, reach, turns } from "./server.js";

const away = { state: "waiting", code: 1001, reason: "the page was put away", delay: Infinity };

const ways = {
  "left by a link": [(page) => page.leave(), (page) => page.comeBack()],
  frozen: [(page) => page.freeze(), (page) => page.resume()],
  "left by a link, and frozen then": [
    (page) => (page.leave(), page.freeze()),
    (page) => (page.resume(), page.comeBack()),
  ],
  "frozen, and only told that it is visible": [(page) => page.freeze(), (page) => page.show("visible")],
};
for (const [name, [leave, comeBack]] of Object.entries(ways)) {
  test(`a page that is ${name} is no client, and comes back with its filters`, async (t) => {
    const page = openPage(t);
    const tick = freeze(t);
    const server = await listen(t);
    const { stream, states, items } = follow(t, server.url, { filters: { level: "error" } });
    const first = await server.accept({});
    await reach(states, "open");
    const change = stream.setFilters({ level: "fatal" });
    await first.answer();
    await change;

    leave(page);
    assert.deepEqual(await first.closed, { code: 1000, reason: "" });
    assert.deepEqual(await states.take(), away);
    assert.equal(stream.state, "waiting");
    assert.equal(stream.hello, null);
    page.online();
    tick(1e9);
    await turns();
    assert.equal(server.attempts, 1);

    const waiting = stream.setFilters({ level: "debug" });
    comeBack(page);
    assert.equal((await states.take()).state, "connecting");
    const second = await server.accept({});
    assert.equal(second.query, "?level=fatal");
    assert.equal((await states.take()).state, "open");
    assert.equal(server.attempts, 2);
    assert.deepEqual((await second.answer()).level, ["debug"]);
    await waiting;
    second.ws.send("a message");
    assert.equal(await items.take(), "a message");
    assert.equal(states.length, 0);
  });
}

test("a page that is left and not kept says nothing any more", async (t) => {
  const page = openPage(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  await server.accept({});
  await reach(states, "open");
  page.leave(false); // the browser closes what it has
  assert.equal(stream.state, "open");
  page.comeBack();
  assert.equal(server.attempts, 1);
});

test("a stream that is closed stays closed when its page comes back", async (t) => {
  const page = openPage(t);
  const server = await listen(t);
  const closeThenLeave = follow(t, server.url);
  await server.accept({});
  await reach(closeThenLeave.states, "open");
  closeThenLeave.stream.close();
  page.leave();
  page.comeBack();

  const leaveThenClose = follow(t, server.url);
  await server.accept({});
  await reach(leaveThenClose.states, "open");
  page.leave();
  leaveThenClose.stream.close();
  page.comeBack();
  await turns();
  assert.equal(closeThenLeave.stream.state, "closed");
  assert.equal(leaveThenClose.stream.state, "closed");
  assert.equal(server.attempts, 2);
});

test("a page that is left while it connects gives the attempt up", async (t) => {
  const page = openPage(t);
  const tick = freeze(t);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  const first = await server.accept(); // no hello yet
  page.leave();
  await first.closed;
  assert.deepEqual(await reach(states, "waiting"), away);
  tick(1e9);
  page.comeBack();
  await server.accept({});
  await reach(states, "open");
  assert.equal(stream.state, "open");
});

test("a page that is left while it waits makes no attempt", async (t) => {
  const page = openPage(t);
  const tick = freeze(t, 0);
  const server = await listen(t);
  const { stream, states } = follow(t, server.url);
  (await server.accept({})).ws.close(1001);
  await reach(states, "waiting");
  page.leave();
  tick(1e9);
  await turns();
  assert.equal(server.attempts, 1);
  assert.equal(states.length, 0);
  page.comeBack();
  assert.equal(stream.state, "connecting");

  // Where the server said how long to wait, the page has waited meanwhile.
  (await server.accept({})).ws.close(1013, "retry_after_ms=5000");
  await reach(states, "waiting");
  tick(2000);
  page.leave();
  tick(1000);
  page.comeBack();
  assert.equal(stream.state, "waiting");
  tick(1999);
  assert.equal(stream.state, "waiting");
  tick(1);
  assert.equal(stream.state, "connecting");
});

test("a loop goes on where the page was left", async (t) => {
  const page = openPage(t);
  const server = await listen(t);
  const { stream, states, items } = follow(t, server.url);
  const loop = stream[Symbol.asyncIterator]();
  const step = loop.next();
  const first = await server.accept({});
  await reach(states, "open");
  for (const text of ["1", "2"]) first.ws.send(text);
  await items.take();
  await items.take();
  page.leave();
  page.comeBack();
  (await server.accept({})).ws.send("3");
  const got = [(await step).value, (await loop.next()).value, (await loop.next()).value];
  assert.deepEqual(got.map(({ data }) => data), ["1", "2", "3"]);
});
