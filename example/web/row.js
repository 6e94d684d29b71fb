// One row of the list: an event, a notice of an issue, a gap, or a time without a connection.
import { age, clock, gapText, number, plural } from './format.js';

const DONE = {resolve: 'resolved', reopen: 'reopened', ignore: 'ignored'};

// describe says in one line what an item is about.
export function describe(item) {
	switch (item.type) {
	case 'event':
		return item.message;
	case 'notice': {
		const what = item.action === 'assign' ? `assigned to ${item.assignee}` : DONE[item.action] ?? item.action;
		return `${item.issue} ${what}${item.by ? ` by ${item.by}` : ''}${item.title ? `: ${item.title}` : ''}`;
	}
	case 'gap': {
		const known = gapText(item.byLevel);
		return `${plural(item.dropped, 'event')} missed${known ? `: ${known}` : ''}`;
	}
	case 'filter':
		return `from here ${item.what}${item.filtered ? `; ${plural(item.filtered, 'event')} that waited no longer matched` : ''}`;
	case 'lost':
		return `no connection for ${age((item.until - item.since) / 1000)}: what happened meanwhile is not known`;
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
	return row;
}

// fillRow makes a row show an item, whatever it showed before.
export function fillRow(row, item, issue) {
	const {cells} = row;
	const event = item.type === 'event';
	row.className = `row ${event ? item.level : item.type}`;
	row.id = `row${item.n}`;
	cells.time.textContent = clock(item.time);
	cells.level.textContent = event ? item.level : item.type === 'notice' ? 'issue' : '';
	cells.env.textContent = item.environment ?? '';
	cells.service.textContent = item.service ?? '';
	cells.message.textContent = describe(item);
	fillIssue(row, event ? issue : undefined);
}

// fillIssue tells how the issue of a row's event stands now.
export function fillIssue(row, issue) {
	const cell = row.cells.issue;
	cell.textContent = issue ? `${issue.issue} ×${number(issue.count)}${issue.state === 'open' ? '' : ` ${issue.state}`}` : '';
	cell.dataset.state = issue?.state ?? '';
}
