// Package test has the tests that use the public API alone, a file for each subject.
package test

import (
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestMain(m *testing.M) { streamtest.Main(m, nil) }

// The numbers that the documentation promises. They are written here once more, since a test of a promise states it.
const (
	maxRequestsPerSecond = 20                        // of one client
	maxRequestsSaved     = 60 * maxRequestsPerSecond // by a client that asks for nothing

	relayQueueMessages = 8192             // wait for the relay at most
	relayLinger        = 10 * time.Second // how long a project is followed after its last client has left
	relayPatience      = 2 * time.Second  // how long a client waits for the relay's subscription
	relayTick          = time.Second      // how often the relay's state is looked at
)
