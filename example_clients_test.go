package mesherstream_test

import (
	"fmt"
	"time"

	"github.com/mesher/mesherstream"
)

// The numbers agree at every moment, for each client and in total.
func ExampleManager_Stats() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithDrainInterval(time.Hour))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		_ = stream.BufferMessage(c.ID, []byte("one"))
		_ = stream.BufferMessage(c.ID, []byte("two"))
		c, _ = stream.Client(c.ID)
		fmt.Println("client:", c.Offered, "offered,", c.Buffered, "buffered")
	}
	t := stream.Stats()
	fmt.Println(t.Clients, t.Buffered, t.Offered == t.Sent+t.Dropped+t.Abandoned+uint64(t.Buffered))
	// Output:
	// client: 2 offered, 2 buffered
	// 1 2 true
}

// The loop may call the manager.
func ExampleManager_Clients() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop?level=error", nil)

	for c := range stream.Clients() {
		if c.Project == "shop" && !c.Slow {
			fmt.Println(stream.Disconnect(c.ID, 1012, "moving to another node"))
		}
	}
	fmt.Println(receive(browser))
	// Output:
	// <nil>
	// websocket: close 1012: moving to another node
}

// What is queued goes out with the ticker, or when the application says so.
func ExampleManager_DrainBuffers() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithDrainInterval(time.Hour))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		_ = stream.BufferMessage(c.ID, []byte("one"))
		_ = stream.BufferMessage(c.ID, []byte("two"))
	}
	stream.DrainBuffers()
	fmt.Println(receive(browser), receive(browser))
	// Output:
	// one two
}
