// Follows streams of numbered messages, in a page and in Node, and keeps what was seen of each: the number of a message, 0
// for one that has none, and an object for everything else. Go checks it.

// number returns the number of a message: text says it, and binary begins with it. A tick has none.
function number(data) {
  if (typeof data !== "string") return Number(new DataView(data).getBigUint64(0));
  return JSON.parse(data).n ?? 0;
}

const isLast = (data) => typeof data === "string" && data.includes('"last"');

// busy blocks for so many milliseconds. Unlike a page, Node can do so without a processor.
function busy(ms) {
  if (typeof process !== "undefined") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  else for (const end = performance.now() + ms; performance.now() < end; );
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// follow follows a stream until its last message. With loop, it does so by a loop that awaits rest milliseconds before it
// shows a message, and otherwise by callbacks that block for as long. At the message with the number stand.at, they stand
// still for stand.ms.
export function follow(connect, { url, filters, loop, rest, stand }, options = {}) {
  const told = { seen: [], done: null };
  const { seen } = told;
  let finish;
  const last = new Promise((resolve) => (finish = resolve));
  const fetches = [];

  const restsFor = (data) => (stand && number(data) === stand.at ? stand.ms : rest);
  const show = (data) => {
    seen.push(number(data));
    if (isLast(data)) finish();
  };
  const tell = (gap) => {
    const { reason = "loop", dropped = null, atMost = null, held } = gap;
    const entry = { gap: { reason, dropped, atMost, held } };
    seen.push(entry);
    if (!held) return;
    const fetched = gap.fetch().then(
      (messages) => (entry.gap.fetched = messages.map(number)),
      ({ code, message }) => (entry.gap.error = code ?? message),
    );
    fetches.push(fetched);
  };
  const onstate = (state, info) => {
    const at = performance.now();
    if (state === "open") seen.push({ open: info ?? {}, at });
    else if (state === "waiting") seen.push({ end: info.reason || String(info.code), at });
    else if (state === "closed") seen.push({ closed: info, at });
  };
  // Returns are many, and each is made soon.
  const stream = connect(url, { ...(filters && { filters }), minDelay: 1, maxDelay: 40, onstate, ...options });
  if (loop) {
    (async () => {
      for await (const { data, gap } of stream) {
        if (gap) {
          tell(gap);
        } else {
          const ms = restsFor(data);
          if (ms) await pause(ms);
          show(data);
        }
      }
    })();
  } else {
    stream.ongap = tell;
    stream.onmessage = (data) => {
      busy(restsFor(data));
      show(data);
    };
  }
  told.done = last.then(() => Promise.all(fetches));
  told.stream = stream;
  return told;
}
