package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Holders is a complete answer of the engine: what it still knows.
type Holders struct {
	// Networks and Endpoints are ids.
	Networks, Endpoints map[string]bool
	// At is when the engine was asked.
	At time.Time
}

// Bounds of leak collection: something is collected only when two complete
// answers at least leakInterval apart lack it and it is at least leakAge old.
const (
	leakInterval = 60 * time.Second
	leakAge      = 5 * time.Minute
)

// leakBook remembers since when an id has been missing from complete answers.
type leakBook struct {
	mu      sync.Mutex
	missing map[string]time.Time
}

// note records one answer for one id and says whether it may be collected.
func (b *leakBook) note(id string, held bool, created, at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if held {
		delete(b.missing, id)
		return false
	}
	first, seen := b.missing[id]
	if !seen {
		b.missing[id] = at
		return false
	}
	return at.Sub(first) >= leakInterval && at.Sub(created) >= leakAge
}

// CollectLeaks takes away networks and endpoints that the engine has
// forgotten: it forgets an endpoint before it says so, and after a crash it may
// never say so. Without an answer of the engine nothing is collected.
func (d *Driver) CollectLeaks(ctx context.Context) error {
	if d.cfg.Holders == nil {
		return nil
	}
	held, err := d.cfg.Holders(ctx)
	if err != nil {
		return fmt.Errorf("ask the engine what it holds: %w", err)
	}
	var errs []error
	for _, ep := range d.Endpoints("") {
		if !d.leaks.note(ep.ID, held.Endpoints[ep.ID], ep.Created, held.At) {
			continue
		}
		if err := d.DeleteEndpoint(ctx, ep.Network, ep.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		d.collected("endpoint", ep.ID)
	}
	for _, n := range d.Networks() {
		if n.Shared != nil {
			continue // whether it comes back is a question for all hosts; see package netsync
		}
		if !d.leaks.note(n.ID, held.Networks[n.ID], n.Created, held.At) || len(d.Endpoints(n.ID)) > 0 {
			continue
		}
		if err := d.DeleteNetwork(ctx, n.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		d.collected("network", n.ID)
	}
	return errors.Join(errs...)
}

func (d *Driver) collected(what, id string) {
	d.log.Info("collected what the engine had forgotten", "what", what, "id", short(id))
	d.mu.Lock()
	d.stats.Collected++
	d.mu.Unlock()
}
