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
	// gather is how long a hint of the kernel waits for more: the start of a container
	// makes a dozen, and the engine needs the processors and the kernel's lock meanwhile.
	gather = 200 * time.Millisecond
)

// Run reconciles at start, on hints, on timers and after [Driver.SetConflicts] until
// ctx ends.
func (d *Driver) Run(ctx context.Context, hints Hints) error {
	full := time.NewTicker(fullEvery)
	defer full.Stop()
	look := func(depth Depth) func() error {
		return func() error { _, err := d.Reconcile(ctx, depth); return err }
	}
	mend := func() error { _, err := d.MendFirewall(ctx); return err }
	var due <-chan time.Time // for a look that the kernel's hints asked for
	for work := look(Full); ; {
		if work != nil {
			if err := work(); err != nil && ctx.Err() == nil {
				d.log.Error("reconcile", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(restAfter):
			}
			work = nil
		}
		var ok bool
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			work = look(Changes)
		case <-full.C:
			work = look(Full)
		case <-due:
			due, work = nil, look(Changes)
		case _, ok = <-hints.Firewall:
			if !ok {
				hints.Firewall = nil
			}
			work = mend
		case _, ok = <-hints.Kernel:
			if !ok {
				hints.Kernel = nil
			}
			if due == nil {
				due = time.After(gather)
			}
		}
	}
}
