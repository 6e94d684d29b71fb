// The title of the tab: what was missed, and how many events arrived while nobody looked.
import { number } from './format.js';

export class Title {
	#project;
	#unseen = 0;

	constructor(project) {
		this.#project = project;
		document.addEventListener('visibilitychange', () => { this.#unseen = 0; });
	}

	received() {
		if (document.hidden) this.#unseen++;
	}

	draw(missed) {
		const news = [this.#unseen && number(this.#unseen), missed && `${number(missed)} missed`].filter(Boolean);
		const title = `${news.length ? `(${news.join(', ')}) ` : ''}${this.#project} · Live events`;
		if (document.title !== title) document.title = title;
	}
}
