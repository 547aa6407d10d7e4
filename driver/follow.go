package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Follower is a [Kind] whose networks may rest on devices of the host's that their
// options name by what they are, not by their names: later they may be others.
type Follower interface {
	// Locate returns a network with the devices on which it should rest by now, and
	// whether those are others than n says. It costs nothing where that cannot be.
	Locate(n Network) (now Network, moved bool, err error)
	// Spread returns each of some networks once for every device on which it may be: that of
	// its record, those of its containers, and the one where its words lead if no container
	// keeps it.
	Spread(list []Network, joined func(network string) []Endpoint) ([]Network, error)
	// Movable says why a network with these joined endpoints cannot go where Locate found
	// it, beside others that Spread returned; nil if it can.
	Movable(n, now Network, joined []Endpoint, others []Network) error
	// Vacate takes away what the network had where it was and nobody needs any more.
	Vacate(ctx context.Context, old, now Network) error
}

// astray says that a network is not where it should be, and why it cannot go there.
type astray struct {
	network string
	why     error
}

// Error names the network.
func (a astray) Error() string { return fmt.Sprintf("network %s: %v", short(a.network), a.why) }

// Unwrap gives why.
func (a astray) Unwrap() error { return a.why }

// trouble is what to tell of it beside its id.
func (a astray) trouble() string {
	if h, ok := errors.AsType[hinted](a.why); ok {
		return a.why.Error() + ": " + h.hint
	}
	return a.why.Error()
}

// follow makes a network rest where its options say by now, and says so if that was
// elsewhere. The journal learns it first: what a crash leaves at the old place belongs to
// nothing then, and is swept. A network that is unknown is none of its concern.
func (d *Driver) follow(ctx context.Context, id string) (moved string, err error) {
	n, kind, err := d.network(id)
	f, ok := kind.(Follower)
	if err != nil || !ok {
		return "", nil
	}
	if _, moves, err := f.Locate(n); err != nil {
		return "", astray{id, err}
	} else if !moves {
		return "", nil
	}
	defer d.locks.Lock(networkKey(id))()
	if n, _, err = d.network(id); err != nil {
		return "", nil // removed while we waited
	}
	now, moves, err := d.move(ctx, f, n)
	if err != nil || !moves {
		return "", err
	}
	moved = fmt.Sprintf("network %s was on %s, and follows its options to %s", short(id), rests(n), rests(now))
	if err := errors.Join(f.Vacate(ctx, n, now), d.ensure(ctx, kind, now)); err != nil {
		return moved, fmt.Errorf("network %s goes to %s: %w", short(id), now.Device, err)
	}
	return moved, nil
}

// move takes a network to where it should be, in the journal alone. It needs the network's
// lock.
func (d *Driver) move(ctx context.Context, f Follower, n Network) (now Network, moves bool, err error) {
	defer d.locks.Lock(places)()
	if now, moves, err = f.Locate(n); err == nil && !moves {
		return n, false, nil
	}
	var others []Network
	if err == nil {
		others, err = f.Spread(d.others(n.ID), d.joined)
	}
	if err == nil {
		err = f.Movable(n, now, d.joined(n.ID), others)
	}
	if errors.Is(err, ErrConflict) && d.changePlaces(n, now) {
		err = nil
	}
	if err != nil {
		return n, false, astray{n.ID, err}
	}
	return now, true, d.saveNetwork(ctx, now)
}

// changePlaces reports whether a network can go because those in its way go as well: each of
// them could, if all had that still may.
func (d *Driver) changePlaces(n, now Network) bool {
	list, goes := append(d.others(n.ID), n), map[string]Network{n.ID: now}
	for _, o := range list {
		f, ok := d.cfg.Kinds[o.Mode].(Follower)
		if _, known := d.Network(o.ID); !ok || !known || o.ID == n.ID || d.isJoining(o.ID) {
			continue
		}
		if to, moves, err := f.Locate(o); err == nil && moves {
			goes[o.ID] = to
		}
	}
	for again := true; again; {
		again = false
		for _, o := range list {
			if to, ok := goes[o.ID]; ok && !d.goesBeside(o, to, list, goes) {
				delete(goes, o.ID)
				again = true
			}
		}
		if _, ok := goes[n.ID]; !ok {
			return false
		}
	}
	return true
}

// goesBeside reports whether a network can go beside others where they will be.
func (d *Driver) goesBeside(n, now Network, list []Network, goes map[string]Network) bool {
	var others []Network
	for _, o := range list {
		if to, ok := goes[o.ID]; ok {
			o = to
		}
		if o.ID != n.ID {
			others = append(others, o)
		}
	}
	f := d.cfg.Kinds[n.Mode].(Follower)
	others, err := f.Spread(others, d.joined)
	return err == nil && f.Movable(n, now, d.joined(n.ID), others) == nil
}

// settle is follow for a container that is about to be attached. What could not be made is
// told by its Join, if that needs it, and mended by reconcile.
func (d *Driver) settle(ctx context.Context, id string) error {
	moved, err := d.follow(ctx, id)
	if moved == "" {
		return err
	}
	d.log.Info("repaired", "what", moved)
	if err != nil {
		d.log.Warn("a network moved to another device; reconcile tries again", "err", err)
	}
	return nil
}

// Settle lets a network follow its options now, as before a container is attached. That it
// cannot is told when one is.
func (d *Driver) Settle(ctx context.Context, network string) { _ = d.settle(ctx, network) }

// rests names the devices on which a network is.
func rests(n Network) string {
	if n.Parent == n.Device {
		return n.Device
	}
	return n.Device + " of " + n.Parent
}

// others are all networks but one, and that in creation.
func (d *Driver) others(id string) []Network {
	out := slices.DeleteFunc(d.Networks(), func(n Network) bool { return n.ID == id })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.creating != nil && d.networks[d.creating.ID].ID == "" {
		out = append(out, *d.creating)
	}
	return out
}

// spread are the networks beside which one may be created: where they are by their records,
// and where else their containers are or they go.
func (d *Driver) spread(kind Kind, id string) ([]Network, error) {
	others := d.others(id)
	f, ok := kind.(Follower)
	if !ok {
		return others, nil
	}
	elsewhere, err := f.Spread(others, d.joined)
	return append(others, elsewhere...), err
}

// followAll does it for all networks, before reconcile makes anything where they were. It
// returns what moved, and why others could not, by the network's id.
func (d *Driver) followAll(ctx context.Context) (moved []string, trouble map[string]string, errs []error) {
	trouble = map[string]string{}
	for _, n := range d.Networks() {
		text, err := d.follow(ctx, n.ID)
		if text != "" {
			moved = append(moved, text)
		}
		if a, ok := errors.AsType[astray](err); ok {
			trouble[n.ID] = a.trouble()
		} else {
			errs = append(errs, err)
		}
	}
	return moved, trouble, errs
}
