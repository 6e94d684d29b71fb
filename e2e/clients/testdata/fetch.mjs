// Prints the lines of a stream over plain HTTP as fetch receives them, and aborts after some messages.
//
//     node fetch.mjs URL COUNT HEADER=VALUE…
const [url, count, ...pairs] = process.argv.slice(2);
const headers = pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]);
const controller = new AbortController();
const response = await fetch(url, { headers, signal: controller.signal });
console.log(`${response.status} ${response.headers.get("content-type")}`);

let messages = 0;
let rest = "";
try {
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      console.log(line);
      if (line.includes('"n":') && ++messages === Number(count)) controller.abort();
    }
  }
  console.log("the end");
} catch (err) {
  console.log(err.name);
}
process.stdin.resume(); // what ends the connection is the abort, and not the end of the process
