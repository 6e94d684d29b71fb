import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { test } from "node:test";
import { build } from "esbuild";
import * as module from "mesherstream";
import { minify, target } from "../minify.js";
import { listen, TOKEN, turns, WebSocket } from "./server.js";

const root = fileURLToPath(new URL("..", import.meta.url));

async function run(program, ...args) {
  try {
    return (await promisify(execFile)(program, args, { cwd: root })).stdout;
  } catch (error) {
    throw new Error(`${program} ${args.join(" ")}:\n${error.stdout}${error.stderr}`);
  }
}

test("is served as it is now: npm run build", async () => {
  assert.equal(await readFile(target, "utf8"), await minify());
});

test("is under 26,000 bytes as it is served, and its README says how many", async (t) => {
  const { length } = await readFile(target);
  t.diagnostic(`${length} bytes`);
  assert.ok(length < 26_000, `${length} bytes`);
  assert.ok((await readFile(root + "README.md", "utf8")).includes(`${(length / 1000).toFixed(1)} KB minified`), `${length} bytes`);
});

test("does the same minified", async (t) => {
  const server = await listen(t);
  const { connect } = await import(target);
  const got = [];
  const stream = connect(server.url, { WebSocket, filters: { level: "error" }, onmessage: (data) => got.push(data) });
  t.after(() => stream.close());
  const connection = await server.accept({});
  assert.equal(connection.query, "?level=error");
  for (const text of ["1", "2"]) connection.ws.send(text);
  while (got.length < 2) await turns();
  assert.throws(() => connect(server.url, { filter: {} }), TypeError);
});

test("can be taken by import, require and bundlers, and its types by each way to resolve them", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "mesherstream-"));
  t.after(() => rm(dir, { recursive: true }));
  const [{ filename }] = JSON.parse(await run("npm", "pack", "--json", "--offline", "--pack-destination", dir));
  await mkdir(join(dir, "node_modules/mesherstream"), { recursive: true });
  await run("tar", "-xzf", join(dir, filename), "-C", join(dir, "node_modules/mesherstream"), "--strip-components=1");
  const program = (name, text) => writeFile(join(dir, name), text);
  await program("import.mjs", 'import { connect } from "mesherstream"; console.log(typeof connect);');
  await program("require.cjs", 'const { connect } = require("mesherstream"); console.log(typeof connect);');
  await program("main.cjs", 'console.log(require.resolve("./node_modules/mesherstream"));'); // as tools do that know no exports
  for (const name of ["uses.ts", "uses.mts"]) await program(name, 'import { connect, type Stream } from "mesherstream"; export const s: Stream = connect("/");');

  assert.equal(await run("node", join(dir, "import.mjs")), "function\n");
  assert.match(await run("node", join(dir, "main.cjs")), /mesherstream\.js\n$/);
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19)) {
    assert.equal(await run("node", join(dir, "require.cjs")), "function\n");
  }
  for (const options of [{}, { platform: "node" }, { conditions: [], mainFields: ["main"] }, { format: "cjs" }]) {
    const bundle = { entryPoints: [join(dir, "import.mjs")], bundle: true, write: false, ...options };
    assert.deepEqual((await build(bundle)).warnings, []);
  }
  for (const [module, resolution] of [["nodenext", "nodenext"], ["node16", "node16"], ["esnext", "bundler"]]) {
    const options = ["--noEmit", "--strict", "--types", "", "--target", "es2022", "--module", module, "--moduleResolution", resolution];
    await run("node_modules/.bin/tsc", ...options, join(dir, module === "node16" ? "uses.mts" : "uses.ts"));
  }
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
  const declared = ["onmessage", "ongap", "onstate", "state", "hello", "replaying", "age", "transport", "shared", "setFilters", "close"];
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
  assert.equal(all.length, 21, all.join());
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
  assert.ok(calls.includes("3 messages are missing"));
});
