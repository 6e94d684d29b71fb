// Makes mesherstream.min.js, which the middleware serves, out of mesherstream.js: npm run build. The tests compare them.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { transform } from "esbuild";

const source = new URL("mesherstream.js", import.meta.url);
export const target = new URL("mesherstream.min.js", import.meta.url);

export async function minify() {
  const text = await readFile(source, "utf8");
  const { license, repository, version } = JSON.parse(await readFile(new URL("package.json", import.meta.url), "utf8"));
  const home = repository.url.replace(/^git\+|\.git$/g, "");
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 16);
  const { code } = await transform(text, { minify: true, format: "esm", target: "es2022", legalComments: "none" });
  return `// mesherstream.js ${version} (${license}), minified: ${home}, ${repository.directory}/mesherstream.js, SHA-256 ${hash}…\n${code}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await writeFile(target, await minify());
