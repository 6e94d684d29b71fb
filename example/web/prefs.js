// What the reader prefers, kept by the browser.

export function recall(name) {
	try {
		return localStorage.getItem(name);
	} catch {
		return null; // a browser that keeps nothing
	}
}

export function remember(name, value) {
	try {
		localStorage.setItem(name, value);
	} catch {}
}
