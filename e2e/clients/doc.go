// Package clients holds nothing itself. Its tests let WebSocket clients that others wrote follow the same streams: a
// browser, two programs in other languages and four Go libraries. And they send what RFC 6455 allows and forbids, frame
// by frame. Over plain HTTP, they read the streams with curl, with fetch of Node, and with urllib of Python.
package clients
