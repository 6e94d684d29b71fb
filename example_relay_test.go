package mesherstream_test

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/mesher/mesherstream"
)

// bus is a complete relay for the managers of one process. A relay for several processes sends published messages over
// a network, and calls the receivers of each project from one goroutine.
type bus struct {
	mu        sync.Mutex
	receivers map[string][]*func(mesherstream.RelayMessage)
}

func (b *bus) Publish(m mesherstream.RelayMessage) error {
	b.mu.Lock()
	receivers := slices.Clone(b.receivers[m.Project])
	b.mu.Unlock()
	for _, receive := range receivers {
		(*receive)(m)
	}
	return nil
}

func (b *bus) Subscribe(_ context.Context, project string, receive func(mesherstream.RelayMessage)) (unsubscribe func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.receivers[project] = append(b.receivers[project], &receive)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.receivers[project] = slices.DeleteFunc(b.receivers[project], func(r *func(mesherstream.RelayMessage)) bool { return r == &receive })
	}, nil
}

func (b *bus) Flush(context.Context) error      { return nil }
func (b *bus) Status() mesherstream.RelayStatus { return mesherstream.RelayStatus{} }

// With a relay, messages published on one node arrive at the clients of all nodes.
func ExampleWithRelay() {
	relay := &bus{receivers: make(map[string][]*func(mesherstream.RelayMessage))}
	here, err := mesherstream.NewManager(mesherstream.WithRelay(relay))
	if err != nil {
		panic(err)
	}
	defer here.Shutdown(context.Background())

	app := newApp()
	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithRelay(relay)))
	there := serve(app)
	defer there.stop()
	browser := there.watch("/stream/projects/shop", nil)

	_ = here.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("sold out")})
	fmt.Println(receive(browser))
	// Output:
	// sold out
}
