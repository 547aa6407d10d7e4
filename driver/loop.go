package driver

import (
	"context"
	"time"
)

// Hints are the channels that wake reconcile. A nil channel never does.
type Hints struct {
	// Kernel says that a device, an address or a route changed.
	Kernel <-chan struct{}
	// Firewall says that somebody changed rules.
	Firewall <-chan struct{}
}

// Periods of the loop.
const (
	fullEvery = 30 * time.Second
	// restAfter keeps a burst of hints from filling the machine with repairs; it
	// leaves most of the second in which a flush must be repaired.
	restAfter = 200 * time.Millisecond
)

// Run reconciles at start, on hints, on timers and after [Driver.SetConflicts] until
// ctx ends.
func (d *Driver) Run(ctx context.Context, hints Hints) error {
	full := time.NewTicker(fullEvery)
	defer full.Stop()
	work := func() error { _, err := d.Reconcile(ctx, Full); return err }
	for {
		if err := work(); err != nil && ctx.Err() == nil {
			d.log.Error("reconcile", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restAfter):
		}
		var ok bool
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			work = func() error { _, err := d.Reconcile(ctx, Changes); return err }
		case <-full.C:
			work = func() error { _, err := d.Reconcile(ctx, Full); return err }
		case _, ok = <-hints.Firewall:
			if !ok {
				hints.Firewall = nil
			}
			work = func() error { _, err := d.MendFirewall(ctx); return err }
		case _, ok = <-hints.Kernel:
			if !ok {
				hints.Kernel = nil
			}
			work = func() error { _, err := d.Reconcile(ctx, Changes); return err }
		}
	}
}
