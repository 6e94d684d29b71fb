import { connect } from "/stream/projects/mesherstream.js";

const stream = connect("/stream/projects/shop", { filters: { level: "worker" } });
for await (const item of stream) postMessage(item.data);
