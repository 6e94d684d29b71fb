package mesherstream

import (
	"errors"

	"github.com/gofiber/fiber/v2"
)

// This file decides who is asked about, and when. Only clients that are in hold a place: a handshake that waits for
// WithAuthorize could keep out those whom it would let in, for as long as its answer takes.

// admit asks WithAuthorize, and before and after it whether there is room. The place itself is taken when the 101 is
// about to be sent.
func (m *Manager) admit(c *fiber.Ctx, a *admission, asked Filter) error {
	network, err := m.knock(a.ip)
	if err != nil {
		return admissionError(err)
	}
	defer m.answered(network)
	if a.sub, a.grant, err = m.grant(c, a.sub, asked); err != nil {
		return err
	}
	m.mu.Lock()
	err = m.roomLocked(network)
	m.mu.Unlock()
	if err != nil {
		return admissionError(err)
	}
	return nil
}

// knock begins a question about a client of that address, which ends with answered. With WithMaxClientsPerIP, an address
// has as many questions under way as it may have clients. There is no bound for all addresses together: strangers could
// reach that one, too, and Fiber's Concurrency bounds the requests.
func (m *Manager) knock(ip string) (network string, err error) {
	network = ip
	if m.cfg.maxClientsPerIP > 0 {
		network = networkOf(ip)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.roomLocked(network); err != nil {
		return "", err
	}
	if m.cfg.maxClientsPerIP == 0 || m.cfg.authorize == nil {
		return network, nil
	}
	if m.asking[network] >= m.cfg.maxClientsPerIP {
		return "", capError{perIP: true}
	}
	m.asking[network]++
	return network, nil
}

func (m *Manager) answered(network string) {
	if m.cfg.maxClientsPerIP == 0 || m.cfg.authorize == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asking[network]--; m.asking[network] == 0 {
		delete(m.asking, network)
	}
}

// admissionError returns what a client is answered that there is no place for.
func admissionError(err error) error {
	var full capError
	switch {
	case errors.As(err, &full) && full.perIP:
		return fiber.NewError(fiber.StatusTooManyRequests, "too many streams from this address")
	case errors.As(err, &full):
		return fiber.NewError(fiber.StatusServiceUnavailable, "too many streams")
	default:
		return fiber.NewError(fiber.StatusServiceUnavailable, reasonShutdown)
	}
}
