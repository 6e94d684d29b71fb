import { connect } from "/stream/projects/mesherstream.js";

// What the README says: the page tells its worker that it is put away, and that it is back.
addEventListener("message", ({ data: { type } }) => {
  if (type === "pagehide" || type === "pageshow") dispatchEvent(Object.assign(new Event(type), { persisted: true }));
});

const stream = connect("/stream/projects/shop", { filters: { level: "worker" } });
for await (const item of stream) postMessage(item.data);
