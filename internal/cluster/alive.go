package cluster

import (
	"context"
	"time"

	"github.com/weft-net/weft/internal/ownership"
)

// lease is the key of one id, held in the background.
type lease struct {
	id   ownership.Host
	end  context.CancelFunc
	done chan struct{}
}

// hold begins a lease.
func (c *Cluster) hold(ctx context.Context, id ownership.Host) *lease {
	ctx, end := context.WithCancel(ctx)
	l := &lease{id: id, end: end, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		if err := c.cfg.Store.Live(ctx, prefixAlive+string(id), []byte("{}"), aliveTTL); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("lease", "err", err)
		}
	}()
	return l
}

// over waits until a lease has ended.
func (l *lease) over() {
	if l != nil {
		l.end()
		<-l.done
	}
}

// relive makes keepAlive look.
func (c *Cluster) relive() {
	select {
	case c.live <- struct{}{}:
	default:
	}
}

// lives reports whether this host shows itself as connected. In a freeze and a recovery
// a run that has not become the valid one does too: it is a host that owns addresses, and
// who recovers or removes has to see it. The caller holds mu.
func (c *Cluster) lives() bool {
	switch s := c.verdict.Standing; s {
	case Stopped, Removed, Foreign:
		return false
	case Freezing, Frozen, Recovering, Waiting:
		return c.confirmed || c.id.UUID != ""
	default:
		return c.confirmed
	}
}

// announce shows a frozen cluster, whose store may have been wiped, that there is this
// host: a recovery waits for all whose record is there. The record is the one of the last
// run that was valid, so it makes no other run invalid.
func (c *Cluster) announce(ctx context.Context, id Identity, s Sight, why string) error {
	txn := Announce(id, c.cfg.Name, s, why)
	if id.UUID == "" || len(txn.Then) == 0 {
		return nil
	}
	return c.commit(ctx, txn)
}

// keepAlive holds the lease while this host is to be seen.
func (c *Cluster) keepAlive(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	var now *lease
	defer func() { now.over() }()
	for {
		c.mu.Lock()
		id, wanted := c.id.ID, c.lives()
		c.mu.Unlock()
		if now != nil && (!wanted || now.id != id) {
			now.over()
			now = nil
		}
		if now == nil && wanted {
			now = c.hold(ctx, id)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.live:
		}
	}
}
