// Package attack tries to stop an app that streams, from outside and with many sockets: the app is a process of its own,
// and a few viewers that must lose nothing watch it meanwhile. Full size, for a machine with 20,000 descriptors:
//
//	go test ./e2e/attack -long -v
package attack
