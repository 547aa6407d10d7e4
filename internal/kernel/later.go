package kernel

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Laggard is what [Later] does in the end; a [Host] is one.
type Laggard interface {
	Detach(name string) error
	DeleteDoomed() error
	ForgetFlows(flows []Flow) error
}

// Later does what no answer needs to wait for: deleting links, many by one
// message, and forgetting conntrack entries, many by one pass.
type Later struct {
	k     Laggard
	log   *slog.Logger
	delay time.Duration
	wake  chan struct{}

	mu     sync.Mutex
	doomed bool
	flows  []Flow
}

// NewLater makes a queue; call [Later.Run]. Work is gathered for delay
// (20 ms if 0), one grace period of the kernel.
func NewLater(k Laggard, delay time.Duration, log *slog.Logger) *Later {
	if delay == 0 {
		delay = 20 * time.Millisecond
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Later{k: k, log: log, delay: delay, wake: make(chan struct{}, 1)}
}

// Delete takes a link out of service at once and deletes it soon. A link that
// is gone is success.
func (l *Later) Delete(name string) error {
	if err := l.k.Detach(name); err != nil {
		return err
	}
	l.add(func() { l.doomed = true })
	return nil
}

// Forget drops the conntrack entries of these flows soon.
func (l *Later) Forget(flows ...Flow) {
	if len(flows) > 0 {
		l.add(func() { l.flows = append(l.flows, flows...) })
	}
}

func (l *Later) add(change func()) {
	l.mu.Lock()
	change()
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then does what is left.
func (l *Later) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return nil
		case <-l.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.delay):
		}
		l.flush()
	}
}

func (l *Later) flush() {
	l.mu.Lock()
	doomed, flows := l.doomed, l.flows
	l.doomed, l.flows = false, nil
	l.mu.Unlock()
	if len(flows) > 0 {
		if err := l.k.ForgetFlows(flows); err != nil {
			l.log.Warn("conntrack entries of closed ports remain", "err", err)
		}
	}
	if doomed {
		if err := l.k.DeleteDoomed(); err != nil {
			l.log.Warn("links wait for the next reconcile", "err", err)
		}
	}
}
