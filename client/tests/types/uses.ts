// Compiled by package.test.js, with the types of a page, of Node and of neither. It is never run.
import { connect, type FetchError, type FilterError, type Gap, type Item, type Options, type State, type Stream } from "mesherstream";

declare const log: (...args: unknown[]) => void;

const options: Options = {
  filters: { level: ["error", "fatal"] as const, environment: "" },
  minDelay: 500,
  maxDelay: 30_000,
  protocols: "token.abc",
  onmessage(data, event) {
    const given: string | ArrayBuffer = data;
    log(given, event.data);
  },
  ongap(gap) {
    const count: number = gap.dropped ?? gap.atMost ?? 0;
    const missed: Promise<(string | ArrayBuffer)[]> = gap.fetch();
    missed.catch((error: FetchError) => log(error.code === "invalid_gap"));
    log(count, gap.held.toFixed(), gap.reason === "relay", gap.byLevel["debug"], gap.since.getTime(), gap.until.getTime());
  },
  onstate(state, info) {
    if (state === "waiting") log(info.code, info.reason, info.delay);
    else if (state === "closed") log(info.code, info.reason, info.status?.toFixed());
    else if (state === "open") log(info?.complete, info?.atMost?.toFixed());
    else log(state, info satisfies undefined);
    // @ts-expect-error: only a stream that waits has a delay
    if (state === "closed") log(info.delay);
  },
};

export async function uses() {
  const stream: Stream = connect("/stream/projects/shop", options);
  stream.onmessage = (data) => log(typeof data === "string" ? data.length : data.byteLength);
  stream.ongap = (gap: Gap) => log(gap);
  stream.onstate = null;
  const state: State = stream.state;
  log(stream.age?.toFixed(), await stream.setFilters({ level: "error" }, { last: 200 }));
  // @ts-expect-error: a look-back that is misspelt
  await stream.setFilters({}, { since: 200 });
  // @ts-expect-error: no storage
  connect("/", { storage: {} });
  connect("/", { shared: true, transports: ["sse"] });
  const shared: boolean = stream.shared;
  log(shared);
  if (stream.replaying === "join") log("what was before");
  log(state, stream.hello?.position?.slice(1), stream.hello?.mark_ms?.toFixed(), stream.hello?.window.toFixed(), stream.hello?.filters.level.length);
  try {
    const { filters, filtered } = await stream.setFilters({ level: "error" });
    log(filters.environment.length, filtered.toFixed());
  } catch (error) {
    if ((error as FilterError).code === "not_granted") log("no");
  }
  for await (const item of stream) {
    const same: Item = item;
    if (same.type === "gap") log(same.gap.dropped);
    else log(same.data);
  }
  stream.close();
  stream.close(4001, "enough");

  // @ts-expect-error: a name that is misspelt
  connect("/", { filters: { levels: "error" } });
  // @ts-expect-error: a value that is no string
  await stream.setFilters({ level: 5 });
  // @ts-expect-error: the state is the stream's own
  stream.state = "open";
  // @ts-expect-error: the hello is the stream's own
  stream.hello = null;
  // @ts-expect-error: a callback that is misspelt
  connect("/", { onMessage() {} });
  // @ts-expect-error: the same, later
  stream.onMessage = () => {};
  connect("/", { fetch: null });
  connect("/", { transports: ["sse"], fetch: async () => ({ status: 503 }) });
  // @ts-expect-error: a list in another order
  connect("/", { transports: ["sse", "websocket"] });
  const carried: "websocket" | "sse" | null = stream.transport;
  log(carried);
  // @ts-expect-error: a URL is needed
  connect();
}
