// The fetch of a page in lock-step: every request waits for what a test answers. A test lets the page take it by settle.
import { settle } from "./lockstep.js";

const EVENTS = "text/event-stream, application/vnd.mesherstream.v1";

export class Requests {
  made = [];

  fetch = (url, options) =>
    new Promise((answer, fail) => {
      this.made.push(new Request(url, options, answer, fail));
    });

  // next is the newest request, once it is made. It asks for events.
  async events() {
    await settle();
    const request = this.made.at(-1);
    if (request?.accept !== EVENTS) throw new Error(`got a request for ${request?.accept}, want events`);
    return request;
  }

  // question is the newest request, once it is made. It asks why a handshake failed.
  async question() {
    await settle();
    const request = this.made.at(-1);
    if (request?.accept !== "application/vnd.mesherstream.v1") throw new Error(`got a request for ${request?.accept}, want a question`);
    return request;
  }
}

class Request {
  left = false; // the page has aborted it
  opened = false;
  #chunks = [];
  #reading = null;
  #ended = false;
  #error = null;

  constructor(url, options, answer, fail) {
    Object.assign(this, { url: new URL(url), options, answer, fail, accept: options.headers.Accept });
    options.signal.addEventListener("abort", () => {
      this.left = true;
      this.#error = options.signal.reason;
      fail(this.#error);
      this.#reading?.fail(this.#error);
    });
  }

  get query() {
    return Object.fromEntries(this.url.searchParams);
  }

  async refuse(status) {
    this.answer({ status, headers: new Headers(), body: null });
    await settle();
  }

  // lose answers nothing, or ends the response without an end.
  async lose() {
    this.#error = new TypeError("Failed to fetch");
    this.fail(this.#error);
    this.#reading?.fail(this.#error);
    await settle();
  }

  async open(type = "text/event-stream") {
    this.opened = true;
    const read = () =>
      new Promise((take, fail) => {
        if (this.#error) fail(this.#error);
        else if (this.#chunks.length) take({ done: false, value: this.#chunks.shift() });
        else if (this.#ended) take({ done: true });
        else this.#reading = { take, fail };
      });
    this.answer({ status: 200, headers: new Headers({ "Content-Type": type }), body: { getReader: () => ({ read }) } });
    await settle();
    return this;
  }

  // hello is what the server says to the query.
  hello(more = {}) {
    const values = (field) => this.url.searchParams.get(field)?.split(",") ?? [];
    const filters = { level: values("level"), environment: values("environment") };
    return this.say({ type: "hello", id: 17, project: "shop", filters, max_buffer: 100, window: 0, ...more });
  }

  // say sends messages of the protocol.
  async say(...messages) {
    for (const { type, ...message } of messages) this.put(`event: ${type}\ndata: ${JSON.stringify({ type, ...message })}\n\n`);
    await settle();
    return this;
  }

  // give sends messages of the application. The last one has the position, if one is given.
  async give(messages, position) {
    messages = [].concat(messages);
    for (const [i, data] of messages.entries()) {
      const id = position && i === messages.length - 1 ? `id: ${position}\n` : "";
      if (typeof data === "string") this.put(`${id}data: ${data.replace(/\r\n?|\n/g, "\ndata: ")}\n\n`);
      else this.put(`event: binary\n${id}data: ${Buffer.from(data).toString("base64")}\n\n`);
    }
    await settle();
    return this;
  }

  // mark is the heartbeat.
  async mark(position) {
    this.put(`:\nevent: mark\nid: ${position}\ndata: {}\n\n`);
    await settle();
  }

  async end() {
    this.#ended = true;
    this.#reading?.take({ done: true });
    await settle();
  }

  async write(data) {
    this.put(data);
    await settle();
  }

  // put sends a chunk, text or bytes. The page has not taken it yet.
  put(data) {
    const value = typeof data === "string" ? new TextEncoder().encode(data) : data;
    const reading = this.#reading;
    this.#reading = null;
    if (reading) reading.take({ done: false, value });
    else this.#chunks.push(value);
  }
}
