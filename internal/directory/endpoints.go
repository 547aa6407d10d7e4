package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// soon is after an endpoint changed: the call of the engine that changed it, which goes
// to the journal next, needs the processors first. Many changes become one.
const soon = 5 * time.Millisecond

// batch is how many endpoints one transaction changes, and batchBytes how much they are: a
// third of what etcd takes by default.
const (
	batch      = 100
	batchBytes = 512 << 10
)

// Attend says that this host programs a network: its endpoints are followed, and the
// store learns that this host has it. A store that was wiped learns of the network
// itself. It may be repeated.
func (d *Directory) Attend(n Network) {
	d.mu.Lock()
	a := d.attended[n.UUID]
	if a == nil || d.pledged[n.UUID] {
		d.unsettled = true
	}
	if a == nil {
		a = &attended{want: map[string]Endpoint{}, seen: map[string]store.KV{}, doubted: map[string]store.KV{}}
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
	d.memory.behind, d.unsettled = true, true
	d.mu.Unlock()
	d.Poke()
}

// Publish makes an endpoint of this host known, in the place of an earlier one of its
// ID. It does not wait, and to repeat it costs nothing. The network has to be attended.
func (d *Directory) Publish(uuid string, e Endpoint) {
	d.mu.Lock()
	if a := d.attended[uuid]; a != nil && !a.want[e.ID].same(e) {
		a.want[e.ID] = e
		d.pokeSoon()
	}
	d.mu.Unlock()
}

// Withdraw takes back what Publish said; an unknown endpoint is success.
func (d *Directory) Withdraw(uuid, id string) {
	own := hostKeys(uuid, d.cfg.Cluster.Me()) + id
	d.mu.Lock()
	if a := d.attended[uuid]; a != nil && a.want[id].ID != "" {
		delete(a.want, id)
		delete(a.doubted, own)
		d.pokeSoon()
	}
	d.mu.Unlock()
}

// pokeSoon is a poke after a moment; the caller holds mu.
func (d *Directory) pokeSoon() {
	if d.due {
		return
	}
	d.due = true
	time.AfterFunc(soon, func() {
		d.mu.Lock()
		d.due, d.unsettled = false, true
		d.mu.Unlock()
		d.Poke()
	})
}

// SetNames says what containers call this host's endpoints, by the endpoint's ID, and
// whether these are all that have names. If not, an endpoint that is not among them keeps the
// names of its record: nobody may have looked at its container since the start. It does not
// wait.
func (d *Directory) SetNames(names map[string][]string, all bool) {
	d.mu.Lock()
	changed := d.allCalled != all || !maps.EqualFunc(d.called, names, slices.Equal)
	d.called, d.allCalled = names, all
	d.unsettled = d.unsettled || changed
	d.mu.Unlock()
	if changed {
		d.Poke()
	}
}

// named returns endpoints with their names: those that they are called by, or those of
// the records that there are below prefix.
func named(endpoints map[string]Endpoint, called func(id string) (names []string, known bool), have map[string]store.KV, prefix string) map[string]Endpoint {
	out := make(map[string]Endpoint, len(endpoints))
	for id, e := range endpoints {
		names, known := called(id)
		if kv, told := have[prefix+id]; told && !known {
			if was, err := parseEndpoint(kv); err == nil {
				names = was.Names
			}
		}
		e.Names = names
		out[id] = e
	}
	return out
}

// settle tells the store of this host's endpoints and networks. left says that something of
// it is to be done yet.
func (d *Directory) settle(ctx context.Context) (left bool) {
	if !d.cfg.Cluster.Up() || ctx.Err() != nil {
		return true
	}
	uuids := d.uuids()
	for _, uuid := range uuids {
		err := d.settleNetwork(ctx, uuid)
		left = left || err != nil
		d.note(uuid, err)
	}
	d.mu.Lock()
	maps.DeleteFunc(d.untold, func(uuid string, _ untold) bool { return !slices.Contains(uuids, uuid) })
	d.mu.Unlock()
	return left
}

// uuids are all networks that this host attends or that the store knows; none before both
// they and their names were seen, which a host that leaves has to free.
func (d *Directory) uuids() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsettled = false // what changes from here on is looked at again
	all := make(map[string]bool)
	if !d.synced || !d.listed {
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

// errAgain says that a change was not made because others were faster, or because of the
// fence: the membership has to look first.
var errAgain = errors.New("it is tried again")

// change commits a change of a network's record. What it makes of the network is looked at
// soon.
func (d *Directory) change(ctx context.Context, uuid string, txn store.Txn) error {
	res, err := d.cfg.Cluster.Change(ctx, txn)
	if err != nil {
		return err
	}
	d.learn(uuid, txn, res)
	if !res.OK {
		return errAgain
	}
	return nil
}

// learn takes a transaction's outcome over ahead of the watch. What is new in it is looked at
// at once; what is not, as when only the fence was shut, would be tried again without a pause.
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
	news := false
	for _, kv := range now {
		switch {
		case kv.Key == netKey(uuid) && kv.Rev > max(d.nets[uuid].kv.Rev, d.told):
			if n, err := decode[Network](kv); err == nil {
				d.nets[uuid], news = netRecord{kv, n}, true
			}
		case strings.HasPrefix(kv.Key, prefixNames) && kv.Rev > max(d.names[kv.Key].Rev, d.toldNames):
			d.names[kv.Key], news = kv, true
		}
	}
	if news {
		d.unsettled = true
		d.Poke()
	}
}

// tell writes what the store does not know of this host's endpoints.
func (d *Directory) tell(ctx context.Context, uuid string, a *attended) error {
	me := d.cfg.Cluster.Me()
	prefix := hostKeys(uuid, me)
	d.mu.Lock()
	if !a.listed {
		d.mu.Unlock()
		return nil
	}
	have := make(map[string]store.KV)
	for key, kv := range a.seen {
		if strings.HasPrefix(key, prefix) {
			have[key] = kv
		}
	}
	called := d.called
	want := named(a.want, func(id string) ([]string, bool) { n, ok := called[id]; return n, ok || d.allCalled }, have, prefix)
	d.mu.Unlock()
	return d.write(ctx, a, difference(me, uuid, want, have))
}

// write makes changes of endpoints. One that the store does not take as it is holds no other
// one back.
func (d *Directory) write(ctx context.Context, a *attended, txns []store.Txn) error {
	var refused []error
	for len(txns) > 0 {
		txn := txns[0]
		txns = txns[1:]
		res, err := d.cfg.Cluster.Change(ctx, txn)
		switch {
		case err == nil && !res.OK:
			return errAgain
		case err == nil:
			d.wrote(a, txn, res)
		case !errors.Is(err, store.ErrTooLarge) && !errors.Is(err, store.ErrInvalid):
			return err
		case len(txn.Then) > 1:
			txns = slices.Concat(parts(txn.Then, 1, 0), txns)
		default:
			refused = append(refused, fmt.Errorf("the record %s: %w", txn.Then[0].Key, err))
		}
	}
	return errors.Join(refused...)
}

// wrote takes over what was written, ahead of the watch.
func (d *Directory) wrote(a *attended, txn store.Txn, res store.Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range txn.Then {
		switch {
		case op.Delete:
			delete(a.seen, op.Key)
		case res.Rev > a.seen[op.Key].Rev:
			a.seen[op.Key] = store.KV{Key: op.Key, Value: op.Value, Rev: res.Rev}
		}
	}
}
