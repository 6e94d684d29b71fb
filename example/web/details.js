// The panel with the details of one item.
import { copy } from './announce.js';
import { LEVELS, byLevel, levelName, number, plural } from './format.js';
import { highlight } from './highlight.js';
import { layOut } from './json.js';
import { describe, isMarker } from './row.js';

const KINDS = {notice: 'issue', gap: 'missed events', filter: 'filters'};

export class Details {
	item = null;

	#panel; #parts; #issueOf; #act; #load; #words; #json = '';

	// issueOf finds the issue of an item, act does something to one, load loads what a gap is missing, words are those that
	// are searched for, and closed is called when the panel goes away.
	constructor(panel, {issueOf, act, load, words = () => [], closed}) {
		const part = name => panel.querySelector(`.${name}`);
		this.#panel = panel;
		this.#parts = Object.fromEntries(['kind', 'title', 'meta', 'issue', 'load', 'table', 'json', 'copy', 'close'].map(n => [n, part(n)]));
		this.#issueOf = issueOf;
		this.#act = act;
		this.#load = load;
		this.#words = words;
		this.#parts.load.addEventListener('click', () => {
			this.#parts.title.focus(); // the button is about to go
			this.#load(this.item);
		});
		this.#parts.close.addEventListener('click', () => this.close());
		this.#parts.copy.addEventListener('click', () => copy(this.#json));
		panel.addEventListener('keydown', e => { if (e.key === 'Escape') this.close(); });
		this.closed = closed;
	}

	// open shows an item. With focus, a reader who uses the keyboard goes on in the panel.
	open(item, focus) {
		const {kind, title, meta, table, json} = this.#parts;
		this.item = item;
		this.#panel.hidden = false;
		kind.textContent = KINDS[item.type] ?? item.level ?? '';
		kind.className = `kind level ${item.type !== 'event' ? item.type : LEVELS.includes(item.level) ? item.level : ''}`;
		highlight(title, describe(item), isMarker(item) ? [] : this.#words());
		meta.textContent = this.#meta(item);
		table.hidden = item.type !== 'gap';
		table.replaceChildren(...item.type === 'gap' ? gapRows(item) : []);
		this.#show(json, isMarker(item) ? '' : sent(item));
		this.refresh();
		if (focus) title.focus();
	}

	// show lays out what was sent. Whatever isn't JSON is shown as it is.
	#show(pre, text) {
		pre.hidden = this.#parts.copy.hidden = !text;
		this.#parts.copy.textContent = 'Copy JSON';
		this.#json = text;
		try {
			JSON.parse(text);
		} catch {
			this.#parts.copy.textContent = 'Copy';
			pre.textContent = text;
			return;
		}
		const parts = layOut(text);
		this.#json = parts.map(part => part.text).join('');
		pre.replaceChildren(coloured(parts));
	}

	close() {
		if (!this.item) return;
		this.item = null;
		this.#panel.hidden = true;
		this.closed();
	}

	// refresh shows how the issue of the item stands now, and whether a gap can be loaded.
	refresh() {
		const {offer, loading} = this.item ?? {};
		this.#parts.load.hidden = !offer;
		this.#parts.load.textContent = offer ?? '';
		this.#parts.load.disabled = loading;
		const issue = this.item && this.#issueOf(this.item);
		this.#parts.issue.hidden = !issue;
		if (!issue) return;
		const [text, button] = this.#parts.issue.children;
		const {count, state, assignee} = issue;
		text.textContent = `${issue.issue}: ${state}, seen ${plural(count, 'time')}${assignee ? `, assigned to ${assignee}` : ''}`;
		button.textContent = state === 'open' ? 'Resolve' : 'Reopen';
		button.onclick = () => this.#act(issue, state === 'open' ? 'resolve' : 'reopen');
	}

	#meta(item) {
		if (item.type === 'gap') return item.cause;
		return [new Date(item.time).toLocaleString(), item.service, item.environment, item.id].filter(Boolean).join(' · ');
	}
}

// gapRows tells a gap level by level, the most important first. The server may know more events than levels.
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

// sent is the text of an item, as it arrived.
function sent({raw, n, searched, columns, lines, ...item}) {
	if (raw !== undefined) return raw;
	try {
		return JSON.stringify(item);
	} catch {
		return ''; // nested too deep
	}
}

// coloured makes the names in a JSON text stand out.
function coloured(parts) {
	const all = new DocumentFragment();
	let plain = '';
	for (const {shown, name} of parts) {
		if (!name) {
			plain += shown;
			continue;
		}
		const el = document.createElement('i');
		el.textContent = shown;
		all.append(plain, el);
		plain = '';
	}
	all.append(plain);
	return all;
}
