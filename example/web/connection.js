// The connection of a page: it comes back by itself, and at once when the reader asks for it.
import { connect } from '/stream/projects/mesherstream.js';

export class Connection {
	state = 'connecting';
	info = {}; // of the state: why, when the next attempt is made, and what a return has brought

	#path; #filters; #on;
	#stream;
	#inForce; // the filters that the stream has
	#place;

	// on.begin is called with each stream that is opened, before anything of it arrives, and on.state after each change. If
	// there is on.noted, a stream that is opened later goes on where the one before was when on.noted was called last.
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

	// setFilters changes what the server sends, on this connection and on the next ones. The newest messages that match follow
	// the reply, at most last of them, which may have arrived before. While the page is disconnected for
	// good, it rejects with the code "closed", and the filters hold for the next connection.
	async setFilters(filters, last) {
		const before = this.#filters, wanted = {...filters};
		this.#filters = wanted;
		try {
			const reply = await this.#stream.setFilters(wanted, {last});
			this.#inForce = wanted;
			return reply;
		} catch (error) {
			if (error.code !== 'closed' && this.#filters === wanted) this.#filters = before;
			throw error;
		}
	}

	// connectNow doesn't wait for the next attempt, and connects a page again that the server has disconnected.
	connectNow() {
		if (this.state === 'waiting') {
			dispatchEvent(new Event('online')); // the stream hurries then, unless the server has said how long to wait
			if (this.state !== 'waiting') return;
		}
		if (this.state === 'open') return;
		this.#stream.onstate = this.#stream.onmessage = this.#stream.ongap = null; // it is no longer the page's
		this.#stream.close();
		this.#begin();
	}

	// begin opens another stream. With other filters it begins anew, since the list has not had what they accept.
	#begin() {
		const {noted} = this.#on;
		if (noted && this.#inForce !== this.#filters) this.#place = new Place(noted);
		this.#inForce = this.#filters;
		this.#stream = connect(this.#path, {filters: this.#filters, storage: this.#place});
		this.#stream.onstate = (state, info) => this.#enter(state, info);
		this.#on.begin(this.#stream);
	}

	#enter(state, info = {}) {
		this.state = state;
		this.info = {...info, retryAt: Date.now() + (info.delay ?? 0)};
		this.#on.state(state, this.info);
	}
}

// Place is where a stream notes how far it is, for the next one. It is forgotten with the page, as the list is: after a
// reload, sessionStorage would bring only what was missed, into an empty list.
class Place {
	#text = null;
	#noted;

	constructor(noted) {
		this.#noted = noted;
	}

	getItem() {
		return this.#text;
	}

	setItem(key, text) {
		this.#text = text;
		this.#noted();
	}

	removeItem() {
		// The stream has ended, and the next one goes on from here.
	}
}
