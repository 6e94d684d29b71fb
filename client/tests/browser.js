// A browser with SharedWorkers in lock-step: tabs and workers have the module each, and ports between them. What is posted
// arrives when settle lets it happen, unless the tab that should receive it is frozen.
import { Store, World } from "./lockstep.js";

// Port is one end of a channel.
class Port {
  peer = null;
  inbox = [];
  closed = false;
  frozen = false; // its side takes nothing
  onmessage = null;

  postMessage(data) {
    if (this.closed || this.peer.closed) return;
    this.peer.inbox.push(structuredClone(data));
    queueMicrotask(() => queueMicrotask(() => this.peer.take())); // after what the same task has queued itself
  }

  take() {
    while (!this.frozen && !this.closed && this.onmessage && this.inbox.length) this.onmessage({ data: this.inbox.shift() });
  }

  close() {
    this.closed = true;
  }
}

// Locks are those of an origin. Whoever crashes lets go of all that it holds.
export class Locks {
  #queues = new Map(); // by name: the requests in their order, the first of which holds the lock

  // of returns the locks as one page or worker has them, whose requests take their way first.
  of(owner, way = Promise.resolve()) {
    const request = (name, ...rest) => this.#request(owner, name, rest.at(-1), rest.length > 1 ? rest[0] : {});
    return { request: (...args) => way.then(() => request(...args)) };
  }

  #request(owner, name, granted, { signal, ifAvailable, mode }) {
    return new Promise((resolve, reject) => {
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      if (ifAvailable && queue.length) return Promise.resolve(granted(null)).then(resolve, reject);
      const leave = () => {
        const index = queue.indexOf(request);
        if (index < 0) return;
        queue.splice(index, 1);
        admit();
      };
      const admit = () => {
        for (const [i, request] of [...queue].entries()) {
          if (i > 0 && !(queue[0].shared && request.shared)) return;
          if (!request.held) request.begin();
        }
      };
      const request = {
        owner,
        held: false,
        shared: mode === "shared",
        leave,
        begin: () => {
          request.held = true;
          if (owner.frozen) return; // it can't take it
          queueMicrotask(() => Promise.resolve(granted({ name })).then(resolve, reject).finally(leave));
        },
      };
      signal?.addEventListener("abort", () => {
        if (request.held) return; // too late, as in a browser
        leave();
        reject(new DOMException("aborted", "AbortError"));
      });
      queue.push(request);
      admit();
    });
  }

  // count returns how many a page or worker holds or waits for.
  count(owner) {
    return [...this.#queues.values()].flat().filter((request) => request.owner === owner).length;
  }

  crash(owner) {
    for (const queue of this.#queues.values()) for (const request of [...queue]) if (request.owner === owner) request.leave();
  }
}

export class Browser {
  asked = []; // for each worker that a tab wanted: its URL, type and name
  workers = new Map(); // by their names

  // With locks, the pages have https. The requests of workers may take a way. A worker may not load, and may say so. The
  // module may have other constants.
  constructor({ locks = false, way, loads = true, constants, ...globals } = {}) {
    this.world = new World(constants);
    this.locks = locks ? new Locks() : null;
    this.way = way;
    this.loads = loads;
    this.globals = globals;
  }

  // globalsOf is what a page or worker has in its global scope.
  #globalsOf(owner) {
    const { WebSocket } = this.world;
    owner.sockets = [];
    class OwnSocket extends WebSocket {
      constructor(...args) {
        super(...args);
        owner.sockets.push(this);
        if (owner.crashed) this.left = {};
      }
    }
    return { WebSocket: OwnSocket, navigator: { locks: this.locks?.of(owner) }, ...this.globals };
  }

  // crash ends a page or worker. Whatever it still does has no effect.
  #crash(owner, ports) {
    owner.crashed = true;
    for (const port of ports) port.close();
    for (const socket of owner.sockets) socket.left ??= {};
    this.locks?.crash(owner);
  }

  // tab is a page with one stream that it shares.
  tab({ url = "ws://host/stream/projects/shop", ...options } = {}, globals) {
    const browser = this;
    const owner = {};
    const tab = { log: [], replays: [], take: () => tab.log.splice(0), port: null };
    class SharedWorker {
      constructor(script, { type, name }) {
        tab.worker = this;
        browser.asked.push({ script: String(script), type, name });
        this.port = tab.port = new Port();
        tab.port.peer = Object.assign(new Port(), { peer: tab.port });
        if (browser.loads === true) browser.#worker(name).onconnect({ ports: [tab.port.peer] });
        else if (!browser.loads) queueMicrotask(() => this.onerror(new Event("error")));
      }
    }
    const page = this.world.page({ ...this.#globalsOf(owner), SharedWorker, sessionStorage: new Store(), ...globals });
    const stream = page.connect(url, {
      shared: true,
      onmessage: (data, event) => {
        tab.log.push(data);
        tab.replays.push(stream.replaying);
        tab.event = event;
      },
      ongap: (gap) => tab.log.push(gap),
      onstate: (state, info) => tab.log.push(info === undefined ? [state] : [state, info]),
      ...options,
    });
    const crash = () => this.#crash(owner, [tab.port]);
    const freeze = () => {
      tab.port.frozen = owner.frozen = true;
    };
    const thaw = () => {
      tab.port.frozen = false;
      tab.port.take();
    };
    const locks = () => this.locks.count(owner);
    return Object.assign(tab, { stream, page, crash, freeze, thaw, locks });
  }

  #worker(name) {
    const found = this.workers.get(name);
    if (found) return found;
    const owner = {};
    const navigator = { locks: this.locks?.of(owner, this.way) };
    const scope = { ...this.#globalsOf(owner), navigator, name, SharedWorkerGlobalScope: Object };
    const worker = {
      ports: [],
      onconnect: (event) => {
        worker.ports.push(...event.ports);
        scope.onconnect(event);
      },
      // crash ends it. A browser makes another one for the tabs that come later.
      crash: () => {
        this.workers.delete(name);
        this.#crash(owner, worker.ports);
      },
    };
    this.world.load(scope);
    this.workers.set(name, worker);
    return worker;
  }

  get worker() {
    return [...this.workers.values()].at(-1);
  }
}
