// The operator's view: who is connected, how much waits for each, and what each has lost. The list is a stream too.
import { post, say } from './announce.js';
import { Connection } from './connection.js';
import { age, bytes, number, plural, rate } from './format.js';
import { drawAgain, drawState, stateText } from './state.js';

const $ = id => document.getElementById(id);

const QUIET = 10_000; // ms between two announcements

// The columns: what each says, and what it is sorted by.
const filtersOf = c => [c.levels?.join(', '), c.environments?.join(', ')].filter(Boolean).join(' · ') || 'all events';
const columns = [
	{label: 'ID', value: c => c.id, text: c => `${c.id}${c.id === stream.hello?.id ? ' (this page)' : ''}`},
	{label: 'State', name: 'state', value: c => Number(c.slow), text: c => c.slow ? 'slow' : ''},
	{label: 'Project', value: c => c.project, text: c => c.project},
	{label: 'Filter', name: 'filters', value: filtersOf, text: filtersOf},
	{label: 'Address', value: c => c.remote_addr, text: c => c.remote_addr},
	{label: 'Connected for', name: 'number', value: c => c.age, text: c => age(c.age)},
	{label: 'Buffered', name: 'number', value: c => c.buffered, text: c => c.buffered ? `${number(c.buffered)} · ${bytes(c.buffered_bytes)}` : '0'},
	{label: 'Dropped', name: 'number', value: c => c.dropped, text: c => number(c.dropped)},
	{label: 'Sent', name: 'number', value: c => c.sent, text: c => number(c.sent)},
	{label: 'Sent/s', name: 'number', value: c => c.rate, text: c => rate(c.rate)},
];

let list = null;            // the latest one
let sorted = null;          // {column, down}; null is as the server sorts, the worst first
let steady = false;         // somebody points at a row, which must not move away then
let order = [];             // IDs, as the rows are
const rows = new Map();     // by ID
let spokenAt = -QUIET, spokenSlow = 0;

const stream = new Connection(`/stream/projects/${encodeURIComponent('@clients')}`, undefined, {
	begin(opened) {
		opened.onmessage = data => show(JSON.parse(data));
	},
	state(state, info) {
		drawAgain($('again'), stream, document.querySelector('main'));
		$('clients').classList.toggle('stale', state !== 'open');
		drawState($('state'), stream);
		say(stateText(state, info));
	},
});
setInterval(() => drawState($('state'), stream), 250);

function show(next) {
	const before = list;
	list = next;
	const seconds = before ? (Date.parse(next.time) - Date.parse(before.time)) / 1000 : 0;
	const perSecond = (now, then) => seconds > 0 && now >= then ? (now - then) / seconds : 0;
	const sentBefore = new Map(before?.clients.map(c => [c.id, c.sent]));
	for (const c of next.clients) {
		c.age = (Date.parse(next.time) - Date.parse(c.connected_at)) / 1000;
		c.rate = perSecond(c.sent, sentBefore.get(c.id) ?? c.sent);
	}
	const {clients, slow, buffered, sent, dropped} = next.stats;
	$('connected').textContent = number(clients);
	$('slowCount').textContent = number(slow);
	$('slowBox').classList.toggle('some', slow > 0);
	$('buffered').textContent = number(buffered);
	$('sentRate').textContent = rate(perSecond(sent, before?.stats.sent ?? sent));
	$('droppedRate').textContent = rate(perSecond(dropped, before?.stats.dropped ?? dropped));
	document.title = `${slow ? `(${number(slow)} slow) ` : ''}Clients · Live events`;
	$('caption').textContent = clients > next.clients.length
		? `${number(next.clients.length)} of ${plural(clients, 'client')}: the slow ones, and those that have missed most`
		: plural(clients, 'client') + (sorted || clients === 1 ? '' : ', slow ones first');
	draw();
	if (slow !== spokenSlow && performance.now() - spokenAt > QUIET) {
		say(`${number(slow)} of ${plural(clients, 'client')} ${slow === 1 ? 'is' : 'are'} slow`);
		[spokenSlow, spokenAt] = [slow, performance.now()];
	}
}

function draw() {
	const clients = new Map(list.clients.map(c => [c.id, c]));
	if (!steady) {
		order = [...clients.keys()];
		if (sorted) order.sort((a, b) => compare(clients.get(a), clients.get(b)));
	} else { // those that left go, and those that are new come last
		order = order.filter(id => clients.has(id));
		for (const id of clients.keys()) if (!rows.has(id)) order.push(id);
	}
	for (const [id, row] of rows) {
		if (clients.has(id)) continue;
		rows.delete(id);
		row.remove();
	}
	let next = $('rows').firstChild;
	for (const id of order) {
		const row = rows.get(id) ?? makeRow(id);
		fill(row, clients.get(id));
		if (row === next) next = next.nextSibling;
		else $('rows').insertBefore(row, next);
	}
}

function compare(a, b) {
	const {column, down} = sorted, [x, y] = [column.value(a), column.value(b)];
	const by = x < y ? -1 : x > y ? 1 : a.id - b.id;
	return down ? -by : by;
}

function makeRow(id) {
	const row = document.createElement('tr');
	row.role = 'row';
	row.parts = columns.map(({label, name = ''}) => {
		const cell = document.createElement('td');
		cell.role = 'cell';
		cell.className = name;
		cell.dataset.label = label;
		row.append(cell);
		return cell;
	});
	const cell = document.createElement('td'), button = document.createElement('button');
	cell.role = 'cell';
	cell.className = 'action';
	button.type = 'button';
	button.className = 'plain';
	button.textContent = 'Disconnect';
	button.ariaLabel = `Disconnect client ${id}`;
	button.addEventListener('click', () => post(`/api/v1/clients/${id}/disconnect`));
	cell.append(button);
	row.append(cell);
	rows.set(id, row);
	return row;
}

function fill(row, client) {
	row.className = client.slow ? 'slow' : '';
	columns.forEach(({text}, i) => {
		const cell = row.parts[i], now = text(client);
		if (cell.textContent !== now) cell.textContent = now;
	});
	row.parts[7].classList.toggle('some', client.dropped > 0);
}

for (const column of columns) {
	const head = document.createElement('th'), button = document.createElement('button');
	head.role = 'columnheader';
	head.scope = 'col';
	head.className = column.name === 'number' ? 'number' : '';
	button.type = 'button';
	button.textContent = column.label;
	button.addEventListener('click', () => sortBy(column, head));
	head.append(button);
	$('columns').append(head);
}
$('columns').append(Object.assign(document.createElement('th'), {role: 'columnheader', ariaLabel: 'Actions'}));

// sortBy sorts by a column, then the other way round, and then as the server does.
function sortBy(column, head) {
	const down = column.name === 'number' || column.name === 'state'; // where more is of more interest
	if (sorted?.column !== column) sorted = {column, down};
	else sorted = sorted.down === down ? {column, down: !down} : null;
	for (const th of $('columns').children) th.removeAttribute('aria-sort');
	if (sorted) head.ariaSort = sorted.down ? 'descending' : 'ascending';
	if (list) draw();
}

for (const [event, on] of Object.entries({pointerenter: true, pointerleave: false, focusin: true, focusout: false})) {
	$('rows').addEventListener(event, () => { steady = on; });
}
$('again').onclick = () => stream.connectNow();
