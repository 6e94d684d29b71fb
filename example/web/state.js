// The state of the connection in words.
import { age } from './format.js';

const BEHIND = 1500; // ms of lag from which it is worth saying

export function stateText(state, {reason = ''} = {}) {
	switch (state) {
	case 'connecting':
		return 'Connecting';
	case 'open':
		return 'Live';
	case 'waiting':
		return navigator.onLine ? 'Connection lost, trying again' : 'Offline';
	case 'closed':
		return `Disconnected${reason ? `: ${reason}` : ''}`;
	}
}

// drawState shows the state of a stream: that of its connection, and whether the page keeps up.
export function drawState(pill, {state, info, lag = 0, slow = false}) {
	let text = stateText(state, info), kind = state;
	if (state === 'open' && lag > BEHIND) [text, kind] = [`${age(lag / 1000)} behind`, 'slow'];
	else if (state === 'open' && slow) [text, kind] = ['Reading slowly', 'slow'];
	else if (state === 'waiting' && navigator.onLine) text = `Reconnecting in ${Math.max(0, Math.ceil((info.retryAt - Date.now()) / 1000))} s`;
	if (pill.textContent !== text) pill.textContent = text;
	pill.className = `pill ${kind}`;
	pill.title = info.reason ? `${info.code} ${info.reason}` : '';
}
