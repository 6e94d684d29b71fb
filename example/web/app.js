// The page of live events: it puts the parts together.
import { copy, post, say, sayMissed, toast } from './announce.js';
import { Chart } from './chart.js';
import { Details } from './details.js';
import { Filters } from './filters.js';
import { gapText, number, plural, rate } from './format.js';
import { Gap } from './gap.js';
import { Issues } from './issues.js';
import { List } from './list.js';
import { recall, remember } from './prefs.js';
import { drawAgain, drawState, stateText } from './state.js';
import { follow } from './stream.js';
import { Title } from './title.js';

const $ = id => document.getElementById(id);

const query = new URLSearchParams(location.search);
const asked = query.get('project') ?? '';
const project = /^[A-Za-z0-9._-]{1,64}$/.test(asked) ? asked : 'demo'; // what no project is named can't be followed

let received = 0, missed = 0, unsure = false; // unsure is whether more may be missing, or fewer

// --- The parts.

const issues = new Issues(project, $('issueList'), issue => {
	list.refresh(issue);
	if (details.item?.issue === issue.issue) details.refresh();
	$('issueCount').textContent = number(issues.size);
});
const issueOf = item => item.issue && issues.get(item.issue);

const details = new Details($('details'), {
	issueOf,
	act: (issue, action) => issues.act(issue, action),
	load,
	words: () => filters.words,
	closed() {
		list.mark(null);
		$('list').focus({preventScroll: true});
	},
});

const filters = new Filters({levels: $('levels'), environments: $('environments'), text: $('text')}, {
	chips() {
		visit();
		filtersChanged();
	},
	words() {
		typed();
		showMatches();
	},
});
const ignored = filters.read(query);

const list = new List($('list'), {
	matches: item => filters.matches(item),
	issueOf,
	words: () => filters.words,
	on: {
		opened: (item, focus) => details.open(item, focus),
		load,
		drawn: drawList,
	},
});

const chart = new Chart($('chart'), $('chartLabel'));
const title = new Title(project);

const stream = follow(project, filters.chosen, {
	event(event, replay) {
		const news = !replay || replay === 'return'; // the rest is older than the page
		if (replay !== 'subscribe') received++; // or it may have been received before
		if (news) chart.received();
		filters.seen(event);
		list.add(event);
		if (news && filters.matches(event)) title.received();
	},

	// How often an issue was seen changes with each of its events, so that is told in place only.
	notice(notice) {
		issues.apply(notice);
		if (notice.action !== 'count') list.add(notice);
	},

	gap(gap) {
		const count = gap.dropped ?? gap.atMost ?? 0;
		missed += count;
		unsure ||= gap.dropped === undefined;
		chart.dropped(gap, count);
		addGap(gap);
		if (gap.reason === 'slow' && count) sayMissed(count, gapText(gap.byLevel));
		else say(list.last().text);
		if (gap.byLevel[''] || gap.reason !== 'slow') issues.load(); // it includes notices
	},

	begin() {
		list.clear();
	},

	state(state, info) {
		if (state === 'open') {
			issues.forget(); // it may be another process that answers
			issues.load();
		}
		drawAgain($('again'), stream, $('list'));
		drawState($('state'), stream);
		say(stateText(state, info));
	},
});

// Gaps with nothing between them are one.
function addGap(gap) {
	const last = list.last();
	if (last instanceof Gap && last.join(gap)) list.rewrite(last);
	else list.add(new Gap(gap));
}

// load brings what a gap is missing, in its place.
async function load(gap) {
	if (gap.loading) return;
	const {count, held} = gap;
	const loaded = gap.load();
	list.rewrite(gap);
	details.refresh();
	say(`Loading ${plural(held, 'missed event')}`);
	const {items, failure} = await loaded;
	const gaps = items.filter(item => item instanceof Gap), events = items.filter(item => item.type === 'event');
	const brought = items.length - gaps.length;
	for (const item of items) {
		if (item.type === 'notice') issues.apply(item);
		else if (item.type === 'event') filters.seen(item);
	}
	const shown = items.filter(item => item.type !== 'notice' || item.action !== 'count');
	if (!list.replace(gap, shown)) return; // it has been cleared away
	received += events.length;
	missed += gaps.reduce((n, {count}) => n + count, -count);
	if (failure) toast(`${brought ? `Loaded ${plural(brought, 'event')}. The others can’t` : 'These events can’t'} be loaded: ${UNLOADED[failure.code] ?? failure.message}`);
	else if (!brought) toast('These events can’t be loaded: the server no longer has them');
	else if (brought < held) toast(`Loaded ${number(brought)} of ${plural(held, 'event')}: the server no longer has the others`);
	else say(`Loaded ${plural(brought, 'missed event')}`);
	if (details.item === gap && list.cursor) details.open(list.cursor, $('details').contains(document.activeElement));
	else if (details.item === gap) details.close();
	if (document.activeElement === document.body) $('list').focus({preventScroll: true}); // the button is gone
}

// UNLOADED says why a gap can't be loaded, by the code of the error.
const UNLOADED = {
	invalid_gap: 'the server has restarted since, and no longer has them',
	closed: 'the connection on which they were missed has been closed for good',
};

// --- Filters.

let writing = 0; // the wait until the words are written into the address

function address() {
	const here = new URLSearchParams({project});
	filters.write(here);
	return `?${here}`;
}

// visit makes the filters an address of their own, to share and to go back to.
function visit() {
	clearTimeout(writing);
	writing = 0;
	if (address() !== location.search) history.pushState(null, '', address());
}

// typed does so with the words, once a reader stops to type: browsers bear few changes of the address.
let typing = false; // the address is that of words which are still being changed
function typed() {
	clearTimeout(writing);
	writing = setTimeout(() => {
		if (typing && address() !== location.search) history.replaceState(null, '', address());
		else visit();
		typing = true;
	}, 250);
}
$('text').addEventListener('blur', () => {
	if (writing) visit();
	typing = false;
});

addEventListener('popstate', () => {
	clearTimeout(writing);
	typing = false;
	const before = filters.describe();
	filters.read(new URLSearchParams(location.search));
	if (filters.describe() !== before) filtersChanged();
	else showMatches();
});

function showMatches() {
	list.filter();
	if (details.item) details.open(details.item); // with the words marked
	drawEmpty();
}

async function filtersChanged() {
	showMatches(); // at once, for what is here; then the list is filled with what the server has

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
		if (error.code !== 'closed') toast(`The server refused these filters: ${error.message.replace(/^mesherstream: /, '')}`);
	}
}

// --- What changes with each frame of the list, and several times a second.

function drawList() {
	const {held, waiting, paused} = list;
	$('resume').hidden = !held;
	if (held) put($('resume'), waiting ? `${plural(waiting, 'new event')} ↓` : 'Back to live ↓');
	if ($('pause').ariaPressed !== String(paused)) $('pause').ariaPressed = String(paused);
	if (list.found) $('empty').hidden = true;
}

// put writes a text where it is not there already, which would be a change for the browser.
function put(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

function drawEmpty() {
	const {published, found, shown, waiting, held} = list;
	const first = published === 0 && waiting === 0 && !filters.narrow;
	$('empty').hidden = found > 0 || waiting > 0 && !held;
	$('empty').classList.toggle('beside', shown > 0); // gaps are in the list, and stay in sight
	$('waitingForFirst').hidden = !first;
	$('nothingMatches').hidden = first;
	put($('nothingMatchesHint'), published
		? `The filters hide ${published === 1 ? 'the only event' : `all ${number(published)} events`} on this page. New events that match will appear here.`
		: 'No event on this page matches the filters yet. New events that match will appear here.');
}

function drawFigures() {
	title.draw(missed);
	put($('rate'), rate(chart.rate()));
	put($('received'), number(received));
	put($('missed'), `${number(missed)}${unsure ? '?' : ''}`);
	$('missedBox').classList.toggle('some', missed > 0 || unsure);
	drawState($('state'), stream);
}

function drawSlow() {
	if (!stream.slow) return;
	const part = (name, text) => Object.assign(document.createElement(name), {textContent: text});
	const rest = part('span', ' The server buffers the newest events, drops the oldest, and tells this page how many.');
	rest.className = 'wide';
	$('slowBar').replaceChildren(...stream.pace
		? ['Handling ', part('b', rate(stream.pace)), ` of about ${rate(stream.rate)} events/s, `,
			part('b', `${(stream.lag / 1000).toFixed(1)} s`), ' behind.', rest]
		: ['Measuring how fast events arrive…']);
}

function drawAll() {
	drawFigures();
	if (document.hidden) return; // nobody sees the rest
	chart.draw();
	drawSlow();
	drawEmpty();
}

setInterval(drawFigures, 250);
setInterval(drawAll, 1000);
document.addEventListener('visibilitychange', drawAll);

// --- Buttons and keys.

function pause() {
	if (list.paused) list.follow();
	else list.pause();
	say(list.paused ? 'Paused. No events are missed.' : 'Resumed');
}

function wrap(on) {
	list.wrap(on);
	$('wrap').ariaPressed = String(on);
}

function clear() {
	received = missed = 0;
	unsure = false;
	chart.clear();
	details.close();
	list.clear();
	drawFigures();
	drawEmpty();
}

const sample = {project, level: 'error', issue: 'SHOP-1', message: 'payment failed'};
$('curl').textContent = `curl ${location.origin}/api/v1/events \\\n  -d '${JSON.stringify(sample)}'`;
$('emptyHint').textContent = `Send an event to the project “${project}”, and it appears here:`;
$('project').value = project;
$('sendOne').onclick = () => post('/api/v1/events', sample);
$('copyCurl').onclick = () => copy($('curl').textContent);
$('everything').onclick = () => {
	filters.reset();
	$('list').focus({preventScroll: true}); // the button is gone
};
$('again').onclick = () => stream.connectNow();
$('clear').onclick = clear;
$('pause').onclick = pause;
$('wrap').onclick = () => {
	wrap(!list.wrapped);
	remember('wrap', list.wrapped);
};
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
	if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing || e.target.closest('input')) return;
	if (e.key === '?') {
		e.preventDefault();
		$('keys').togglePopover();
	} else if ($('keys').matches(':popover-open')) {
		return; // which takes the keys
	} else if (e.key === 'w') {
		$('wrap').click();
	} else if (e.key === '/') {
		e.preventDefault();
		$('text').focus();
	} else if ((e.key === 'ArrowUp' || e.key === 'ArrowDown') && e.target === document.body) { // nobody has been anywhere yet
		e.preventDefault();
		$('list').focus();
		list.move(e.key === 'ArrowUp' ? -1 : 1);
	} else if (e.key === ' ' && !e.target.closest('button, a, pre')) {
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

wrap(recall('wrap') === 'true');
drawAll();
if (asked && asked !== project) toast(`“${asked.slice(0, 64)}” can’t be the name of a project. This is the project “${project}”.`);
else if (ignored.length) toast(`Filters of this address that the server would refuse are ignored: ${ignored.join(', ').slice(0, 100)}`);
