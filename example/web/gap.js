// A gap in the list: events that are missing at its place.
import { clock, gapText, plural } from './format.js';

const second = time => clock(time).slice(0, 8);

export class Gap {
	type = 'gap';

	#parts;

	// The parts are gaps as the stream tells them, with nothing between. Of the sum, no more is known than of each.
	constructor(part) {
		this.#parts = [part];
		this.#sum();
	}

	// join takes another part, or says that it belongs in a row of its own: there, less is known, or for another reason.
	join(part) {
		if (part.reason !== this.reason || part.dropped === undefined || this.dropped === undefined) return false;
		this.#parts.push(part);
		this.#sum();
		return true;
	}

	#sum() {
		const first = this.#parts[0], last = this.#parts.at(-1);
		this.reason = first.reason;
		this.dropped = first.dropped === undefined ? undefined : this.#parts.reduce((n, part) => n + part.dropped, 0);
		this.atMost = first.atMost;
		this.since = this.time = first.since;
		this.until = last.until;
		this.byLevel = Object.create(null); // a level may have any name
		for (const {byLevel} of this.#parts) {
			for (const level in byLevel) this.byLevel[level] = (this.byLevel[level] ?? 0) + byLevel[level];
		}
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
		if (this.dropped ?? this.atMost) return `${when}, this page had no connection to the server. These events had left the history of the server when the page was back, or were more than it could handle in a few seconds.`;
		return `${when}, this page had no connection to the server, which can’t say what it published in that time: it has restarted. What it has published since follows.`;
	}
}
