package directory

import (
	"context"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/ownership"
)

// What the store should know is compared with what it says, endpoint by endpoint (settle).
// That costs milliseconds where there are many, so there has to be a reason for it:
//
//   - unsettled, which goes with a poke: something changed that this host has to tell (Attend,
//     Forsake, Publish, Withdraw, SetNames, a pledge that is taken back), or what the store says
//     of networks, of names or of this host's own endpoints (the watches, and learn). A
//     network that was listed for the first time is news of the last kind.
//   - A host moved or was removed. Every record of a host that changes is a poke, by
//     cluster.Config.OnChange.
//   - The membership is not what it was: another id, another standing or epoch, the store is
//     there again. The store's coming and going is no poke, so every tick asks.
//   - The last time left something to do: a change failed, the store took nothing because it is
//     full, others were faster, or the fence was shut. The next tick tries again. A poke does
//     not: the membership pokes whenever the fence made it look.
//   - lookEvery is over, which should not be needed.
//
// All else is cheap, and done at each poke and tick, as some of it is due by time alone:
// beginning watches, what is doubted (asked again until the store answers, and a recovery is
// over), and what the journal is to remember.

// retryEvery is a tick: the pause after a change that failed.
const retryEvery = 250 * time.Millisecond

// lookEvery is how often everything is compared without a reason.
const lookEvery = 10 * time.Second

// place is this host's in the cluster, as far as it decides what the store can be told.
type place struct {
	me       ownership.Host
	up       bool
	epoch    int
	standing cluster.Standing
}

// work does what follows from changes, until ctx ends.
func (d *Directory) work(ctx context.Context, g *errgroup.Group) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	var last place
	var looked time.Time // when all was compared
	var left bool        // then there was something left to do
	for ticked := false; ; {
		if !ticked || time.Since(looked) >= lookEvery {
			d.seeHosts()
		}
		d.follow(ctx, g)
		d.resolve(ctx)
		d.remember(ctx)
		c := d.cfg.Cluster
		now := place{c.Me(), c.Up(), c.Epoch(), c.Verdict().Standing}
		if d.news() || now != last || left && ticked || time.Since(looked) >= lookEvery {
			last, looked = now, time.Now()
			left = d.settle(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			ticked = false
		case <-tick.C:
			ticked = true
		}
	}
}

// news reports whether there may be something to tell the store.
func (d *Directory) news() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsettled
}

// seeHosts notes where hosts are reached; a host that moved changes all networks.
func (d *Directory) seeHosts() {
	hosts := make(map[ownership.Host]cluster.HostView)
	for _, h := range d.cfg.Cluster.Hosts() {
		hosts[h.ID] = h
	}
	d.mu.Lock()
	for id, was := range d.hosts { // a store that was wiped knows no addresses
		if now := hosts[id]; !now.Address.IsValid() && !now.Removed && was.Address.IsValid() {
			hosts[id] = was
		}
	}
	moved := !maps.EqualFunc(hosts, d.hosts, func(a, b cluster.HostView) bool { return a.Address == b.Address && a.Removed == b.Removed })
	d.hosts = hosts
	d.memory.behind = d.memory.behind || moved
	d.unsettled = d.unsettled || moved
	uuids := sorted(d.attended)
	d.mu.Unlock()
	if moved {
		for _, uuid := range uuids {
			d.cfg.OnChange(uuid)
		}
	}
}
