/**
 * connect follows a stream and returns at once, before it is connected. From then on it connects again by itself, until
 * the stream is closed.
 *
 * @param url The stream's address with ws, wss, http or https, or relative to the page. Its query is kept, except that
 * the filters of the options replace its level and environment.
 * @throws {TypeError} if the url is none, an option is unknown or of a wrong type, or a filter is; and in Node before 22
 * if no WebSocket is given.
 * @throws {RangeError} if the delays are out of their bounds.
 */
export function connect(url: string | URLLike, options?: Options): Stream;

/** Filters say what a stream gets: a plain object. A field that is left out, "" and [] accept all. */
export interface Filters {
  level?: string | readonly string[];
  environment?: string | readonly string[];
}

/** FiltersInForce are filters as the server tells them. An empty list accepts all. */
export interface FiltersInForce {
  level: string[];
  environment: string[];
}

/** FiltersUpdated is the answer to a change of filters. Every message behind it passed the new ones. */
export interface FiltersUpdated {
  filters: FiltersInForce;
  /** How many messages that waited at the server, since this client is slow, were taken out by the change. */
  filtered: number;
}

export interface Options extends Callbacks {
  /**
   * The first filters: all by default. They are asked for in the query. If the server does not grant them, it refuses the
   * connection with the status 403.
   *
   * If the hello tells that they are not in force, they are asked for on the open connection: on a route of the
   * application's own that does not read the query, and if a value has a comma. Then messages that they hold back may
   * arrive before they are in force, and if they are refused, the stream is closed with the code 1008 and the server's
   * code as the reason.
   */
  filters?: Filters;
  /** The first back-off in milliseconds, over 0, 500 by default. It doubles with each attempt that fails. */
  minDelay?: number;
  /** The longest back-off in milliseconds, at least minDelay, 30,000 by default. */
  maxDelay?: number;
  /** More subprotocols to offer, as some servers want a token there. The server must choose mesherstream.v1. */
  protocols?: string | readonly string[];
  /** The constructor of WebSockets, for tests and for Node before 22. The global one by default. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocketLike;
  /**
   * Asks why a handshake failed, which a WebSocket does not tell a page: a GET of the same address, once after each
   * attempt. The status of the answer is the status of the state. The global one by default; null never asks.
   *
   * If protocols are given, the default is null, since the request can't send them, and a token may be among them. If a
   * WebSocket is given whose error says what went wrong, as that of the package ws does, that is used instead.
   */
  fetch?: FetchLike | null;
  /** Closes the stream when it is aborted. */
  signal?: AbortSignalLike;
}

/**
 * Callbacks are called one after the other, in the order of what they tell. When one throws, that is reported as an
 * uncaught error, and the stream goes on.
 */
export interface Callbacks {
  /** Called with each message of the application: text as a string, binary as an ArrayBuffer. */
  onmessage?: ((data: string | ArrayBuffer, event: StreamMessageEvent) => void) | null;
  /** Called where messages are missing, before the message behind them. */
  ongap?: ((gap: Gap) => void) | null;
  /**
   * Called when the state changes, and once for the first state, a moment after connect has returned.
   *
   * - "connecting": an attempt is made.
   * - "open": the server's hello is there. What is published from now on arrives, or a gap tells of it. Nothing tells of
   *   what was published while there was no connection: a page that shows a state loads it again here.
   * - "waiting": the connection was lost, or the attempt failed; info says why, and when the next attempt is made. Or the
   *   page was put away: kept to go back to after its user has left it, or frozen. Then the connection is closed, info has
   *   the code 1001 and an infinite delay, and the next attempt is made when the page is back.
   * - "closed": for good. By close or the signal; by the server with a code after which the same would happen again, 1002,
   *   1003, 1007, 1008, 1009, or one of the application's own, 4000 to 4999; or because the handshake was refused with an
   *   HTTP status after which the same would happen again. Those are 400 to 499, except for 407, 408, 409, 421, 423, 424,
   *   425, 426 and 429, and for 404 if this stream has been open: some proxies say so during a restart. Redirects, 500 to
   *   599, and no answer at all are tried again.
   */
  onstate?: ((...change: StateChange) => void) | null;
}

export type State = "connecting" | "open" | "waiting" | "closed";

/** StateChange is what onstate is called with. When its first element is compared, the second one's type is known. */
export type StateChange =
  | [state: "connecting" | "open", info: undefined]
  | [state: "waiting", info: Waiting]
  | [state: "closed", info: Closed];

export interface Closed {
  /** The close code; 1006 where there was none, as after a handshake that failed. */
  code: number;
  /** Of the close; "HTTP" and the status where there is one. */
  reason: string;
  /** The HTTP status that a handshake was refused with, if it is known. */
  status?: number;
}

export interface Waiting extends Closed {
  /**
   * Milliseconds to the next attempt, infinite while the page is put away: at random between 0 and the back-off, which doubles with each attempt from minDelay
   * to maxDelay, and starts again after a connection that was open for 10 seconds. Where the server said how long to
   * wait (retry_after_ms in the reason of 1012 or 1013), that, and up to half of it more.
   *
   * When the page comes back online or becomes visible, the next attempt is made at once, unless the server said how long
   * to wait.
   */
  delay: number;
}

/** Gap tells of messages that are missing in front of the next one, since this client was slow. */
export interface Gap {
  dropped: number;
  /**
   * How many of each level; "" is none, and "*" all levels beyond the first 16. What the stream dropped itself, because a
   * loop stood still, is only in the total.
   */
  byLevel: Record<string, number>;
  /** When the oldest of them was published, or arrived, where the stream dropped it itself. */
  since: Date;
  /** The same of the newest. */
  until: Date;
}

/** Hello is what the server says first on a connection. */
export interface Hello {
  type: "hello";
  /** The token of this connection, which the protocol's own messages carry. */
  stream: string;
  /** The client's ID at the server. */
  id: number;
  project: string;
  filters: FiltersInForce;
  /** How many messages the server keeps for this client when it is slow. */
  max_buffer: number;
  /** How many messages the server sends ahead of what was handled; 0 is no bound. */
  window: number;
}

export type Item = { type: "message"; data: string | ArrayBuffer } | { type: "gap"; gap: Gap };

/**
 * Stream is what connect returns.
 *
 * A loop over it gets what the callbacks get, from its first step on, and ends when the stream is closed and everything
 * that arrived has been taken. Leaving the loop does not close the stream. There can be one loop at a time; a second one
 * throws.
 *
 * What the loop has not taken yet waits in memory. That is bounded: the server sends at most its window ahead of what was
 * taken, and what it holds back then waits in its buffer, as for every slow client. Where there is no window, and after
 * reconnects, the stream keeps the newest 1,000 (or as many as the window, if that is more), and puts a gap in place of
 * those before.
 */
export interface Stream extends Callbacks, AsyncIterable<Item> {
  // Setting anything but a callback throws a TypeError.
  readonly state: State;
  /** What the server said first on this connection; null while there is none. */
  readonly hello: Hello | null;
  /**
   * setFilters changes what the stream gets, on this connection and on all that follow. A change goes out at once, but
   * at most ten in a second: when the next call comes before that, it replaces the one that waits, and both get the
   * answer to the later. When the connection is lost before the answer, the change is asked for again on the next one.
   *
   * It rejects with a FilterError, and the filters stay what they were.
   */
  setFilters(filters: Filters): Promise<FiltersUpdated>;
  /**
   * close ends the stream for good. After the stream is closed, it does nothing.
   *
   * @param code 1000 by default, or one from 3000 to 4999.
   * @param reason At most 123 bytes.
   */
  close(code?: number, reason?: string): void;
}

/** FilterError says why filters have not been changed. */
export interface FilterError extends Error {
  /** As the server tells it; "closed" where the stream is closed; "malformed" also for a TypeError, when it was not even asked. */
  code: "malformed" | "unknown_type" | "invalid_filter" | "not_granted" | "closed";
}

// The rest is what the stream uses of types that are not part of the language, so that a program may have those of a
// page, of Node, or none.

/** URLLike is what the stream uses of a URL. */
export interface URLLike {
  readonly href: string;
  toString(): string;
}

/** FetchLike is what the stream uses of fetch. */
export type FetchLike = (url: string, options: any) => Promise<{ readonly status: number }>;

/** AbortSignalLike is what the stream uses of an AbortSignal. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void, options?: any): void;
}

/** StreamMessageEvent is the WebSocket's event: a MessageEvent, where the program's types have one. */
export type StreamMessageEvent = typeof globalThis extends { MessageEvent: { prototype: infer E } }
  ? E
  : { readonly data: unknown };

/** WebSocketLike is what the stream uses of a WebSocket. */
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
