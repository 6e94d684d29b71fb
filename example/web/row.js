// One row of the list: an event, a notice of an issue, a gap, or a change of the filters.
import { LEVELS, clock, number, plural } from './format.js';
import { highlight } from './highlight.js';

const DONE = {resolve: 'resolved', reopen: 'reopened', ignore: 'ignored'};

// isMarker says that an item tells about the list, and is none of what was published.
export const isMarker = item => item.type !== 'event' && item.type !== 'notice';

// describe says in one line what an item is about.
export function describe(item) {
	switch (item.type) {
	case 'event':
		return item.message ?? '';
	case 'notice': {
		const what = item.action === 'assign' ? `assigned to ${item.assignee}` : DONE[item.action] ?? item.action;
		return `${item.issue} ${what}${item.by ? ` by ${item.by}` : ''}${item.title ? `: ${item.title}` : ''}`;
	}
	case 'gap':
		return item.text;
	case 'filter': {
		const discarded = item.filtered ? `; the server discarded ${plural(item.filtered, 'buffered event')} that no longer matched` : '';
		return `Filters changed: showing ${item.what}${discarded}`;
	}
	}
}

export function makeRow() {
	const row = document.createElement('div');
	row.role = 'option';
	row.ariaSetSize = '-1'; // there are always more
	row.cells = {};
	for (const name of ['time', 'level', 'env', 'service', 'message', 'issue']) {
		const cell = row.cells[name] = document.createElement('span');
		cell.className = name;
		row.append(cell, ' '); // a space, so that what is read aloud or copied has words
	}
	const ms = document.createElement('span'); // narrow screens have no room for it
	ms.className = 'ms';
	row.cells.time.append('', ms);
	return row;
}

// fillRow makes a row show an item, whatever it showed before, with the words that are searched for marked.
export function fillRow(row, item, issue, words = []) {
	const {cells} = row;
	const event = item.type === 'event', searched = isMarker(item) ? [] : words;
	row.className = `row ${rowClass(item)}`;
	row.id = `row${item.n}`;
	const time = clock(item.time);
	cells.time.firstChild.data = time.slice(0, 8);
	cells.time.lastChild.textContent = time.slice(8);
	highlight(cells.level, event ? item.level : item.type === 'notice' ? 'issue' : '', event ? searched : []);
	highlight(cells.env, item.environment, searched);
	highlight(cells.service, item.service, searched);
	highlight(cells.message, describe(item), searched);
	fillIssue(row, event ? issue : undefined);
	fillOffer(row, item);
}

// fillOffer gives the row of a gap a button. That is for a pointer: whoever uses the keyboard, or a screen reader, which
// finds no buttons within an option, has another one in the details.
function fillOffer(row, {offer, loading}) {
	if (!offer) {
		row.offer?.remove();
		return;
	}
	if (!row.offer) {
		row.offer = document.createElement('button');
		row.offer.type = 'button';
		row.offer.className = 'load';
		row.offer.tabIndex = -1;
	}
	row.offer.textContent = offer;
	row.offer.disabled = loading;
	row.append(row.offer);
}

// rowClass is what the stylesheet knows of an item. An unknown level may be anything, so it gives no class.
function rowClass(item) {
	if (item.type === 'event') return `${LEVELS.includes(item.level) ? item.level : ''}${item.issue ? ' hasIssue' : ''}`;
	return `${item.type}${item.reason === 'away' ? ' away' : ''}`;
}

// fillIssue tells how the issue of a row's event stands now.
export function fillIssue(row, issue) {
	const cell = row.cells.issue;
	cell.textContent = issue ? `${issue.issue} ×${number(issue.count)}` : '';
	if (issue && issue.state !== 'open') {
		const how = document.createElement('span');
		how.className = 'how';
		how.textContent = ` ${issue.state}`;
		cell.append(how);
	}
	cell.dataset.state = issue?.state ?? '';
}
