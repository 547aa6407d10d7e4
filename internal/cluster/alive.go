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

// keepAlive holds the lease while this run is the valid one.
func (c *Cluster) keepAlive(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	var now *lease
	defer func() { now.over() }()
	for {
		c.mu.Lock()
		id, wanted := c.id.ID, c.confirmed && c.verdict.Standing.Allocates()
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
