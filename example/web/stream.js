// The page's stream: what arrives, how far behind it is, and the switch that makes this page slow.
import { Connection } from './connection.js';
import { readMessage } from './message.js';

const BREATH = 50;     // ms that a slow reader may fall behind its pace and make up for
const LOOK_BACK = 200; // messages with which the page begins, also after a change of the filters

// follow connects to a project and calls on.event, on.notice, on.gap, on.begin and on.state. on.event is told the replay
// that the event belongs to, as the stream names it; it is null for an event that has just been published. on.begin is
// called before events that follow none of those before.
export function follow(project, filters, on) {
	return new Follower(project, filters, on);
}

class Follower {
	lag = 0;   // how many milliseconds this page is behind
	rate = 0;  // what arrives in a second, as it was before the page became slow
	pace = 0;  // when slow: how many events a second this page handles

	#connection;
	#on;
	#slow = false;
	#arrived = 0;
	#heard = 0;           // when something arrived
	#leastAge = Infinity; // the smallest age seen stands for the difference of the two clocks
	#waiting = [];  // what has arrived and has not been handled
	#resting = 0;   // 1 after an item, until the loop asks for the next one: only then has the stream heard of it
	#shown = [];    // what has been handled since the connection has noted how far it is
	#expected = []; // of these, what another stream has yet to bring again

	constructor(project, filters, on) {
		this.#on = on;
		this.#connection = new Connection(`/stream/projects/${encodeURIComponent(project)}?last=${LOOK_BACK}`, filters, {
			begin: stream => this.#read(stream),
			noted: () => {
				this.#heard = performance.now();
				this.#shown.splice(0, this.#shown.length - this.#resting);
			},
			state: (state, info) => this.#enter(state, info),
		});
		setInterval(() => this.#measure(), 1000);
	}

	get state() { return this.#connection.state; }
	get info() { return this.#connection.info; }
	get age() { return this.#connection.age; }

	// silence is for how many milliseconds nothing has arrived, if that is longer than the server promises. The connection
	// may be dead then, which the stream finds after two such times.
	get silence() {
		const silence = performance.now() - this.#heard, promised = this.#connection.hello?.mark_ms;
		return promised && silence > promised ? silence : 0;
	}

	// setFilters changes what arrives. The reply comes after everything that was sent with the filters before. What follows
	// it is complete by itself: it begins with the newest messages that match, so the rest is left aside.
	async setFilters(filters) {
		const reply = await this.#connection.setFilters(filters, LOOK_BACK);
		this.#waiting.length = 0;
		this.#on.begin();
		return reply;
	}

	connectNow() {
		this.#connection.connectNow();
	}

	// slow makes this page handle events half as fast as they arrive. It acknowledges what it has handled; so the server
	// holds the rest back, drops the oldest, and tells the gap.
	set slow(on) {
		this.#slow = on;
		this.#setPace();
	}

	get slow() {
		return this.#slow;
	}

	// The loop sets the pace: a message is handled when the loop asks for the next one. What it handles is noted as it
	// arrives, with the replay that it belongs to, which the loop doesn't say.
	async #read(stream) {
		this.#waiting.length = 0; // another stream brings it again
		const waiting = this.#waiting = [];
		this.#expected = this.#shown;
		this.#shown = [];
		const take = item => {
			this.#heard = performance.now();
			waiting.push(item);
		};
		stream.onmessage = data => take({data, replay: stream.replaying});
		stream.ongap = gap => take({gap});
		let due = 0;
		for await (const {gap} of stream) {
			// A gap that has not arrived stands for items which the stream has let go. They are here.
			const next = waiting.splice(0, gap && gap !== waiting[0]?.gap ? waiting.length : 1);
			for (const item of next) this.#handle(item);
			if (!this.pace || !next.length) continue;
			const now = performance.now();
			due = Math.max(due, now - BREATH) + 1000 / this.pace;
			if (due <= now) continue;
			this.#resting = 1;
			await new Promise(done => setTimeout(done, due - now));
			this.#resting = 0;
		}
	}

	#handle({data, gap, replay}) {
		try {
			if (gap) this.#on.gap(gap);
			else if (!this.#again(data, replay)) this.#receive(readMessage(data), replay);
		} catch (error) {
			reportError(error); // and read on
		}
	}

	// again says whether a message has been handled before the stream was replaced by another one, which brings it again.
	#again(data, replay) {
		const key = typeof data === 'string' ? data : new Uint8Array(data).join();
		this.#shown.push(key);
		if (replay !== 'return') this.#expected = [];
		const at = this.#expected.indexOf(key);
		if (at >= 0) this.#expected.splice(at, 1);
		return at >= 0;
	}

	#receive(message, replay) {
		if (!replay) { // what is replayed is old, and says nothing of the pace
			this.#arrived++;
			const age = Date.now() - Date.parse(message.received ?? message.time); // the time of a log may be of last year
			if (age < this.#leastAge) this.#leastAge = age;
			this.lag = age - this.#leastAge || 0;
		}
		if (message.type === 'notice') this.#on.notice(message);
		else this.#on.event(message, replay);
	}

	#enter(state, info) {
		this.#heard = performance.now();
		if (state === 'open' && !('complete' in info)) this.#on.begin(); // it looks back, and doesn't return
		this.#on.state(state, info);
	}

	#measure() {
		if (!this.pace) this.rate = this.rate ? this.rate * 0.6 + this.#arrived * 0.4 : this.#arrived;
		if (!this.#arrived) this.lag = 0; // nothing to be behind of
		if (this.#slow && !this.pace) this.#setPace();
		this.#arrived = 0;
	}

	// A page that has just opened does not know yet what half as fast is, and reads on until it does.
	#setPace() {
		this.pace = this.#slow && this.rate ? Math.max(2, this.rate / 2) : 0;
	}
}
