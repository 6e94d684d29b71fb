// JSON, laid out for reading. It is taken token by token from the text: what is parsed loses the digits of large numbers,
// and what recurses overflows the stack when the text is nested deep.

const DEEPEST = 24; // levels that are indented; what is nested deeper stands in one line

// layOut returns the parts of a JSON text: {text, shown, name} each. All texts together are JSON again; shown is what a
// person reads in their place, with real line breaks in strings; name says that it is the name of a member.
export function layOut(json) {
	const tokens = split(json), parts = [];
	let depth = 0;
	const put = (text, shown = text, name = false) => parts.push({text, shown, name});
	const line = () => { if (depth <= DEEPEST) put(`\n${'  '.repeat(depth)}`); };
	tokens.forEach((token, i) => {
		const empty = OPEN.has(tokens[i - 1]);
		if (CLOSE.has(token)) {
			const deep = depth > DEEPEST;
			depth--;
			if (!empty && !deep) line();
			put(token);
		} else if (token === ':') {
			put(': ');
		} else if (token === ',') {
			put(depth > DEEPEST ? ', ' : ',');
			line();
		} else if (token[0] === '"') {
			putString(token, tokens[i + 1] === ':');
		} else {
			put(token);
			if (!OPEN.has(token)) return;
			depth++;
			if (!CLOSE.has(tokens[i + 1])) line();
		}
	});
	return parts;

	function putString(token, name) {
		const value = JSON.parse(token), quoted = JSON.stringify(value); // "<" for what was sent as "\u003c"
		if (!value.includes('\n')) return put(quoted, quoted, name);
		const lines = value.split(/\r?\n/).map(l => JSON.stringify(l).slice(1, -1).replaceAll('\\t', '    '));
		put(quoted, `"${lines.join(`\n${'  '.repeat(Math.min(depth, DEEPEST) + 1)}`)}"`, name);
	}
}

const OPEN = new Set(['{', '[']), CLOSE = new Set(['}', ']']);

// split returns the tokens of a JSON text.
function split(json) {
	const tokens = [];
	for (let at = 0; at < json.length;) {
		const c = json[at];
		let end = at + 1;
		if (c === '"') {
			while (json[end] !== '"') end += json[end] === '\\' ? 2 : 1;
			end++;
		} else if (!'{}[]:, \n\r\t'.includes(c)) {
			while (end < json.length && !'{}[]:," \n\r\t'.includes(json[end])) end++;
		}
		if (!' \n\r\t'.includes(c)) tokens.push(json.slice(at, end));
		at = end;
	}
	return tokens;
}
