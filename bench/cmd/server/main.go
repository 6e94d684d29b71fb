//go:build linux

// Command server runs one of the servers that are compared. It is started by compare.
package main

import (
	"time"

	"github.com/mesher/mesherstream/bench/internal/harness"
)

var servers = map[string]harness.New{
	"mesherstream": newMesherstream,
	"syscalls":     newSyscalls,
	"joined":       newJoined,
	"syscalls-go":  newScheduledSyscalls,
	"fiberhub":     newFiberHub,
	"socketio":     newSocketIO,
	"melody":       newMelody,
	"gorilla":      newGorillaChat,
	"gws":          newGWS,
	"gobwas":       newGobwas,
	"coder":        newCoderChat,
	"centrifuge":   newCentrifuge,

	// The same library, with options, or with clients that ask for something else.
	"mesherstream-hooks":    newMesherstreamHooks,
	"mesherstream-protocol": newMesherstream,
	"mesherstream-history":  newMesherstreamHistory,
	"mesherstream-20ms":     newMesherstreamCoalescing(20 * time.Millisecond),
	"mesherstream-100ms":    newMesherstreamCoalescing(100 * time.Millisecond),
	"mesherstream-events":   newMesherstream,
	"mesherstream-lines":    newMesherstream,

	"fiberstream":      newFiberStream,
	"r3labs":           newR3labs,
	"tmaxmax":          newTmaxmax,
	"alexandrevicenzi": newVicenzi,
	"centrifuge-sse":   newCentrifugeSSE,
}

func main() { harness.Main(servers) }
