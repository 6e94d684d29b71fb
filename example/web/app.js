// The page of live events: it puts the parts together.
import { copy, post, say, sayMissed, toast } from './announce.js';
import { Chart } from './chart.js';
import { Details } from './details.js';
import { Filters } from './filters.js';
import { gapText, number, plural, rate } from './format.js';
import { Issues } from './issues.js';
import { List } from './list.js';
import { drawState, stateText } from './state.js';
import { follow } from './stream.js';

const $ = id => document.getElementById(id);

const query = new URLSearchParams(location.search);
const asked = query.get('project') ?? '';
const project = /^[A-Za-z0-9._-]{1,64}$/.test(asked) ? asked : 'demo'; // what no project is named can't be followed

let received = 0, missed = 0;

// --- The parts.

const issues = new Issues(project, $('issueList'), issue => {
	list.refresh(issue);
	if (details.item?.issue === issue.issue) details.refresh();
	$('showIssues').textContent = `Issues ${issues.size}`;
});
const issueOf = item => item.issue && issues.get(item.issue);

const details = new Details($('details'), {
	issueOf,
	act: (issue, action) => issues.act(issue, action),
	closed() {
		list.mark(null);
		$('list').focus({preventScroll: true});
	},
});

const filters = new Filters({levels: $('levels'), environments: $('environments'), text: $('text')}, query, {
	chips: filtersChanged,
	words() {
		list.filter();
		drawEmpty();
	},
});

const list = new List($('list'), {
	matches: item => filters.matches(item),
	issueOf,
	on: {
		opened: (item, focus) => details.open(item, focus),
		drawn: drawList,
	},
});

const chart = new Chart($('chart'), $('chartLabel'));

const stream = follow(project, filters.chosen, {
	event(event) {
		received++;
		chart.received();
		filters.seen(event.environment);
		list.add(event);
	},

	// How often an issue was seen changes with each of its events, so that is told in place only.
	notice(notice) {
		issues.apply(notice);
		if (notice.action !== 'count') list.add(notice);
	},

	gap(gap) {
		missed += gap.dropped;
		chart.dropped(gap);
		addGap(gap);
		sayMissed(gap.dropped, gapText(gap.byLevel));
		if (gap.byLevel['']) issues.load(); // notices were among it
	},

	lost(since, until) {
		list.add({type: 'lost', time: new Date(until), since: new Date(since), until: new Date(until)});
	},

	state(state, info) {
		if (state === 'open') {
			issues.forget(); // it may be another process that answers
			issues.load();
		}
		$('again').hidden = state !== 'closed';
		drawState($('state'), stream);
		say(stateText(state, info));
	},
});

// Gaps with nothing between them are one.
function addGap({dropped, byLevel, since, until}) {
	const last = list.last();
	if (last?.type !== 'gap') {
		list.add({type: 'gap', time: since, dropped, byLevel: {...byLevel}, since, until});
		return;
	}
	last.dropped += dropped;
	for (const level in byLevel) last.byLevel[level] = (last.byLevel[level] ?? 0) + byLevel[level];
	last.until = until;
	list.rewrite(last);
}

// --- Filters.

async function filtersChanged() {
	const here = new URLSearchParams({project});
	for (const name in filters.chosen) if (filters.chosen[name].length) here.set(name, filters.chosen[name]);
	history.replaceState(null, '', `?${here}`);
	list.filter(); // at once, for what is here; the server does it for what comes
	drawEmpty();

	const wanted = filters.describe();
	try {
		const {filtered} = await stream.setFilters(filters.chosen);
		if (wanted !== filters.describe()) return; // they have changed again, and that answers both
		const last = list.last();
		const mark = {type: 'filter', time: new Date(), what: wanted, filtered};
		if (last?.type === 'filter') list.rewrite(Object.assign(last, mark));
		else list.add(mark);
		say(`Showing ${wanted}`);
	} catch (error) {
		toast(`The server refused that filter: ${error.message}`);
	}
}

// --- What changes with each frame of the list, and several times a second.

function drawList() {
	const {held, waiting, paused} = list;
	$('resume').hidden = !held;
	if (held) put($('resume'), waiting ? `${plural(waiting, 'new event')} ↓` : 'Back to live ↓');
	if ($('pause').ariaPressed !== String(paused)) $('pause').ariaPressed = String(paused);
	if (list.shown) $('empty').hidden = true;
}

// put writes a text where it is not there already, which would be a change for the browser.
function put(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

function drawEmpty() {
	const nothingYet = list.size === 0 && list.waiting === 0;
	$('empty').hidden = list.shown > 0 || list.waiting > 0 && !list.held;
	$('waitingForFirst').hidden = !nothingYet || filters.narrow;
	$('nothingMatches').hidden = nothingYet && !filters.narrow;
	$('nothingMatchesHint').textContent = `${plural(list.size, 'event')} of this page hidden by the filters.`;
}

function drawFigures() {
	$('rate').textContent = rate(chart.rate());
	$('received').textContent = number(received);
	$('missed').textContent = number(missed);
	$('missedBox').classList.toggle('some', missed > 0);
	document.title = `${missed ? `(${number(missed)} missed) ` : ''}${project} · live events`;
	drawState($('state'), stream);
}

async function drawSlow() {
	if (!stream.slow) return;
	const bold = text => Object.assign(document.createElement('b'), {textContent: text});
	$('slowBar').replaceChildren(...stream.pace
		? ['This page handles ', bold(`${rate(stream.pace)} events/s`), ` of about ${rate(stream.rate)} and is `,
			bold(`${(stream.lag / 1000).toFixed(1)} s`), ' behind. The server keeps the newest for it, drops the oldest, and says so.']
		: ['Measuring how fast events arrive.']);
}

setInterval(drawFigures, 250);
setInterval(() => {
	chart.draw();
	drawSlow();
	drawEmpty();
}, 1000);

// --- Buttons and keys.

function pause() {
	if (list.paused) list.follow();
	else list.pause();
	say(list.paused ? 'Paused; nothing is missed' : 'Live');
}

function clear() {
	received = missed = 0;
	chart.clear();
	details.close();
	list.clear();
	drawFigures();
	drawEmpty();
}

const sample = {project, level: 'error', issue: 'SHOP-1', message: 'payment failed'};
$('curl').textContent = `curl ${location.origin}/api/v1/events \\\n  -d '${JSON.stringify(sample)}'`;
$('emptyHint').textContent = `Post one to the project ${project}, and it shows up here:`;
$('project').value = project;
$('sendOne').onclick = () => post('/api/v1/events', sample);
$('copyCurl').onclick = () => copy($('curl').textContent);
$('everything').onclick = () => filters.reset($('text'));
$('again').onclick = () => location.reload();
$('clear').onclick = clear;
$('pause').onclick = pause;
$('resume').onclick = () => {
	details.close();
	list.follow();
	$('list').focus({preventScroll: true});
};
$('showIssues').onclick = () => {
	const shown = document.body.classList.toggle('issues');
	$('showIssues').ariaExpanded = String(shown);
};
$('slow').onclick = () => {
	stream.slow = !stream.slow;
	$('slow').ariaChecked = String(stream.slow);
	$('slowBar').hidden = !stream.slow;
	drawSlow();
	drawState($('state'), stream);
};

$('list').addEventListener('keydown', e => {
	// With the details open, the cursor takes them along.
	if (details.item && list.cursor && list.cursor !== details.item) details.open(list.cursor);
	else if (details.item && (!list.cursor || e.key === 'Escape')) details.close();
	else if (e.key === 'Escape') list.follow();
});

document.addEventListener('keydown', e => {
	if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input')) return;
	if (e.key === '/') {
		e.preventDefault();
		$('text').focus();
	} else if (e.key === ' ' && !e.target.closest('button, a')) {
		e.preventDefault();
		pause();
	}
});

$('text').addEventListener('keydown', e => {
	if (e.key === 'Escape' && $('text').value) {
		e.preventDefault();
		$('text').value = '';
		$('text').dispatchEvent(new Event('input'));
	} else if (e.key === 'Escape' || e.key === 'Enter' || e.key === 'ArrowDown') {
		e.preventDefault();
		$('list').focus();
	}
});

chart.draw();
drawEmpty();
