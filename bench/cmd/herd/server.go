//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	answers := json.NewEncoder(os.Stdout)
	if err := answers.Encode(answer{Address: ln.Addr().String()}); err != nil {
		return err
	}
	var meter harness.Meter
	var profile *os.File
	for commands := json.NewDecoder(os.Stdin); ; {
		var cmd command
		if err := commands.Decode(&cmd); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a answer
		switch cmd.Do {
		case "empty":
			for m.Stats().Clients > 0 {
				time.Sleep(time.Millisecond)
			}
		case "publish":
			data := bytes.Repeat([]byte("x"), c.Size)
			for range cmd.N {
				if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
					return err
				}
			}
		case "begin":
			harness.Settle()
			if c.Profile != "" {
				if profile, err = os.Create(c.Profile); err != nil {
					return err
				}
				if err := pprof.StartCPUProfile(profile); err != nil {
					return err
				}
			}
			meter.Start()
		case "end":
			r := meter.Stop()
			if profile != nil {
				pprof.StopCPUProfile()
				if err := profile.Close(); err != nil {
					return err
				}
			}
			a.Used = &usage{
				CPU: r.CPU, User: r.User, System: r.System, Before: r.ResidentBytes, Peak: r.PeakResidentBytes,
				End: harness.Settle().ResidentBytes, Allocations: r.Allocations, Collections: r.Collections,
			}
		default:
			return fmt.Errorf("command %q", cmd.Do)
		}
		select {
		case err := <-failed:
			return fmt.Errorf("app.Listener returned: %w", err)
		default:
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}
