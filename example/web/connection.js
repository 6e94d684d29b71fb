// The connection of a page: it comes back by itself, and at once when the reader asks for it.
import { connect } from '/stream/projects/mesherstream.js';

export class Connection {
	state = 'connecting';
	info = {}; // of the state: why, and when the next attempt is made

	#path; #filters; #on;
	#stream;

	// on.begin is called with each stream that is opened, before anything of it arrives, and on.state after each change.
	constructor(path, filters, on) {
		this.#path = path;
		this.#filters = filters && {...filters};
		this.#on = on;
		this.#begin();
	}

	get hello() {
		return this.#stream.hello;
	}

	// age is how old what this page had handled was, in milliseconds, as the server has measured it; undefined while that
	// is unknown.
	get age() {
		return this.#stream.age;
	}

	// setFilters changes what the server sends, on this connection and on the next ones. While the page is disconnected for
	// good, it rejects with the code "closed", and the filters hold for the next connection.
	async setFilters(filters) {
		const before = this.#filters, wanted = {...filters};
		this.#filters = wanted;
		try {
			return await this.#stream.setFilters(wanted);
		} catch (error) {
			if (error.code !== 'closed' && this.#filters === wanted) this.#filters = before;
			throw error;
		}
	}

	// connectNow doesn't wait for the next attempt, and connects a page again that the server has disconnected.
	connectNow() {
		if (this.state === 'open') return;
		this.#stream.onstate = this.#stream.onmessage = null; // it is no longer the page's
		this.#stream.close();
		this.#begin();
	}

	#begin() {
		this.#stream = connect(this.#path, {filters: this.#filters});
		this.#stream.onstate = (state, info) => this.#enter(state, info);
		this.#on.begin(this.#stream);
	}

	#enter(state, info = {}) {
		this.state = state;
		this.info = {...info, retryAt: Date.now() + (info.delay ?? 0)};
		this.#on.state(state, this.info);
	}
}
