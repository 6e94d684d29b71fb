// What a screen reader hears: changes of the connection and of the filters, and, rarely, how much was missed. Never each
// event.
import { number, plural } from './format.js';

const QUIET = 10_000; // ms between two announcements of gaps

const status = document.getElementById('status');

export function say(text) {
	status.textContent = text;
}

let missed = 0, kinds = '', timer = 0, spoken = -QUIET;

// sayMissed announces a gap, together with those that follow soon.
export function sayMissed(count, what) {
	missed += count;
	kinds = what;
	timer ||= setTimeout(() => {
		say(`${plural(missed, 'event')} missed${missed === count && kinds ? `: ${kinds}` : ''}`);
		spoken = performance.now();
		missed = timer = 0;
	}, Math.max(500, spoken + QUIET - performance.now()));
}

const toasts = document.getElementById('toast');
let hiding = 0;

// toast shows and says what came of something that the reader did.
export function toast(text) {
	toasts.textContent = text;
	clearTimeout(hiding);
	hiding = setTimeout(() => { toasts.textContent = ''; }, 5000);
}

// post sends a request that changes something, and returns whether the server took it. It says why if not.
export async function post(path, body) {
	const answer = await fetch(path, {method: 'POST', body: body && JSON.stringify(body)}).catch(() => null);
	if (answer?.ok) return true;
	const reason = answer ? (await answer.json().catch(() => ({}))).error || `status code ${answer.status}` : 'the server does not respond';
	toast(`That did not work: ${reason}`);
	return false;
}

export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
		toast('Copied to the clipboard');
	} catch {
		toast('Your browser does not allow this page to copy');
	}
}
