// The filters: chips for levels and environments, which the server applies, and words, which this page applies to what
// it has.
import { LEVELS } from './format.js';

const MAX_VALUES = 16; // of one filter, for the server

export class Filters {
	chosen = {level: [], environment: []}; // empty is all
	#words = [];
	#environments = new Set();
	#groups;
	#on;

	// on.chips is called when other levels or environments are wanted, and on.words when other words are.
	constructor({levels, environments, text}, query, on) {
		this.#groups = {level: levels, environment: environments};
		this.#on = on;
		for (const name in this.chosen) {
			this.chosen[name] = (query.get(name) ?? '').split(',').filter(Boolean).slice(0, MAX_VALUES);
		}
		for (const environment of this.chosen.environment) this.#environments.add(environment);
		text.addEventListener('input', () => {
			this.#words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
			on.words();
		});
		this.#draw();
	}

	// seen adds a chip for an environment that is new.
	seen(environment) {
		if (!environment || this.#environments.has(environment) || this.#environments.size === MAX_VALUES) return;
		this.#environments.add(environment);
		this.#draw();
	}

	// matches says whether an item belongs into the list. Gaps always do.
	matches(item) {
		if (item.type === 'event') {
			const {level, environment} = this.chosen;
			if (level.length && !level.includes(item.level)) return false;
			if (environment.length && !environment.includes(item.environment)) return false;
		} else if (item.type !== 'notice') {
			return true;
		}
		if (!this.#words.length) return true;
		item.searched ??= [item.level, item.environment, item.service, item.issue, item.message, item.title,
			...Object.values(item.tags ?? {})].join(' ').toLowerCase();
		return this.#words.every(word => item.searched.includes(word));
	}

	get narrow() {
		return this.chosen.level.length > 0 || this.chosen.environment.length > 0 || this.#words.length > 0;
	}

	// describe says what is chosen in words.
	describe() {
		const {level, environment} = this.chosen;
		return `${level.join(', ') || 'all levels'} from ${environment.join(', ') || 'everywhere'}`;
	}

	// reset accepts everything again.
	reset(text) {
		this.chosen = {level: [], environment: []};
		this.#words = [];
		text.value = '';
		this.#draw();
		this.#on.chips();
	}

	#toggle(name, value) {
		const list = this.chosen[name];
		if (value === '') this.chosen[name] = [];
		else if (list.includes(value)) this.chosen[name] = list.filter(v => v !== value);
		else this.chosen[name] = [...list, value];
		this.#draw();
		this.#on.chips();
	}

	#draw() {
		this.#drawGroup('level', LEVELS, 'All levels');
		this.#drawGroup('environment', this.#environments, 'Everywhere');
	}

	#drawGroup(name, values, all) {
		const group = this.#groups[name];
		for (const value of ['', ...values]) {
			let chip = [...group.children].find(c => c.value === value);
			if (!chip) {
				chip = document.createElement('button');
				chip.type = 'button';
				chip.value = value;
				chip.className = `chip ${name === 'level' ? value : ''}`;
				chip.textContent = value || all;
				chip.addEventListener('click', () => this.#toggle(name, value));
				group.append(chip);
			}
			chip.ariaPressed = String(value ? this.chosen[name].includes(value) : !this.chosen[name].length);
		}
	}
}
