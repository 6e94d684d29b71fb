import { connect } from "mesherstream";

export const stream = connect(new URL("https://example.org/"), { WebSocket, signal: new AbortController().signal, fetch });
stream.onmessage = (_, event) => {
  const same: MessageEvent = event;
  same.origin.at(0);
};
connect("/", { storage: sessionStorage }).close();
