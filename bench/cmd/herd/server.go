//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime/pprof"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// serve is the server: an app with a stream. It does what the commands say until they end.
func serve(c config) error {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithHistory(max(1, c.Missed)),
		mesherstream.WithHistoryBytes(1<<30), mesherstream.WithHistoryAge(time.Hour))
	if err != nil {
		return err
	}
	app.Use(m.Handler())
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- app.Listener(ln) }()
	if err := json.NewEncoder(os.Stdout).Encode(answer{Address: ln.Addr().String()}); err != nil {
		return err
	}
	var meter harness.Meter
	var profile *os.File
	return obey(func(cmd command) (a answer, err error) {
		switch cmd.Do {
		case "empty":
			for m.Stats().Clients > 0 {
				time.Sleep(time.Millisecond)
			}
		case "publish":
			data := bytes.Repeat([]byte("x"), c.Size)
			for range cmd.N {
				if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
					return a, err
				}
			}
		case "begin":
			harness.Settle()
			if c.Profile != "" {
				if profile, err = os.Create(c.Profile); err != nil {
					return a, err
				}
				if err := pprof.StartCPUProfile(profile); err != nil {
					return a, err
				}
			}
			meter.Start()
		case "end":
			r := meter.Stop()
			if profile != nil {
				pprof.StopCPUProfile()
				if err := profile.Close(); err != nil {
					return a, err
				}
			}
			a.Used = &usage{
				CPU: r.CPU, User: r.User, System: r.System, Before: r.ResidentBytes, Peak: r.PeakResidentBytes,
				End: harness.Settle().ResidentBytes, Allocations: r.Allocations, Collections: r.Collections,
			}
		default:
			return a, fmt.Errorf("command %q", cmd.Do)
		}
		select {
		case err := <-failed:
			return a, fmt.Errorf("app.Listener returned: %w", err)
		default:
		}
		return a, nil
	})
}
