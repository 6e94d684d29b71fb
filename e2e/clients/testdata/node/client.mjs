// Runs plans with the ws package: one JSON line in for each connection, one out when it has ended.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import WebSocket from "ws";

createInterface({ input: process.stdin }).on("line", async (line) => {
  const report = await run(JSON.parse(line));
  process.stdout.write(JSON.stringify(report) + "\n");
});

function run(plan) {
  return new Promise((resolve) => {
    const report = { id: plan.id, answer: "", pong: "", counts: {}, code: 0, reason: "", error: "" };
    let digest = Buffer.alloc(32);
    let messages = 0;
    const ws = new WebSocket(plan.url, { ca: plan.ca ? readFileSync(plan.ca) : undefined });

    const leave = () => {
      if (messages < plan.after) return;
      if (plan.vanish) ws.terminate();
      else if (plan.close?.code === 1005) ws.close();
      else if (plan.close) ws.close(plan.close.code, plan.close.reason);
    };
    ws.on("open", () => {
      if (plan.send) ws.send(plan.send);
      if (plan.ping) ws.ping(plan.ping);
      if (plan.after === 0) leave();
    });
    ws.on("message", (data, binary) => {
      if (plan.send && !report.answer) {
        report.answer = data.toString();
        return;
      }
      const kind = binary ? "binary" : "text";
      const key = `${kind} ${data.length}`;
      report.counts[key] = (report.counts[key] ?? 0) + 1;
      digest = createHash("sha256").update(digest).update(kind).update(data).digest();
      if (++messages === plan.after) leave();
    });
    ws.on("pong", (data) => (report.pong = data.toString()));
    ws.on("error", (err) => (report.error = String(err)));
    ws.on("close", (code, reason) => {
      report.code = code;
      report.reason = reason.toString();
      report.digest = digest.toString("hex");
      resolve(report);
    });
  });
}
