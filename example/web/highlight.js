// The words that a reader searches for, marked in what is shown.

let known = null, pattern = null; // the latest words, since all rows have the same ones

// highlight writes a text into an element, with each of the words marked wherever it stands.
export function highlight(element, text = '', words = []) {
	if (!words.length || !text) {
		element.textContent = text;
		return;
	}
	if (known !== words) {
		known = words;
		const longestFirst = [...words].sort((a, b) => b.length - a.length);
		pattern = new RegExp(`(${longestFirst.map(w => w.replace(/[\\^$.*+?()[\]{}|]/gu, '\\$&')).join('|')})`, 'iu');
	}
	element.replaceChildren(...text.split(pattern).map((part, i) => {
		if (i % 2 === 0) return part;
		const mark = document.createElement('mark');
		mark.textContent = part;
		return mark;
	}));
}
