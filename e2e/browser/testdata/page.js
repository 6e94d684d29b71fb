// What the tests call, by name, from outside.
import { connect } from "/stream/projects/mesherstream.js";

const page = {
  connect,
  stream: null,
  seen: [], // what the callbacks got, in a form that JSON keeps
  states: [],
};
globalThis.page = page;

// follow connects, and keeps what the callbacks get.
page.follow = (url, options = {}) => {
  page.stream = connect(url, {
    onmessage: (data) => page.seen.push(typeof data === "string" ? data : [...new Uint8Array(data)]),
    ongap: (gap) => page.seen.push({ ...gap, since: gap.since.toISOString(), until: gap.until.toISOString() }),
    onstate: (state, info = null) => page.states.push({ state, ...info, at: performance.now() }),
    ...options,
  });
};

// until resolves when condition holds.
page.until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};

// reach resolves with the first change to state that is at index from or behind.
page.reach = async (state, from = 0) => {
  const find = () => page.states.slice(from).find((change) => change.state === state);
  await page.until(find);
  return find();
};
