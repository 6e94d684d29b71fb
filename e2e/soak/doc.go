// Package soak runs an app for as long as it is told to, with viewers that come and go, stall, and change their filters,
// bursts, and restarts, and checks that nothing is lost without being counted and that nothing stays behind:
//
//	go test ./e2e/soak -duration 30m -timeout 45m -v
package soak
