// How high the rows of the list are, without drawing them. A row is one line; when long lines wrap, it has as many lines
// as its text needs. The font has a fixed width and lines break anywhere, so that this is a division.
import { describe, makeRow } from './row.js';

const ASCII = /^[ -~]*$/;

export class Measure {
	wrapped = false;

	#box; #probe;
	#row = 0;    // the height of a row with one line
	#line = 0;   // and of each further line
	#letter = 1; // the width of a letter
	#widths = {event: 1, hasIssue: 1, gap: 1, filter: 1}; // of the messages of these rows
	#pen = document.createElement('canvas').getContext('2d');

	// box is what the rows stand in, and has what the stylesheet says of them.
	constructor(box) {
		this.#box = box;
		this.#probe = makeRow();
		this.#probe.classList.add('probe');
		this.#probe.role = 'presentation';
		this.#probe.ariaHidden = 'true';
		this.again();
	}

	wrap(on) {
		this.wrapped = on;
		this.again();
	}

	// again measures everything, as the size of the window or of the letters may have changed. It says whether it has.
	again() {
		const before = this.#key();
		const style = getComputedStyle(this.#box);
		this.#row = parseFloat(style.getPropertyValue('--row'));
		this.#line = parseFloat(style.getPropertyValue('--line-height')) || this.#row;
		if (this.wrapped) this.#measure(style);
		return this.#key() !== before;
	}

	#measure(style) {
		const {message, issue} = this.#probe.cells;
		this.#pen.font = style.font;
		this.#box.append(this.#probe);
		issue.textContent = 'x';
		for (const kind in this.#widths) {
			this.#probe.className = `row probe ${kind}`;
			message.textContent = 'x';
			this.#widths[kind] = message.getBoundingClientRect().width;
		}
		this.#letter = this.#pen.measureText('x'.repeat(100)).width / 100 || 1;
		this.#probe.remove();
	}

	#key() {
		return [this.#row, this.#line, this.#letter, ...Object.values(this.#widths), this.wrapped].join();
	}

	height(item) {
		return this.wrapped ? this.#row + (this.#lines(item) - 1) * this.#line : this.#row;
	}

	// lines is known of each item until the width changes.
	#lines(item) {
		const kind = item.type === 'notice' ? 'event' : item.type === 'event' && item.issue ? 'hasIssue' : item.type;
		const columns = Math.max(1, Math.floor((this.#widths[kind] + 0.01) / this.#letter));
		if (item.columns === columns) return item.lines;
		item.columns = columns;
		item.lines = 0;
		for (const line of describe(item).split(/\r\n|[\n\r\u2028\u2029]/)) item.lines += Math.max(1, Math.ceil(this.#width(line, columns)));
		return item.lines;
	}

	// width says how many lines a text without line breaks fills. Letters of other widths leave room at the end of a line.
	#width(text, columns) {
		if (ASCII.test(text)) return text.length / columns;
		const line = Math.max(1, columns - 2) * this.#letter;
		return this.#pen.measureText(text.replaceAll('\t', '        ')).width / line;
	}
}
