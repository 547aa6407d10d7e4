package driver

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/weft-net/weft/internal/journal"
)

// bucketAbsent has the marks of shared networks that a user removed from this host,
// bucketListed in which state of itself the engine listed a network.
const (
	bucketAbsent = "absent"
	bucketListed = "listed"
)

// Absence says that a user removed a shared network from this host, and that it is not
// to come back by itself.
type Absence struct {
	// At is when.
	At time.Time `json:"at"`
}

// A Rebinder is a [Kind] whose networks can take over another identity in the cluster
// while containers are on them.
type Rebinder interface {
	// Rebind makes what was made for old be that of n, which differs in Shared only. eps
	// are the joined endpoints; their links, addresses and MAC addresses stay.
	Rebind(ctx context.Context, old, n Network, eps []Endpoint) error
}

// Absent returns the marks by the UUID of the network. A network that [Driver.Networks]
// lacked before the call because its user removed it has its mark.
func (d *Driver) Absent() map[string]Absence {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.absent)
}

// ForgetAbsent takes marks away; one that is not there is success.
func (d *Driver) ForgetAbsent(ctx context.Context, uuids ...string) error {
	var ops []journal.Op
	d.mu.Lock()
	for _, uuid := range uuids {
		if _, ok := d.absent[uuid]; ok {
			ops = append(ops, journal.Delete(bucketAbsent, uuid))
		}
	}
	d.mu.Unlock()
	if len(ops) == 0 {
		return nil
	}
	if err := d.cfg.Journal.Commit(ctx, ops...); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, uuid := range uuids {
		delete(d.absent, uuid)
	}
	return nil
}

// Unmarked lets removals of a shared network leave no mark until done is called: they are
// weft's own.
func (d *Driver) Unmarked(uuid string) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unmarked[uuid]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.unmarked[uuid]--; d.unmarked[uuid] == 0 {
			delete(d.unmarked, uuid)
		}
	}
}

// Listed returns what [Driver.NoteListed] was told of the networks, by the engine's id.
func (d *Driver) Listed() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.listed)
}

// NoteListed remembers that the engine listed a network, and in which state of itself:
// one that has the same state and lacks the network has removed it. An unknown network
// is success.
func (d *Driver) NoteListed(ctx context.Context, id, state string) error {
	defer d.locks.Lock(networkKey(id))()
	if _, _, err := d.network(id); err != nil {
		return nil // it was removed meanwhile
	}
	if err := d.cfg.Journal.Commit(ctx, journal.Put(bucketListed, id, state)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed[id] = state
	return nil
}

// mark is the change of the journal for a network that goes, if its user removes it.
func (d *Driver) mark(n Network) (ops []journal.Op, done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.Shared == nil || d.unmarked[n.Shared.UUID] > 0 {
		return nil, func() {}
	}
	uuid, a := n.Shared.UUID, Absence{At: d.now().UTC()}
	return []journal.Op{journal.Put(bucketAbsent, uuid, a)}, func() { d.absent[uuid] = a }
}

// DropNetwork is [Driver.DeleteNetwork] of a network that its engine forgot: it leaves no
// mark of absence.
func (d *Driver) DropNetwork(ctx context.Context, id string) error {
	d.mu.Lock()
	shared := d.networks[id].Shared
	d.mu.Unlock()
	if shared != nil {
		defer d.Unmarked(shared.UUID)()
	}
	return d.DeleteNetwork(ctx, id)
}

// Rebind gives a shared network another identity in the cluster: its mode, subnets and
// options have to be the same there. The journal learns it first: what the kernel has
// of the old one after a crash is mended by reconcile.
func (d *Driver) Rebind(ctx context.Context, id string, to Shared) error {
	defer d.locks.Lock(networkKey(id))()
	old, kind, err := d.network(id)
	if err != nil {
		return err
	}
	r, ok := kind.(Rebinder)
	if !ok || old.Shared == nil {
		return fmt.Errorf("network %s of mode %s is this host's alone: it cannot become another one", short(id), old.Mode)
	}
	if old.Shared.UUID == to.UUID {
		return nil
	}
	n := old
	to.Seed = old.Shared.MACSeed()
	n.Shared = &to
	if err := d.cfg.Journal.Commit(ctx, journal.Put(bucketNetworks, id, n), journal.Delete(bucketAbsent, to.UUID)); err != nil {
		return err
	}
	d.mu.Lock()
	d.networks[id] = n
	delete(d.absent, to.UUID)
	d.mu.Unlock()
	return r.Rebind(ctx, old, n, d.joined(id))
}

// loadShared reads what else the journal has of shared networks.
func (d *Driver) loadShared() error {
	absent, err := journal.Load[Absence](d.cfg.Journal, bucketAbsent)
	if err != nil {
		return err
	}
	listed, err := journal.Load[string](d.cfg.Journal, bucketListed)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.absent, d.listed = absent, listed
	d.mu.Unlock()
	return nil
}

// resetAbsent takes all marks away.
func (d *Driver) resetAbsent(ctx context.Context) error {
	var uuids []string
	for uuid := range d.Absent() {
		uuids = append(uuids, uuid)
	}
	return d.ForgetAbsent(ctx, uuids...)
}
