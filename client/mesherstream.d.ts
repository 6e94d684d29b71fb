/**
 * connect follows a stream. It returns immediately, before the connection is made. The stream reconnects by itself
 * until it is closed, and is given what was published meanwhile, or a gap that reports it.
 *
 * @param url The stream's address with ws, wss, http or https, or relative to the page. Its query is kept, except that
 * the filters of the options replace its level and environment. Its last or since makes the stream begin with earlier
 * messages; a return replaces both.
 * @throws {TypeError} if the url is not a URL, if an option or a filter is unknown or of a wrong type, if there is no
 * WebSocket, as in Node before 22, and no events may be followed, and if only events may be, and there is no fetch or a value
 * of the filters has a comma.
 * @throws {RangeError} if the delays are out of their bounds.
 */
export function connect(url: string | URLLike, options?: Options): Stream;

/** Transport carries a stream: a WebSocket, or server-sent events, which are read by fetch. */
export type Transport = "websocket" | "sse";

/**
 * Filters select the messages that a stream receives. A plain object; a field that is omitted, "" or [] accepts all.
 */
export interface Filters {
  level?: string | readonly string[];
  environment?: string | readonly string[];
}

/** FiltersInForce are filters as the server reports them. An empty list accepts all. */
export interface FiltersInForce {
  level: string[];
  environment: string[];
}

/** FiltersUpdated is the reply to a change of filters. Every message after it matches the new ones. */
export interface FiltersUpdated {
  filters: FiltersInForce;
  /** How many messages the change removed from the server's buffer for this client. */
  filtered: number;
}

export interface Options extends Callbacks {
  /**
   * The first filters; by default, all messages are accepted. The filters are requested in the query. If the server
   * does not grant them, it refuses the connection with the status 403.
   *
   * If the hello says that they are not in force, they are requested on the open connection. This happens if a value
   * has a comma, and on a route of the application's own that does not read the query. Messages that do not match may
   * then arrive before the filters are in force. If the server refuses them, the stream is closed with the code 1008
   * and the server's error code as the reason.
   */
  filters?: Filters;
  /** The first back-off in milliseconds, more than 0; 500 by default. It doubles with each failed attempt. */
  minDelay?: number;
  /** The longest back-off in milliseconds, at least minDelay; 30,000 by default. */
  maxDelay?: number;
  /** Further subprotocols to offer: some servers expect a token there. The server must choose mesherstream.v1. */
  protocols?: string | readonly string[];
  /**
   * What may carry the stream: ["websocket", "sse"] by default, or one of the two alone. With both, each attempt begins
   * with a WebSocket. If it does not open, the stream follows the events of the same address by fetch:
   *
   * - if the handshake fails or the browser forbids it, and the answer to a GET says that the server would have accepted it;
   *   after a WebSocket that was open, if that happens twice in a row,
   * - or if a WebSocket has not brought the server's hello after 6 seconds; after one that was open, after 20 seconds.
   *
   * A final refusal ends the stream as ever, and a server that does not answer is tried again as ever. Streams of the page,
   * and of the same tab after a reload, then use events at once for 10 minutes: for the same host, and kept in
   * sessionStorage if there is one. The WebSocket is tried first again after that, after an event stream that did not open
   * or was given up for silence, and when the page comes back online. A connection that is open is not replaced.
   *
   * Only fetch can follow events: they are not used if fetch is null, as it is by default with protocols, if the bodies of
   * its responses are no streams, and while a value of the filters has a comma.
   */
  transports?: readonly ["websocket", "sse"] | readonly ["websocket"] | readonly ["sse"] | null;
  /** The WebSocket constructor, for tests and for Node before 22; the global one by default. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocketLike;
  /**
   * The function that asks why a handshake failed, which a WebSocket does not tell a page. It sends a GET to the same
   * address, once after each failed attempt. The status of the response becomes the status in the info of onstate. It also
   * follows events, see transports. The global fetch by default; null never asks.
   *
   * If protocols are given, the default is null, since the request can't send them, and a token may be among them. If
   * the error of a given WebSocket says what went wrong, as that of the package ws does, that is used instead.
   */
  fetch?: FetchLike | null;
  /** A signal that closes the stream when it is aborted. */
  signal?: AbortSignalLike;
  /**
   * Where the stream keeps how far it is, so that after a reload of the page it returns and is given what it missed: give
   * sessionStorage. By default, a reload begins anew, with the last or since of the url. With it, only what was missed
   * arrives, so the page itself keeps what it had shown.
   *
   * What is kept is how far the page has handled the stream. It is written at each of the server's marks, about once a
   * second, and when the page is left or frozen, then with the messages handled since the mark. If those are too long
   * for 256 KiB, or were received with other filters, the return may not be complete, and says so.
   *
   * There is one entry for each url, without its last, since, received and ago, together with the filters of these
   * options. It is removed when the stream is closed. A storage that is full, forbidden or has garbage costs nothing but
   * the return. localStorage is refused with a TypeError, since tabs share it, and so is a second stream of the same
   * page with the same url and filters. Frames of one tab share sessionStorage too: give each its own url.
   */
  storage?: StorageLike | null;
  /**
   * With true, the tabs of an origin that connect with the same url, filters, transports and delays share one connection:
   * over HTTP/1.1 a browser opens six to a host, and each event stream is one. A SharedWorker follows the stream as long as
   * one of the tabs is there. The server counts one client. false by default.
   *
   * Each tab receives every message since it has connected, once and in order. Before them, if the url has a last or since, it
   * receives messages that the worker has received before: as many of the newest as last says, at most 1,000. With a since
   * alone, a gap with the reason "away" says how many were before these.
   *
   * A tab that is slow or frozen delays no other one. At most 1,000 messages, marks of positions included, are on the way to
   * a tab, and fewer if they have more than 8 MiB. Those that follow wait for it for 5 seconds, and have at most 8 MiB
   * together. Then the tab misses the oldest ones: a gap with the reason "slow" says how many, as exactly as the server
   * knows, and its held is 0. The server is told what the fastest tab has handled. While all tabs are put away, the
   * connection is closed.
   *
   * The server authorizes only the first tab. A later tab joins its stream, whoever has signed in since: a url that names
   * the user keeps users apart.
   *
   * The script of the worker is mesherstream.js beside the stream, as the server has it. So the stream must be of the page's
   * own origin, and worker-src of a Content-Security-Policy must allow the script, and connect-src in the response with the
   * script the stream. If there are no SharedWorkers, or the script doesn't load or answer within 20 seconds, the tab has a
   * stream of its own: see the member shared of the stream.
   *
   * If the worker ends, each tab returns by itself from where it was, on a connection of its own; one that has no position
   * is told of a gap of unknown size. Over events only three tabs of the origin return so, since connections must remain for
   * pages to load: the others, and all without Web Locks, share the next worker, after a gap of unknown size. onstate says
   * ("open", {complete: false}) then. With https and on localhost a tab notices the end at once, and otherwise after 40 seconds.
   *
   * setFilters is rejected, since it would change the stream of other tabs: close this one and connect another. protocols,
   * WebSocket, fetch and storage may not be given, which throws a TypeError.
   */
  shared?: boolean | null;
}

/**
 * Callbacks are called one after the other, in the order of the events. If one throws, the error is reported as
 * uncaught, and the stream continues.
 */
export interface Callbacks {
  /** Called with each message of the application: text as a string, binary as an ArrayBuffer. */
  onmessage?: ((data: string | ArrayBuffer, event: StreamMessageEvent) => void) | null;
  /** Called when messages are missing, before the message that follows them. */
  ongap?: ((gap: Gap) => void) | null;
  /**
   * Called when the state changes, and once for the first state, a moment after connect has returned.
   *
   * - "connecting": an attempt is in progress.
   * - "open": the server's hello has arrived. From now on, published messages arrive or a gap reports them. For a return
   *   to a server that keeps positions, info says what it brings: see Returned. The messages themselves come through
   *   onmessage, after this. A server without positions does not report what was published meanwhile, and info is
   *   undefined: a page that shows a state then loads it again.
   * - "waiting": the connection was lost, or the attempt failed. info says why, and when the next attempt is made. The
   *   reason is "silence" if nothing has arrived for twice as long as the server promised in mark_ms of its hello, since
   *   a loop has handled what had arrived before. Or the page was put away: frozen, or kept by the browser after its user
   *   has left it. Then the connection is closed, info has the code 1001 and an infinite delay, and the next attempt is
   *   made when the page is back.
   * - "closed": the stream has ended permanently. It was closed by close() or the signal. Or the server closed it, with
   *   a code that would recur, 1002, 1003, 1007, 1008 or 1009, or one of the application's own, 4000 to 4999. Or the
   *   handshake was refused with an HTTP status that would recur. These are 204, and 400 to 499 except for 407, 408, 409, 421,
   *   423, 424, 425, 426 and 429, and except for 404 if this stream has been open before: some proxies send 404 during
   *   a restart. After a redirect, a status from 500 to 599, or no response, another attempt is made.
   */
  onstate?: ((...change: StateChange) => void) | null;
}

export type State = "connecting" | "open" | "waiting" | "closed";

/** StateChange is the arguments of onstate. Comparing its first element narrows the type of the second. */
export type StateChange =
  | [state: "connecting", info: undefined]
  | [state: "open", info: Returned | undefined]
  | [state: "waiting", info: Waiting]
  | [state: "closed", info: Closed];

/**
 * Returned says what a return has brought. It is undefined for the first connection of a stream, and for a server
 * without positions. It is also undefined if the connection before broke while it looked back, as the last or since of
 * the url asks: then this one looks back again, from the start, and brings again what the page has received since.
 */
export interface Returned {
  /**
   * The server has everything that was published meanwhile and matches the filters, and sends it. What this page can't
   * take in about five seconds is left out: a gap with the reason "away" says how much, and its fetch brings it. If it is
   * false, something may be lost: such a gap says how much, if that is known, before the first message.
   */
  complete: boolean;
  /** How many messages were published meanwhile at most, with any filter. Not set if nobody knows. */
  atMost?: number;
}

export interface Closed {
  /** The close code; 1006 if there was none, as after a failed handshake. */
  code: number;
  /** The reason of the close, or "HTTP" and the status if there is a status. */
  reason: string;
  /** The HTTP status with which a handshake was refused, if it is known. */
  status?: number;
}

export interface Waiting extends Closed {
  /**
   * The time to the next attempt in milliseconds; infinite while the page is put away. It is random, between 0 and the
   * back-off. The back-off doubles with each attempt, from minDelay to maxDelay, and starts again at minDelay after a
   * connection that was open for 10 seconds. If the server said how long to wait (retry_after_ms in the reason of 1012
   * or 1013), the delay is that time plus up to half of it.
   *
   * When the page comes back online or becomes visible, the next attempt is made immediately, unless the server said
   * how long to wait.
   */
  delay: number;
}

/** Gap reports messages that are missing before the next one. */
export interface Gap {
  /**
   * Why they are missing: "slow" if this page was connected and too slow, "away" if it was not connected, and "relay" if
   * they were lost between nodes of the server. Not set if the stream itself dropped them, because a loop stood still.
   */
  reason?: "slow" | "away" | "relay";
  /** How many are missing. Not set if only a bound is known, or not even that. */
  dropped?: number;
  /** How many are missing at most. Set in place of dropped, if that is known. */
  atMost?: number;
  /**
   * How many of them fetch could bring when the gap was reported. 0 if the server does not have them, or does not know which
   * they are, and if the stream itself dropped some of them. If only a bound is known, held and atMost may both count some
   * that this page has received, and fetch brings them again.
   */
  held: number;
  /**
   * How many of each level; "" means no level, and "*" all levels beyond the first 16. Messages that the stream itself
   * dropped, because a loop stood still, are only in the total.
   */
  byLevel: Record<string, number>;
  /** When the oldest of them was published or, if the stream itself dropped it, when it arrived. */
  since: Date;
  /** The same for the newest of them. */
  until: Date;
  /**
   * fetch asks the server for the missing messages, and resolves with those that it still has, in their order: text as a
   * string, binary as an ArrayBuffer. They are not passed to onmessage, nor to a loop. If held is 0, it resolves with
   * none and does not ask.
   *
   * One fetch runs at a time, and the others wait for it. The newest messages arrive meanwhile. It may be called on any
   * later connection, and waits for one. If the connection is lost before it is complete, it is made again from the
   * start.
   *
   * Over events, it makes a request of its own. It rejects with a FetchError. The property is not enumerable, so that a gap
   * can be compared, and sent to a worker.
   */
  fetch(): Promise<(string | ArrayBuffer)[]>;
}

/** Hello is the server's first message on a connection. */
export interface Hello {
  type: "hello";
  /** The token of this connection. The protocol's own messages carry it. */
  stream: string;
  /** The client's ID at the server. */
  id: number;
  project: string;
  filters: FiltersInForce;
  /** How many messages the server buffers for this client when it is slow. */
  max_buffer: number;
  /**
   * How many messages the server sends ahead of the last handled one, at first; 0 means no bound. The server may change
   * this later, and also holds messages back while the last handled one was old.
   */
  window: number;
  /** The name of this place in the stream, for a return. Not set by a server without positions. */
  position?: string;
  /** Something arrives at least once in this time, in milliseconds. Not set, or 0, if the server does not promise it. */
  mark_ms?: number;
  /** What a return has brought, as onstate receives it. */
  returned?: { complete: boolean; at_most?: number };
}

export type Item = { type: "message"; data: string | ArrayBuffer } | { type: "gap"; gap: Gap };

/**
 * Stream is a followed stream, as connect returns it.
 *
 * A loop over it receives the same items as the callbacks, from its first step on. The loop ends when the stream is
 * closed and the loop has received every item that arrived. Leaving the loop does not close the stream. There can be
 * one loop at a time; a second one throws.
 *
 * The stream tells the server how far the page is, so that the server sends a slow page only what is fresh, and a gap
 * for the rest. A message counts as handled when its callback has returned and, with a loop, when the loop has asked for
 * the item after it. While the body of the loop awaits something, its item is not handled.
 *
 * Items that the loop has not received yet are kept in memory. Their number is bounded: the server sends at most its
 * window ahead of the last handled one, and keeps later messages in its buffer, as for every slow client. If there is
 * no window, and after reconnects, the stream keeps the newest 1,000 items (or as many as the largest window of the
 * connection, if that is more), and replaces the older ones with a gap.
 *
 * The messages since the server's newest mark are kept too, up to 4,096 of them and 1 MiB, to be taken out of what a return
 * brings. Beyond that, the stream says that it has lost count, and a gap reports what the server can't tell apart.
 */
export interface Stream extends Callbacks, AsyncIterable<Item> {
  // Setting a property other than a callback throws a TypeError.
  readonly state: State;
  /** The server's first message on this connection; null while there is none. */
  readonly hello: Hello | null;
  /**
   * The replay to which the message belongs that onmessage receives now; null if it is live. "join" is what the last or
   * since of the URL asked for, "return" what was missed without a connection, and "subscribe" what a change of filters
   * looked back at. Messages of a "subscribe" may have been shown before; those of a "return" have not. A loop receives
   * its items later, when this may say something else.
   */
  readonly replaying: "join" | "return" | "subscribe" | null;
  /**
   * How old the messages were when this page had handled them, in milliseconds, as the server last measured it. It includes
   * the transit of the acknowledgement. For a shared stream, it is that of the fastest tab. Undefined while it is unknown,
   * with an older server, and over events, which are not acknowledged.
   */
  readonly age: number | undefined;
  /** What carries the stream: the transport of its newest connection that was open. null before the first one. */
  readonly transport: Transport | null;
  /** Whether a worker follows the stream, for all tabs that share it. false until it has answered, and without the option. */
  readonly shared: boolean;
  /**
   * setFilters changes the filters of the stream, on this connection and on all later ones. A change is sent
   * immediately, but at most ten are sent in a second. If the next call is made while a change is waiting, it replaces
   * that change, and both calls receive the reply to the later one. If the connection is lost before the reply, the
   * change is requested again on the next connection.
   *
   * If it rejects, it does so with a FilterError, and the filters stay as they were. A shared stream always rejects.
   *
   * Over events, a change is a new connection from the position of this one, and onstate says so. It waits until a write of
   * the server has arrived as a whole. It resolves with a filtered of 0, and rejects if the server refuses the new
   * connection with 400 or 403.
   *
   * @param lookBack With { last: 200 }, the newest 200 messages that match the new filters and that the server still has
   * are sent after the change, before later ones. stream.replaying is "subscribe" meanwhile. The page may have shown some
   * of them before. last is an integer from 1 to 1,000,000. A change that replaces a waiting one looks back as far as
   * that, if it doesn't say itself how far.
   */
  setFilters(filters: Filters, lookBack?: { last?: number | undefined }): Promise<FiltersUpdated>;
  /**
   * close ends the stream permanently. It does nothing if the stream is already closed. A shared stream ends for this tab,
   * and its connection with the last one.
   *
   * @param code 1000 by default, or one from 3000 to 4999.
   * @param reason At most 123 bytes.
   */
  close(code?: number, reason?: string): void;
}

/** FilterError says why the filters have not been changed. */
export interface FilterError extends Error {
  /**
   * The server's error code; "closed" if the stream is closed; "shared" if it is shared; "malformed" also for a TypeError, in
   * which case the server was not asked.
   */
  code: "malformed" | "unknown_type" | "invalid_filter" | "not_granted" | "closed" | "shared";
}

/** FetchError says why the messages of a gap could not be fetched. */
export interface FetchError extends Error {
  /**
   * "closed" if the stream is closed; otherwise the server's: "invalid_gap" if it does not know the gap and, over events,
   * "not_granted" if this page may no longer receive the messages.
   */
  code: "invalid_gap" | "not_granted" | "closed";
}

// The rest declares the used parts of types that are not part of the language, so that a program may have the types of
// a page, of Node, or none.

/** URLLike is the part of a URL that the stream uses. */
export interface URLLike {
  readonly href: string;
  toString(): string;
}

/** FetchLike is the part of fetch that the stream uses. Without headers and body, it can't follow events. */
export type FetchLike = (
  url: string,
  options: any,
) => Promise<{ readonly status: number; readonly headers?: { get(name: string): string | null }; readonly body?: any }>;

/** StorageLike is the part of a Storage that the stream uses. */
export interface StorageLike {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** AbortSignalLike is the part of an AbortSignal that the stream uses. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void, options?: any): void;
}

/** StreamMessageEvent is the event of the message: a MessageEvent, if the program's types have one. */
export type StreamMessageEvent = typeof globalThis extends { MessageEvent: { prototype: infer E } }
  ? E
  : { readonly data: unknown };

/** WebSocketLike is the part of a WebSocket that the stream uses. */
export interface WebSocketLike {
  readonly protocol: string;
  binaryType: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
