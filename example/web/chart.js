// The chart of the last minute: events received and missed in each second.
import { clock, number, rate } from './format.js';

const SECONDS = 60;

export class Chart {
	#canvas;
	#pen;
	#label;
	#bins = Array.from({length: SECONDS + 4}, () => ({second: 0, received: 0, dropped: 0}));
	#hover = -1; // the bar under the pointer

	// canvas gets the bars, and label says what they are.
	constructor(canvas, label) {
		this.#canvas = canvas;
		this.#pen = canvas.getContext('2d');
		this.#label = label;
		canvas.addEventListener('pointermove', e => {
			this.#hover = Math.floor(e.offsetX / canvas.clientWidth * SECONDS);
			this.draw();
		});
		canvas.addEventListener('pointerleave', () => {
			this.#hover = -1;
			this.draw();
		});
		addEventListener('theme', () => this.draw());
		matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
	}

	#bin(second) {
		const bin = this.#bins[second % this.#bins.length];
		if (bin.second !== second) Object.assign(bin, {second, received: 0, dropped: 0});
		return bin;
	}

	received() {
		this.#bin(now()).received++;
	}

	// dropped spreads what a gap tells over the seconds in which it happened.
	dropped({since, until}, dropped) {
		const last = Math.min(now(), Math.floor(until / 1000));
		const first = Math.max(now() - SECONDS, Math.min(last, Math.floor(since / 1000)));
		if (last < first) return; // all of it is older than the chart
		const seconds = last - first + 1;
		for (let i = 0; i < seconds; i++) {
			this.#bin(first + i).dropped += Math.floor(dropped * (i + 1) / seconds) - Math.floor(dropped * i / seconds);
		}
	}

	// rate is how many a second were received in the last three seconds.
	rate() {
		return (this.#bin(now() - 1).received + this.#bin(now() - 2).received + this.#bin(now() - 3).received) / 3;
	}

	clear() {
		for (const bin of this.#bins) bin.second = 0;
	}

	draw() {
		const {clientWidth: width, clientHeight: height} = this.#canvas, pen = this.#pen;
		if (!width) return;
		this.#canvas.width = width * devicePixelRatio;
		this.#canvas.height = height * devicePixelRatio;
		pen.scale(devicePixelRatio, devicePixelRatio);
		// Resolved colours: a variable would still say light-dark().
		const {color: received, outlineColor: dropped} = getComputedStyle(this.#canvas);
		const bins = Array.from({length: SECONDS}, (_, i) => this.#bin(now() - SECONDS + i));
		const top = Math.max(4, ...bins.map(b => b.received + b.dropped));
		const step = width / SECONDS;
		bins.forEach((bin, i) => {
			const good = Math.max(1, bin.received / top * (height - 2)), bad = bin.dropped / top * (height - 2);
			pen.globalAlpha = this.#hover < 0 || this.#hover === i ? 1 : 0.45;
			pen.fillStyle = received;
			pen.fillRect(i * step, height - good, step - 1, good);
			pen.fillStyle = dropped;
			pen.fillRect(i * step, height - good - bad, step - 1, bad);
		});
		this.#say(bins);
	}

	#say(bins) {
		const bin = bins[this.#hover];
		if (bin) {
			this.#label.textContent = `${clock(bin.second * 1000).slice(0, 8)}: ${number(bin.received)} received, ${number(bin.dropped)} missed`;
		} else {
			const dropped = bins.reduce((sum, b) => sum + b.dropped, 0);
			this.#label.textContent = `last minute: peak ${number(Math.max(...bins.map(b => b.received)))}/s, ${number(dropped)} missed`;
		}
		this.#canvas.ariaLabel = `Chart of events received and missed, ${this.#label.textContent}; now ${rate(this.rate())}/s`;
	}
}

const now = () => Math.floor(Date.now() / 1000);
