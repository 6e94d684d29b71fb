// Package logline makes events of the lines that programs log, in whatever format they do: plain text, logfmt, JSON, and
// what syslog, journald, Docker and Kubernetes put around it. A stack trace is one event.
package logline
