package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Errors of the removal of a host.
var (
	// ErrUnknownHost says that no host has this name or id.
	ErrUnknownHost = errors.New("unknown host")
	// ErrConnected says that a host cannot be removed because it lives.
	ErrConnected = errors.New("the host is connected")
)

// A HostView is one host as the others see it.
type HostView struct {
	ID      ownership.Host `json:"id"`
	Name    string         `json:"name"`
	Address netip.Addr     `json:"address,omitzero"`
	// Routes are the subnets that it reaches directly.
	Routes []netip.Prefix `json:"routes,omitempty"`
	// Connected says that its lease lives, Removed that an operator removed it.
	Connected bool `json:"connected"`
	Removed   bool `json:"removed,omitempty"`
	// Me marks this host.
	Me bool `json:"me,omitempty"`
}

// Hosts returns all hosts that the store knew when it was last seen, by name.
func (c *Cluster) Hosts() []HostView {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []HostView
	for key, kv := range c.selves {
		self, err := decode[Self](kv)
		if err != nil {
			continue
		}
		id := hostOf(key, prefixSelf)
		h, err := decode[Host](c.hosts[prefixHosts+string(id)])
		if err != nil {
			h = Host{}
		}
		_, alive := c.alive[prefixAlive+string(id)]
		out = append(out, HostView{ID: id, Name: cmp.Or(h.Name, self.Name), Address: h.Address, Routes: h.Routes,
			Connected: alive, Removed: self.Removed, Me: id == c.id.ID})
	}
	slices.SortFunc(out, func(a, b HostView) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

// Name returns a host's name for people.
func (c *Cluster) Name(id ownership.Host) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	self, err := decode[Self](c.selves[prefixSelf+string(id)])
	if err != nil || self.Name == "" {
		return string(id)
	}
	return self.Name
}

// Connected reports whether a host's lease lived when the store was last seen.
func (c *Cluster) Connected(id ownership.Host) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.alive[prefixAlive+string(id)]
	return ok
}

// find returns the one living host of this name or id.
func (c *Cluster) find(name string) (HostView, error) {
	var found []HostView
	var names []string
	for _, h := range c.Hosts() {
		names = append(names, h.Name)
		if string(h.ID) == name {
			return h, nil
		}
		if h.Name == name && !h.Removed {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return HostView{}, fmt.Errorf("%w: %q; there are %s", ErrUnknownHost, name, strings.Join(names, ", "))
	default:
		return HostView{}, fmt.Errorf("%w: %d hosts are called %q: name the id (weft host ls --json)", ErrUnknownHost, len(found), name)
	}
}

// RemoveHost leaves a tombstone for a host and frees its addresses: they are used
// last. It is refused for a host that is connected, or whose address reachable still
// reaches; reachable is nil for an operator who says that the host is powered off.
// It may be repeated.
func (c *Cluster) RemoveHost(ctx context.Context, name string, reachable func(netip.Addr) bool) (HostView, error) {
	h, err := c.find(name)
	if err != nil {
		return h, err
	}
	if err := c.Ready(); err != nil && c.refuse(Recovering, Waiting) != nil {
		return h, err
	}
	if h.Me {
		return h, fmt.Errorf("%w: %s is this host: remove it from another one", ErrConnected, h.Name)
	}
	if !h.Removed && reachable != nil {
		if kv, _, err := c.cfg.Store.Get(ctx, prefixAlive+string(h.ID)); err != nil || kv.Rev != 0 {
			return h, cmp.Or(err, fmt.Errorf("%w: %s: stop it first", ErrConnected, h.Name))
		}
		if h.Address.IsValid() && reachable(h.Address) {
			return h, fmt.Errorf("%w: %s still answers at %s: power it off, or say --powered-off if that is another machine", ErrConnected, h.Name, h.Address)
		}
	}
	if err := c.bury(ctx, h); err != nil {
		return h, fmt.Errorf("remove host %s (repeat it): %w", h.Name, err)
	}
	return h, nil
}

// bury leaves the tombstone first: from then on the host can change nothing.
func (c *Cluster) bury(ctx context.Context, h HostView) error {
	key := prefixSelf + string(h.ID)
	for {
		self, _, err := c.cfg.Store.Get(ctx, key)
		if err != nil {
			return err
		}
		if rec, err := decode[Self](self); err != nil || rec.Removed {
			if err != nil {
				return err
			}
			break
		}
		txn, err := Remove(h.ID, self)
		if err != nil {
			return err
		}
		if _, err := c.put(ctx, txn); err != nil && !errors.Is(err, store.ErrUnknown) {
			return err
		}
	}
	for {
		left, err := c.buryAddresses(ctx, h.ID)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	for _, p := range c.PoolsOf(h.ID) {
		_, err := c.again(ctx, func(seen Pools) (store.Txn, error) {
			return Leave(h.ID, seen.get(PoolKey(p.Domain, p.Subnet)), seen.Index)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// buryAddresses marks the addresses of a removed host as dead. It returns how many
// records others changed meanwhile.
func (c *Cluster) buryAddresses(ctx context.Context, h ownership.Host) (left int, err error) {
	all, err := c.cfg.Store.Read(ctx, prefixOwners)
	if err != nil {
		return 0, err
	}
	for _, kv := range all.KVs {
		rec, err := ownership.Decode(kv.Value)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", kv.Key, err)
		}
		if !rec.Bury(h) {
			continue
		}
		res, err := c.put(ctx, store.Txn{
			If: []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, Then: []store.Op{store.Put(kv.Key, rec.Encode())},
		})
		if err != nil && !errors.Is(err, store.ErrUnknown) {
			return 0, err
		}
		if err != nil || !res.OK {
			left++
		}
	}
	return left, nil
}

// PoolsOf returns the pools of which a host is a member; of all hosts for "".
func (c *Cluster) PoolsOf(h ownership.Host) []Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Pool
	for _, kv := range c.pools {
		p, err := decode[Pool](kv)
		if err == nil && (h == "" || slices.Contains(p.Members, h)) {
			out = append(out, p)
		}
	}
	return out
}
