// Package test has the tests that use only the public API, in one file for each subject.
package test

import (
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestMain(m *testing.M) { streamtest.Main(m, nil) }

// The numbers that the documentation promises. They are repeated here, since a test of a promise states it.
const (
	maxRequestsPerSecond = 20                        // of one client
	maxRequestsSaved     = 60 * maxRequestsPerSecond // by a client that asks for no filter

	relayQueueMessages = 8192             // the most that wait for the relay
	relayLinger        = 10 * time.Second // how long a project is followed after its last client has left
	relayPatience      = 2 * time.Second  // how long a client waits for the relay's subscription
	relayTick          = time.Second      // how often the relay's status is read
)
