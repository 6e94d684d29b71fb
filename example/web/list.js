// The live list: the newest items, of which only those in sight are elements. It follows the newest one, and stands still
// while somebody reads.
//
// Items arrive whenever they like; the document changes once in a frame at most. How high a row is follows from its text,
// also when long lines wrap, so that no row has to be drawn to know where the others are.
import { Measure } from './measure.js';
import { fillIssue, fillRow, isMarker, makeRow } from './row.js';

const KEEP = 5000;      // items that can be scrolled back to
const SLACK = 1000;     // how many more there may be before the oldest go, so that few frames pay for it
const MARGIN = 6;       // rows above and below those in sight
const PACE = 30;        // ms between two frames that follow the newest: more often costs power, and nobody sees it
const CALM = 500;       // the same for those who want less motion
const BUTTON_ROOM = 56; // px below the last row for the button that goes on

const calm = matchMedia('(prefers-reduced-motion: reduce)');

export class List {
	cursor = null; // the item that is marked
	waiting = 0;   // items that arrived while the list stands still

	#scroller; #spacer;
	#matches; #issueOf; #words; #on;
	#measure;
	#items = [];   // the oldest first
	#view = [];    // those of them that match
	#tops = [0];   // where each of them begins, and where the last one ends
	#published = 0; // how many of the items are no markers
	#found = 0;     // and how many of those match
	#pending = []; // arrived, and not in the list yet
	#rows = new Map(); // the rows in the document, by item
	#spare = [];
	#sight = 0;     // how high the part in sight is; known, as the next, without asking the document, which would lay itself out
	#top = 0;       // where it begins
	#asked = false; // for a frame
	#timer = 0;     // the wait for the next one
	#drawn = 0;     // when the last one was
	#number = 0;

	// Why the list stands still.
	#paused = false;
	#scrolledBack = false;
	#pressed = false; // a pointer is down: what it points at must not move away

	// matches says whether an item is shown, issueOf finds how the issue of an event stands, and words are those to mark.
	// on.drawn is called after each frame, on.opened with an item whose details are wanted, and on.load with a gap that is to
	// be loaded.
	constructor(scroller, {matches, issueOf, words = () => [], on}) {
		this.#scroller = scroller;
		this.#matches = matches;
		this.#issueOf = issueOf;
		this.#words = words;
		this.#on = on;
		this.#spacer = document.createElement('div');
		this.#spacer.className = 'rows';
		this.#spacer.role = 'presentation';
		scroller.append(this.#spacer);
		this.#measure = new Measure(this.#spacer);
		this.#sight = scroller.clientHeight;
		this.#listen();
	}

	get paused() { return this.#paused; }
	get held() { return this.#paused || this.#scrolledBack || this.#pressed || this.cursor !== null; }
	get size() { return this.#items.length; }
	get shown() { return this.#view.length; }
	get published() { return this.#published; } // events and notices, whether they match or not
	get found() { return this.#found; }         // those of them that match
	get wrapped() { return this.#measure.wrapped; }

	add(item) {
		item.n = ++this.#number;
		this.#pending.push(item);
		this.waiting++;
		if (this.#pending.length > KEEP + SLACK) this.#pending.splice(0, SLACK); // as many would go from the list
		this.draw();
	}

	// last returns the newest item, also while it waits.
	last() {
		return this.#pending.at(-1) ?? this.#items.at(-1);
	}

	pause() {
		this.#paused = true;
		this.draw();
	}

	// follow goes on with the newest.
	follow() {
		this.#paused = this.#scrolledBack = false;
		this.mark(null);
	}

	clear() {
		this.#items = [];
		this.#pending = [];
		this.#choose();
		this.waiting = 0;
		this.follow();
	}

	// filter shows what matches now, with the words marked.
	filter() {
		this.#keeping(() => {
			this.#choose();
			if (this.cursor && !this.#view.includes(this.cursor)) this.cursor = null;
			this.#refill();
		});
	}

	// wrap shows all of a long line, or its beginning only.
	wrap(on) {
		this.#keeping(() => {
			this.#scroller.classList.toggle('wrap', on);
			this.#measure.wrap(on);
			this.#stack();
		});
	}

	// keeping changes what is shown, while the marked row, or else the one at the top, stays where it is.
	#keeping(change) {
		const at = this.cursor ? this.#view.indexOf(this.cursor) : this.#indexAt(this.#top);
		const anchor = this.#view[at], above = this.#top - (this.#tops[at] ?? 0);
		change();
		if (this.held && anchor) {
			const now = this.#view.findIndex(item => item.n >= anchor.n);
			this.#resize();
			this.#scrollTo(this.#tops[now < 0 ? this.#view.length : now] + above);
		}
		this.draw();
	}

	// choose makes the view of all items again, and counts them.
	#choose() {
		this.#view = this.#items.filter(this.#matches);
		this.#published = this.#items.reduce((n, item) => n + !isMarker(item), 0);
		this.#found = this.#view.reduce((n, item) => n + !isMarker(item), 0);
		this.#stack();
	}

	// stack puts the items of the view on top of each other.
	#stack() {
		const tops = this.#tops = [0];
		for (const item of this.#view) tops.push(tops.at(-1) + this.#measure.height(item));
	}

	// refill writes the rows in the document again.
	#refill() {
		for (const [item, row] of this.#rows) fillRow(row, item, this.#issueOf(item), this.#words());
	}

	// mark puts the cursor on an item, and with it the list stands still.
	mark(item) {
		this.cursor = item;
		if (item) this.#reveal(this.#view.indexOf(item));
		this.draw();
	}

	// move marks another item, by as many rows down as by says. Below the last one, the list goes on.
	move(by) {
		const at = this.#view.indexOf(this.cursor);
		const last = this.#view.length - 1;
		if (last < 0) return;
		if (at < 0 && Number.isFinite(by)) return this.mark(this.#view[this.#scrolledBack ? this.#firstInSight() : last]);
		if (at + by > last && at === last) return this.follow();
		this.mark(this.#view[Math.min(last, Math.max(0, at + by))]);
	}

	// refresh shows how an issue stands now, in the rows in sight.
	refresh(issue) {
		for (const [item, row] of this.#rows) {
			if (item.type === 'event' && item.issue === issue.issue) fillIssue(row, issue);
		}
	}

	// rewrite shows an item that has changed.
	rewrite(item) {
		const row = this.#rows.get(item);
		if (row) fillRow(row, item);
		if (!this.#measure.wrapped) return;
		item.columns = 0; // it may need another number of lines
		this.#keeping(() => this.#stack());
	}

	// replace puts items in the place of another one, and says whether that was still here. If no row is marked and the newest
	// ones are in sight, they stay there; the others move up.
	replace(old, items) {
		const at = this.#items.indexOf(old);
		if (at < 0) return false;
		const next = (this.#items[at + 1] ?? this.#pending[0])?.n ?? this.#number + 1;
		items.forEach((item, i) => { item.n = old.n + (next - old.n) * i / items.length; });
		const below = this.#top - this.#end();
		this.#keeping(() => {
			this.#items.splice(at, 1, ...items);
			if (this.cursor === old) this.cursor = items.find(this.#matches) ?? null;
			this.#choose();
		});
		if (this.held && !this.cursor && below >= -2) this.#scrollTo(this.#end() + below);
		return true;
	}

	// draw asks for a frame: soon when a reader scrolls, and otherwise at a calm pace.
	draw() {
		if (this.#asked) return;
		const wait = this.held ? 0 : this.#drawn + (calm.matches ? CALM : PACE) - performance.now();
		if (wait <= 0) this.#ask();
		else this.#timer ||= setTimeout(() => this.#ask(), wait);
	}

	#ask() {
		clearTimeout(this.#timer);
		this.#timer = 0;
		if (this.#asked) return;
		this.#asked = true;
		requestAnimationFrame(() => this.#frame());
	}

	// In this order, the document lays itself out once in a frame.
	#frame() {
		this.#asked = false;
		this.#drawn = performance.now();
		if (!this.held) this.#take();
		this.#resize();
		const top = this.held ? this.#top : this.#end();
		this.#render(top);
		if (!this.held) this.#scrollTo(top);
		this.#on.drawn();
	}

	// take moves what has arrived into the list, and the oldest out of it.
	#take() {
		for (const item of this.#pending) {
			const counts = !isMarker(item);
			this.#items.push(item);
			this.#published += counts;
			if (!this.#matches(item)) continue;
			this.#view.push(item);
			this.#tops.push(this.#tops.at(-1) + this.#measure.height(item));
			this.#found += counts;
		}
		this.#pending = [];
		this.waiting = 0;
		if (this.#items.length <= KEEP + SLACK) return;
		this.#items.splice(0, this.#items.length - KEEP);
		this.#choose();
	}

	#resize() {
		this.#spacer.style.height = `${this.#tops.at(-1) + (this.held ? BUTTON_ROOM : 0)}px`;
	}

	#scrollTo(top) {
		this.#scroller.scrollTop = top;
		this.#top = this.#scroller.scrollTop;
	}

	#end() {
		return Math.max(0, this.#tops.at(-1) - this.#sight);
	}

	// indexAt finds the item at a height, or the last one.
	#indexAt(top) {
		let low = 0, high = this.#view.length - 1;
		while (low < high) {
			const middle = Math.ceil((low + high) / 2);
			if (this.#tops[middle] <= top) low = middle;
			else high = middle - 1;
		}
		return low;
	}

	#firstInSight() {
		const at = this.#indexAt(this.#top);
		return Math.min(this.#view.length - 1, this.#tops[at] < this.#top ? at + 1 : at);
	}

	#reveal(index) {
		const top = this.#tops[index], below = this.#tops[index + 1] - this.#sight + BUTTON_ROOM;
		this.#resize();
		if (top < this.#top || below > top) this.#scrollTo(top);
		else if (below > this.#top) this.#scrollTo(below);
	}

	// render makes the rows in sight, in the order of the list, and takes the others away for use again.
	#render(top) {
		const from = Math.max(0, this.#indexAt(top) - MARGIN);
		const to = Math.min(this.#view.length, this.#indexAt(top + this.#sight) + 1 + MARGIN);
		const wanted = new Set(this.#view.slice(from, to));
		for (const [item, row] of this.#rows) {
			if (wanted.has(item)) continue;
			this.#rows.delete(item);
			this.#spare.push(row);
			row.remove();
		}
		let next = this.#spacer.firstChild;
		let index = from;
		for (const item of wanted) {
			let row = this.#rows.get(item);
			if (!row) {
				row = this.#spare.pop() ?? makeRow();
				row.item = item;
				fillRow(row, item, this.#issueOf(item), this.#words());
				this.#rows.set(item, row);
			}
			if (row === next) next = next.nextSibling;
			else this.#spacer.insertBefore(row, next);
			this.#place(row, index++);
			const selected = String(item === this.cursor);
			if (row.ariaSelected !== selected) row.ariaSelected = selected;
		}
		const marked = this.#rows.get(this.cursor);
		if (marked) this.#scroller.setAttribute('aria-activedescendant', marked.id);
		else this.#scroller.removeAttribute('aria-activedescendant');
	}

	// place puts a row where it belongs: a row stays there while the list grows, so that only new ones are painted.
	#place(row, index) {
		const top = `${this.#tops[index]}px`, height = `${this.#tops[index + 1] - this.#tops[index]}px`;
		if (row.style.height !== height) row.style.height = height;
		if (row.style.top === top) return;
		row.style.top = top;
		row.ariaPosInSet = String(index + 1);
	}

	#listen() {
		const scroller = this.#scroller;
		// Whoever turns the wheel up wants the list to stand still now, before the first pixel.
		scroller.addEventListener('wheel', e => { if (e.deltaY < 0) this.#hold(true); }, {passive: true});
		scroller.addEventListener('scroll', () => {
			const {scrollTop} = scroller;
			if (scrollTop === this.#top) return; // this list's own
			if (scroller.clientHeight !== this.#sight) return; // the browser's, as the size has changed: see below
			const atEnd = scrollTop + this.#sight >= this.#tops.at(-1) - 2;
			if (scrollTop < this.#top - 1) this.#hold(true);
			else if (atEnd) this.#hold(false);
			this.#top = scrollTop;
			this.draw();
		}, {passive: true});
		new ResizeObserver(() => this.#fit()).observe(scroller);

		scroller.addEventListener('pointerdown', () => { this.#pressed = true; });
		const release = () => setTimeout(() => { // after the click
			this.#pressed = false;
			this.draw();
		});
		addEventListener('pointerup', release);
		addEventListener('pointercancel', release);
		scroller.addEventListener('click', e => {
			const row = e.target.closest('.row');
			if (e.target.closest('.load')) return this.#on.load(row.item);
			if (!row || !getSelection().isCollapsed) return; // text is being selected
			this.mark(row.item);
			this.#on.opened(row.item);
		});

		scroller.addEventListener('keydown', e => {
			const page = Math.max(1, this.#indexAt(this.#top + this.#sight) - this.#indexAt(this.#top) - 2);
			const by = {ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity}[e.key];
			if (by !== undefined) this.move(by);
			else if (e.key === 'Enter' && this.cursor) this.#on.opened(this.cursor, true);
			else return;
			e.preventDefault();
		});
	}

	// fit follows a change of the size, and with it of the rows' height, before a scroll event tells of it.
	#fit() {
		const at = this.#indexAt(this.#top), into = this.#view.length ? (this.#top - this.#tops[at]) / (this.#tops[at + 1] - this.#tops[at]) : 0;
		this.#sight = this.#scroller.clientHeight;
		if (this.#measure.again()) this.#stack();
		this.#resize();
		this.#scrollTo(this.held && this.#view.length ? this.#tops[at] + into * (this.#tops[at + 1] - this.#tops[at]) : this.#end());
		this.draw();
	}

	#hold(on) {
		if (on && this.#tops.at(-1) <= this.#sight) return; // nowhere to scroll to
		this.#scrolledBack = on;
		this.draw();
	}
}
