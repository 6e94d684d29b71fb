// The page's stream: what arrives, how far behind it is, and the switch that makes this page slow.
import { connect } from '/stream/projects/mesherstream.js';

const BREATH = 50; // ms that a slow reader may fall behind its pace and make up for

// follow connects to a project and calls on.event, on.notice, on.gap, on.lost and on.state.
export function follow(project, filters, on) {
	return new Follower(project, filters, on);
}

class Follower {
	state = 'connecting';
	info = {}; // of the state: why, and how long until the next attempt
	lag = 0;   // how many milliseconds this page is behind
	rate = 0;  // what arrives in a second, as it was before the page became slow
	pace = 0;  // when slow: how many events a second this page handles

	#stream;
	#on;
	#slow = false;
	#arrived = 0;
	#leastAge = Infinity; // the smallest age seen stands for the difference of the two clocks
	#wasOpen = false;
	#lostAt = 0;

	constructor(project, filters, on) {
		this.#on = on;
		this.#stream = connect(`/stream/projects/${encodeURIComponent(project)}`, {filters});
		this.#stream.onstate = (state, info) => this.#enter(state, info);
		this.#read();
		setInterval(() => this.#measure(), 1000);
	}

	setFilters(filters) {
		return this.#stream.setFilters(filters);
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

	async #read() {
		let due = 0;
		for await (const item of this.#stream) {
			try {
				if (item.type === 'gap') this.#on.gap(item.gap);
				else this.#receive(item.data);
			} catch (error) {
				reportError(error); // and read on
			}
			if (!this.pace) continue;
			const now = performance.now();
			due = Math.max(due, now - BREATH) + 1000 / this.pace;
			if (due > now) await new Promise(done => setTimeout(done, due - now));
		}
	}

	#receive(data) {
		const message = JSON.parse(data);
		this.#arrived++;
		const age = Date.now() - Date.parse(message.received ?? message.time); // a log has times of its own
		this.#leastAge = Math.min(this.#leastAge, age);
		this.lag = age - this.#leastAge;
		if (message.type === 'event') this.#on.event(message);
		else if (message.type === 'notice') this.#on.notice(message);
	}

	#enter(state, info = {}) {
		this.state = state;
		this.info = {...info, retryAt: Date.now() + (info.delay ?? 0)};
		if (state === 'waiting' && this.#wasOpen) this.#lostAt ||= Date.now();
		if (state === 'open') {
			if (this.#lostAt) this.#on.lost(this.#lostAt, Date.now());
			this.#lostAt = 0;
			this.#wasOpen = true;
		}
		this.#on.state(state, this.info);
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
