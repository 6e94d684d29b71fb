// The panel with the details of one item.
import { copy } from './announce.js';
import { age, byLevel, clock, levelName, number } from './format.js';
import { describe } from './row.js';

export class Details {
	item = null;

	#panel; #parts; #issueOf; #act;

	// issueOf finds the issue of an item, act does something to one, and closed is called when the panel goes away.
	constructor(panel, {issueOf, act, closed}) {
		const part = name => panel.querySelector(`.${name}`);
		this.#panel = panel;
		this.#parts = Object.fromEntries(['kind', 'title', 'meta', 'issue', 'table', 'json', 'copy', 'close'].map(n => [n, part(n)]));
		this.#issueOf = issueOf;
		this.#act = act;
		this.#parts.close.addEventListener('click', () => this.close());
		this.#parts.copy.addEventListener('click', () => copy(this.#parts.json.textContent));
		panel.addEventListener('keydown', e => { if (e.key === 'Escape') this.close(); });
		this.closed = closed;
	}

	// open shows an item. With focus, a reader who uses the keyboard goes on in the panel.
	open(item, focus) {
		const {kind, title, meta, table, json} = this.#parts;
		const marker = item.type !== 'event' && item.type !== 'notice';
		this.item = item;
		this.#panel.hidden = false;
		kind.textContent = item.type === 'event' ? item.level : item.type === 'notice' ? 'issue' : item.type;
		kind.className = `kind level ${item.type === 'event' ? item.level : item.type}`;
		title.textContent = describe(item);
		meta.textContent = this.#meta(item);
		table.hidden = item.type !== 'gap';
		table.replaceChildren(...item.type === 'gap' ? gapRows(item) : []);
		json.hidden = this.#parts.copy.hidden = marker;
		json.replaceChildren(...marker ? [] : colour(JSON.stringify(sent(item), null, 2)));
		this.refresh();
		if (focus) title.focus();
	}

	close() {
		if (!this.item) return;
		this.item = null;
		this.#panel.hidden = true;
		this.closed();
	}

	// refresh shows how the issue of the item stands now.
	refresh() {
		const issue = this.item && this.#issueOf(this.item);
		this.#parts.issue.hidden = !issue;
		if (!issue) return;
		const [text, button] = this.#parts.issue.children;
		const {count, state, assignee} = issue;
		text.textContent = `${issue.issue}: ${state}, seen ${number(count)} times${assignee ? `, assigned to ${assignee}` : ''}`;
		button.textContent = state === 'open' ? 'Resolve' : 'Reopen';
		button.onclick = () => this.#act(issue, state === 'open' ? 'resolve' : 'reopen');
	}

	#meta(item) {
		if (item.type === 'gap') {
			return `From ${clock(item.since)} to ${clock(item.until)} the server dropped what this page could not take in time: ` +
				'the oldest first, so that what follows is the newest.';
		}
		if (item.type === 'lost') return `From ${clock(item.since)} to ${clock(item.until)}, ${age((item.until - item.since) / 1000)}.`;
		return [new Date(item.time).toLocaleString(), item.service, item.environment, item.id].filter(Boolean).join(' · ');
	}
}

// gapRows tells a gap level by level, the most important first. Where this page itself had to let events go, it may know
// more events than levels.
function gapRows(gap) {
	const counts = byLevel(gap.byLevel).reverse();
	const unknown = gap.dropped - counts.reduce((sum, [, n]) => sum + n, 0);
	if (unknown > 0) counts.push(['of unknown level', unknown]);
	return counts.map(([level, n]) => {
		const row = document.createElement('tr'), head = document.createElement('th'), cell = document.createElement('td');
		head.scope = 'row';
		head.className = `level ${level}`;
		head.textContent = levelName(level, n);
		cell.textContent = number(n);
		row.append(head, cell);
		return row;
	});
}

// sent is an item without what this page keeps with it.
function sent({n, searched, ...item}) {
	return item;
}

// colour makes the names in a JSON text stand out.
function colour(json) {
	return json.split(/("(?:[^"\\]|\\.)*")(?=:)/).map((part, i) => {
		if (i % 2 === 0) return part;
		const name = document.createElement('i');
		name.textContent = part;
		return name;
	});
}
