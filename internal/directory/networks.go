package directory

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// The identifiers that weft chooses from: below are those that people like to choose.
const (
	firstVNI = 4096
	lastVNI  = 1<<24 - 1
)

// overtaken is the pause after another host was faster.
const overtaken = 10 * time.Millisecond

// Found makes a network that this host has. wanted are the identifiers to try, in
// order; without any, weft chooses one if n.VNI is 0 and the kind has one (vni). It
// waits for the store as long as ctx says: [ErrNoStore]. [ErrVNI] says that all that
// are wanted are taken, [ErrName] that n.Name is another network's. [Directory.Attend]
// or [Directory.Forsake] has to follow.
func (d *Directory) Found(ctx context.Context, n Network, vni bool, wanted []uint32) (_ Network, retErr error) {
	n = n.with(d.cfg.Cluster.Me())
	defer d.pledge(n.UUID, &retErr)()
	for {
		if vni {
			n.VNI = chooseVNI(wanted)
		}
		txn := found(n)
		res, err := d.commit(ctx, txn)
		if err != nil {
			return n, err
		}
		if res.OK {
			d.learn(n.UUID, txn, res)
			return n, nil
		}
		again, err := d.taken(n, res, &wanted)
		switch {
		case err != nil:
			return n, err
		case !again: // an earlier try, whose outcome was not known
			d.learn(n.UUID, txn, res)
			r, _ := d.Network(n.UUID)
			return r, nil
		}
		select {
		case <-ctx.Done():
			return n, fmt.Errorf("%w: %w", ErrNoStore, ctx.Err())
		case <-time.After(overtaken):
		}
	}
}

// pledge keeps this host in a network until it attends it; the result is for the end
// of a call, whose error takes that back.
func (d *Directory) pledge(uuid string, err *error) func() {
	d.mu.Lock()
	d.pledged[uuid] = true
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if *err != nil {
			delete(d.pledged, uuid)
			d.unsettled = true
			d.Poke()
		}
	}
}

// chooseVNI returns the next wanted identifier, or a random one.
func chooseVNI(wanted []uint32) uint32 {
	if len(wanted) > 0 {
		return wanted[0]
	}
	n, err := rand.Int(rand.Reader, big.NewInt(lastVNI-firstVNI+1))
	if err != nil {
		panic("no randomness: " + err.Error()) // it cannot happen
	}
	return uint32(n.Int64()) + firstVNI
}

// taken looks at the records that kept a network from being made. again says that
// another try may succeed; with neither that nor an error the network is there.
func (d *Directory) taken(n Network, res store.Result, wanted *[]uint32) (again bool, err error) {
	for _, kv := range res.Now {
		switch kv.Key {
		case netKey(n.UUID):
			return false, nil
		case nameKey(n.Name):
			return false, fmt.Errorf("%w: %q", ErrName, n.Name)
		case vniKey(n.VNI):
			p, err := decode[pointer](kv)
			if err != nil {
				return false, err
			}
			if len(*wanted) == 1 {
				return false, errVNI(n.VNI, d.nameOf(p.UUID))
			}
			if len(*wanted) > 1 {
				*wanted = (*wanted)[1:]
			}
		}
	}
	return true, nil // the fence: the membership looks meanwhile
}

// nameOf is what people call a network.
func (d *Directory) nameOf(uuid string) string {
	if n, ok := d.Network(uuid); ok && n.Name != "" {
		return n.Name
	}
	return uuid
}

// commit repeats a transaction until the store says what happened to it.
func (d *Directory) commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	for {
		err := d.cfg.Cluster.Ready()
		if err == nil {
			var res store.Result
			if res, err = d.cfg.Cluster.Change(ctx, txn); err == nil {
				return res, nil
			}
		}
		if !d.cfg.Cluster.Up() || !errors.Is(err, store.ErrUnknown) {
			return store.Result{}, fmt.Errorf("%w: %w", ErrNoStore, err)
		}
		select {
		case <-ctx.Done():
			return store.Result{}, fmt.Errorf("%w: %w", ErrNoStore, err)
		case <-time.After(overtaken):
		}
	}
}

// look reads a network and the record of its name.
func (d *Directory) look(ctx context.Context, uuid string) (kv, named store.KV, n Network, err error) {
	if kv, err = d.cfg.Cluster.Get(ctx, netKey(uuid)); err == nil {
		n, err = decode[Network](kv)
	}
	if err == nil && n.Name != "" {
		named, err = d.cfg.Cluster.Get(ctx, nameKey(n.Name))
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	return kv, named, n, err
}

// modify repeats a change of a network until it holds. next returns no transaction when
// there is nothing to do.
func (d *Directory) modify(ctx context.Context, uuid string, next func(kv, named store.KV, n Network) (store.Txn, error)) error {
	for {
		kv, named, n, err := d.look(ctx, uuid)
		if err != nil {
			return err
		}
		if kv.Rev == 0 {
			return fmt.Errorf("%w: %s", ErrUnknown, uuid)
		}
		txn, err := next(kv, named, n)
		if err != nil || len(txn.Then) == 0 {
			return err
		}
		res, err := d.commit(ctx, txn)
		if err != nil {
			return err
		}
		d.learn(uuid, txn, res)
		if res.OK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoStore, ctx.Err())
		case <-time.After(overtaken):
		}
	}
}

// Lookup asks the store for the network of a name, and so knows what other hosts did a
// moment ago, unlike [Directory.Named]; ok is false if there is none. It waits for the
// store as long as ctx says, and not for one that is known to be down: [ErrNoStore].
func (d *Directory) Lookup(ctx context.Context, name string) (n Network, ok bool, err error) {
	_, kv, n, err := d.holder(ctx, name)
	return n, err == nil && kv.Rev != 0 && !n.Removed, err
}

// holder asks the store for the record of a name, and for that of its network; the latter may
// have gone between the two questions.
func (d *Directory) holder(ctx context.Context, name string) (named, kv store.KV, n Network, err error) {
	if !d.cfg.Cluster.Up() {
		return named, kv, n, fmt.Errorf("%w: it does not answer", ErrNoStore)
	}
	if named, err = d.cfg.Cluster.Get(ctx, nameKey(name)); err != nil {
		return named, kv, n, fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	p, err := decode[pointer](named)
	if err != nil || named.Rev == 0 {
		return named, kv, n, err
	}
	if kv, err = d.cfg.Cluster.Get(ctx, netKey(p.UUID)); err != nil {
		return named, kv, n, fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	n, err = decode[Network](kv)
	return named, kv, n, err
}

// Claim gives a network its name and what other hosts need to create it. A network that
// has a name keeps it. When the name is another network's, it returns that one and
// [ErrName]. It waits for the store as long as ctx says.
func (d *Directory) Claim(ctx context.Context, uuid, text string, spec []byte) (Network, error) {
	for {
		n, err := d.claim(ctx, uuid, text, spec)
		if !errors.Is(err, ErrName) {
			return n, err
		}
		winner, ok, look := d.Lookup(ctx, text)
		if look != nil {
			return n, look
		}
		if ok {
			return winner, err
		}
		// It is gone by now, and the name is free.
	}
}

// claim is one try; [ErrName] says that another network has the name, or had it.
func (d *Directory) claim(ctx context.Context, uuid, text string, spec []byte) (out Network, err error) {
	err = d.modify(ctx, uuid, func(kv, _ store.KV, n Network) (store.Txn, error) {
		out = n
		if n.Removed || n.Name != "" && len(n.Spec) > 0 {
			return store.Txn{}, nil
		}
		out.Spec = spec
		if n.Name != "" {
			return replace(kv, out), nil
		}
		named, held, holder, err := d.holder(ctx, text)
		switch {
		case err != nil:
			return store.Txn{}, err
		case held.Rev != 0 && !holder.Removed && holder.UUID != uuid:
			return store.Txn{}, fmt.Errorf("%w: %q", ErrName, text)
		}
		out.Name = text
		return name(kv, d.left(named, held), out)
	})
	return out, err
}

// left is the record of a name of which the network is certainly gone, held being that one's:
// the store has shown its networks, and this host has nothing to tell it of this one.
func (d *Directory) left(named, held store.KV) store.KV {
	p, err := decode[pointer](named)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || held.Rev != 0 || !d.synced || d.attended[p.UUID] != nil || d.pledged[p.UUID] {
		return store.KV{}
	}
	return named
}

// Join makes this host one of those that have a network, ahead of [Directory.Attend],
// which or [Directory.Forsake] has to follow. It waits for the store as long as ctx
// says, and for nothing if this host has the network; [ErrUnknown] for one that is gone.
func (d *Directory) Join(ctx context.Context, uuid string) (_ Network, retErr error) {
	me := d.cfg.Cluster.Me()
	defer d.pledge(uuid, &retErr)()
	if n, ok := d.Network(uuid); ok && n.Has(me) && !n.Removed {
		return n, nil
	}
	var out Network
	err := d.modify(ctx, uuid, func(kv, _ store.KV, n Network) (store.Txn, error) {
		if n.Removed {
			return store.Txn{}, fmt.Errorf("%w: %s was removed", ErrUnknown, n.Name)
		}
		out = n.with(me)
		if n.Has(me) {
			return store.Txn{}, nil
		}
		return replace(kv, out), nil
	})
	return out, err
}

// Remove removes a network everywhere: its name is free at once, each host takes it
// down when it learns of it, and the last one frees the rest. [ErrUsed] names the hosts
// whose containers are on it. It waits for the store as long as ctx says.
func (d *Directory) Remove(ctx context.Context, uuid string) error {
	kvs, err := d.cfg.Cluster.List(ctx, prefixEndpoints+uuid+"/")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	users := make(map[string]int)
	for _, kv := range kvs {
		if e, err := parseEndpoint(kv); err == nil && !e.Own {
			users[d.hostName(e.Host)]++
		}
	}
	if len(users) > 0 {
		var who []string
		for _, h := range sorted(users) {
			who = append(who, fmt.Sprintf("%s %d", h, users[h]))
		}
		return fmt.Errorf("%w: endpoints on %s: disconnect them first", ErrUsed, strings.Join(who, ", "))
	}
	err = d.modify(ctx, uuid, func(kv, named store.KV, n Network) (store.Txn, error) {
		if n.Removed {
			return store.Txn{}, nil
		}
		return remove(kv, named, n), nil
	})
	return err
}

func (d *Directory) hostName(id ownership.Host) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.hosts[id].Name, string(id))
}

// Find returns the network of a name or UUID; a name is that of a network that was not
// removed. [ErrNoStore] says that the store may know of one that this host does not.
func (d *Directory) Find(text string) (Network, error) {
	if n, ok := d.Named(text); ok {
		return n, nil
	}
	all := d.Networks()
	if i := slices.IndexFunc(all, func(n Network) bool { return n.UUID == text }); i >= 0 {
		return all[i], nil
	}
	if err := d.Unread(); err != nil {
		return Network{}, fmt.Errorf("%w: network %q cannot be looked up: %w: see `weft store status`", ErrNoStore, text, err)
	}
	return Network{}, fmt.Errorf("%w: %q: see `weft network ls`", ErrUnknown, text)
}

// Unread says why networks and their names may be others than this host knows; nil if they
// are what the store says now.
func (d *Directory) Unread() error {
	up := d.cfg.Cluster.Up()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch seen := d.synced && d.listed; {
	case seen && up:
		return nil
	case seen:
		return errors.New("the store does not answer")
	case up:
		return errors.New("the store was not read since weft started")
	default:
		return errors.New("the store has not answered since weft started")
	}
}
