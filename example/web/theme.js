// The colour scheme: that of the system, unless the reader chose another. No module, so that it runs before the first paint.
(() => {
	'use strict';
	const THEMES = ['auto', 'light', 'dark'];
	const root = document.documentElement;

	const chosen = () => {
		try {
			return localStorage.getItem('theme') || 'auto';
		} catch {
			return 'auto'; // a browser that keeps nothing
		}
	};

	function apply(theme) {
		if (theme === 'auto') delete root.dataset.theme;
		else root.dataset.theme = theme;
		dispatchEvent(new Event('theme'));
	}

	apply(chosen());
	addEventListener('storage', e => { if (e.key === 'theme') apply(chosen()); });
	addEventListener('DOMContentLoaded', () => {
		const button = document.getElementById('theme');
		const label = () => {
			button.dataset.theme = chosen();
			button.title = button.ariaLabel = `Colour scheme: ${chosen() === 'auto' ? 'automatic' : chosen()}`;
		};
		button.addEventListener('click', () => {
			const next = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
			try {
				localStorage.setItem('theme', next);
			} catch {}
			apply(next);
			label();
		});
		label();
	});
})();
