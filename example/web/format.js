// How numbers, times and levels are written.

// LEVELS are the levels of events, the least important first.
export const LEVELS = ['debug', 'info', 'warning', 'error', 'fatal'];

export const number = n => n.toLocaleString('en');
export const plural = (n, word) => `${number(n)} ${word}${n === 1 ? '' : 's'}`;

export function rate(n) {
	return n > 0 && n < 10 ? n.toFixed(1) : number(Math.round(n));
}

export function bytes(n) {
	if (n < 1024) return `${n} B`;
	if (n < 1024 * 1024) return `${(n / 1024).toFixed(1)} KiB`;
	return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}

export function age(seconds) {
	const s = Math.max(0, Math.floor(seconds));
	if (s < 60) return `${s} s`;
	if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
	if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
	return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

const digits = (n, width) => String(n).padStart(width, '0');

// clock writes a time of day to the millisecond. It is called for each event, where toLocaleTimeString would be slow.
export function clock(time) {
	const t = new Date(time);
	return `${digits(t.getHours(), 2)}:${digits(t.getMinutes(), 2)}:${digits(t.getSeconds(), 2)}.${digits(t.getMilliseconds(), 3)}`;
}

// byLevel lists what a gap is made of: the least important level first, then levels that this page doesn't know, and
// last what has none, which is updates of issues.
export function byLevel(counts) {
	const rank = level => {
		const at = LEVELS.indexOf(level);
		return level === '' ? LEVELS.length + 1 : at < 0 ? LEVELS.length : at;
	};
	return Object.entries(counts).filter(([, n]) => n > 0).sort(([a], [b]) => rank(a) - rank(b));
}

const NAMES = {'*': 'of other levels'}; // beyond those that the server counts one by one

// levelName names one of byLevel.
export function levelName(level, n) {
	return level === '' ? n === 1 ? 'issue update' : 'issue updates' : NAMES[level] ?? level;
}

// gapText writes what a gap is made of, "130 debug, 7 error".
export function gapText(counts) {
	return byLevel(counts).map(([level, n]) => `${number(n)} ${levelName(level, n)}`).join(', ');
}
