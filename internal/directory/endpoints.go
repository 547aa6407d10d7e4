package directory

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// batch is how many endpoints one transaction changes.
const batch = 100

// Attend says that this host programs a network: its endpoints are followed, and the
// store learns that this host has it. A store that was wiped learns of the network
// itself. It may be repeated.
func (d *Directory) Attend(n Network) {
	d.mu.Lock()
	a := d.attended[n.UUID]
	if a == nil {
		a = &attended{want: map[string]Endpoint{}, seen: map[string]store.KV{}}
		d.attended[n.UUID] = a
	}
	a.net = n
	delete(d.pledged, n.UUID)
	d.mu.Unlock()
	d.Poke()
}

// Forsake says that this host does not program a network any more. The store learns it
// soon; the network ends with its last host.
func (d *Directory) Forsake(uuid string) {
	d.mu.Lock()
	if a := d.attended[uuid]; a != nil {
		if a.stop != nil {
			a.stop()
		}
		delete(d.attended, uuid)
	}
	delete(d.pledged, uuid)
	d.memory.behind = true
	d.mu.Unlock()
	d.Poke()
}

// Publish makes an endpoint of this host known, in the place of an earlier one of its
// ID. It does not wait. The network has to be attended.
func (d *Directory) Publish(uuid string, e Endpoint) {
	d.mu.Lock()
	if a := d.attended[uuid]; a != nil {
		a.want[e.ID] = e
	}
	d.mu.Unlock()
	d.Poke()
}

// Withdraw takes back what Publish said; an unknown endpoint is success.
func (d *Directory) Withdraw(uuid, id string) {
	d.mu.Lock()
	if a := d.attended[uuid]; a != nil {
		delete(a.want, id)
	}
	d.mu.Unlock()
	d.Poke()
}

// settle tells the store of this host's endpoints and networks.
func (d *Directory) settle(ctx context.Context) {
	if !d.cfg.Cluster.Up() || ctx.Err() != nil {
		return
	}
	for _, uuid := range d.uuids() {
		if err := d.settleNetwork(ctx, uuid); err != nil && !errors.Is(err, store.ErrDown) {
			d.cfg.Logger.Debug("tell the store of a network", "network", uuid, "err", err)
		}
	}
}

// uuids are all networks that this host attends or that the store knows.
func (d *Directory) uuids() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]bool)
	if !d.synced {
		return nil
	}
	for uuid := range d.attended {
		all[uuid] = true
	}
	for uuid := range d.nets {
		all[uuid] = true
	}
	return sorted(all)
}

// settleNetwork does what is to do for one network: become a member, leave, take a
// removed host out, tell of endpoints.
func (d *Directory) settleNetwork(ctx context.Context, uuid string) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	me := d.cfg.Cluster.Me()
	d.mu.Lock()
	a, r := d.attended[uuid], d.nets[uuid]
	known, pledged := r.kv.Rev != 0, d.pledged[uuid]
	named := d.names[nameKey(r.net.Name)]
	gone := r.net
	for _, h := range r.net.Hosts {
		if d.hosts[h].Removed {
			gone = gone.without(h)
		}
	}
	d.mu.Unlock()
	switch {
	case !known && a != nil:
		n := a.net.with(me)
		n.Hosts, n.Removed = []ownership.Host{me}, false
		return d.change(ctx, uuid, found(n))
	case !known:
		return nil
	case len(gone.Hosts) < len(r.net.Hosts):
		for _, h := range r.net.Hosts {
			if !gone.Has(h) {
				return d.change(ctx, uuid, leave(h, r.kv, named, r.net))
			}
		}
	case a == nil && pledged:
		return nil
	case a == nil && r.net.Has(me):
		return d.change(ctx, uuid, leave(me, r.kv, named, r.net))
	case a != nil && !r.net.Has(me) && !r.net.Removed:
		return d.change(ctx, uuid, replace(r.kv, r.net.with(me)))
	case a != nil && r.net.Has(me):
		return d.tell(ctx, uuid, a)
	}
	return nil
}

// change commits a change of a network's record and looks again soon.
func (d *Directory) change(ctx context.Context, uuid string, txn store.Txn) error {
	res, err := d.cfg.Cluster.Change(ctx, txn)
	if err == nil {
		d.learn(uuid, txn, res)
	}
	return err
}

// learn takes a transaction's outcome over ahead of the watch.
func (d *Directory) learn(uuid string, txn store.Txn, res store.Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := res.Now
	if res.OK {
		for _, op := range txn.Then {
			if !op.Delete {
				now = append(now, store.KV{Key: op.Key, Value: op.Value, Rev: res.Rev})
			}
		}
	}
	for _, kv := range now {
		switch {
		case kv.Key == netKey(uuid) && kv.Rev > d.nets[uuid].kv.Rev:
			if n, err := decode[Network](kv); err == nil {
				d.nets[uuid] = netRecord{kv, n}
			}
		case strings.HasPrefix(kv.Key, prefixNames) && kv.Rev > d.names[kv.Key].Rev:
			d.names[kv.Key] = kv
		}
	}
	d.Poke()
}

// tell writes what the store does not know of this host's endpoints.
func (d *Directory) tell(ctx context.Context, uuid string, a *attended) error {
	me := d.cfg.Cluster.Me()
	prefix := hostKeys(uuid, me)
	d.mu.Lock()
	if !a.synced {
		d.mu.Unlock()
		return nil
	}
	want := maps.Clone(a.want)
	have := make(map[string]store.KV)
	for key, kv := range a.seen {
		if strings.HasPrefix(key, prefix) {
			have[key] = kv
		}
	}
	d.mu.Unlock()
	for _, txn := range difference(me, uuid, want, have, batch) {
		res, err := d.cfg.Cluster.Change(ctx, txn)
		if err != nil {
			return err
		}
		if !res.OK {
			return nil // the fence: the membership has to look first
		}
		d.mu.Lock()
		for _, op := range txn.Then {
			switch {
			case op.Delete:
				delete(a.seen, op.Key)
			case res.Rev > a.seen[op.Key].Rev:
				a.seen[op.Key] = store.KV{Key: op.Key, Value: op.Value, Rev: res.Rev}
			}
		}
		d.mu.Unlock()
	}
	return nil
}
