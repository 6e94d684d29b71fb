//go:build linux

// Command server runs one of the servers that are compared. It is started by compare.
package main

import "github.com/mesher/mesherstream/bench/internal/harness"

var servers = map[string]harness.New{
	"mesherstream": newMesherstream,
	"syscalls":     newSyscalls,
	"joined":       newJoined,
	"fiberhub":     newFiberHub,
	"socketio":     newSocketIO,
	"melody":       newMelody,
	"gorilla":      newGorillaChat,
	"gws":          newGWS,
	"gobwas":       newGobwas,
	"coder":        newCoderChat,
	"centrifuge":   newCentrifuge,
}

func main() { harness.Main(servers) }
