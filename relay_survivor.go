package mesherstream

import (
	"context"
	"fmt"
	"runtime/debug"
)

// relaySurvivor is a relay whose panics are errors: they cost what the call was for, and neither a goroutine of the
// manager, and so the process, nor the place of a client.
type relaySurvivor struct{ relay Relay }

func (r relaySurvivor) Publish(m RelayMessage) (err error) {
	defer survivePanic(&err)
	return r.relay.Publish(m)
}

// PublishConfirmed is Publish where the relay has no other, and then it has an outcome at once.
func (r relaySurvivor) PublishConfirmed(m RelayMessage, outcome func(error)) (err error) {
	confirming, ok := r.relay.(ConfirmingRelay)
	if !ok {
		if err = r.Publish(m); err == nil {
			outcome(nil)
		}
		return err
	}
	defer survivePanic(&err)
	return confirming.PublishConfirmed(m, outcome)
}

func (r relaySurvivor) Subscribe(ctx context.Context, project string, receive func(RelayMessage)) (unsubscribe func(), err error) {
	defer survivePanic(&err)
	end, err := r.relay.Subscribe(ctx, project, receive)
	if err != nil {
		return nil, err
	}
	return func() {
		var ignored error
		defer survivePanic(&ignored)
		end()
	}, nil
}

func (r relaySurvivor) Flush(ctx context.Context) (err error) {
	defer survivePanic(&err)
	return r.relay.Flush(ctx)
}

// Status says that a relay is away which can't tell.
func (r relaySurvivor) Status() (s RelayStatus) {
	var err error
	defer func() { s.Away = s.Away || err != nil }()
	defer survivePanic(&err)
	return r.relay.Status()
}

func survivePanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the relay panicked: %v\n%s", p, debug.Stack())
	}
}
