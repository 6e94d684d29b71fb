// The issues of the project, which change in place: in the panel, in the rows of their events, and in the details.
import { post } from './announce.js';
import { number } from './format.js';

const SHOWN = 50;
const PAUSE = 2000; // ms between two loads: a page that is slow has many gaps

export class Issues {
	#project; #panel; #changed;
	#issues = new Map();
	#rows = new Map();
	#dirty = new Set();
	#loading = 0; // the timer of the next load
	#loaded = -PAUSE;

	// changed is called with each issue that is not what it was, at most once a frame.
	constructor(project, panel, changed) {
		this.#project = project;
		this.#panel = panel;
		this.#changed = changed;
	}

	get(id) {
		return this.#issues.get(id);
	}

	get size() {
		return this.#issues.size;
	}

	// load fetches how all issues stand. A page does so when its stream has begun, so that no notice falls between the
	// two, and again when notices were dropped. Of an issue that comes both ways, the newer revision counts.
	load() {
		this.#loading ||= setTimeout(async () => {
			this.#loading = 0;
			this.#loaded = performance.now();
			const answer = await fetch(`/api/v1/issues?project=${encodeURIComponent(this.#project)}`).catch(() => null);
			if (!answer?.ok) return;
			for (const issue of (await answer.json()).reverse()) this.apply(issue);
			for (const [id, row] of this.#rows) {
				if (this.#issues.has(id)) continue;
				this.#rows.delete(id); // another process of the server doesn't know it
				row.remove();
			}
		}, Math.max(0, this.#loaded + PAUSE - performance.now()));
	}

	// forget is for another process of the server, whose revisions begin again.
	forget() {
		this.#issues.clear();
	}

	// apply takes an issue as it stands now.
	apply(issue) {
		const known = this.#issues.get(issue.issue);
		if (known && known.revision >= issue.revision) return;
		this.#issues.set(issue.issue, issue);
		if (!this.#dirty.size) requestAnimationFrame(() => this.#draw());
		this.#dirty.add(issue.issue);
	}

	act({issue}, action) {
		return post(`/api/v1/issues/${encodeURIComponent(issue)}/${action}`, {project: this.#project});
	}

	#draw() {
		for (const id of this.#dirty) {
			const issue = this.#issues.get(id);
			if (!issue) continue;
			this.#row(id, issue);
			this.#changed(issue);
		}
		this.#dirty.clear();
	}

	// row shows an issue where it has been since it was first seen: what a reader points at doesn't move away.
	#row(id, issue) {
		let row = this.#rows.get(id);
		if (!row) {
			if (this.#rows.size === SHOWN) return;
			row = this.#makeRow(id);
			this.#rows.set(id, row);
			this.#panel.append(row);
		}
		const {title, what, count, button} = row.parts;
		row.className = `issue ${issue.state} ${issue.level ?? ''}`;
		title.textContent = issue.title ?? '';
		what.textContent = `${issue.state}${issue.assignee ? ` · ${issue.assignee}` : ''}`;
		count.textContent = `×${number(issue.count)}`;
		const label = issue.state === 'open' ? 'Resolve' : 'Reopen';
		if (button.textContent === label) return;
		button.textContent = label;
		button.ariaLabel = `${label} ${id}`;
	}

	#makeRow(id) {
		const row = document.createElement('li');
		const part = (tag, name, text = '') => {
			const el = document.createElement(tag);
			el.className = name;
			el.textContent = text;
			row.append(el, ' ');
			return el;
		};
		row.parts = {
			name: part('b', 'name', id),
			count: part('span', 'count'),
			button: part('button', 'plain'),
			title: part('span', 'title'),
			what: part('span', 'what'),
		};
		row.parts.button.type = 'button';
		row.parts.button.addEventListener('click', () => {
			const issue = this.#issues.get(id);
			if (issue) this.act(issue, issue.state === 'open' ? 'resolve' : 'reopen'); // or how it stands is being asked for
		});
		return row;
	}
}
