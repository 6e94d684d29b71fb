// What arrives, as the page needs it. The example's server sends events and notices as JSON; whoever else publishes to
// the project may send anything, and it is shown as well as it can be.
import { bytes } from './format.js';

const TEXTS = ['id', 'level', 'environment', 'service', 'message', 'issue', 'title', 'action', 'by', 'assignee'];

// readMessage returns an event or a notice whose texts are texts and whose time is one. Its text as it was sent is kept
// in raw, for the details.
export function readMessage(data) {
	let message = null;
	if (typeof data === 'string') {
		try {
			message = JSON.parse(data);
		} catch {
			// shown as it is
		}
	}
	if (message?.type !== 'event' && message?.type !== 'notice') {
		const raw = typeof data === 'string' ? data : '';
		message = {type: 'event', message: typeof data === 'string' ? data : `${bytes(data.byteLength)} of binary data`, raw};
	} else {
		message.raw = data;
	}
	for (const name of TEXTS) if (message[name] !== undefined) message[name] = text(message[name]);
	if (Number.isNaN(Date.parse(message.time))) message.time = new Date().toISOString();
	return message;
}

function text(value) {
	if (typeof value === 'string') return value;
	if (value === null) return '';
	if (typeof value !== 'object') return String(value);
	try {
		return JSON.stringify(value);
	} catch {
		return '…'; // nested too deep; the details have it
	}
}
