import { connect } from "mesherstream";
import { WebSocket } from "ws";

export const stream = connect(new URL("https://example.org/"), { WebSocket, signal: AbortSignal.timeout(1000), fetch });
