import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { test } from "node:test";
import { build } from "esbuild";
import * as module from "mesherstream";
import { listen, TOKEN, turns, WebSocket } from "./server.js";

const root = fileURLToPath(new URL("..", import.meta.url));

async function run(program, ...args) {
  try {
    return (await promisify(execFile)(program, args, { cwd: root })).stdout;
  } catch (error) {
    throw new Error(`${program} ${args.join(" ")}:\n${error.stdout}${error.stderr}`);
  }
}

test("is under 5,000 bytes minified", async (t) => {
  const { outputFiles, warnings } = await build({
    entryPoints: [root + "mesherstream.js"],
    bundle: true,
    minify: true,
    format: "esm",
    write: false,
  });
  assert.deepEqual(warnings, []);
  t.diagnostic(`${outputFiles[0].contents.length} bytes`);
  assert.ok(outputFiles[0].contents.length < 5000, `${outputFiles[0].contents.length} bytes`);
});

test("imports nothing", async () => {
  const source = await readFile(root + "mesherstream.js", "utf8");
  assert.doesNotMatch(source, /^import|\bimport\(|\brequire\(/m);
});

test("is published as what it says, and no more", async () => {
  const [{ files }] = JSON.parse(await run("npm", "pack", "--dry-run", "--json", "--offline"));
  assert.deepEqual(files.map(({ path }) => path).sort(), [
    "LICENSE",
    "README.md",
    "mesherstream.d.ts",
    "mesherstream.js",
    "package.json",
  ]);
  const manifest = JSON.parse(await readFile(root + "package.json", "utf8"));
  assert.equal(manifest.dependencies, undefined);
  assert.equal(manifest.sideEffects, false);
  for (const [name, version] of Object.entries(manifest.devDependencies)) {
    assert.match(version, /^\d+\.\d+\.\d+$/, `${name} is not pinned`);
  }
});

test("locks its tools without the address of a registry", async () => {
  assert.doesNotMatch(await readFile(root + "package-lock.json", "utf8"), /resolved|https?:/);
});

test("has the licence of the repository", async () => {
  assert.equal(await readFile(root + "LICENSE", "utf8"), await readFile(root + "../LICENSE", "utf8"));
});

test("its types hold in a page, in Node, and with neither", async (t) => {
  const strict = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--skipLibCheck", "false"];
  const options = ["--noEmit", ...strict, "--module", "nodenext", "--target", "es2022"];
  const uses = "tests/types/uses.ts";
  const page = ["--lib", "es2022,dom", "--types", "", uses, "tests/types/page.ts"];
  const node = ["--lib", "es2022", "--types", "node", uses, "tests/types/node.ts"];
  const neither = ["--lib", "es2022", "--types", "", uses];
  for (const program of [page, node, neither]) await run("node_modules/.bin/tsc", ...options, ...program);
});

test("its types name what there is", async () => {
  const types = await readFile(root + "mesherstream.d.ts", "utf8");
  assert.deepEqual(Object.keys(module), [...types.matchAll(/^export function (\w+)/gm)].map(([, name]) => name));
  const stream = module.connect("ws://127.0.0.1:1/", { WebSocket });
  stream.close();
  const declared = ["onmessage", "ongap", "onstate", "state", "hello", "setFilters", "close"];
  assert.deepEqual(Object.keys(stream), declared);
  for (const name of declared) assert.match(types, new RegExp(`^  (readonly )?${name}[?:(]`, "m"));
});

test("its README has every option and every member", async () => {
  const readme = await readFile(root + "README.md", "utf8");
  const source = await readFile(root + "mesherstream.d.ts", "utf8");
  const members = (name) => {
    const [, body] = source.match(new RegExp(`export interface ${name}\\b[^{]*{\n(.*?)^}`, "ms"));
    return [...body.matchAll(/^  (?:readonly )?(\w+)[?:(]/gm)].map(([, member]) => member);
  };
  const all = [...members("Options"), ...members("Callbacks"), ...members("Stream")];
  assert.equal(all.length, 13, all.join());
  for (const name of all) assert.match(readme, new RegExp(`^\\| \`(await )?(stream\\.)?${name}\\b`, "m"), name);
});

test("the program of its README runs", async (t) => {
  const server = await listen(t);
  const readme = await readFile(root + "README.md", "utf8");
  const blocks = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, block]) => block);
  const program = (blocks[1] + blocks[2]).replace(/^import.*$/m, "");
  let stream;
  const calls = [];
  const names = {
    connect: (path, options) => (stream = module.connect(new URL(path, server.url), { ...options, WebSocket })),
    show: (event) => calls.push(event.n),
    warn: (text) => calls.push(text),
    status: (text) => calls.push(text),
    store: (data) => calls.push(data),
  };
  const AsyncFunction = (async () => {}).constructor;
  const end = new AsyncFunction(...Object.keys(names), program)(...Object.values(names));
  const connection = await server.accept({});
  connection.ws.send('{"n":1}');
  await connection.answer();
  while (calls.at(-1) !== "2" && calls.at(-1) !== 2) {
    // The loop starts some time after the answer.
    connection.send({ type: "gap", stream: TOKEN, dropped: 3, since: 0, until: 0 });
    connection.ws.send("2");
    await turns();
  }
  stream.close();
  await end;
  assert.deepEqual(calls.slice(0, 3), ["connecting", "open", 1]);
  assert.ok(calls.includes("3 messages were dropped"));
});
