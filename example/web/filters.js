// The filters: chips for levels and environments, which the server applies, and words, which this page applies to what
// it has. All of them stand in the address of the page.
import { LEVELS } from './format.js';
import { describe } from './row.js';

const MAX_VALUES = 16;      // of one filter, for the server
const MAX_VALUE_BYTES = 64; // of one value

const list = new Intl.ListFormat('en-GB');
const size = text => new TextEncoder().encode(text).length;

export class Filters {
	chosen = {level: [], environment: []}; // empty is all
	words = [];
	#known = {level: new Set(LEVELS), environment: new Set()}; // those that have a chip
	#groups;
	#text;
	#on;

	// on.chips is called when other levels or environments are wanted, and on.words when other words are.
	constructor({levels, environments, text}, on) {
		this.#groups = {level: levels, environment: environments};
		this.#text = text;
		this.#on = on;
		text.addEventListener('input', () => {
			this.#readWords();
			on.words();
		});
	}

	// read takes the filters that the query of an address names, and returns the values that no filter can have.
	read(query) {
		const ignored = [];
		for (const name in this.chosen) {
			const values = new Set(query.getAll(name).flatMap(v => v.split(',')).map(v => v.trim()).filter(Boolean));
			this.chosen[name] = [...values].filter(v => size(v) <= MAX_VALUE_BYTES).slice(0, MAX_VALUES);
			for (const value of this.chosen[name]) {
				this.#known[name].add(value);
				values.delete(value);
			}
			ignored.push(...values);
		}
		this.#text.value = query.get('words') ?? '';
		this.#readWords();
		this.#draw();
		return ignored;
	}

	// write puts the filters into the query of an address.
	write(query) {
		for (const name in this.chosen) if (this.chosen[name].length) query.set(name, this.chosen[name]);
		const words = this.#text.value.trim();
		if (words) query.set('words', words);
	}

	// seen adds chips for a level or an environment that is new.
	seen(event) {
		let more = false;
		for (const name in this.#known) {
			const value = event[name], known = this.#known[name];
			if (!value || known.has(value) || known.size >= MAX_VALUES || value.includes(',') || size(value) > MAX_VALUE_BYTES) continue;
			known.add(value);
			more = true;
		}
		if (more) this.#draw();
	}

	// matches says whether an item belongs into the list. What tells about the list itself always does.
	matches(item) {
		if (item.type === 'event') {
			// As at the server, what has no level or no environment passes.
			const {level, environment} = this.chosen;
			if (level.length && item.level && !level.includes(item.level)) return false;
			if (environment.length && item.environment && !environment.includes(item.environment)) return false;
		} else if (item.type !== 'notice') {
			return true;
		}
		if (!this.words.length) return true;
		item.searched ??= [item.level, item.environment, item.service, item.issue, describe(item), ...Object.values(item.tags ?? {})]
			.join(' ').toLowerCase();
		return this.words.every(word => item.searched.includes(word));
	}

	get narrow() {
		return this.chosen.level.length > 0 || this.chosen.environment.length > 0 || this.words.length > 0;
	}

	// describe says in words what the chips choose: "error and fatal events from production".
	describe() {
		const {level, environment} = this.chosen;
		const what = level.length ? `${list.format(level)} events` : 'all events';
		return environment.length ? `${what} from ${list.format(environment)}` : what;
	}

	// reset accepts everything again.
	reset() {
		const {level, environment} = this.chosen;
		this.chosen = {level: [], environment: []};
		this.#text.value = '';
		this.#readWords();
		this.#draw();
		if (level.length || environment.length) this.#on.chips();
		else this.#on.words();
	}

	#readWords() {
		this.words = this.#text.value.toLowerCase().split(/\s+/).filter(Boolean);
	}

	#toggle(name, value) {
		const chosen = this.chosen[name];
		if (value === '') this.chosen[name] = [];
		else if (chosen.includes(value)) this.chosen[name] = chosen.filter(v => v !== value);
		else if (chosen.length < MAX_VALUES) this.chosen[name] = [...chosen, value];
		this.#draw();
		this.#on.chips();
	}

	#draw() {
		this.#drawGroup('level', 'All levels');
		this.#drawGroup('environment', 'All environments');
	}

	#drawGroup(name, all) {
		const group = this.#groups[name];
		for (const value of ['', ...this.#known[name]]) {
			let chip = [...group.children].find(c => c.value === value);
			if (!chip) {
				chip = document.createElement('button');
				chip.type = 'button';
				chip.value = value;
				chip.className = `chip ${name === 'level' && LEVELS.includes(value) ? value : ''}`;
				chip.textContent = value || all;
				if (value.length > 20) chip.title = value; // it is cut
				chip.addEventListener('click', () => this.#toggle(name, value));
				group.append(chip);
			}
			chip.ariaPressed = String(value ? this.chosen[name].includes(value) : !this.chosen[name].length);
		}
	}
}
