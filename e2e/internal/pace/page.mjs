// Follows a stream with a module of the client, and takes its time for each message. Prints a line for each thing it sees,
// with the time on the machine's monotonic clock: pace.Page reads them.
import { readFileSync, writeSync } from "node:fs";

const { url, module, loop, each } = JSON.parse(process.argv[2]);
const source = /^https?:/.test(module) ? await (await fetch(module)).text() : readFileSync(module, "utf8");
const { connect } = await import("data:text/javascript," + encodeURIComponent(source));

// The lines are written a few at a time, or a fast page would do nothing else. A handler that blocks lets no timer run.
const FLUSH = 20;
let lines = "";
let flushed = performance.now();
let timer = null;

function print(...fields) {
  lines += [process.hrtime.bigint(), ...fields].join(" ") + "\n";
  timer ??= setTimeout(flush, FLUSH);
  if (performance.now() - flushed >= FLUSH) flush();
}

function flush() {
  clearTimeout(timer);
  timer = null;
  flushed = performance.now();
  const text = lines;
  lines = "";
  writeSync(1, text); // throws when the test has ended, which ends the page too
}

function show(data) {
  const event = new DataView(data);
  print("message", event.getBigUint64(0), event.getBigUint64(8));
}

const sleeper = new Int32Array(new SharedArrayBuffer(4));
const block = () => each && Atomics.wait(sleeper, 0, 0, each);
const rest = () => new Promise((resolve) => setTimeout(resolve, each));

const stream = connect(url, {
  onstate(state, info) {
    if (state === "open") print("open", stream.hello.window);
    else if (info) print("end", info.code, info.reason);
  },
});
process.stdin.on("end", () => process.exit()).resume();

if (loop) {
  for await (const { data, gap } of stream) {
    if (gap) print("gap", gap.dropped);
    else show(data);
    if (data && each) await rest();
  }
} else {
  stream.ongap = (gap) => print("gap", gap.dropped);
  stream.onmessage = (data) => {
    show(data);
    block();
  };
}
