// A gap in the list: events that are missing at its place, and that the server may still have.
import { clock, gapText, number, plural } from './format.js';
import { readMessage } from './message.js';

const second = time => clock(time).slice(0, 8);

export class Gap {
	type = 'gap';
	loading = false;

	#parts;

	// The parts are gaps as the stream tells them, with nothing between. Of the sum, no more is known than of each.
	constructor(part) {
		this.#parts = [part];
		this.#sum();
	}

	// join takes another part, or says that it belongs in a row of its own: there, less is known, or for another reason.
	join(part) {
		if (this.loading || part.reason !== this.reason || part.dropped === undefined || this.dropped === undefined) return false;
		this.#parts.push(part);
		this.#sum();
		return true;
	}

	#sum() {
		const first = this.#parts[0], last = this.#parts.at(-1);
		this.reason = first.reason;
		this.dropped = first.dropped === undefined ? undefined : this.#parts.reduce((n, part) => n + part.dropped, 0);
		this.atMost = first.atMost;
		this.held = this.#parts.reduce((n, part) => n + part.held, 0);
		this.since = this.time = first.since;
		this.until = last.until;
		this.byLevel = Object.create(null); // a level may have any name
		for (const {byLevel} of this.#parts) {
			for (const level in byLevel) this.byLevel[level] = (this.byLevel[level] ?? 0) + byLevel[level];
		}
	}

	// count is how many are missing at most, as far as is known.
	get count() {
		return this.dropped ?? this.atMost ?? 0;
	}

	// offer is what the button says that loads them, or empty if the server has none of them.
	get offer() {
		const {held, dropped, atMost} = this;
		if (this.loading) return 'Loading…';
		if (!held) return '';
		if (dropped === undefined && atMost === undefined || held >= this.count) return `Load ${number(held)} missed`;
		return `Load ${number(held)} of ${dropped === undefined ? 'at most ' : ''}${number(this.count)} missed`;
	}

	// load asks the server for them. It returns what belongs in the place of this gap, which is what the server has brought
	// and gaps for the rest, and why it has not brought more, if something has failed.
	async load() {
		this.loading = true;
		const items = [];
		let failure = null;
		for (const part of this.#parts) {
			let messages = [];
			try {
				if (!failure) messages = (await part.fetch()).map(readMessage);
			} catch (error) {
				failure = error;
			}
			const left = rest(part, messages);
			if (left && !items.at(-1)?.join?.(left)) items.push(new Gap(left));
			items.push(...messages);
		}
		return {items, failure};
	}

	// text says how many are missing, or how many at most, or that nobody knows.
	get text() {
		const {dropped, atMost, reason, since, until} = this;
		const count = dropped ?? atMost, known = gapText(this.byLevel);
		const events = count === undefined ? 'Events' : `${dropped === undefined ? 'At most ' : ''}${plural(count, 'event')}`;
		if (reason === 'slow') return `${events} missed${known ? `: ${known}` : ''}`;
		const when = second(since) === second(until) ? `at ${second(since)}` : `between ${second(since)} and ${second(until)}`;
		if (count !== undefined) return `${events} ${count === 1 ? 'is' : 'are'} missing ${when}`;
		return `Nobody knows how many events are missing ${when}${reason === 'away' ? ': the server has restarted' : ''}`;
	}

	// cause says why they are missing.
	get cause() {
		const when = `From ${clock(this.since)} to ${clock(this.until)}`;
		if (this.reason === 'slow') return `${when}, this page could not keep up, and the server dropped the oldest of the events that it had buffered for it.`;
		if (this.reason === 'relay') return `${when}, events were lost between the nodes of the server.`;
		if (this.count) return `${when}, this page had no connection to the server. These events had left the history of the server when the page was back, or were more than it could handle in a few seconds.`;
		return `${when}, this page had no connection to the server, which can’t say what it published in that time: it has restarted. What it has published since follows.`;
	}
}

// rest is what is missing of a part when the server has brought so many messages of it: the oldest, which it no longer has.
function rest(part, messages) {
	const {reason, since, until} = part;
	const left = {reason, since, until, held: 0, byLevel: {...part.byLevel}, fetch: async () => []};
	for (const known of ['dropped', 'atMost']) {
		if (part[known] === undefined) continue;
		left[known] = part[known] - messages.length;
		if (left[known] <= 0) return null;
	}
	for (const {level = ''} of messages) left.byLevel[level]--;
	if (!Object.values(left.byLevel).every(n => n >= 0)) left.byLevel = {}; // the levels are not in what was sent
	return left;
}
