// The state of the connection in words, and the button that connects again.
import { age as span } from './format.js';

const BEHIND = 1500; // ms of lag from which it is worth saying
const LONG = 40;     // characters that have room beside the name of the project
const REFUSED = {401: 'you are not signed in', 403: 'you have no access to this project'}; // by the status of the handshake

// stateText says what a screen reader hears when the state changes.
export function stateText(state, {code, reason = '', status} = {}) {
	switch (state) {
	case 'connecting':
		return 'Connecting';
	case 'open':
		return 'Live';
	case 'waiting':
		return navigator.onLine ? 'Connection lost, reconnecting' : 'Offline';
	}
	const why = REFUSED[status] ?? (status ? `the server refused the connection (HTTP ${status})` : reason.trim());
	if (/^disconnected\b/i.test(why)) return why[0].toUpperCase() + why.slice(1); // it says so itself
	if (why) return `Disconnected: ${why}`;
	return code > 1001 ? `Disconnected (code ${code})` : 'Disconnected';
}

// freshness writes how old what a page shows is, "0.2 s".
export function freshness(ms) {
	return ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : span(Math.round(ms / 1000));
}

// drawState shows the state of a stream: that of its connection, how fresh it is, and whether the page keeps up. silence is
// for how many milliseconds nothing has arrived, if that is longer than the server promises, and otherwise 0.
export function drawState(pill, {state, info, age, lag = 0, slow = false, silence = 0}) {
	let text = stateText(state, info), kind = ['connecting', 'open', 'waiting'].includes(state) ? state : 'closed';
	if (state === 'open' && silence) [text, kind] = [`No sign of the server for ${span(silence / 1000)}`, 'waiting'];
	else if (state === 'open' && lag > BEHIND) [text, kind] = [`${span(lag / 1000)} behind`, 'slow'];
	else if (state === 'open' && slow) [text, kind] = ['Reading slowly', 'slow'];
	else if (state === 'open' && age !== undefined) text += ` · ${freshness(age)}`;
	else if (state === 'waiting' && navigator.onLine && info.retryAt < Infinity) text = `Reconnecting in ${Math.max(0, Math.ceil((info.retryAt - Date.now()) / 1000))} s`;
	if (pill.textContent !== text) pill.textContent = text;
	pill.className = `pill ${kind} ${text.length > LONG ? 'long' : ''}`;
	const measured = state === 'open' && age !== undefined;
	pill.title = info.code ? `Close code ${info.code}${info.reason ? `: ${info.reason}` : ''}`
		: measured ? 'The time from the publication of an event until this page had handled it and the server knew' : '';
}

// drawAgain offers to connect at once, unless the page is connected or makes its very first attempt. A reader who has
// just used the button goes on at next.
export function drawAgain(button, {state, info}, next) {
	if (state === 'connecting' && button.hidden) return;
	const focused = document.activeElement === button;
	button.hidden = state === 'open';
	button.textContent = state === 'waiting' || state === 'connecting' ? 'Connect now' : 'Connect again';
	if (button.hidden && focused) next.focus({preventScroll: true});
}
