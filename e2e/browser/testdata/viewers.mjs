// Follows many streams with the client in Node, and prints what was seen of them when all have had their last message, or
// when the standard input ends.
import { follow } from "./story.mjs";

const { module, viewers } = JSON.parse(process.argv[2]);
const { connect } = await import(module);
const stories = viewers.map((viewer) => follow(connect, viewer));
const end = new Promise((resolve) => process.stdin.on("end", resolve).resume());
await Promise.race([end, Promise.all(stories.map(({ done }) => done))]);
for (const { seen } of stories) process.stdout.write(JSON.stringify(seen) + "\n");
process.stdout.end(() => process.exit());
