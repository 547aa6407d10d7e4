package overlay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// again is the pause after entries could not be programmed.
const again = time.Second

// tunnel is one network that this host programs.
type tunnel struct {
	mu  sync.Mutex // one change of it at a time
	net driver.Network
	// moved are the gateways that have another MAC address since the network was ensured
	// last, for the containers whose ports come back.
	moved []kernel.Neighbor
	// up says that bridge and device were made; reconcile reads it without the lock.
	up atomic.Bool
	// programmed is what the kernel has, nil if it has to be asked.
	programmed *kernel.Forwarding
	// short are the short cuts that were set last, nil if they are those of an earlier
	// process.
	short *firewall.Shortcuts
	// waiting are the links of containers here that were not running yet; only Run knows.
	waiting []string
	// stale says that what an earlier process left may name the wrong places.
	stale atomic.Bool
}

func (t *tunnel) lock() (unlock func()) {
	t.mu.Lock()
	return t.mu.Unlock
}

// Attend follows a network of an earlier process. All of them have to be attended
// before the directory runs: it takes what is not for left over.
func (k *Kind) Attend(n driver.Network) {
	if n.Shared != nil {
		k.attend(n)
	}
}

// attend follows a network from now on.
func (k *Kind) attend(n driver.Network) *tunnel {
	k.mu.Lock()
	t := k.tunnels[n.Shared.UUID]
	if t == nil {
		t = &tunnel{net: n}
		k.tunnels[n.Shared.UUID] = t
		k.cfg.Directory.Attend(record(n))
	}
	k.mu.Unlock()
	return t
}

func (k *Kind) forsake(uuid string) {
	k.mu.Lock()
	t := k.tunnels[uuid]
	delete(k.tunnels, uuid)
	k.mu.Unlock()
	if t != nil {
		defer t.lock()()
		t.up.Store(false)
	}
	k.cfg.Directory.Forsake(uuid)
}

// Changed says that the directory has news of a network: an empty UUID means all.
func (k *Kind) Changed(uuid string) {
	k.mu.Lock()
	if uuid != "" {
		k.dirty[uuid] = true
	}
	k.mu.Unlock()
	k.rouse()
}

func (k *Kind) rouse() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run programs what the directory says until ctx ends.
func (k *Kind) Run(ctx context.Context) error {
	retry := time.NewTicker(again)
	defer retry.Stop()
	for {
		k.followUnderlay(ctx)
		k.followAddresses()
		k.followLinks()
		for _, uuid := range k.takeDirty() {
			if err := k.program(ctx, uuid); err != nil {
				k.log.Error("program a network's entries; it is tried again", "network", uuid, "err", err)
				k.mu.Lock()
				k.dirty[uuid] = true
				k.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-retry.C:
		}
	}
}

// followUnderlay moves the tunnels when this host has another underlay address.
func (k *Kind) followUnderlay(ctx context.Context) {
	if k.alone {
		return
	}
	at := k.cfg.Underlay()
	k.mu.Lock()
	moved := at.IsValid() && k.underlay.IsValid() && at != k.underlay
	if at.IsValid() {
		k.underlay = at
	}
	tunnels := slices.Collect(maps.Values(k.tunnels))
	k.mu.Unlock()
	if !moved {
		return
	}
	k.log.Info("other hosts reach this one at another address", "address", at)
	if k.cfg.Moved != nil {
		k.cfg.Moved()
	}
	for _, t := range tunnels {
		if err := k.EnsureNetwork(ctx, t.net); err != nil {
			k.log.Error("move a tunnel; reconcile tries again", "network", t.net.ID, "err", err)
		}
	}
}

// LinksChanged says that a device of this host may have come up.
func (k *Kind) LinksChanged() { k.rouse() }

// followLinks notices containers that have been waited for.
func (k *Kind) followLinks() {
	k.mu.Lock()
	tunnels := maps.Clone(k.tunnels)
	k.mu.Unlock()
	for uuid, t := range tunnels {
		if !k.arose(t) {
			continue
		}
		k.mu.Lock()
		k.dirty[uuid] = true
		k.mu.Unlock()
	}
}

// arose reports whether a link that was waited for is running.
func (k *Kind) arose(t *tunnel) bool {
	return slices.ContainsFunc(t.waiting, func(name string) bool {
		l, err := k.cfg.Kernel.LinkByName(name)
		return err == nil && l.Running
	})
}

func (k *Kind) takeDirty() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := slices.Sorted(maps.Keys(k.dirty))
	clear(k.dirty)
	return out
}

// program makes the kernel have a network's entries and short cuts. As long as the
// directory has not seen the network, nothing is taken away but short cuts that could
// lead to where nobody is, without which frames pass the bridge, which sees for itself;
// and what the directory remembers is added.
func (k *Kind) program(ctx context.Context, uuid string) error {
	k.mu.Lock()
	t := k.tunnels[uuid]
	k.mu.Unlock()
	if t == nil {
		return nil
	}
	defer t.lock()()
	if !t.up.Load() {
		return nil
	}
	if !k.cfg.Directory.Follows(uuid) {
		if t.stale.Load() {
			if err := k.shorten(ctx, t, firewall.Shortcuts{Network: t.net.ID}); err != nil {
				return err
			}
		}
		return k.recall(t, uuid)
	}
	at, err := k.place(t)
	if err != nil {
		return err
	}
	if t.programmed == nil {
		have, err := k.entries(t, at)
		if errors.Is(err, kernel.ErrNotFound) {
			return nil // reconcile makes the device, and comes again
		}
		if err != nil {
			return err
		}
		t.programmed = &have
	}
	eps := k.cfg.Directory.Endpoints(uuid)
	want, short := forwarding(at, k.cfg.Me(), eps), shortcuts(t.net.ID, at, k.cfg.Me(), eps)
	t.waiting = waiting(at, k.cfg.Me(), eps)
	// A short cut goes before the entries that it rests on, and comes after them.
	if t.short != nil {
		if err := k.shorten(ctx, t, t.short.Common(short)); err != nil {
			return err
		}
	}
	changes := kernel.DiffForwarding(want, *t.programmed)
	if changes.Len() > 0 {
		if err := k.cfg.Kernel.ApplyForwarding(changes); err != nil {
			t.programmed = nil
			return err
		}
		t.programmed = &want
		k.announce(arrived(t.net.Tunnel, want, changes.Add.Neighbors))
	}
	return k.shorten(ctx, t, short)
}

// shorten sets a network's short cuts, unless they are so already.
func (k *Kind) shorten(ctx context.Context, t *tunnel, want firewall.Shortcuts) error {
	if t.short != nil && (t.short.Equal(want) || t.short.Empty() && want.Empty()) {
		return nil
	}
	t.short = nil
	if err := k.cfg.Firewall.SetShortcuts(ctx, want); err != nil {
		return err
	}
	t.short = &want
	t.stale.Store(false)
	return nil
}

// place asks the kernel for the ports of a network's bridge that are not on their way
// out.
func (k *Kind) place(t *tunnel) (place, error) {
	at := place{bridge: t.net.Device, vxlan: t.net.Tunnel, local: k.cfg.Underlay(), links: map[string]int{}, running: map[string]bool{}}
	var err error
	if at.own, err = k.ownAddresses(); err != nil {
		return at, err
	}
	all, err := k.cfg.Kernel.Links()
	if err != nil {
		return at, err
	}
	bridge := 0
	for _, l := range all {
		if l.Name == at.bridge {
			bridge = l.Index
		}
	}
	for _, l := range all {
		if bridge != 0 && l.Master == bridge && l.Group != kernel.DoomedGroup {
			at.links[l.Name], at.running[l.Name] = l.Index, l.Running
		}
	}
	return at, nil
}

// arrived are the neighbours that came on other hosts. A container here must not hear of
// its own address: while it looks for duplicates, it would take that for one.
func arrived(vxlan string, want kernel.Forwarding, came []kernel.Neighbor) []kernel.Neighbor {
	remote := make(map[kernel.MAC]bool)
	for _, e := range want.FDB {
		remote[e.MAC] = remote[e.MAC] || e.Link == vxlan
	}
	return slices.DeleteFunc(slices.Clone(came), func(n kernel.Neighbor) bool { return !remote[n.MAC] })
}

// announce tells the containers here of addresses that came. Many at once are those of
// a host or a network that was away, and nobody waits for each of them.
func (k *Kind) announce(came []kernel.Neighbor) {
	const most = 64
	if len(came) > most {
		return
	}
	if err := k.cfg.Kernel.Announce(came); err != nil {
		k.log.Debug("tell containers of new addresses", "err", err)
	}
}

// entries asks the kernel.
func (k *Kind) entries(t *tunnel, at place) (kernel.Forwarding, error) {
	fdb, err := k.cfg.Kernel.FDB(t.net.Tunnel)
	if err != nil {
		return kernel.Forwarding{}, err
	}
	for link := range at.links {
		if link == t.net.Tunnel {
			continue
		}
		more, err := k.cfg.Kernel.FDB(link)
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return kernel.Forwarding{}, err
		}
		fdb = append(fdb, more...)
	}
	neighbors, err := k.cfg.Kernel.Neighbors(t.net.Device)
	return kernel.Forwarding{FDB: fdb, Neighbors: neighbors}, err
}
